import LibPQ

/// How far the first copy of every table is. Pure: NEW holds the same in godwit.backfill, changed in the
/// transaction that brings the rows, so that a crash repeats or loses nothing. Used by the mirror's thread.
struct Backfill {
    /// Rows, and the bytes of their texts.
    struct Amount: Equatable {
        var rows = 0
        var bytes = 0
    }

    struct Table: Equatable {
        var name: TableName
        /// The last key copied; nil before the first range.
        var after: [String]?
        var rowsCopied: UInt64
        var bytesCopied: UInt64
        var isCopied: Bool
        /// What both sides' tables were when the copy began; nil: it did not.
        var stamp: TableStamp?
        /// No range of it has been copied yet.
        var isUntouched: Bool { after == nil && !isCopied }

        mutating func restart() {
            after = nil
            rowsCopied = 0
            bytesCopied = 0
            isCopied = false
        }
    }

    private(set) var tables: [Table]

    init(_ tables: [Table]) { self.tables = tables }

    var isComplete: Bool { tables.allSatisfy(\.isCopied) }

    /// The table whose next range is due.
    var next: Table? { tables.first { !$0.isCopied } }

    /// - Parameter through: the range's last key; nil: the range was the table's last.
    static func recordText(_ name: TableName, _ copied: Amount, through: [String]?) -> String {
        """
        UPDATE godwit.backfill SET rows_copied = rows_copied + \(copied.rows),
            bytes_copied = bytes_copied + \(copied.bytes), is_copied = \(through == nil),
            after_key = \(through.map { SQL.array($0) } ?? "after_key")
         WHERE schema_name = \(SQL.literal(name.schema)) AND table_name = \(SQL.literal(name.name))
        """
    }

    /// NEW has lost rows that the copy had brought: all come again.
    static func restartText(_ name: TableName, stamp: TableStamp? = nil) -> String {
        let noted = stamp.map { ", stamp = \(SQL.literal($0.text))" } ?? ""
        return """
        UPDATE godwit.backfill SET rows_copied = 0, bytes_copied = 0, is_copied = false, after_key = NULL\(noted)
         WHERE schema_name = \(SQL.literal(name.schema)) AND table_name = \(SQL.literal(name.name))
        """
    }

    static func stampText(_ name: TableName, _ stamp: TableStamp) -> String {
        """
        UPDATE godwit.backfill SET stamp = \(SQL.literal(stamp.text))
         WHERE schema_name = \(SQL.literal(name.schema)) AND table_name = \(SQL.literal(name.name))
        """
    }

    /// After NEW has committed the same.
    mutating func record(_ name: TableName, _ copied: Amount, through: [String]?) {
        guard let index = tables.firstIndex(where: { $0.name == name }) else {
            preconditionFailure("a range of \(name), which has no backfill")
        }
        tables[index].rowsCopied += UInt64(copied.rows)
        tables[index].bytesCopied += UInt64(copied.bytes)
        tables[index].after = through ?? tables[index].after
        tables[index].isCopied = through == nil
    }
}
