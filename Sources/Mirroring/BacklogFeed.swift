import LibPQ

/// A large batch's tables whose rows come part by part: OLD reads each table's changed keys and their rows once, and
/// runs ahead of NEW by what its socket holds, while NEW works on the part before. With two sessions on OLD one sorts
/// the next table's keys while the other's rows still travel. All of it is one transaction on NEW, and one snapshot of
/// OLD's. Used by the mirror's thread.
///
/// A part's deletes come before its rows, not all deletes of the table before all rows. So only tables come this way in
/// whose parts nothing can collide but a key with itself: see `TablePlan.comesInParts`.
final class BacklogFeed {
    typealias Table = (plan: TablePlan, isTruncated: Bool, unseen: String)

    private let reader: BatchReader
    private let companion: BatchReader.Companion?
    private let applier: BatchApplier
    private let partBytesMax: Int
    /// NEW was sent something whose end has not been waited for.
    private var isPending = false

    init(reader: BatchReader, companion: BatchReader.Companion?, applier: BatchApplier, partBytesMax: Int) {
        self.reader = reader
        self.companion = companion
        self.applier = applier
        self.partBytesMax = partBytesMax
    }

    func apply(_ tables: [Table]) throws(PostgresFailure) {
        let sessions = companion == nil ? 1 : 2
        for index in 0..<min(sessions, tables.count) {
            try onSource(of: index) { (source) throws(PostgresFailure) in try ask(tables[index], source) }
        }
        for index in tables.indices {
            try settle()
            let plan = tables[index].plan
            try applier.execute("\(plan.createStaging); \(plan.createStagingRows)")
            if tables[index].isTruncated { try applier.execute(plan.deleteAll) }
            var part = BacklogPart(keyCount: plan.keyCount, bytesMax: partBytesMax), way = BacklogWay()
            try onSource(of: index) { (source) throws(PostgresFailure) in
                try receive(tables[index], &part, &way, source)
                // OLD sorts another table's keys while NEW takes the last part.
                if index + sessions < tables.count { try ask(tables[index + sessions], source) }
            }
            if !part.isEmpty { try bring(&part, of: tables[index], &way) }
        }
        try settle()
    }

    // MARK: OLD

    /// The two sessions take turns.
    private func onSource(
        of index: Int, _ body: (borrowing Connection) throws(PostgresFailure) -> Void
    ) throws(PostgresFailure) {
        if let companion, !index.isMultiple(of: 2) { try body(companion.connection) } else { try body(reader.source) }
    }

    private func ask(_ table: Table, _ source: borrowing Connection) throws(PostgresFailure) {
        try source.send(table.plan.copyKeyedRows(from: table.unseen))
    }

    private func receive(
        _ table: Table, _ part: inout BacklogPart, _ way: inout BacklogWay, _ source: borrowing Connection
    ) throws(PostgresFailure) {
        guard case .copyOut? = try source.next() else {
            throw PostgresFailure(.lost, "the source refused the rows of \(table.plan.sourceName)")
        }
        try source.copyOut { (bytes) throws(PostgresFailure) in
            guard let line = part.parse(bytes) else {
                throw PostgresFailure(.lost, "the source gave no keys with the rows of \(table.plan.sourceName)")
            }
            if !part.hasRoom(for: line), !part.isEmpty { try bring(&part, of: table, &way) }
            if part.hasRoom(for: line) {
                part.append(line)
            } else {
                try bringAlone(line, of: table)
            }
        }
        try source.finish()
    }

    // MARK: NEW

    /// The last of what it sends is left to NEW while OLD's next rows are gathered.
    private func bring(_ part: inout BacklogPart, of table: Table, _ way: inout BacklogWay) throws(PostgresFailure) {
        let plan = table.plan
        try settle()
        let isNew = table.isTruncated ? true : try isNew(part, plan)
        if isNew {
            try copy(plan.copyIntoTable, part.rows)
        } else if way.way == .replace {
            let deleted = try delete(part.keys, of: plan)
            try copy(plan.copyIntoTable, part.rows)
            way.replaced(deleted: deleted, rows: part.rowCount)
        } else {
            _ = try delete(part.absent, of: plan)
            if part.rowCount > 0 {
                try copy(plan.copyIntoStagingRows, part.rows)
                try settle()
                try applier.send("\(plan.upsertStaged); \(plan.emptyStagingRows)")
                isPending = true
            }
            way.upserted()
        }
        part.removeAll()
    }

    /// NEW has no row between the part's keys: there is nothing to delete, as behind the end of a table that grows.
    private func isNew(_ part: BacklogPart, _ plan: TablePlan) throws(PostgresFailure) -> Bool {
        guard let bounds = part.bounds else { return false }
        return try !applier.flag(plan.hasRows(from: bounds.first, through: bounds.last))
    }

    /// A row that is larger than a part: it is not held a second time.
    private func bringAlone(_ line: BacklogPart.Line, of table: Table) throws(PostgresFailure) {
        try settle()
        if !table.isTruncated { _ = try delete(Array(line.key) + [UInt8(ascii: "\n")], of: table.plan) }
        guard let row = line.row else { return }
        try applier.sendCopy(table.plan.copyIntoTable, row)
        isPending = true
    }

    private func delete(_ keys: [UInt8], of plan: TablePlan) throws(PostgresFailure) -> Int {
        guard !keys.isEmpty else { return 0 }
        try copy(plan.copyIntoStaging, keys)
        try settle()
        let deleted = try applier.change(plan.deleteStaged)
        try applier.execute(plan.emptyStaging)
        return deleted
    }

    private func copy(_ statement: String, _ lines: [UInt8]) throws(PostgresFailure) {
        guard !lines.isEmpty else { return }
        // withUnsafeBytes does not carry typed errors.
        let failure = lines.withUnsafeBytes { bytes -> PostgresFailure? in
            do throws(PostgresFailure) { try applier.sendCopy(statement, bytes) } catch { return error }
            return nil
        }
        if let failure { throw failure }
        isPending = true
    }

    private func settle() throws(PostgresFailure) {
        guard isPending else { return }
        isPending = false
        try applier.finish()
    }
}
