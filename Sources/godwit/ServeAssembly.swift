import ArgumentParser
import Configuration
import Console
import ControlPlane
import Glibc
import LibPQ
import Lifecycle
import Logging
import Migration
import Mirroring
import Primitives
import Proxy
import Reactor
import Routing
import SQLAnalysis
import Sessions
import Shadowing

/// Puts the parts together and, on the control thread, carries reloads and signals to them.
struct ServeAssembly {
    private let path: String
    private let output: LogSwitch
    let logger: Logger
    private let events: EventLog
    let hooks: EventHooks
    /// What a restart must not forget.
    let state: ServeState
    /// Of HTTP; what was read for it last, and where it listens.
    let encryption = HTTPEncryption(nil)
    private var adminTLS: TLSContext?
    var adminAddress: SocketAddress?
    private(set) var snapshot: ProxySnapshot
    /// What lives longer than a snapshot, by database.
    var horizons = NameTable<Horizon>()
    private var stamps = NameTable<ReadStamps>()
    private let leases = WriteLeases()
    private var sequenceReaders = NameTable<SequenceReaders>()
    private var healths = NameTable<DatabaseHealth>()
    private var shadows = NameTable<ShadowBook>()
    private var catalogs = NameTable<CatalogSnapshot>()
    var plan = TrafficPlan()
    var mirrors: [String: Mirror] = [:]
    /// Another process serves clients as well: what users write there is not known here.
    var withholdsReads: Bool
    /// Another process has our place, and the mirrors.
    var hasLeft = false
    /// Who takes the writes, of mirrored databases.
    var ownerships = NameTable<Ownership>()
    /// The file as it was read last, and what SET has put in place of parts of it.
    private var text = ""
    private(set) var overrides: [SettingOverride] = []
    /// What the process before this one was ordered and that is not in the settings.
    var handed = HandedOrders()

    /// - Throws: ExitCode after having said why.
    init(
        path: String, output: LogSwitch, events: EventLog, hasPredecessor: Bool = false, logger: Logger
    ) throws {
        withholdsReads = hasPredecessor
        self.path = path
        self.events = events
        hooks = EventHooks(logger: logger)
        self.output = output
        self.logger = logger
        snapshot = ProxySnapshot(
            settings: Settings(), auth: AuthPolicy(method: .trust, secrets: [:]), databases: [])
        do {
            text = try SettingsFile.text(path: path)
            let settings = try SettingsFile.parse(text: text, path: path)
            state = try ServeState(settings)
            for (name, record) in state.memory.all { plan.restore(record, for: name) }
            settleAuthorities(settings)
            snapshot = try build(settings, previous: nil, readsFiles: true)
        } catch let failure as StateStore.Failure {
            complain("\(failure)")
            throw ExitCode(1)
        } catch {
            complain("\(error)")
            throw ExitCode(2)
        }
        encryption.set(adminTLS)
        output.set(snapshot.settings.log)
        // Decisions are few, and none is left out.
        events.add(LoggedEvents(Logger(label: "godwit.events") { _ in LineLogHandler(output, isLimited: false) }))
        events.add(hooks)
        if let store = state.store { events.add(store) }
    }

    // MARK: the control thread

    /// Runs until the data plane has ended.
    mutating func run(_ server: ProxyServer, _ engine: SwitchEngine, _ lifeCycle: LifeCycle) {
        reportCertificate()
        hooks.apply(snapshot.settings.events)
        events.append(EventRecord(
            .start, cause: "Godwit \(ConsoleTables.version) serves \(snapshot.settings.databases.count) databases"))
        if let absence = state.store?.absence { events.append(EventRecord(.alarm, cause: Self.words(absence))) }
        startMirrors(server.control, engine)
        let authorities = AuthorityWatcher(
            snapshot.settings.databases, leases, state.duty, control: server.control, engine: engine, logger: logger)
        let lookUps = LookUpService(server, logger: logger)
        let watcher = CatalogWatcher(snapshot, control: server.control, logger: logger) {
            server.snapshot.route($0)?.authority ?? .old
        }
        var watched = snapshot.settings.databases
        var running = server.threadCount
        let gate = GateDesk(
            server, standing: handed.gate, predecessor: lifeCycle.hasPredecessor ? { lifeCycle.pass($0) } : nil,
            events: events, logger: logger)
        gate.tell(of: snapshot)
        let captures = CaptureDesk(server, logger: logger)
        let comparisons = ShadowDesk(server, events: events, logger: logger)
        let changes = ChangeDesk(server, engine, events: events, logger: logger)
        defer { state.flush() }
        while running > 0 {
            let millis = gate.waitMillis
            let most = lifeCycle.waitMillis
            wait(server.control.descriptor, atMost: millis < 0 ? most : min(millis, most))
            gate.checkTime()
            checkLifeCycle(lifeCycle, server, gate)
            for message in server.control.take() {
                switch message {
                case .request(let request, let worker, let client) where refuses(request, lifeCycle):
                    server.answer(worker: worker, client: client, .refused(Self.elsewhere(lifeCycle)))
                case .migration(_, let done) where lifeCycle.machine.successor != nil:
                    done(.refused(Self.elsewhere(lifeCycle)))
                case .request(let request, let worker, let client) where state.isAnothers(request):
                    server.answer(worker: worker, client: client, state.elsewhere)
                case .request(.switchOver(let command), let worker, let client):
                    // Its table, when it is done: on a thread of its own, for it blocks.
                    _ = OwnThread(name: "godwit-switch") {
                        let report = engine.perform(SwitchOrder(command))
                        server.answer(worker: worker, client: client, ControlOutcome(report))
                    }
                case .switching(let request, let reply):
                    perform(request, reply, server, gate, engine)
                    watcher.wake()
                case .change(let order, let worker, let client):
                    changes.take(order, worker: worker, client: client, snapshot, mayBegin: mayChange(lifeCycle))
                case .request(.gate(let command), let worker, let client):
                    gate.take(command, worker: worker, client: client)
                case .request(.capture(let database, let command), let worker, let client):
                    if let outcome = captures.take(database, command, worker: worker, client: client, snapshot) {
                        gate.answer(worker: worker, client: client, outcome)
                    }
                case .request(let request, let worker, let client):
                    let outcome = lifeCycle.keepingSigns(server) { perform(request, server) }
                    gate.tell(of: snapshot)
                    gate.answer(worker: worker, client: client, outcome)
                case .standing(let watch, let worker, let blockers, let at):
                    if let reply = gate.stood(watch, worker, blockers, at: at) { lifeCycle.answer(reply) }
                case .consoleGone(let worker, let client):
                    gate.gone(worker: worker, client: client)
                case .consoleCanceled(let worker, let client):
                    gate.canceled(worker: worker, client: client)
                case .workerEnded:
                    running -= 1
                case .catalog(let database, let catalog):
                    catalogs[database] = catalog
                    apply(snapshot.settings, server)
                    logger.info("catalog of \"\(database)\" read")
                case .readsUnsafe(let database, let cause, let figures):
                    readsUnsafe(database, cause, figures, server)
                case .schemaChanged:
                    watcher.wake()
                case .captureEnded(let session):
                    captures.ended(session)
                case .captureAsked(let asked, let done):
                    captures.take(asked, snapshot, mayCommand: mayChange(lifeCycle), done)
                case .migration(let order, let done):
                    take(order, server, engine, done)
                    gate.tell(of: snapshot)
                case .signal(let number) where isElsewhere(signal: number, lifeCycle):
                    logger.notice("signal \(number): \(Self.elsewhere(lifeCycle))")
                case .signal(SIGHUP):
                    lifeCycle.isReloading()
                    _ = lifeCycle.keepingSigns(server) { reload(server) }
                    gate.tell(of: snapshot)
                    lifeCycle.hasReloaded()
                case .signal(SIGUSR2) where !gate.isHolding:
                    lifeCycle.startSuccessor(server, by: "SIGUSR2")
                case .signal(SIGURG):
                    lifeCycle.startSuccessor(server, by: "SIGURG")
                case .signal(let number):
                    gate.take(signal: number)
                case .takeover, .strayCancel, .canceled:
                    handle(message, lifeCycle, server, gate, engine)
                }
            }
            comparisons.follow(snapshot)
            changes.follow(snapshot)
            if snapshot.settings.databases != watched {
                watched = snapshot.settings.databases
                for database in watched { engine.need(connections: database.pool.size, database.name) }
                watcher.watch(watched)
                authorities.watch(watched)
            }
        }
        watcher.stop()
        comparisons.stop()
        changes.stop()
        authorities.stop()
        lookUps.stop()
        for mirror in mirrors.values { mirror.stop() }
        server.join()
        captures.join()
        hooks.stop()
        logger.notice("ended")
    }

    /// - Parameter millis: -1: however long it takes.
    private func wait(_ descriptor: CInt, atMost millis: CInt) {
        var ready = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        _ = poll(&ready, 1, millis)
    }

    private mutating func perform(_ request: ControlRequest, _ server: ProxyServer) -> ControlOutcome {
        switch request {
        case .reload:
            return reload(server)
        case .reads(let database, let hundredths):
            guard let route = snapshot.route(database) else {
                return .refused("there is no database \"\(database)\"")
            }
            // Who advances has seen why it was latched.
            if hundredths > route.table.hundredths, route.health.isLatched { tell(route.health.force(.auto), database) }
            plan.order(hundredths, for: database)
            remember(database)
            let before = ConsoleTables.percent(route.table.hundredths)
            let after = ConsoleTables.percent(hundredths)
            apply(snapshot.settings, server)
            if route.settings.isWildcard, hundredths > route.table.hundredths { unlatchAutoDatabases(server) }
            events.append(EventRecord(
                .phase, database: database, side: .new, cause: "READS \(database): \(before) -> \(after)",
                figures: [
                    .init("percent_before", Double(route.table.hundredths) / 100),
                    .init("percent", Double(hundredths) / 100),
                ]))
            if ownerships[database]?.authority == .new {
                return .noticed("NEW takes the writes, and with them all reads: a share counts while OLD takes them")
            }
            return .done
        case .shadow(let database, let hundredths):
            guard snapshot.databases[database] != nil else { return .refused("there is no database \"\(database)\"") }
            return set("databases.\(database).shadow.percent", ConsoleTables.percent(hundredths), server)
        case .mirror(let database, let order):
            guard let mirror = mirrors[database] else { return .refused("\"\(database)\" has no mirror here") }
            switch order {
            case .pause: mirror.orders.isPaused = true
            case .resume: mirror.orders.isPaused = false
            case .throttle(let rows): mirror.orders.copyRowsPerSecond = rows
            }
            return .done
        case .set(let key, let value):
            return set(key, value, server)
        case .force(let database, let order):
            return force(database, order, server)
        case .gate, .switchOver, .capture:
            preconditionFailure("desks answer what is held and captured, and switches have threads of their own")
        }
    }

    // MARK: switches of the authority

    /// Before anybody is served: what a switch that was cut off has left is settled, and who takes the writes is known.
    /// Where a side does not answer the likelier one is taken; the fences keep a wrong guess from doing harm.
    private mutating func settleAuthorities(_ settings: Settings) {
        for database in settings.databases where !database.isWildcard {
            // Also without a mirror: who takes that alone out of the file does not want OLD to be written to again.
            if staysFinished(database) {
                ownerships[database.name] = Ownership(authority: .new, epoch: 0, standing: .settled)
                logger.notice("NEW has \"\(database.name)\" for good: name it as old in the file, without a mirror")
                continue
            }
            if database.mirror.mode == .off {
                ownUnmirrored(database)
                continue
            }
            let found = SwitchRecovery.settle(old: database.controlOrOwn(.old), new: database.controlOrOwn(.new))
            ownerships[database.name] = found.ownership
            for note in found.notes { logger.notice("authority of \"\(database.name)\": \(note)") }
            if found.ownership.authority == .new {
                logger.notice("NEW takes the writes of \"\(database.name)\" since switch \(found.ownership.epoch)")
            }
        }
    }

    private mutating func perform(
        _ request: SwitchRequest, _ reply: Mailbox<SwitchReply>?, _ server: ProxyServer, _ gate: GateDesk,
        _ engine: SwitchEngine
    ) {
        switch request {
        case .hold(let database, let limit, let endsPinned):
            gate.take(.holdForSwitch(ExactName(database), limit: limit, endsPinned: endsPinned), for: reply)
        case .holdForChange(let database, let limit, let asker):
            gate.take(.holdForChange(ExactName(database), limit: limit, asker: asker), for: reply)
        case .letGo(let database):
            gate.take(.letGo(ExactName(database)), for: reply)
        case .warm(let database, let limit):
            gate.take(.warm(ExactName(database), limit: limit), for: reply)
        case .own(let database, let side, let epoch, let letsGo):
            let next = Ownership(authority: side, epoch: epoch, standing: .settled)
            if ownerships[database] != next, snapshot.databases[database] != nil {
                own(next, database)
                // That nobody reads on NEW behind a way back outlives us; who has the mirrors says it for all.
                if state.duty.isOurs { remember(database) }
                apply(snapshot.settings, server)
            }
            gate.take(.barrier, then: letsGo ? .letGo(ExactName(database)) : nil, for: reply)
        case .turnMirror(let database):
            turnMirror(database, server.control, engine)
            reply?.post(.done)
        }
    }

    mutating func own(_ next: Ownership, _ database: String) {
        let before = ownerships[database]
        ownerships[database] = next
        if before?.authority == next.authority { return }
        // Another mirror, whose batches are counted on; and breakers of other roles.
        horizons[database] = Horizon(after: horizons[database]?.taking ?? 0)
        if withholdsReads { horizons[database]?.withhold() }
        healths[database] = nil
        // Whatever made somebody go back, reads do not return to NEW by themselves.
        if next.authority == .old { plan.distrust(database) }
    }

    /// SET: as if the file said so, until it is read again.
    private mutating func set(_ key: String, _ value: String, _ server: ProxyServer) -> ControlOutcome {
        guard let place = SettingName.path(of: key, databases: snapshot.settings.databases.map(\.name)) else {
            return .refused("there is no setting \"\(key)\"; SHOW CONFIG has all, and docs/CONSOLE.md says what stands "
                + "for those of PgBouncer's that are not among them")
        }
        let override = SettingOverride(path: place, value: value)
        if ReloadPolicy.effect(of: override.key) != .reload { return .refused("\(override.key) needs a restart") }
        do throws(SettingsError) {
            let next = overrides.filter { $0.path != place } + [override]
            let settings = try SettingsFile.parse(text: text, path: path, overrides: next)
            let kept = ReloadPolicy.keepingRestartOnly(of: snapshot.settings, in: settings)
            var changed = self
            changed.overrides = next
            if place.last == "percent", let database = settings.database(named: place[1]), place[2] == "reads" {
                changed.plan.order(database.reads.hundredths, for: database.name)
            }
            // A database's own auth_user decides, too, whether anybody is looked up at all.
            let isAccess = place[0] == "databases" && place.dropLast().last == "auth"
            let readsFiles = isAccess
                || ["auth.", "listen.tls.", AdminTLS.key].contains { override.key.hasPrefix($0) }
            let built: ProxySnapshot
            do {
                built = try changed.build(kept, previous: snapshot, readsFiles: readsFiles)
            } catch {
                return .refused("\(error)")
            }
            let words = ReloadPolicy.changes(from: snapshot.settings, to: kept).filter { $0.key == override.key }
                .map { "\($0.old) -> \($0.new)" }
            self = changed
            snapshot = built
            encryption.set(adminTLS)
            server.apply(snapshot)
            rememberAll()
            output.set(settings.log)
            hooks.apply(snapshot.settings.events)
            logger.notice("SET \(override.key): \(words.first ?? "nothing changed")")
            return .done
        } catch {
            return .refused(error.withoutPlace)
        }
    }

    /// What operators have ordered of the process before this one. Before anybody is served; what the file does not
    /// fit any more is told and left out.
    mutating func takeOver(_ texts: [String]) {
        var taken: [SettingOverride] = []
        for order in texts.compactMap({ HandedOrders.parse($0, logger) }) {
            switch order {
            case .set(let override):
                do throws(SettingsError) {
                    _ = try SettingsFile.parse(text: text, path: path, overrides: taken + [override])
                    taken.append(override)
                } catch {
                    logger.warning("SET \(override.key) of the process before does not go on: \(error.withoutPlace)")
                }
            case .traffic(let database, let record): takeOver(record, of: database)
            case .mirror(let database, let order): handed.mirrors[database] = order
            case .gate(let standing): handed.gate = standing
            }
        }
        do {
            let settings = try SettingsFile.parse(text: text, path: path, overrides: taken)
            overrides = taken
            // Breakers begin as they are forced.
            healths = NameTable()
            snapshot = try build(settings, previous: nil, readsFiles: true)
            encryption.set(adminTLS)
            output.set(settings.log)
        } catch {
            overrides = []
            logger.warning("what was SET of the process before does not go on: \(error)")
        }
        for override in overrides {
            logger.notice("SET \(override.key) goes on: \(ReloadPolicy.masked(override.value, override.key))")
        }
    }

    func tell(_ decision: HealthMonitor.Decision?, _ database: String) {
        guard case .breaker(let side, let transition)? = decision else { return }
        events.append(EventRecord(transition, of: database, side, "", isAuthority: false))
    }

    /// NEW answers worse than it may. Its breaker is open already; what remains is how many come back when it closes.
    private mutating func readsUnsafe(
        _ database: String, _ cause: String, _ figures: [EventRecord.Figure], _ server: ProxyServer
    ) {
        guard let route = snapshot.route(database) else { return }  // made by `*`: all of those have one share
        let policy = route.settings.breaker.rollback
        let before = ConsoleTables.percent(route.table.hundredths)
        switch policy {
        case .off:
            return
        case .alarm:
            events.append(EventRecord(
                .alarm, database: database, side: route.health.other,
                cause: "the share of reads should be lowered from \(before): \(cause)", figures: figures))
        case .auto:
            guard let (from, to) = plan.rollBack(route.name) else { return }
            apply(snapshot.settings, server)
            remember(route.name)
            events.append(EventRecord(
                .rollback, database: database, side: route.health.other,
                cause: "reads \(ConsoleTables.percent(from)) -> \(ConsoleTables.percent(to)) until READS \(database): "
                    + cause,
                figures: figures + [
                    .init("percent_before", Double(from) / 100), .init("percent", Double(to) / 100),
                ]))
        }
    }

    /// All or nothing: what is refused changes nothing.
    private mutating func reload(_ server: ProxyServer) -> ControlOutcome {
        do {
            let read = try SettingsFile.text(path: path)
            let next = try SettingsFile.parse(text: read, path: path)
            let changes = ReloadPolicy.changes(from: snapshot.settings, to: next)
            let kept = ReloadPolicy.keepingRestartOnly(of: snapshot.settings, in: next)
            var replanned = self
            replanned.plan.fileWasRead()
            replanned.text = read
            replanned.overrides = []
            let built = try replanned.build(kept, previous: snapshot, readsFiles: true)
            self = replanned
            let certificates = [snapshot.tls?.mark, encryption.mark]
            snapshot = built
            encryption.set(adminTLS)
            server.apply(snapshot)
            rememberAll()
            output.set(next.log)
            let words = changes.map { change in
                let note = change.effect == .restart ? " (needs a restart)" : ""
                return "\(change.key): \(change.old) -> \(change.new)\(note)"
            }
            hooks.apply(next.events)
            // The log has all of it; the event is what a pager shows.
            logger.notice("reload taken: \(words.isEmpty ? "nothing changed" : words.joined(separator: "; "))")
            events.append(EventRecord(
                .reload, cause: words.isEmpty ? "nothing changed" : words.joined(separator: "; "),
                figures: [.init("settings_changed", Double(words.count))]))
            if certificates != [snapshot.tls?.mark, adminTLS?.mark] { reportCertificate() }
            return .done
        } catch {
            logger.error("reload refused, nothing changed: \(error)")
            events.append(EventRecord(.reload, cause: "refused, nothing changed: \(error)"))
            return .refused("\(error)")
        }
    }

    /// What clients are shown from now on, and whether it is about to be of no use.
    private func reportCertificate() {
        for (tls, whom, key) in [(snapshot.tls, "towards clients", "listen.tls"), (adminTLS, "of HTTP", AdminTLS.key)] {
            guard let tls else { continue }
            logger.notice("TLS \(whom): certificate \(tls.subject ?? "") from \(tls.options.certificate)")
            if let warning = CertificateAge.warning(tls, key: key) { logger.warning("\(warning)") }
        }
    }

    mutating func apply(_ settings: Settings, _ server: ProxyServer) {
        do {
            snapshot = try build(settings, previous: snapshot, readsFiles: false)
            server.apply(snapshot)
        } catch {
            logger.error("cannot apply: \(error)")
        }
    }

    // MARK: building a snapshot

    /// - Parameter readsFiles: at the start and at a reload; in between, when they may be half written, what was read
    ///   goes on.
    private mutating func build(
        _ settings: Settings, previous: ProxySnapshot?, readsFiles: Bool
    ) throws -> ProxySnapshot {
        var routes: [DatabaseRoute] = []
        let running = readsFiles ? nil : previous
        let auth = try running?.auth ?? AuthReader.policy(settings, previous: previous?.auth)
        for database in settings.databases {
            let authority = ownerships[database.name]?.authority ?? .old
            let lookUp = try AuthReader.lookUp(database, settings.auth, auth, authority: authority)
            routes.append(try route(database, lookUp, previous, readsFiles: readsFiles))
        }
        var (encryption, context) = (previous?.encryption ?? .plain, previous?.tls)
        if readsFiles {
            (encryption, context) = try ClientTLS.read(settings, previous: context)
            adminTLS = try AdminTLS.read(settings.admin.http, at: adminAddress)
        }
        return ProxySnapshot(
            settings: settings, auth: auth, encryption: encryption, tls: context,
            databases: routes, migrations: state.board)
    }

    private mutating func route(
        _ settings: DatabaseSettings, _ lookUp: SecretLookUp?, _ previous: ProxySnapshot?, readsFiles: Bool
    ) throws -> DatabaseRoute {
        let name = settings.name
        var settings = settings
        let ownership = ownerships[name] ?? .initial
        settings.reads.hundredths = plan.share(of: name, inFile: settings.reads.hundredths)
        // Behind the cutover everybody reads on NEW, as its authority.
        if ownership.authority == .new { settings.reads.hundredths = 0 }
        // What a user writes through another Godwit is not known here, and is to be read all the same.
        if state.store?.isShared == true { settings.reads.consistency = .global }
        for index in settings.reads.cohorts.indices {
            let cohort = settings.reads.cohorts[index]
            settings.reads.cohorts[index].hundredths = ownership.authority == .new ? 0 : plan.share(
                ofCohort: cohort.name, of: name, inFile: cohort.hundredths)
        }
        plan.runs(
            max(settings.reads.hundredths, settings.reads.cohorts.map(\.hundredths).max() ?? 0), of: name,
            now: .now(), safeAfterSeconds: settings.breaker.safeAfterSeconds)
        if horizons[name] == nil {
            let horizon = Horizon()
            // Without a mirror of ours NEW is kept by other means; users who write through us stay on OLD then.
            horizon.setReadable(settings.mirror.mode == .off)
            if withholdsReads { horizon.withhold() }
            horizons[name] = horizon
            stamps[name] = ReadStamps()
            sequenceReaders[name] = state.sequenceReaders(of: name)
        }
        if healths[name] == nil {
            let told = MirrorEvents(name, events)
            horizons[name]?.observe { told.changed(to: $0) }
            let health = DatabaseHealth(
                settings.breaker, authority: ownership.authority, seed: .random(in: 0 ... .max))
            if let forced = plan.record(of: name).forced {
                _ = health.force(forced == (health.other == .new ? "new" : "old") ? .closed : .open)
            }
            healths[name] = health
        }
        guard let horizon = horizons[name], let stamps = stamps[name], let health = healths[name],
            let sequenceReaders = sequenceReaders[name]
        else { preconditionFailure("made above") }
        let shadow = try shadowBook(settings)
        let isMirrored = settings.mirror.mode != .off || !settings.mirror.tables.isEmpty
        let facts = catalogs[name] ?? (isMirrored ? .guarded : .builtIn)
        if let before = previous?.route(name), before.settings == settings, before.facts === facts,
            before.lookUp == lookUp, before.horizon === horizon, before.epoch == ownership.epoch,
            before.shadow === shadow
        {
            return readsFiles ? try readingAgain(before) : before
        }
        let running = previous?.route(name)
        return DatabaseRoute(
            settings: settings, old: try endpoint(settings, .old, running, readsFiles: readsFiles),
            new: try endpoint(settings, .new, running, readsFiles: readsFiles), facts: facts, horizon: horizon,
            stamps: stamps, sequenceReaders: sequenceReaders, health: health,
            epoch: ownership.epoch, lookUp: lookUp, shadow: shadow, lease: leases.of(name))
    }

    /// nil: none was ever asked to be compared.
    private mutating func shadowBook(_ settings: DatabaseSettings) throws -> ShadowBook? {
        for text in [settings.shadow.old, settings.shadow.new] { _ = try ConnectionString(parsing: text) }
        if settings.shadow.hundredths > 0 && shadows[settings.name] == nil {
            shadows[settings.name] = ShadowBook(database: settings.name)
        }
        return shadows[settings.name]
    }
}

extension MirrorOptions {
    init(_ settings: MirrorSettings) {
        self.init(
            pollMillis: settings.pollMillis, backfillRows: settings.backfillRows,
            lagMaxSeconds: settings.lagMaxSeconds)
        copyRowsPerSecond = settings.backfillRate
        throttleLagSeconds = settings.throttleLagSeconds
        throttleSessions = settings.throttleSessions
        throttleQuery = settings.throttleQuery
        mappings = TableMappings(settings)
    }
}
