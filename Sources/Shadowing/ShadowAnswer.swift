/// What one side answered to a read: rows as text, or why there are none. A value.
package struct ShadowAnswer: Sendable {
    package struct Column: Sendable, Equatable {
        package var name: String
        /// As numbered in pg_type.
        package var type: UInt32

        package init(name: String, type: UInt32) {
            self.name = name
            self.type = type
        }
    }

    package enum End: Sendable, Equatable {
        case complete
        /// More rows or bytes than are compared.
        case tooLarge
        /// An error of the statement's own, by its SQLSTATE.
        case refused(state: String, message: String)
    }

    package private(set) var columns: [Column] = []
    package var end: End = .complete
    /// Rows one behind the other: each value is its length (-1: NULL) in four bytes, and its bytes.
    private var bytes: [UInt8] = []
    private var starts: [Int] = []
    private let rowsMax: Int
    private let bytesMax: Int

    package init(rowsMax: Int, bytesMax: Int) {
        self.rowsMax = rowsMax
        self.bytesMax = bytesMax
    }

    package mutating func describe(_ columns: [Column]) { self.columns = columns }

    package var rowCount: Int { starts.count }

    /// - Returns: false when there is no room for it, and `end` says so.
    package mutating func beginRow() -> Bool {
        if starts.count >= rowsMax || bytes.count >= bytesMax {
            end = .tooLarge
            return false
        }
        starts.append(bytes.count)
        return true
    }

    /// - Parameter value: nil: NULL.
    package mutating func append(_ value: UnsafeRawBufferPointer?) {
        let length = Int32(value?.count ?? -1)
        withUnsafeBytes(of: length.bigEndian) { bytes.append(contentsOf: $0) }
        if let value { bytes.append(contentsOf: value) }
    }

    // MARK: reading

    package func row(_ index: Int) -> ArraySlice<UInt8> {
        bytes[starts[index]..<(index + 1 < starts.count ? starts[index + 1] : bytes.count)]
    }

    /// The values of a row; nil: NULL.
    package func values(_ row: ArraySlice<UInt8>) -> [ArraySlice<UInt8>?] {
        var values: [ArraySlice<UInt8>?] = []
        var place = row.startIndex
        while place < row.endIndex {
            let length = row[place..<place + 4].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            place += 4
            if length == UInt32.max {
                values.append(nil)
            } else {
                values.append(row[place..<place + Int(length)])
                place += Int(length)
            }
        }
        return values
    }

    /// For people: as PostgreSQL prints a row.
    package func text(_ row: ArraySlice<UInt8>) -> String {
        let values = values(row).map { $0.map { String(decoding: $0, as: UTF8.self) } ?? "" }
        return "(\(values.joined(separator: ",")))"
    }
}
