import Configuration
import Console
import Primitives
import Routing
import SQLAnalysis

/// SHOW COHORTS, RULES, SHAPES and CACHES.
extension ConsoleTables {
    /// Who takes the writes of each database.
    func authority() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("authority"), .init("host"), .init("port", .integer), .init("epoch", .bigint),
            .init("mirror_to"), .init("mirror"), .init("reason"),
        ])
        for route in snapshot.databases.values.sorted(by: { $0.name < $1.name }) {
            let endpoint = route.endpoint(route.authority)
            let (report, isMirrored) = (route.horizon.report, route.settings.mirror.mode != .off)
            table.append([
                route.name, route.authority.description, endpoint.host, "\(endpoint.port)", "\(route.epoch)",
                isMirrored ? route.authority.other.description : "", report.state.rawValue, report.reason,
            ])
        }
        return table
    }

    func cohorts() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("cohort"), .init("kind"), .init("keys", .bigint), .init("percent", .numeric),
            .init("units", .bigint),
        ])
        let rows = rowsByDatabase
        for settings in snapshot.settings.databases {
            // In force may be others than the file's shares: a migration's, or what a roll-back has left.
            guard let route = snapshot.route(settings.name) else { continue }
            for (index, cohort) in route.settings.reads.cohorts.enumerated() {
                table.append([
                    settings.name, cohort.name, cohort.members.kind, cohort.members.count.map { "\($0)" },
                    Self.percent(route.onNew(cohort.hundredths)),
                    "\(sum(rows[settings.name] ?? [], index, \.cohortUnits))",
                ])
            }
        }
        return table
    }

    func rules() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("rule"), .init("match"), .init("action"), .init("units", .bigint),
        ])
        let rows = rowsByDatabase
        for settings in snapshot.settings.databases {
            for (index, rule) in settings.rules.enumerated() {
                table.append([
                    settings.name, rule.name, rule.matchText, rule.actionName,
                    "\(sum(rows[settings.name] ?? [], index, \.ruleUnits))",
                ])
            }
        }
        return table
    }

    private func sum(
        _ rows: [WorkerReport.DatabaseRow], _ index: Int, _ units: KeyPath<WorkerReport.DatabaseRow, [UInt64]>
    ) -> UInt64 {
        rows.reduce(0) { $0 + (index < $1[keyPath: units].count ? $1[keyPath: units][index] : 0) }
    }

    /// Each reactor thread judges by what it has seen itself.
    func shapes() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("reactor", .integer), .init("shape"), .init("text"), .init("side"),
            .init("calls", .bigint), .init("errors", .bigint), .init("rows", .bigint), .init("p50_us", .bigint),
            .init("p95_us", .bigint), .init("p99_us", .bigint), .init("verdict"), .init("reason"),
        ])
        for report in reports {
            for row in report.databases.sorted(by: { $0.name < $1.name }) {
                let isProvenOnly = snapshot.databases[row.name]?.settings.reads.promote == .proven
                for figures in row.shapes {
                    for (side, figure) in [(Side.old, figures.old), (Side.new, figures.new)] {
                        table.append([
                            row.name, "\(report.worker)", String(figures.shape.value, radix: 16), figures.text,
                            side.description, "\(figure.calls)", "\(figure.errors)", "\(figure.rows)",
                            figure.p50.map { "\($0)" }, figure.p95.map { "\($0)" }, figure.p99.map { "\($0)" },
                            word(figures.verdict, isProvenOnly), reason(figures.verdict),
                        ])
                    }
                }
            }
        }
        return table
    }

    private func word(_ verdict: ShapeStatistics.Verdict, _ isProvenOnly: Bool) -> String {
        switch verdict {
        case .unproven: isProvenOnly ? "unproven" : "all"
        case .proven: "proven"
        case .degraded: "degraded"
        }
    }

    private func reason(_ verdict: ShapeStatistics.Verdict) -> String {
        if case .degraded(_, let reason) = verdict { reason.description } else { "" }
    }

    func caches() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("reactor", .integer), .init("text_hits", .bigint), .init("shape_hits", .bigint),
            .init("parses", .bigint), .init("refusals", .bigint), .init("text_entries", .integer),
            .init("shape_entries", .integer), .init("bytes", .bigint), .init("key_hits", .bigint),
            .init("key_misses", .bigint), .init("statistics", .integer), .init("schema_changes", .bigint),
        ])
        for report in reports {
            for row in report.databases.sorted(by: { $0.name < $1.name }) {
                let (caches, analysis) = (row.caches, row.counts.analysis)
                table.append([
                    row.name, "\(report.worker)", "\(analysis.textHits)", "\(analysis.shapeHits)",
                    "\(analysis.parses)", "\(analysis.refusals)", "\(caches.textEntries)",
                    "\(caches.shapeEntries)", "\(row.counts.cacheBytes)", "\(caches.keyHits)", "\(caches.keyMisses)",
                    "\(caches.statistics)", "\(caches.schemaChanges)",
                ])
            }
        }
        return table
    }
}
