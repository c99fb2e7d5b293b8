import Primitives
import Routing
import SQLAnalysis

/// Prints nanoseconds per analysis of a 100-byte statement: known text, known shape, and the grammar.
@main
struct AnalysisBench {
    static func main() {
        let plan = KeyPlan([.comment("user_id"), .setting("godwit.user"), .sessionUser])
        let keyed =
            "/* user_id=4711 */ SELECT id, name, balance FROM accounts WHERE id = 815 AND region = 'north' LIMIT 10"
        let select = "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;"
        measure("known text, \(keyed.utf8.count) bytes", 2_000_000, plan) { _ in keyed }
        measure("known text, \(select.utf8.count) bytes", 2_000_000, plan) { _ in select }
        let variants = (0..<10_000).map { index in
            "/* user_id=\(index) */ SELECT id, name, balance FROM accounts "
                + "WHERE id = \(index * 7) AND region = 'r\(index)' LIMIT 10"
        }
        measure("known shape, about \(variants[5000].utf8.count) bytes", 1_000_000, plan) { variants[$0 % 10_000] }
        let points = (0..<10_000).map { "SELECT abalance FROM pgbench_accounts WHERE aid = \($0 * 7);" }
        measure("known shape, about \(points[5000].utf8.count) bytes", 1_000_000, plan) { points[$0 % 10_000] }
        let lists = (0..<1000).map { index in
            "SELECT * FROM t WHERE id IN (" + (0...(index % 50)).map { "\($0)" }.joined(separator: ", ") + ")"
        }
        measure("known shape, IN lists of 1 to 50", 200_000, plan) { lists[$0 % 1000] }
        let shapes = (0..<20_000).map { "SELECT c\($0) FROM pgbench_accounts WHERE aid = 12345;" }
        measure("the grammar, about \(shapes[5000].utf8.count) bytes", 20_000, plan) { shapes[$0 % 20_000] }
        measureBuckets()
    }

    private static func measure(_ name: String, _ rounds: Int, _ plan: KeyPlan, _ text: (Int) -> String) {
        var limits = AnalysisLimits()
        limits.textEntriesMax = 4096
        let cache = AnalysisCache(facts: .builtIn, keyPlan: plan, limits: limits, seed: 1)
        let texts = (0..<min(rounds, 20_000)).map { Array(text($0).utf8) }
        for text in texts.prefix(3) { text.withUnsafeBytes { _ = cache.analyse($0) } }
        var reads = 0
        let start = MonotonicInstant.now()
        for round in 0..<rounds {
            texts[round % texts.count].withUnsafeBytes { bytes in
                if round & 31 == 0 { cache.beginTurn() }
                if cache.analyse(bytes).kind == .read { reads += 1 }
            }
        }
        report(name, rounds, start)
        precondition(reads == rounds, "a read was not taken for one")
        let counters = cache.counters
        print("    template hits \(counters.templateHits), text hits \(counters.textHits), shape hits \(counters.shapeHits), parses \(counters.parses)")
    }

    private static func measureBuckets() {
        let resolver = KeyResolver(table: RoutingTable(keyPlan: KeyPlan([.sessionUser]), hundredths: 5000))
        let keys = (0..<1000).map { Array("user-\($0)".utf8) }
        var new = 0
        let rounds = 2_000_000
        let start = MonotonicInstant.now()
        for round in 0..<rounds {
            keys[round % 1000].withUnsafeBytes { key in
                if let identity = resolver.identity(of: key), identity.bucket.isWithin(share: 5000) { new += 1 }
            }
        }
        report("known key to bucket", rounds, start)
        precondition(new > 0, "no key below half")
    }

    private static func report(_ name: String, _ rounds: Int, _ start: MonotonicInstant) {
        let nanos = MonotonicInstant.now().nanoseconds(since: start) / UInt64(rounds)
        print("\(name): \(nanos) ns")
    }
}
