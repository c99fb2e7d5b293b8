import LibPQ
import Primitives

/// Whether OLD can bear the first copy now: asked of OLD once a second at most. Used by the mirror's thread.
struct CopyThrottle {
    private static let secondsBetween = 1.0

    private let options: MirrorOptions
    private var asked: MonotonicInstant?
    /// Why the copy rests; nil: it need not.
    private(set) var reason: String?

    init(_ options: MirrorOptions) { self.options = options }

    /// - Parameter batchSeconds: what the last batch that brought changes took.
    mutating func ask(
        _ reader: BatchReader, batchSeconds: Double, at instant: MonotonicInstant
    ) throws(PostgresFailure) {
        if options.throttleLagSeconds > 0 && batchSeconds > options.throttleLagSeconds {
            reason = "the last changes took \(Int(batchSeconds * 1000)) ms (mirror.throttle_lag)"
            return
        }
        if let asked, instant < asked.advanced(bySeconds: Self.secondsBetween) {
            if reason?.hasSuffix("throttle_lag)") ?? false { reason = nil }
            return
        }
        asked = instant
        reason = nil
        if options.throttleSessions > 0 {
            let active = try reader.query(Self.sessionsQuery).integer(0, 0) ?? 0
            if active > Int64(options.throttleSessions) {
                reason = "the source has \(active) active sessions (mirror.throttle_sessions)"
                return
            }
        }
        guard !options.throttleQuery.isEmpty else { return }
        do throws(PostgresFailure) {
            let rows = try reader.askOperator(options.throttleQuery)
            if let rows, rows.count > 0, rows.columns > 0, rows.flag(0, 0) { reason = "mirror.throttle_query says so" }
        } catch {
            guard error.kind == .refused else { throw error }
            reason = "mirror.throttle_query fails: \(error)"
        }
    }

    private static let sessionsQuery = """
        SELECT count(*) FROM pg_stat_activity
         WHERE state = 'active' AND backend_type = 'client backend' AND application_name NOT LIKE 'godwit %'
        """
}
