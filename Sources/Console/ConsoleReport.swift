import PGWire

/// The answer to a SHOW: a table as PostgreSQL would send it. Immutable.
package struct ConsoleReport: Equatable, Sendable {
    package enum ColumnType: Sendable {
        case text, integer, bigint, numeric, bytea

        /// The type's object id and size in PostgreSQL's catalog.
        var wire: (oid: Int32, size: Int16) {
            switch self {
            case .text: (25, -1)
            case .integer: (23, 4)
            case .bigint: (20, 8)
            case .numeric: (1700, -1)
            case .bytea: (17, -1)
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

    /// In which form values are sent, as Bind's result formats say: none, one for all, or one each.
    package struct Formats: Equatable, Sendable {
        private var isBinary: [Bool]

        /// - Parameter codes: 0 text, 1 binary.
        package init?(_ codes: [Int16]) {
            if codes.contains(where: { $0 != 0 && $0 != 1 }) { return nil }
            isBinary = codes.map { $0 == 1 }
        }

        package static let text = Formats()

        private init() { isBinary = [] }

        package func fits(columns: Int) -> Bool { isBinary.count <= 1 || isBinary.count == columns }

        func isBinary(at index: Int) -> Bool {
            isBinary.count == 1 ? isBinary[0] : index < isBinary.count && isBinary[index]
        }
    }

    package var columns: [Column]
    package private(set) var rows: [[String?]] = []

    package init(_ columns: [Column]) { self.columns = columns }

    package mutating func append(_ row: [String?]) {
        precondition(row.count == columns.count, "a row with another number of columns")
        rows.append(row)
    }

    /// RowDescription, the rows, CommandComplete, ReadyForQuery: the answer to a simple query.
    package func write(to writer: inout MessageWriter) {
        describe(in: .text, to: &writer)
        writeRows(rows.indices, in: .text, to: &writer)
        writer.commandComplete("SHOW")
        writer.readyForQuery(.idle)
    }

    package func describe(in formats: Formats, to writer: inout MessageWriter) {
        writer.message(BackendTag.rowDescription) { body in
            body.int16(Int16(columns.count))
            for (index, column) in columns.enumerated() {
                body.cString(column.name)
                body.int32(0)
                body.int16(0)
                body.int32(column.type.wire.oid)
                body.int16(column.type.wire.size)
                body.int32(-1)
                body.int16(formats.isBinary(at: index) ? 1 : 0)
            }
        }
    }

    package func writeRows(_ range: Range<Int>, in formats: Formats, to writer: inout MessageWriter) {
        for row in rows[range] {
            writer.message(BackendTag.dataRow) { body in
                body.int16(Int16(row.count))
                for (index, value) in row.enumerated() {
                    guard let value else {
                        body.int32(-1)
                        continue
                    }
                    let bytes = formats.isBinary(at: index)
                        ? Self.binary(value, columns[index].type) : Array(value.utf8)
                    body.int32(Int32(bytes.count))
                    body.raw(bytes)
                }
            }
        }
    }

    // MARK: binary values

    /// As the types' send functions make them.
    private static func binary(_ value: String, _ type: ColumnType) -> [UInt8] {
        switch type {
        case .text, .bytea: return Array(value.utf8)
        case .integer: return bigEndian(Int32(value) ?? 0)
        case .bigint: return bigEndian(Int64(value) ?? 0)
        case .numeric: return numeric(value)
        }
    }

    private static func bigEndian(_ value: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: value.bigEndian) { Array($0) }
    }

    /// Digits to the base of 10,000: their number, the first one's weight, sign, digits behind the point, themselves.
    private static func numeric(_ value: String) -> [UInt8] {
        let isNegative = value.hasPrefix("-")
        let parts = value.drop { $0 == "-" }.split(separator: ".", omittingEmptySubsequences: false)
        let whole = parts.first.map(String.init) ?? "0"
        let fraction = parts.count > 1 ? String(parts[1]) : ""
        let head = String(repeating: "0", count: (4 - whole.count % 4) % 4) + whole
        let all = head + fraction + String(repeating: "0", count: (4 - fraction.count % 4) % 4)
        var digits = stride(from: 0, to: all.count, by: 4).map { start in
            all.utf8.dropFirst(start).prefix(4).reduce(Int16(0)) { $0 * 10 + Int16($1) - 0x30 }
        }
        var weight = Int16(head.count / 4 - 1)
        while digits.first == 0 {
            digits.removeFirst()
            weight -= 1
        }
        while digits.last == 0 { digits.removeLast() }
        if digits.isEmpty { weight = 0 }
        let head4: [Int16] = [Int16(digits.count), weight, isNegative ? 0x4000 : 0, Int16(fraction.count)]
        return (head4 + digits).flatMap { bigEndian($0) }
    }
}
