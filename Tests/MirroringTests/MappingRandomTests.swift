import LibPQ
import Primitives
import TestSupport
import Testing

@testable import Mirroring

/// Mapped rows under transactions at random, and under values that no mapping can hold.
@Suite(.serialized) struct MappingRandomTests {
    private final class Writer {
        let session: Connection
        init(_ session: consuming Connection) { self.session = session }
    }

    /// One statement on rows of one writer: those whose number has its remainder.
    private static func statement(_ random: inout SeededGenerator, _ writer: Int) -> String {
        func id() -> Int { Int(random.next() % 300) * 2 + writer }
        let some = "id % 2 = \(writer) AND id / 2 % 10 = \(random.next() % 10)"
        switch random.next() % 9 {
        case 0: return "UPDATE orders SET is_test = NOT is_test WHERE \(some)"
        case 1: return "UPDATE orders SET cents = cents + 1, note = left(note || 'x', 9) WHERE \(some)"
        case 2: return "DELETE FROM orders WHERE id = \(id())"
        case 3: return "UPDATE orders SET legacy = 'l' WHERE \(some)"
        case 4: return "UPDATE orders SET id = id + 6000 WHERE id = \(id()) "
            + "AND NOT EXISTS (SELECT FROM orders o WHERE o.id = orders.id + 6000)"
        case 5: return "UPDATE orders SET id = id - 6000 WHERE id % 2 = \(writer) AND id >= 6000 AND id < 7000 "
            + "AND NOT EXISTS (SELECT FROM orders o WHERE o.id = orders.id - 6000)"
        case 6: return "SAVEPOINT s; UPDATE orders SET first = 'lost' WHERE \(some); ROLLBACK TO s"
        default:
            return """
                INSERT INTO orders VALUES (\(id()), 'f\(random.next() % 50)', 'l', \(random.next() % 999), 'n', '',
                    \(random.next() % 3 == 0), now()) ON CONFLICT (id) DO UPDATE SET first = EXCLUDED.first,
                    is_test = EXCLUDED.is_test, made = EXCLUDED.made
                """
        }
    }

    /// - Parameter constraint: on NEW: a second unique one, and rows are replaced instead of changed in place.
    @Test(arguments: ["", "ALTER TABLE shop.purchases ADD UNIQUE (order_id, buyer)"])
    func `rows come, go, move in and out and change their keys, and NEW is what the mapping makes of them`(
        constraint: String
    ) throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("mapping, seed \(seed)")
        var random = SeededGenerator(seed: seed)
        let harness = try MappingTests.harness()
        try harness.connectNew().execute(constraint.isEmpty ? "SELECT 1" : constraint)
        try harness.prepare(TableMappings([MappingTests.orders]))
        var options = MappingTests.options([MappingTests.orders], rows: 200)
        options.smallBatchKeysMax = 40
        harness.start(options)
        let writers = [Writer(try harness.writer()), Writer(try harness.writer())]
        for round in 0..<12 {
            var isOpen = [false, false]
            for _ in 0..<60 {
                let writer = Int(random.next() % 2)
                if !isOpen[writer] { try writers[writer].session.execute("BEGIN") }
                isOpen[writer] = true
                try writers[writer].session.execute(Self.statement(&random, writer))
                guard random.next() % 3 == 0 else { continue }
                try writers[writer].session.execute(random.next() % 5 == 0 ? "ROLLBACK" : "COMMIT")
                isOpen[writer] = false
            }
            for writer in 0..<2 where isOpen[writer] { try writers[writer].session.execute("COMMIT") }
            if random.next() % 4 == 0 {
                harness.stop()
                harness.start(options)
            }
            if round == 7 {
                try writers[0].session.execute("BEGIN; TRUNCATE orders; \(Self.statement(&random, 0)); COMMIT")
                try writers[0].session.execute("""
                    INSERT INTO orders SELECT g, 'f', 'l', g, 'n', '', g % 4 = 0, now() FROM generate_series(700, 900) g
                    """)
            }
            try harness.waitUntilReadable()
            try MappingTests.expectEqual(harness, "seed \(seed), round \(round)")
        }
    }

    @Test func `a row that the mapping cannot carry stops the mirror, which says why and goes on when mended`() throws {
        let harness = try MappingTests.harness()
        var mapping = MappingTests.orders
        mapping.columns["amount"] = "1000 / (cents - 1)"
        try harness.prepare(TableMappings([mapping]))
        harness.start(MappingTests.options([mapping]))
        try harness.waitUntilReadable()
        let writer = try harness.writer(), new = try harness.connectNew()
        try writer.execute("UPDATE orders SET cents = 1 WHERE id = 17")
        try harness.wait(for: "the reason") { $0.reason.contains("division by zero") }
        try writer.execute("UPDATE orders SET cents = 5 WHERE id = 17")
        try harness.wait(for: "the row") { _ in
            try new.query("SELECT amount FROM shop.purchases WHERE order_id = 17")[0, 0] == "250.00"
        }
        // And one that NEW cannot hold: its column is NOT NULL.
        mapping.columns["buyer"] = "nullif(first, 'nobody')"
        harness.stop()
        harness.start(MappingTests.options([mapping]))
        try harness.wait(for: "the new shape") { report in
            try report.state == .mirroring
                && new.query("SELECT buyer FROM shop.purchases WHERE order_id = 18")[0, 0] == "f18"
        }
        try writer.execute("UPDATE orders SET first = 'nobody' WHERE id = 18")
        try harness.wait(for: "the reason") { $0.reason.contains("buyer") }
        try writer.execute("UPDATE orders SET first = 'somebody' WHERE id = 18")
        try harness.wait(for: "the row") { _ in
            try new.query("SELECT buyer FROM shop.purchases WHERE order_id = 18")[0, 0] == "somebody"
        }
    }
}
