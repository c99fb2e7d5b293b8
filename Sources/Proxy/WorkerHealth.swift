import Configuration
import Console
import Logging
import PGWire
import Pooling
import Primitives
import Routing
import SQLAnalysis

/// What is decided of a database's health, carried out on this thread and told to the others.
extension Worker {
    /// Milliseconds between two looks at the reads that wait for the other side.
    static let readCheckMillis: UInt64 = 50

    // MARK: what sides do

    /// A side has failed, or an answer is news (see `DatabaseHealth.isAwaited`), or a probe has an outcome.
    func tell(_ database: DatabaseState, _ side: Side, _ event: CircuitBreaker.Event, because cause: String? = nil) {
        announce(database.health.handle(event, on: side, cause: cause, now: now), of: database)
    }

    /// A side has answered. Called for each unit.
    @inline(__always)
    func answered(_ database: DatabaseState, _ side: Side, isProbe: Bool) {
        if side == database.authority { database.authorityAnsweredAt = now }
        if isProbe || database.health.isAwaited(side) { tell(database, side, .success(isProbe: isProbe)) }
    }

    /// How long the answer to a read took. Called for each.
    @inline(__always)
    func sample(_ database: DatabaseState, _ side: Side, micros: UInt64, isError: Bool, shape: UInt64) {
        if database.add(HealthSample(micros: micros, isError: isError, shape: shape), of: side, now: now) {
            tellSamples(database, side)
        }
    }

    private func tellSamples(_ database: DatabaseState, _ side: Side) {
        announce(database.takeSamples(of: side) { database.health.record($0, on: side, now: now) }, of: database)
    }

    /// A read has run on both sides at paired snapshots, and their answers were the same or not.
    func noteCompared(_ database: DatabaseState, _ statement: AnalysedStatement, differs: Bool) {
        if differs { database.shapes.noteDifference(statement, now: now) }
        let shape = statement.shape?.value ?? 0
        announce(database.health.noteCompared(shape, differs: differs, now: now), of: database)
    }

    /// Once a second.
    func watchHealth() {
        watchSilence()
        for database in databases.values {
            for side in Side.allCases { tellSamples(database, side) }
            announce(database.health.tick(lagSeconds: database.lagSeconds(now: now), now: now), of: database)
        }
    }

    // MARK: what is decided

    func announce(_ decision: HealthMonitor.Decision?, of database: DatabaseState) {
        guard let decision else { return }
        if case .demoted(let shape, let cause) = decision {
            for peer in peers { peer.post(.shapeDemoted(database: database.name, shape, cause)) }
            let text = database.shapes.text(of: shape) ?? "\(shape.value)"
            return events.append(EventRecord(
                .demotion, database: database.name, side: database.health.other,
                cause: "one statement shape goes back alone: \(cause): \(text)", figures: cause.figures))
        }
        guard case .breaker(let side, let transition) = decision else { return }
        let (last, isAuthority) = (database.health.lastCause(side), side == database.health.authority)
        events.append(EventRecord(transition, of: database.name, side, last, isAuthority: isAuthority))
        guard case .opened(let cause, _, _) = transition else { return }
        for peer in peers { peer.post(.sideTripped(database: database.name, side)) }
        if cause.isOfQuality {
            control.post(.readsUnsafe(database: database.name, cause: cause.description, figures: cause.figures))
        }
    }

    /// Those who wait for a server of a side that was given up, on this thread.
    func sideTripped(_ name: String, _ side: Side) {
        guard let database = databases[name] else { return }
        for entry in pools.values where entry.database === database && entry.key.side == side {
            if entry.pool.waitingCount == 0 { continue }
            if side == database.health.other {
                for id in entry.pool.takeAllWaiters() { clients[id]?.sideFailed() }
            } else if database.health.isAuthorityDown {
                refuseWaiters(entry)
            }
        }
    }

    /// The authority cannot be reached, and has not been for longer than its clients' patience: they are told so at
    /// once, while attempts to reach it go on.
    func refuseWaiters(_ entry: PoolEntry) {
        entry.pool.keepsTrying = true
        let error = downError(entry)
        for id in entry.pool.takeAllWaiters() { clients[id]?.refuseUnit(error) }
        scheduleWaitTimer(entry)
    }

    func downError(_ entry: PoolEntry) -> ErrorResponse {
        let health = entry.database.health
        let breaker = health.figures(now: now).first { $0.side == entry.key.side }
        let seconds = breaker.map { now.nanoseconds(since: $0.changedAt) / 1_000_000_000 } ?? 0
        let endpoint = entry.database.route.endpoint(entry.key.side)
        return ErrorResponse(
            .error, .cannotConnectNow,
            "database \"\(entry.key.database)\" cannot be reached: \(endpoint.side.title) at "
                + "\(endpoint.host):\(endpoint.port) was given up \(seconds) s ago",
            detail: entry.lastFailure?.message ?? health.lastCause(entry.key.side),
            hint: "Godwit goes on trying to connect and serves again with the first answer: try again then. "
                + "SHOW BREAKERS and SHOW EVENTS on its console tell the state.")
    }

    // MARK: reads that take too long on the other side

    /// Called when a read goes to the other side: from now on its time is looked at.
    func watchReads() {
        if isWatchingReads { return }
        isWatchingReads = true
        schedule(.readCheck, at: now.advanced(byMillis: Self.readCheckMillis))
    }

    /// Reads that the other side has not answered in time run again on the authority, so that one that hangs costs a
    /// bounded time and not a client.
    func checkReads() {
        isWatchingReads = false
        // Nobody listens to answers now: see `apply`.
        if gate.isSuspended { return watchReads() }
        var isNeeded = false
        for server in Array(servers.values) where server.side == server.entry.database.health.other {
            let limit = readLimitNanos(server.entry.database)
            if limit == 0 { continue }
            switch server.state {
            case .leased:
                guard let client = server.client, client.awaitsAnswer(of: server) else { continue }
                isNeeded = true
                let waited = now.nanoseconds(since: max(server.heardAt, client.unit.startedAt))
                // The limit of its shape is looked up when the common one is over.
                if waited >= limit, waited >= shapeLimitNanos(client, limit) { client.answerTimedOut(on: server) }
            case .settling:
                isNeeded = true
                // Its answer was given up, and a cancel request sent: who is at work answers that, who hangs does not.
                if now.nanoseconds(since: server.heardAt) < limit { continue }
                tell(
                    server.entry.database, server.side, .failure(isProbe: false),
                    because: "no answer in time, nor to a cancel request")
                server.close()
            case .connecting, .negotiating, .login, .warming, .idle, .closed:
                continue
            }
        }
        for entry in pools.values where entry.key.side == entry.database.health.other && entry.pool.waitingCount > 0 {
            isNeeded = true
            let limit = readLimitNanos(entry.database)
            if limit == 0 { continue }
            let since = MonotonicInstant(nanoseconds: now.nanoseconds > limit ? now.nanoseconds - limit : 0)
            let late = entry.pool.takeWaiters(sinceBefore: since)
            if late.isEmpty { continue }
            // With servers at work it is busy; with none it does not let us in.
            if !hasServersAtWork(entry) {
                tell(entry.database, entry.key.side, .failure(isProbe: false), because: "no connection in time")
            }
            for id in late { clients[id]?.sideFailed() }
        }
        if isNeeded { watchReads() }
    }

    /// 0: reads may take any time.
    private func readLimitNanos(_ database: DatabaseState) -> UInt64 {
        let settings = database.route.settings.breaker
        let least = UInt64(settings.readTimeoutMillis) * 1_000_000
        if least == 0 { return 0 }
        guard let p99 = database.health.authorityP99 else { return least }
        return max(least, UInt64(Double(p99) * settings.readTimeoutFactor * 1000))
    }

    private func shapeLimitNanos(_ client: ClientConnection, _ limit: UInt64) -> UInt64 {
        guard let database = client.database, let statement = client.unit.notes.statement,
            let p99 = database.shapes.p99(of: statement, on: database.health.authority)
        else { return limit }
        return max(limit, UInt64(Double(p99) * database.route.settings.breaker.readTimeoutFactor * 1000))
    }
}

extension EventRecord {
    /// A breaker's change, in words.
    ///
    /// - Parameter last: what went wrong last.
    package init(
        _ transition: CircuitBreaker.Transition, of database: String, _ side: Side, _ last: String, isAuthority: Bool
    ) {
        let reason = last.isEmpty ? "" : ": \(last)"
        switch transition {
        case .opened(let cause, let isLatched, let heldSeconds):
            let effect = isAuthority
                ? "clients that would wait are refused until it answers"
                : isLatched
                    ? "reads stay on the authority until FORCE \(database) AUTO, for it has opened twice"
                    : "reads go to the authority"
            self.init(
                .trip, database: database, side: side,
                cause: "\(cause)\(cause.isOfQuality ? "" : reason); \(effect)",
                figures: cause.figures + (heldSeconds > 0 ? [.init("held_s", heldSeconds)] : []))
        case .reopened(let heldSeconds):
            self.init(
                .trip, database: database, side: side, cause: "a probe failed\(reason)",
                figures: [.init("held_s", heldSeconds)])
        case .halfOpened:
            self.init(.probe, database: database, side: side, cause: "a few reads find out whether it answers")
        case .closed:
            self.init(
                .recovery, database: database, side: side,
                cause: isAuthority ? "it answers again" : "its probes were answered: it has its reads again")
        case .forced(let force):
            let what =
                switch force {
                case .auto: "the breaker decides again"
                case .open: "reads stay on the authority, by an operator's word"
                case .closed: "reads go there whatever the breaker finds, by an operator's word"
                }
            self.init(.force, database: database, side: side, cause: what)
        }
    }
}
