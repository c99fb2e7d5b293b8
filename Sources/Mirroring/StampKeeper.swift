import LibPQ
import Primitives

/// Compares what the tables are with what they were when their copies began, and lets a copy start anew where rows may
/// have changed unseen. Used by the mirror's thread, once per session, before its first batch.
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
