import Configuration
import Primitives
import Routing

extension ProxyFigures {
    /// One line for people.
    package var summary: String {
        let clients = threads.reduce(0) { $0 + $1.clients }
        let rows = threads.flatMap(\.pools)
        let servers = rows.reduce(0) { $0 + $1.serversActive + $1.serversIdle }
        let waiting = rows.reduce(0) { $0 + $1.clientsWaiting }
        return "serving \(clients) clients over \(servers) servers, \(waiting) clients wait for one"
    }
}

/// `GET /readyz`: whether clients should be sent here, and why not. Immutable, any thread.
package struct Readiness {
    private let figures: ProxyFigures
    /// Of all threads: in one go, for there may be a thousand databases, and who asks waits for a second at most.
    private let rows: NameTable<[ThreadFigures.Database]>

    package init(_ figures: ProxyFigures) {
        self.figures = figures
        var rows = NameTable<[ThreadFigures.Database]>()
        for row in figures.threads.flatMap(\.databases) { rows[row.name] = (rows[row.name] ?? []) + [row] }
        self.rows = rows
    }

    private var isDraining: Bool { figures.threads.contains(where: \.isDraining) }

    /// Of a database's OLD: with the authority away nothing can be served.
    private func reach(_ database: String) -> ThreadFigures.Reach {
        var known = ThreadFigures.Reach.unknown
        for row in rows[database] ?? [] {
            switch row.old {
            case .unknown: break
            case .reached: return .reached  // threads differ while it goes or comes: one that reaches it is enough
            case .failing: known = row.old
            }
        }
        return known
    }

    /// How many there are, and their clients that wait for a server.
    private var pools: (count: Int, waiting: Int) {
        let rows = figures.threads.flatMap(\.pools)
        return (Set(rows.map(\.key)).count, rows.reduce(0) { $0 + $1.clientsWaiting })
    }

    private func health(_ database: String) -> [HealthMonitor.Figures] {
        rows[database]?.first?.counts.health ?? []
    }

    /// The mirror's state is told and decides nothing: without it OLD answers.
    package func answer() -> (isReady: Bool, json: String) {
        var reasons = isDraining ? ["draining"] : []
        let databases = figures.snapshot.settings.databases.map { settings in
            let report = figures.snapshot.databases[settings.name]?.horizon.report
            let old: String
            switch reach(settings.name) {
            case .unknown: old = "unknown"
            case .reached: old = "ok"
            case .failing(let why):
                old = "unreachable"
                let side = figures.snapshot.databases[settings.name]?.authority ?? .old
                reasons.append("\(side.title) of database \"\(settings.name)\" cannot be reached: \(why)")
            }
            let breakers = health(settings.name).map { row in
                if row.role == .authority, row.phase == .open, old != "unreachable" {
                    reasons.append("\(row.side) of database \"\(settings.name)\" was given up: "
                        + "\(row.cause?.description ?? "it does not answer")")
                }
                let what = row.isLatched ? "latched" : row.phase.rawValue
                return "\"\(row.side)_breaker\":\"\(what)\","
            }.joined()
            let (state, reason) = (report?.state.rawValue ?? "off", JSONText.quoted(report?.reason ?? ""))
            return "{\"name\":\(JSONText.quoted(settings.name)),\"old\":\"\(old)\",\(breakers)"
                + "\"mirror\":\"\(state)\",\"mirror_reason\":\(reason)}"
        }
        let json = "{\"ready\":\(reasons.isEmpty),\"reasons\":[\(reasons.map(JSONText.quoted).joined(separator: ","))],"
            + "\"draining\":\(isDraining),\"pools\":\(pools.count),\"clients_waiting\":\(pools.waiting),"
            + "\"databases\":[\(databases.joined(separator: ","))]}\n"
        return (reasons.isEmpty, json)
    }
}
