import Configuration
import Console
import Primitives
import Routing
import SQLAnalysis
import Shadowing

/// SHOW SHADOW and SHADOW_SHAPES.
extension ConsoleTables {
    private var compared: [(route: DatabaseRoute, figures: ShadowBook.Figures)] {
        snapshot.databases.values.sorted { $0.name < $1.name }
            .compactMap { route in route.shadow.map { (route, $0.figures) } }
    }

    /// One line per database whose reads are or were compared.
    func shadow() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("state"), .init("reason"), .init("percent", .numeric), .init("sampled", .bigint),
            .init("compared", .bigint), .init("mismatches", .bigint), .init("mismatch_percent", .numeric),
            .init("noise", .bigint), .init("open", .bigint), .init("skipped", .bigint), .init("failed", .bigint),
            .init("other_failed", .bigint), .init("dropped", .bigint), .init("unpaired", .bigint),
            .init("waiting", .bigint), .init("shapes", .integer), .init("shapes_outstanding", .integer),
            .init("pairs", .bigint), .init("pair_us", .bigint), .init("last_failure"),
        ])
        for (route, figures) in compared {
            let counts = figures.counts
            table.append([
                route.name, figures.state.rawValue, figures.reason, Self.percent(route.settings.shadow.hundredths),
                "\(counts.sampled)", "\(counts.compared)", "\(counts.mismatches)", Self.text(figures.mismatchPercent),
                "\(counts.noise)", "\(counts.open)", "\(counts.skipped)", "\(counts.failed)", "\(counts.otherFailed)",
                "\(figures.dropped)", "\(figures.unpaired)", "\(figures.waiting)", "\(figures.shapes.count)",
                "\(figures.shapesOutstanding)", "\(figures.pairs)", "\(figures.pairMicros)", figures.lastFailure,
            ])
        }
        return table
    }

    func shadowShapes() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("shape"), .init("text"), .init("sampled", .bigint), .init("compared", .bigint),
            .init("mismatches", .bigint), .init("noise", .bigint), .init("open", .bigint), .init("skipped", .bigint),
            .init("failed", .bigint), .init("other_failed", .bigint), .init("reason"), .init("kind"),
            .init("difference"), .init("seconds_ago", .bigint), .init("old_row"), .init("new_row"),
        ])
        let now = MonotonicInstant.now()
        for (route, figures) in compared {
            let showsValues = route.settings.shadow.showsValues
            for shape in figures.shapes {
                let (counts, difference) = (shape.counts, shape.difference)
                table.append([
                    route.name, String(shape.id.value, radix: 16), shape.text, "\(counts.sampled)",
                    "\(counts.compared)", "\(counts.mismatches)", "\(counts.noise)", "\(counts.open)",
                    "\(counts.skipped)", "\(counts.failed)", "\(counts.otherFailed)", shape.reason,
                    difference?.kind.rawValue, difference?.summary,
                    shape.differedAt.map { "\(now.nanoseconds(since: $0) / 1_000_000_000)" },
                    showsValues ? difference?.oldRow : nil, showsValues ? difference?.newRow : nil,
                ])
            }
        }
        return table
    }

    /// To four digits after the point.
    private static func text(_ percent: Double) -> String { "\((percent * 10_000).rounded() / 10_000)" }
}

extension ProxyMetrics {
    func shadow(_ writer: inout ExpositionWriter) {
        writer.begin("godwit_shadow_reads_total", .counter, "Sampled reads, by what came of them.")
        for (route, figures) in comparisons {
            let counts = figures.counts
            let outcomes = [
                ("equal", counts.equal), ("mismatch", counts.mismatches), ("noise", counts.noise),
                ("open", counts.open), ("skipped", counts.skipped), ("failed", counts.failed),
                ("other_failed", counts.otherFailed), ("dropped", figures.dropped),
            ]
            for (outcome, count) in outcomes {
                writer.sample([("database", route.name), ("outcome", outcome)], count)
            }
        }
        writer.begin("godwit_shadow_unpaired_total", .counter, "Sampled reads without a pair of snapshots.")
        for (route, figures) in comparisons { writer.sample([("database", route.name)], figures.unpaired) }
        writer.begin("godwit_shadow_waiting", .gauge, "Sampled reads that wait to be compared.")
        for (route, figures) in comparisons { writer.sample([("database", route.name)], UInt64(figures.waiting)) }
        writer.begin("godwit_shadow_comparing", .gauge, "1: sampled reads are compared; 0: SHOW SHADOW says why not.")
        for (route, figures) in comparisons {
            writer.sample([("database", route.name)], UInt64(figures.state == .comparing ? 1 : 0))
        }
        writer.begin("godwit_shadow_shapes_outstanding", .gauge, "Statement shapes of which no read was compared yet.")
        for (route, figures) in comparisons {
            writer.sample([("database", route.name)], UInt64(figures.shapesOutstanding))
        }
    }
}
