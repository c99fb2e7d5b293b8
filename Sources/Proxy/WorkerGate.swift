import Console
import Logging
import PGWire
import Pooling
import Primitives
import Reactor
import SQLAnalysis
import Sessions

/// What operators order of this thread's traffic, and when it has come true here.
extension Worker {
    func perform(_ action: GateControl.Action) {
        switch action {
        case .apply(let next): apply(next)
        case .watch(let number, let condition): watches[number] = condition
        case .unwatch(let number): watches[number] = nil
        case .ask(let number):
            guard let condition = watches[number] else { return }
            control.post(.standing(watch: number, worker: index, blockers(of: condition), at: .now()))
        case .reconnect(let scope): reconnect(scope)
        case .kill(let scope): kill(scope)
        case .endPinned(let scope): endPinned(scope)
        case .warm(let scope): openComing(scope)
        case .cool(let scope): closeComing(scope)
        case .drain: drain()
        case .stopListening: stopListening()
        case .stop: stop()
        case .answer: preconditionFailure("an answer is the control thread's to give")
        }
    }

    /// At the end of each batch of events, while an operator waits.
    func checkWatches() {
        for (number, condition) in watches where isMet(condition) {
            watches[number] = nil
            control.post(.standing(watch: number, worker: index, GateBlockers(), at: .now()))
        }
    }

    // MARK: the gate

    private func apply(_ next: TrafficGate) {
        let wasSuspended = gate.isSuspended
        gate = next
        applyHolds()
        if gate.isSuspended == wasSuspended { return }
        for client in clients.values { client.updateInterest() }
        for server in servers.values {
            // What it has said meanwhile is heard from now on.
            server.heardAt = now
            server.updateInterest()
        }
        if gate.isSuspended { return }
        resumedAt = now
        for entry in pools.values { serveLater(entry) }
        for client in clients.values { resumeLater(client) }
    }

    /// One pass over clients and servers, however many databases are held or let go at once.
    private func applyHolds() {
        let changed = databases.values.filter { gate.hold(of: $0.name) != $0.hold }
        if changed.isEmpty { return }
        var clientsOf: [ObjectIdentifier: [ClientConnection]] = [:]
        for database in changed { clientsOf[ObjectIdentifier(database)] = [] }
        for client in clients.values {
            if let database = client.database { clientsOf[ObjectIdentifier(database)]?.append(client) }
        }
        for database in changed { applyHold(to: database, clientsOf[ObjectIdentifier(database)] ?? []) }
        for server in servers.values where server.entry.database.hold == .all {
            if clientsOf[ObjectIdentifier(server.entry.database)] != nil { server.closeUnlessInUse() }
        }
    }

    private func applyHold(to database: DatabaseState, _ own: [ClientConnection]) {
        let hold = gate.hold(of: database.name)
        database.hold = hold
        for client in own where client.isAtBorder {
            client.isAtBorder = false
            resumeLater(client)
        }
        // In their order; who must go on waiting is held again.
        for client in database.held.takeAll(of: clients) { client.leaveHold() }
        if hold == nil { return }
        for client in own.sorted(by: { $0.waitingSince < $1.waitingSince }) { client.moveIntoHold(database) }
    }

    private func reconnect(_ scope: GateScope) {
        for database in databases.values where scope.contains(database.name) { database.reconnectedAt = now }
        for server in servers.values where scope.contains(server.entry.key.database) { server.closeAfterUse() }
    }

    private func endPinned(_ scope: GateScope) {
        for client in clients.values {
            guard let database = client.database, client.pin != nil, scope.contains(database.name) else { continue }
            client.terminate(
                "the database moves to another server, and this session is bound to the old one: connect again")
        }
    }

    private func kill(_ scope: GateScope) {
        for database in databases.values where scope.contains(database.name) { database.reconnectedAt = now }
        for client in clients.values {
            guard let database = client.database, scope.contains(database.name) else { continue }
            client.terminate("the connection was closed by KILL")
        }
        for server in servers.values where scope.contains(server.entry.key.database) {
            if !server.closeUnlessInUse() { server.close() }
        }
    }

    func killClient(_ id: ClientID, from worker: Int, console: ClientID) {
        let found = clients[id]
        found?.terminate("the connection was closed by KILL_CLIENT")
        let outcome: ControlOutcome =
            found == nil ? .refused("there is no such client; it may have gone already") : .done
        peers[worker].post(.controlDone(client: console, outcome))
    }

    // MARK: what has come true

    private func isMet(_ condition: GateCondition) -> Bool { blockers(of: condition, isFirstEnough: true).isEmpty }

    private func blockers(of condition: GateCondition, isFirstEnough: Bool = false) -> GateBlockers {
        var found = GateBlockers()
        switch condition {
        case .applied: break
        case .noServers(let scope):
            for server in servers.values where scope.contains(server.entry.key.database) {
                found.add(describe(server))
                if isFirstEnough { return found }
            }
        case .noWrites(let scope, let asker):
            for server in servers.values where !server.isReadOnly && scope.contains(server.entry.key.database) {
                guard server.client?.mayBeWriting ?? server.isSettling else { continue }
                if let asker, let client = server.client,
                    asker == client.asker || client.awaitsTurn || client.restsUnchanged
                {
                    continue
                }
                found.add(describe(server))
                if isFirstEnough { return found }
            }
        case .movable(let scope):
            found = blockers(of: .noWrites(scope), isFirstEnough: isFirstEnough)
            if isFirstEnough && !found.isEmpty { return found }
            for server in servers.values where !server.isReadOnly && scope.contains(server.entry.key.database) {
                guard let client = server.client, client.pin != nil, !client.mayBeWriting else { continue }
                found.add(describe(server))
                if isFirstEnough { return found }
            }
        case .noneOutdated(let scope):
            for server in servers.values where server.isOutdated && scope.contains(server.entry.key.database) {
                found.add(describe(server))
                if isFirstEnough { return found }
            }
        case .flushed:
            for client in clients.values where !client.isConsole && client.hasUnsentBytes {
                found.add("\(describe(client)) does not read what it is sent")
                if isFirstEnough { return found }
            }
            for server in servers.values where server.hasUnsentBytes {
                found.add("\(describe(server)) does not read what it is sent")
                if isFirstEnough { return found }
            }
        case .warmed(let scope):
            for entry in pools.values where entry.coming.openingCount > 0 && scope.contains(entry.key.database) {
                found.add("\(entry.coming.openingCount) servers of \(entry.key.side) are being opened")
                if isFirstEnough { return found }
            }
        case .noClients:
            for client in clients.values where !client.isConsole {
                found.add(describe(client))
                if isFirstEnough { return found }
            }
        }
        return found
    }

    /// Of what a client calls itself, as in PostgreSQL: all of it might be too long for the word to another process.
    private static let nameBytesShown = 63

    private func describe(_ client: ClientConnection) -> String {
        let shown = String(decoding: client.applicationName.utf8.prefix(Self.nameBytesShown), as: UTF8.self)
        let name = shown.isEmpty ? "" : ", \(shown)"
        return "client \(client.handle.pointer) (user \(client.user)\(name), \(client.address.host))"
    }

    private func describe(_ server: ServerConnection) -> String {
        let key = server.entry.key
        let place = "server \(server.pointer) of \(key.side) of \"\(key.database)\", process \(server.processID)"
        guard let client = server.client else {
            return "\(place): \(server.isSettling ? "ends what its last client left" : "in use by nobody")"
        }
        let seconds = now.microseconds(since: client.transaction.startedAt) / 1_000_000
        let what: String
        if let pin = client.pin {
            what = "kept by its client (\(pin.rawValue))"
        } else if server.session.status == .idle {
            what = "at work"
        } else {
            what = server.session.isQuiet ? "idle in a transaction of \(seconds) s" : "in a transaction of \(seconds) s"
        }
        return "\(place): \(what), \(describe(client))"
    }
}

extension ServerConnection {
    /// Closes it if nobody uses it; an opening that is given up so is no failure.
    ///
    /// - Returns: whether it is closed.
    @discardableResult
    func closeUnlessInUse() -> Bool {
        switch state {
        case .connecting, .negotiating, .login, .warming:
            if !isComing { entry.pool.openForbidden() }
            end()
        case .idle: close()
        case .leased, .settling: return false
        case .closed: break
        }
        return true
    }

    /// A reload has changed where it should lead. One that is being opened is given up: it would be somebody's, for as
    /// long as he keeps it, and those who wait for it need not wait for a host that does not answer.
    func leadsElsewhere() {
        isOutdated = true
        switch state {
        case .connecting, .negotiating, .login: if !isComing { closeUnlessInUse() }
        case .warming, .idle, .leased, .settling, .closed: break
        }
    }

    /// Closes it as soon as nobody uses it; new ones may be opened at once.
    func closeAfterUse() {
        if closeUnlessInUse() { worker.serveLater(entry) } else { isOutdated = true }
    }
}

extension ErrorResponse {
    /// What became of an operator's command.
    package init(_ failure: GateControl.Failure) {
        switch failure {
        case .unknownDatabase(let name):
            self.init(
                .error, .undefinedDatabase, "there is no database \"\(name)\"", hint: "SHOW DATABASES lists them.")
        case .timedOut(let command, let blockers):
            self.init(timedOut: command, blockers)
        case .ended(let command):
            self.init(.error, .queryCanceled, "\(command.tag) was ended by RESUME before it was reached")
        case .canceled:
            self.init(
                .error, .queryCanceled, "canceling the command due to user request",
                hint: "A PAUSE or SUSPEND that was not reached yet is taken back.")
        case .shuttingDown:
            self.init(.error, .cannotConnectNow, "Godwit is shutting down")
        case .heldByAll(let name):
            self.init(
                .error, SQLState("55000"), "database \"\(name)\" is held by a PAUSE of all databases",
                hint: "RESUME without a name ends that one.")
        }
    }

    private init(timedOut command: GateCommand, _ blockers: GateBlockers) {
        let rest = blockers.count - blockers.names.count
        let names = blockers.names.joined(separator: "\n") + (rest > 0 ? "\nand \(rest) more" : "")
        let (what, hint): (String, String)
        switch command {
        case .pause(let pause):
            let unit = pause.hold == .all ? "servers in use" : "writes that run"
            what = "PAUSE of \(pause.scope) was not reached in time: \(blockers.count) \(unit)"
            hint = pause.isKept
                ? "New units are held all the same, as KEEP says; RESUME lets them go."
                : "Everything goes on as before. With KEEP it would be held all the same."
        case .suspend:
            what = "SUSPEND was not reached in time: \(blockers.count) connections do not read what they are sent"
            hint = "Everything goes on as before."
        case .waitClose(let scope, _):
            what = "\(blockers.count) servers of \(scope) still wait to be closed"
            hint = "They are closed when their clients have done with them."
        case .holdForChange(let name, let limit, _):
            what = "\(blockers.count) writes of \"\(name.text)\" were not at their end within \(limit) s"
            hint = "Everything goes on as before."
        case .holdForSwitch(let name, let limit, _):
            what = "\(blockers.count) units or sessions of \"\(name.text)\" were not at their end within \(limit) s"
            hint = "Everything goes on as before."
        case .resume, .disable, .enable, .reconnect, .kill, .shutdown, .barrier, .letGo, .warm:
            (what, hint) = ("\(command.tag) was not reached in time", "Try again.")
        }
        self.init(.error, .queryCanceled, what, detail: names, hint: hint)
    }
}
