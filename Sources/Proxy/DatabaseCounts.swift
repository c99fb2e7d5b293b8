import Primitives
import Routing
import SQLAnalysis

/// What one thread has counted of a database, for the console and for `/metrics`; or all threads together. A value.
struct DatabaseCounts: Sendable {
    var name: String
    var counters: DatabaseCounters
    var routes: [(key: RouteKey, units: UInt64)]
    /// Of breakers that all threads share.
    var health: [HealthMonitor.Figures]
    var retries: UInt64
    var analysis: AnalysisCounters
    var cacheBytes: Int

    mutating func add(_ other: DatabaseCounts) {
        precondition(name.hasSameBytes(as: other.name), "figures of two databases")
        counters = counters + other.counters
        routes += other.routes
        retries += other.retries
        analysis = analysis + other.analysis
        cacheBytes += other.cacheBytes
    }
}

extension DatabaseState {
    func counts(now: MonotonicInstant) -> DatabaseCounts {
        DatabaseCounts(
            name: name, counters: counters, routes: routeCounts, health: health.figures(now: now), retries: retries,
            analysis: analysis.counters, cacheBytes: analysis.bytesHeld)
    }
}
