import Console
import Primitives
import Routing

/// What Godwit has decided by itself.
extension ConsoleTables {
    /// Latest first.
    func eventTable() -> ConsoleReport {
        var table = ConsoleReport([
            .init("number", .bigint), .init("time"), .init("kind"), .init("database"), .init("side"), .init("cause"),
            .init("figures"),
        ])
        for event in events.reversed() {
            table.append([
                "\(event.number)", event.time, event.kind.rawValue, event.database, event.side?.description ?? "",
                event.cause, event.figuresText,
            ])
        }
        return table
    }

    /// One line per database and side.
    func breakers() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("side"), .init("role"), .init("state"), .init("since_s", .bigint), .init("cause"),
            .init("figures"), .init("next_probe_s", .bigint), .init("latched"), .init("forced"),
            .init("trips", .bigint), .init("failures_in_row", .bigint), .init("calls", .bigint),
            .init("errors", .bigint), .init("p95_us", .bigint), .init("retries", .bigint),
        ])
        var rows: [ExactName: WorkerReport.DatabaseRow] = [:]
        for row in reports.flatMap(\.databases) {
            let name = ExactName(row.name)
            if rows[name] == nil { rows[name] = row } else { rows[name]?.counts.add(row.counts) }
        }
        let now = MonotonicInstant.now()
        for row in rows.values.sorted(by: { $0.name < $1.name }) {
            for health in row.counts.health {
                let next = health.nextProbeAt.map { "\($0.nanoseconds(since: now) / 1_000_000_000)" }
                table.append([
                    row.name, health.side.description, health.role.rawValue, health.phase.rawValue,
                    "\(now.nanoseconds(since: health.changedAt) / 1_000_000_000)", health.cause?.description ?? "",
                    health.cause.map { EventRecord.text(of: $0.figures) } ?? "", next,
                    health.isLatched ? "yes" : "no", health.force == .auto ? "no" : "yes", "\(health.trips)",
                    "\(health.failuresInRow)", "\(health.calls)", "\(health.errors)",
                    health.p95Micros.map { "\($0)" }, health.role == .other ? "\(row.counts.retries)" : "0",
                ])
            }
        }
        return table
    }
}
