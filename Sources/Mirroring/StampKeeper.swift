import LibPQ
import Primitives

/// Compares what the tables are with what they were when their copies began, and lets a copy start anew where rows may
/// have changed unseen. Used by the mirror's thread, before a session's first batch and between batches.
enum StampKeeper {
    /// - Returns: what the operator should know.
    static func keep(
        _ direction: MirrorDirection, _ steps: inout [Backfill.Table], _ plans: [TablePlan], _ reader: BatchReader,
        _ applier: BatchApplier, _ captures: Rows
    ) throws(MirrorSession.Failure) -> [String] {
        guard !plans.isEmpty else { return [] }
        let stamps = try read(direction, plans, reader, applier, captures)
        var notices: [String] = []
        for index in steps.indices {
            let step = steps[index]
            guard let stamp = stamps[step.name], stamp != step.stamp else { continue }
            let reason = step.stamp.flatMap { TableStamp.breach(direction, from: $0, to: stamp) }
            let isAnew = reason != nil && !step.isUntouched
            try on(direction.target) { () throws(PostgresFailure) in
                try applier.execute(
                    isAnew ? Backfill.restartText(step.name, stamp: stamp) : Backfill.stampText(step.name, stamp))
            }
            steps[index].stamp = stamp
            guard isAnew, let reason else { continue }
            steps[index].restart()
            notices.append("\(step.name): \(reason): the table is copied anew")
        }
        return notices
    }

    /// Between batches. TRUNCATE, VACUUM FULL and CLUSTER give a table another file and change nothing besides: that is
    /// noted at once, for behind the next change of its columns it would pass for a rewrite.
    ///
    /// - Returns: false when more has changed: open again, which finds out what that means.
    static func holds(
        _ direction: MirrorDirection, _ steps: inout [Backfill.Table], _ plans: [TableName: TablePlan],
        _ reader: BatchReader, _ applier: BatchApplier
    ) throws(MirrorSession.Failure) -> Bool {
        let triggers = try on(direction.source) { () throws(PostgresFailure) in
            TableStamp.collectTriggers(try reader.query(TableStamp.triggersQuery))
        }
        var oldFiles: [UInt32: String] = [:], newFiles: [UInt32: String] = [:]
        for step in steps {
            guard let plan = plans[step.name], let stamp = step.stamp else { return false }
            var now = stamp
            now.triggers = triggers[plan.oid] ?? [:]
            if TableStamp.breach(direction, from: stamp, to: now) != nil { return false }
            // Of a table with partitions on OLD none is kept: see PartitionTracker.
            oldFiles[plan.oid] = stamp.old.files[plan.oid]
            newFiles[plan.newOid] = stamp.new.files[plan.newOid]
        }
        let old = try on(direction.source) { () throws(PostgresFailure) in
            try moved(oldFiles) { (sql) throws(PostgresFailure) in try reader.query(sql) }
        }
        let new = try on(direction.target) { () throws(PostgresFailure) in
            try moved(newFiles) { (sql) throws(PostgresFailure) in try applier.query(sql) }
        }
        for index in steps.indices {
            guard let plan = plans[steps[index].name], var stamp = steps[index].stamp else { return false }
            guard note(old[plan.oid], &stamp.old), note(new[plan.newOid], &stamp.new) else { return false }
            if stamp == steps[index].stamp { continue }
            let text = Backfill.stampText(steps[index].name, stamp)
            try on(direction.target) { () throws(PostgresFailure) in try applier.execute(text) }
            steps[index].stamp = stamp
        }
        return true
    }

    /// - Parameter now: nil: its file is the one that is known.
    /// - Returns: false when its columns have changed as well.
    private static func note(_ now: TableStamp.Side?, _ side: inout TableStamp.Side) -> Bool {
        guard let now else { return true }
        side.files = now.files
        return now.attributes == side.attributes
    }

    /// What one side's tables are whose file is another one.
    ///
    /// - Parameter files: as they were, by the tables' oids.
    private static func moved(
        _ files: [UInt32: String], _ ask: (String) throws(PostgresFailure) -> Rows?
    ) throws(PostgresFailure) -> [UInt32: TableStamp.Side] {
        if files.isEmpty { return [:] }
        let list = files.keys.map { "\($0)" }.joined(separator: ", ")
        guard let rows = try ask("SELECT oid::bigint, relfilenode FROM pg_class WHERE oid IN (\(list))") else {
            return [:]
        }
        let others = (0..<rows.count).compactMap { row -> String? in
            guard let oid = rows[row, 0].flatMap({ UInt32($0) }), files[oid] != rows[row, 1] else { return nil }
            return "\(oid)"
        }
        if others.isEmpty { return [:] }
        guard let sides = try ask(TableStamp.sideQuery(others.joined(separator: ", "))) else { return [:] }
        return TableStamp.collect(sides, carried: [:])
    }

    private static func read(
        _ direction: MirrorDirection, _ plans: [TablePlan], _ reader: BatchReader, _ applier: BatchApplier,
        _ captures: Rows
    ) throws(MirrorSession.Failure) -> [TableName: TableStamp] {
        try stamps(
            plans, captures: CaptureSchema.healthy(captures),
            source: { (sql) throws(MirrorSession.Failure) in
                try on(direction.source) { () throws(PostgresFailure) in try reader.query(sql) }
            },
            target: { (sql) throws(MirrorSession.Failure) in
                try on(direction.target) { () throws(PostgresFailure) in try applier.query(sql) }
            })
    }

    /// - Parameter captures: by the source's oid.
    static func stamps<Failure: Error>(
        _ plans: [TablePlan], captures: [UInt32: InstalledCapture], source: (String) throws(Failure) -> Rows,
        target: (String) throws(Failure) -> Rows?
    ) throws(Failure) -> [TableName: TableStamp] {
        let ofOld = Dictionary(uniqueKeysWithValues: plans.map { ($0.oid, $0.sourceNames) })
        let ofNew = Dictionary(uniqueKeysWithValues: plans.map { ($0.newOid, $0.carriedNames) })
        func list(_ oids: some Sequence<UInt32>) -> String { oids.map { "\($0)" }.joined(separator: ", ") }
        let old = TableStamp.collect(try source(TableStamp.sideQuery(list(ofOld.keys))), carried: ofOld)
        let triggers = TableStamp.collectTriggers(try source(TableStamp.triggersQuery))
        let new = try target(TableStamp.sideQuery(list(ofNew.keys))).map { TableStamp.collect($0, carried: ofNew) }
        var stamps: [TableName: TableStamp] = [:]
        for plan in plans {
            var stamp = TableStamp()
            stamp.old = old[plan.oid] ?? TableStamp.Side()
            // What happens to the files of OLD's partitions is seen batch by batch: see PartitionTracker.
            if plan.isPartitioned { stamp.old.files = [:] }
            stamp.new = new?[plan.newOid] ?? TableStamp.Side()
            if !plan.isMapped { stamp.notePairs() }
            stamp.triggers = triggers[plan.oid] ?? [:]
            stamp.key = (captures[plan.oid]?.keyMark ?? "") + plan.mappingMark
            stamps[plan.name] = stamp
        }
        return stamps
    }
}
