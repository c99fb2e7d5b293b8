import CLibPQ

extension Connection {
    /// Runs statements that have no rows, and gives their command tags: `ALTER TABLE`.
    package borrowing func commands(_ sql: String, timeoutSeconds: Double) throws(PostgresFailure) -> [String] {
        try send(sql)
        let deadline = Deadline.now().adding(seconds: timeoutSeconds)
        var tags: [String] = []
        var first: PostgresFailure?
        while true {
            while PQisBusy(raw) == 1 { try consume(until: deadline) }
            guard let result = PQgetResult(raw) else { break }
            defer { PQclear(result) }
            switch PQresultStatus(result) {
            case PGRES_COMMAND_OK, PGRES_TUPLES_OK: tags.append(PQcmdStatus(result).map { String(cString: $0) } ?? "")
            case PGRES_EMPTY_QUERY: break
            default:
                let failure = failure(of: result)
                if first == nil { first = failure }
                if failure.kind != .refused { throw failure }
            }
        }
        if let first { throw first }
        return tags
    }
}
