import CLibPQ

/// The rows of one statement, in text format, as libpq holds them. Stays on the thread of its connection.
package final class Rows {
    private let result: OpaquePointer
    package let count: Int
    package let columns: Int

    init(owning result: OpaquePointer) {
        self.result = result
        count = Int(PQntuples(result))
        columns = Int(PQnfields(result))
    }

    deinit { PQclear(result) }

    package func isNull(_ row: Int, _ column: Int) -> Bool {
        check(row, column)
        return PQgetisnull(result, CInt(row), CInt(column)) != 0
    }

    package subscript(row: Int, column: Int) -> String? {
        guard !isNull(row, column) else { return nil }
        return String(decoding: bytes(row, column), as: UTF8.self)
    }

    /// The value's text as the server sent it; empty for NULL. Valid while these rows live.
    package func bytes(_ row: Int, _ column: Int) -> UnsafeRawBufferPointer {
        check(row, column)
        let length = Int(PQgetlength(result, CInt(row), CInt(column)))
        return UnsafeRawBufferPointer(start: PQgetvalue(result, CInt(row), CInt(column)), count: length)
    }

    package func integer(_ row: Int, _ column: Int) -> Int64? { self[row, column].flatMap { Int64($0) } }

    package func flag(_ row: Int, _ column: Int) -> Bool { self[row, column] == "t" }

    package func name(_ column: Int) -> String { PQfname(result, CInt(column)).map { String(cString: $0) } ?? "" }

    /// As numbered in pg_type.
    package func type(_ column: Int) -> UInt32 { PQftype(result, CInt(column)) }

    /// The rows that the statement changed, out of its command tag; 0 where it has none.
    package var changed: Int { PQcmdTuples(result).flatMap { Int(String(cString: $0)) } ?? 0 }

    private func check(_ row: Int, _ column: Int) {
        precondition(row >= 0 && row < count, "row \(row) of \(count)")
        precondition(column >= 0 && column < columns, "column \(column) of \(columns)")
    }
}
