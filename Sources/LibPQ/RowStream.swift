import CLibPQ

/// A value for a parameter, in the form in which a client sent it. Immutable, any thread.
package struct WireValue: Sendable {
    /// As numbered in pg_type; 0: the server finds it out.
    package var type: UInt32
    /// nil: NULL. Text without a NUL, or binary.
    package var bytes: [UInt8]?
    package var isBinary: Bool

    package init(type: UInt32, bytes: [UInt8]?, isBinary: Bool) {
        self.type = type
        self.bytes = bytes
        self.isBinary = isBinary
    }
}

extension Connection {
    /// One statement, by the extended protocol, which takes no second one. Its rows come as text, with `takeRows`.
    package borrowing func send(statement text: [UInt8], values: [WireValue]) throws(PostgresFailure) {
        // libpq reads texts up to a NUL, and binary values by their lengths.
        let buffers = values.map { value in
            value.bytes.map { bytes in
                let buffer = UnsafeMutablePointer<CChar>.allocate(capacity: bytes.count + 1)
                for (place, byte) in bytes.enumerated() { buffer[place] = CChar(bitPattern: byte) }
                buffer[bytes.count] = 0
                return buffer
            }
        }
        defer { for buffer in buffers { buffer?.deallocate() } }
        let pointers: [UnsafePointer<CChar>?] = buffers.map { $0.map { UnsafePointer($0) } }
        let sent = (text + [0]).withUnsafeBytes { text in
            PQsendQueryParams(
                raw, text.baseAddress?.assumingMemoryBound(to: CChar.self), CInt(values.count),
                values.map { Oid($0.type) }, pointers, values.map { CInt($0.bytes?.count ?? 0) },
                values.map { $0.isBinary ? 1 : 0 }, 0)
        }
        guard sent == 1 else { throw lost() }
        PQsetSingleRowMode(raw)
        try flush(until: nil)
    }

    /// Hands over rows as they come, at least one (empty) description of them.
    ///
    /// - Returns: false when `take` did not want any more: the session is of no more use then.
    package borrowing func takeRows(
        until deadline: Deadline, _ take: (Rows) -> Bool
    ) throws(PostgresFailure) -> Bool {
        var refusal: PostgresFailure?
        while true {
            while PQisBusy(raw) == 1 { try consume(until: deadline) }
            guard let result = PQgetResult(raw) else { break }
            switch PQresultStatus(result) {
            case PGRES_SINGLE_TUPLE, PGRES_TUPLES_OK:
                if !take(Rows(owning: result)) { return false }
            case PGRES_COMMAND_OK, PGRES_EMPTY_QUERY:
                PQclear(result)
            case PGRES_COPY_IN:
                PQclear(result)
                try refuseCopy(until: deadline)
                refusal = refusal ?? Self.copyRefusal
            case PGRES_COPY_OUT:
                PQclear(result)
                try dropCopy(until: deadline)
                refusal = refusal ?? Self.copyRefusal
            default:
                defer { PQclear(result) }
                let failure = failure(of: result)
                guard failure.kind == .refused else { throw failure }
                refusal = refusal ?? failure
            }
        }
        if let refusal { throw refusal }
        return true
    }
}
