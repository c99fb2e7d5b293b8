import PGWire

/// The answer to a SHOW: a table as PostgreSQL would send it. Immutable.
package struct ConsoleReport: Equatable, Sendable {
    package enum ColumnType: Sendable {
        case text, integer, bigint, numeric

        /// The type's object id and size in PostgreSQL's catalog.
        var wire: (oid: Int32, size: Int16) {
            switch self {
            case .text: (25, -1)
            case .integer: (23, 4)
            case .bigint: (20, 8)
            case .numeric: (1700, -1)
            }
        }
    }

    package struct Column: Equatable, Sendable {
        package var name: String
        package var type: ColumnType
        package init(_ name: String, _ type: ColumnType = .text) {
            self.name = name
            self.type = type
        }
    }

    package var columns: [Column]
    package private(set) var rows: [[String?]] = []

    package init(_ columns: [Column]) { self.columns = columns }

    package mutating func append(_ row: [String?]) {
        precondition(row.count == columns.count, "a row with another number of columns")
        rows.append(row)
    }

    /// RowDescription, the rows, CommandComplete, ReadyForQuery.
    package func write(to writer: inout MessageWriter) {
        writer.message(BackendTag.rowDescription) { body in
            body.int16(Int16(columns.count))
            for column in columns {
                body.cString(column.name)
                body.int32(0)
                body.int16(0)
                body.int32(column.type.wire.oid)
                body.int16(column.type.wire.size)
                body.int32(-1)
                body.int16(0)
            }
        }
        for row in rows {
            writer.message(BackendTag.dataRow) { body in
                body.int16(Int16(row.count))
                for value in row {
                    guard let value else {
                        body.int32(-1)
                        continue
                    }
                    body.int32(Int32(value.utf8.count))
                    body.raw(value.utf8)
                }
            }
        }
        writer.commandComplete("SHOW")
        writer.readyForQuery(.idle)
    }
}
