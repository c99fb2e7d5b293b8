import Configuration
import ControlPlane
import Dispatch
import Foundation
import Glibc
import Migration
import PGWire
import Primitives
import Proxy

/// All migrations of the state store, and what is done for them. Stays on the runner's thread.
final class MigrationLedger {
    /// Microseconds after which a gate's value is stored again though it holds, or does not, as before.
    private static let readingMicros: Int64 = 60_000_000
    private static let guardRailMicros: Int64 = 5_000_000
    private static let controlMillis: CInt = 5000
    /// For a mirror to end its batch.
    private static let mirrorMillis: CInt = 60_000

    let parts: MigrationRunner.Parts
    let inbox: Mailbox<MigrationRunner.Message>
    private let stopDescriptor: CInt
    private(set) var entries: [LedgerEntry] = []
    private var watch = TermWatch()
    private var time = MeasuredTime()
    /// As which we run the migrations; nil: another process does.
    var held: Int64? { watch.held }
    /// The store does not answer: by now another process may run them.
    var isAway: Bool { watch.isAway }
    private var lastComplaint = ""
    /// One that could not be stored may be stored all the same: only the answer may have been lost.
    private var isInDoubt = false

    init(_ parts: MigrationRunner.Parts, inbox: Mailbox<MigrationRunner.Message>, stop: CInt) {
        self.parts = parts
        self.inbox = inbox
        stopDescriptor = stop
        takeOver()
    }

    /// Whoever has the term has the migrations; it may become ours when another process ends.
    private func takeOver() {
        let term = parts.store.term()
        // Until it is known what is in force nothing is decided on.
        if !parts.memory.isInformed { return }
        let action = watch.handle(term)
        switch action {
        case .nothing: break
        case .begin(let term):
            parts.store.hold(term)
            drop()
            begin(term)
        case .goOn(let term):
            parts.store.hold(term)
            tell("the state store answers again: this Godwit goes on with the migrations, by term \(term)")
        case .drop(let successor):
            parts.store.hold(nil)
            drop()
            tell("another Godwit (\(successor)) runs the migrations from now on")
        case .standStill(let reason):
            complain("the state store does not answer, and migrations stand still: \(reason)")
        }
        if isInDoubt, held != nil, !isAway, (try? takeStored()) != nil { isInDoubt = false }
    }

    private func begin(_ term: Int64) {
        do {
            try takeStored()
            if parts.store.isShared { tell("this Godwit runs the migrations from now on, by term \(term)") }
        } catch {
            drop()
            watch.giveUp()
            parts.store.hold(nil)
            complain("migrations cannot be read: \(error)")
        }
    }

    /// Those that are not known here. All are read before one goes on: it would go on anew with each attempt.
    private func takeStored() throws {
        let unknown = try parts.store.migrations().filter { entry($0.id) == nil }.map { migration in
            let manifest = try ManifestReader.parse(migration.manifest, path: migration.id)
            return LedgerEntry(migration, MigrationMachine(manifest, state: migration.state))
        }
        entries += unknown
        for entry in unknown where !entry.migration.state.isOver {
            // Whoever had it before may have moved the writes a moment ago, and this process not have followed yet.
            if parts.store.isShared, entry.migration.state.isPrepared {
                entry.isConfirmed = false
                confirm(entry)
            } else {
                handle(entry, .restored(now: StateStore.now()))
            }
        }
    }

    /// They are another process's now. What is under way in the databases ends by itself, or finds that it may not.
    private func drop() {
        for entry in entries {
            let (survey, comparison) = (entry.survey, entry.comparison)
            entry.drillCancel.post(())
            entry.lane.async {
                survey?.stop()
                comparison?.stop()
            }
        }
        entries = []
    }

    private func tell(_ cause: String) { parts.events.append(EventRecord(.phase, cause: cause)) }

    /// Each cause once.
    private func complain(_ cause: String) {
        if cause == lastComplaint { return }
        lastComplaint = cause
        parts.events.append(EventRecord(.alarm, cause: cause))
    }

    /// Before the process ends: what was begun in the databases is finished.
    func end() {
        for entry in entries {
            entry.survey?.stop()
            entry.comparison?.stop()
            entry.lane.sync {}
        }
        parts.store.resign()
    }

    // MARK: once a second

    func tick() {
        takeOver()
        if held == nil || isAway { return }
        let now = StateStore.now()
        let isBroken = time.isBroken(now, .now())
        for entry in entries where !entry.machine.state.isOver {
            if !entry.isConfirmed {
                confirm(entry)
                continue
            }
            if isBroken {
                entry.machine.measureAnew()
                entry.guardRailsAt = 0
            }
            save(entry)
            let waiting = entry.pending
            entry.pending = []
            for event in waiting { handle(entry, event) }
            observe(entry, now)
            handle(entry, .tick(readings(entry, now), now: now))
            // What has just gone back may be resumed before the next second.
            entry.compareIfWanted()
            storeReadings(entry, now)
        }
        if let failure = parts.store.health.failure {
            complain("the state in \(parts.store.path) \(failure); going back is the only step that is taken")
        } else {
            lastComplaint = ""
        }
        show(now)
    }

    func settings(_ entry: LedgerEntry) -> DatabaseSettings? {
        parts.server.snapshot.settings.database(named: entry.machine.manifest.database)
    }

    /// Sees to it that somebody measures.
    private func observe(_ entry: LedgerEntry, _ now: Int64) {
        let state = entry.machine.state
        // What looks at the two sides has been told to end: see `perform`. Nobody would end another one.
        guard state.work != .remove, let settings = settings(entry) else { return }
        if entry.survey == nil {
            entry.survey = MigrationSurvey(settings)
            entry.survey?.start()
            entry.comparison = MigrationComparison(entry.machine.manifest, settings)
            entry.comparison?.start()
        }
        let isDrilling = state.work == .drill
        // Both are told where the writes are, also while a drill has moved them.
        entry.survey?.set(isSwitched: isDrilling ? entry.machine.readings.isSwitched ?? false : state.isSwitched)
        entry.compareIfWanted()
        guard entry.isMoving, state.phase == .cutover, state.work == nil else {
            entry.guardRails = nil
            return
        }
        if !entry.isAskingRails, now - entry.guardRailsAt >= Self.guardRailMicros { askRails(entry) }
    }

    private func askRails(_ entry: LedgerEntry) {
        entry.isAskingRails = true
        let (id, engine, inbox) = (entry.migration.id, parts.engine, inbox)
        let order = MigrationWork.order(.cutover, entry.machine, entry.comparison?.findings.verify, isDryRun: true)
        entry.lane.async { inbox.post(.rails(id, MigrationWork.rails(engine, order))) }
    }

    private func storeReadings(_ entry: LedgerEntry, _ now: Int64) {
        let gates = entry.machine.gates(now: now).filter { gate in
            guard let before = entry.stored[gate.name] else { return true }
            return before.holds != gate.holds || before.value != gate.value && now - before.at >= Self.readingMicros
        }
        if gates.isEmpty { return }
        for gate in gates { entry.stored[gate.name] = (gate.value, gate.holds, now) }
        _ = try? parts.store.add(gates, phase: entry.machine.state.phase, of: entry.migration.id, micros: now)
    }

    private func show(_ now: Int64) {
        if held == nil { return }
        showOthers(now)
        parts.board.rows = entries.map { entry in
            let (machine, state) = (entry.machine, entry.machine.state)
            let required = machine.gates(now: now).filter(\.isRequired)
            let blocking = required.first(where: \.blocks)
            return MigrationBoard.Row(
                id: machine.manifest.id, database: machine.manifest.database, phase: state.phase.rawValue,
                standing: state.standing.rawValue, place: machine.place, writes: state.isSwitched ? "new" : "old",
                readsPercent: GateJudge.text(machine.readsPercent), since: Instant.text(state.since),
                gates: "\(required.count { !$0.blocks })/\(required.count)",
                cause: blocking.map { "\($0.name): \($0.value)" } ?? state.cause)
        }
    }

    // MARK: what comes in

    func take(_ message: MigrationRunner.Message) {
        let now = StateStore.now()
        switch message {
        case .worked(let id, let work):
            guard let entry = entry(id) else { return }
            entry.working.remove(work)
            deliver(entry, .worked(work, now: now))
        case .failed(let id, let work, let reason):
            guard let entry = entry(id) else { return }
            entry.working.remove(work)
            deliver(entry, .failed(work, reason: reason, now: now))
        case .drilled(let id, let result):
            guard let entry = entry(id) else { return }
            entry.working.remove(.drill)
            deliver(entry, .drilled(result, now: now))
        case .owner(let id, let owner):
            if let entry = entry(id) { confirmed(entry, owner, now) }
        case .rails(let id, let rails):
            guard let entry = entry(id) else { return }
            (entry.guardRails, entry.guardRailsAt, entry.isAskingRails) = (rails, now, false)
        case .order(let order, let by, let reply):
            takeOver()
            if let outcome = elsewhere(order) { return reply(outcome) }
            reply(perform(order, by, now))
        }
        show(now)
    }

    private func deliver(_ entry: LedgerEntry, _ event: MigrationMachine.Event) {
        if isAway || !entry.isConfirmed { entry.pending.append(event) } else { handle(entry, event) }
    }

    private func entry(_ id: String) -> LedgerEntry? { entries.first { $0.migration.id == id } }

    func document(_ entry: LedgerEntry, _ now: Int64) -> MigrationDocument {
        MigrationDocument(entry.machine, started: entry.migration.micros, now: now)
    }

    private func perform(_ order: MigrationOrder, _ by: String, _ now: Int64) -> MigrationOutcome {
        switch order {
        case .list: return .all(entries.map { document($0, now) })
        case .start(let text): return start(text, by, now)
        case .status(let id):
            guard let entry = entry(id) else { return Self.unknown(id) }
            return .one(document(entry, now))
        case .command(let id, let command, let from):
            guard let entry = entry(id) else { return Self.unknown(id) }
            let position = entry.machine.position
            if let from, from != position {
                return .refused(HTTPProblem(
                    409, "it is at \"\(position)\", not at \"\(from)\"", "nothing was done: look at its status again"))
            }
            return unconfirmed(entry, command) ?? perform(command, entry, by, now)
        }
    }

    static func unknown(_ id: String) -> MigrationOutcome {
        .refused(HTTPProblem(404, "there is no migration \"\(id)\"", "GET /migrations lists them"))
    }

    private func start(_ text: String, _ by: String, _ now: Int64) -> MigrationOutcome {
        let manifest: MigrationManifest
        do throws(SettingsError) {
            manifest = try ManifestReader.parse(text)
        } catch {
            return .refused(HTTPProblem(422, "the manifest cannot be taken", "\(error)"))
        }
        if let problem = obstacle(manifest) { return .refused(problem) }
        let machine = MigrationMachine(manifest, by: by, now: now)
        let stored = StateStore.StoredMigration(
            id: manifest.id, database: manifest.database, manifest: text, by: by, micros: now, state: machine.state)
        do throws(StateStore.Failure) {
            guard try parts.store.add(stored) else { return .refused(Self.known(manifest.id)) }
        } catch {
            isInDoubt = true
            return .refused(HTTPProblem(503, "the state store does not take it", "\(error)"))
        }
        let entry = LedgerEntry(stored, machine)
        entries.append(entry)
        tell(entry, .phase, "started")
        perform(.install, entry)
        return .answered(MigrationAnswer(answer: "started", migration: document(entry, now)))
    }

    private static func known(_ id: String) -> HTTPProblem {
        HTTPProblem(409, "there is a migration \"\(id)\" already", "give this one another id")
    }

    private func obstacle(_ manifest: MigrationManifest) -> HTTPProblem? {
        if entry(manifest.id) != nil { return Self.known(manifest.id) }
        if isInDoubt { return HTTPProblem(503, "a start before may have been stored", "it is looked up: try again") }
        let settings = parts.server.snapshot.settings
        guard let database = settings.database(named: manifest.database), !database.isWildcard else {
            let names = settings.databases.map(\.name).joined(separator: ", ")
            return HTTPProblem(422, "there is no database \"\(manifest.database)\"", "the configuration has \(names)")
        }
        let others = entries.first { $0.machine.manifest.database == manifest.database && !$0.machine.state.isOver }
        if let others {
            return HTTPProblem(
                409, "\"\(manifest.database)\" is in the migration \"\(others.migration.id)\"",
                "end that one first: abort, then advance")
        }
        if database.mirror.mode == .off {
            return HTTPProblem(
                422, "\"\(manifest.database)\" has no mirror",
                "set databases.\(manifest.database).mirror.mode to async or sync and start Godwit again")
        }
        if parts.server.snapshot.route(manifest.database)?.authority == .new {  // also behind a migration's end
            return HTTPProblem(
                422, "NEW has the writes of \"\(manifest.database)\" already",
                "ROLLBACK in the console takes them back; or name NEW as old, and another one as new")
        }
        let cohorts = Set(database.reads.cohorts.map(\.name))
        if let unknown = manifest.steps.compactMap(\.cohort).first(where: { !cohorts.contains($0) }) {
            return HTTPProblem(
                422, "there is no cohort \"\(unknown)\"",
                "databases.\(manifest.database).reads.cohorts has \(cohorts.sorted().joined(separator: ", "))")
        }
        if let table = manifest.otherwiseMapped(in: database.mirror).first {
            return HTTPProblem(
                422, "the manifest's scope.mapping and the configuration differ in \(table)",
                "make databases.\(manifest.database).mirror.tables the same, start Godwit again and run godwit check")
        }
        let hooks = settings.events.hooks.map { String($0.split(separator: "/").last ?? "") }
        if let unknown = manifest.hooks.first(where: { !hooks.contains($0) }) {
            return HTTPProblem(
                422, "no hook is called \"\(unknown)\"", "events.hooks has \(hooks.joined(separator: ", "))")
        }
        return nil
    }

    private func perform(
        _ command: MigrationMachine.Command, _ entry: LedgerEntry, _ by: String, _ now: Int64
    ) -> MigrationOutcome {
        let gates = entry.machine.gates(now: now)
        let actions = handle(entry, .command(command, by: by, now: now))
        var answer = "", isTaken = false
        for action in actions {
            switch action {
            case .accepted(let words): (answer, isTaken) = (words, true)
            case .refused(let words): (answer, isTaken) = (words, false)
            case .perform, .reads, .holdReads, .alarm, .cancelDrill: break
            }
        }
        let (verb, reason) = Self.words(command)
        decided(entry, verb, by: by, reason: reason, isTaken: isTaken, answer: answer, gates, now)
        if isTaken { return .answered(MigrationAnswer(answer: answer, migration: document(entry, now))) }
        let shown = Document.bytes(entry.machine.gates(now: now).map(MigrationDocument.GateDocument.init))
        return .refused(HTTPProblem(
            409, "\(verb) was refused", answer, members: "\"gates\":\(String(decoding: shown, as: UTF8.self))"))
    }

    private static func words(_ command: MigrationMachine.Command) -> (verb: String, reason: String) {
        switch command {
        case .advance: ("advance", "")
        case .resume: ("resume", "")
        case .approve: ("approve", "")
        case .force(let reason): ("force", reason)
        case .pause(let reason): ("pause", reason)
        case .abort(let reason): ("abort", reason)
        case .drill(let order): ("drill", order.words)
        }
    }

    private func decided(
        _ entry: LedgerEntry, _ verb: String, by: String, reason: String, isTaken: Bool, answer: String,
        _ gates: [Gate], _ now: Int64
    ) {
        let json = (try? JSONEncoder().encode(gates)).map { String(decoding: $0, as: UTF8.self) } ?? "[]"
        _ = try? parts.store.add(
            .init(micros: now, by: by, verb: verb, reason: reason, isTaken: isTaken, answer: answer, gates: json),
            of: entry.migration.id)
    }

    // MARK: what is decided

    /// Stores what has changed, then does what follows from it.
    @discardableResult
    func handle(_ entry: LedgerEntry, _ event: MigrationMachine.Event) -> [MigrationMachine.Action] {
        let before = entry.machine
        var actions: [MigrationMachine.Action] = []
        entry.machine.handle(event, &actions)
        let after = entry.machine.state
        if after != before.state {
            entry.isUnsaved = true
            if let failure = save(entry), !Self.isWayBack(after) {
                entry.machine = before
                // It stays unsaved. Only the answer may have been lost: what counts is said again when it can be.
                if case .command = event {
                    return [.refused("nothing was changed, for it could not be stored: \(failure)")]
                }
                if case .tick = event { return [] }
                entry.pending.append(event)
                return []
            }
            tellChange(entry, before.state)
            if let drill = after.drilled, drill != before.state.drilled { tell(entry, drill) }
            if case .tick(_, let now) = event, after.by == "godwit" {
                let verb = after.standing == .running ? "advance" : after.standing == .paused ? "pause" : "abort"
                decided(
                    entry, verb, by: "godwit", reason: after.cause, isTaken: true, answer: entry.machine.place,
                    before.gates(now: now), now)
            }
        }
        for action in actions where !isOverruled(action, event, entry) {
            switch action {
            case .perform(let work):
                if case .restored = event { perform(work, entry, isRestored: true) } else { perform(work, entry) }
            case .reads(let step, let keepsRollBack): moveReads(entry, step, keepsRollBack)
            case .holdReads: order(.hold(database: entry.machine.manifest.database))
            case .alarm(let words): tell(entry, .alarm, words)
            case .cancelDrill: entry.drillCancel.post(())
            case .accepted, .refused: break
            }
        }
        return actions
    }

    /// Back to OLD is gone also when it cannot be noted.
    private static func isWayBack(_ state: MigrationState) -> Bool {
        switch state.standing {
        case .aborted, .returning: true
        case .running, .paused, .removing, .removed, .finished: false
        }
    }

    /// - Returns: why it could not be stored; nil: it is.
    @discardableResult
    private func save(_ entry: LedgerEntry) -> StateStore.Failure? {
        if !entry.isUnsaved { return nil }
        do throws(StateStore.Failure) {
            try parts.store.add(entry.machine.state, of: entry.migration.id, micros: StateStore.now())
            entry.isUnsaved = false
            return nil
        } catch {
            return error
        }
    }

    private func tellChange(_ entry: LedgerEntry, _ before: MigrationState) {
        let after = entry.machine.state
        let moved = after.phase != before.phase || after.step != before.step || after.standing != before.standing
            || after.work != before.work
        guard moved else { return }
        let isBack = Self.isWayBack(after) && !Self.isWayBack(before)
        let standing = after.standing == .running ? "" : " (\(after.standing.rawValue))"
        let by = after.by.isEmpty || after.by == "godwit" ? "" : " by \(after.by)"
        let cause = isBack ? after.abortCause : nil
        tell(entry, isBack ? .rollback : .phase, "\(entry.machine.place)\(standing)\(by): \(after.cause)", cause)
    }

    private func tell(_ entry: LedgerEntry, _ kind: EventRecord.Kind, _ words: String, _ cause: AbortCause? = nil) {
        let manifest = entry.machine.manifest
        parts.events.append(EventRecord(
            kind, database: manifest.database, cause: "migration \(manifest.id): \(words)",
            figures: [
                .init("phase", Double(entry.machine.state.phase.position)),
                .init("reads_percent", entry.machine.readsPercent),
            ] + (cause.map { cause in
                [
                    .init(cause.limit.rawValue, cause.figure), .init("threshold", cause.threshold),
                    .init("passed_s", Double(cause.at - cause.since) / 1e6),
                ]
            } ?? [])))
    }

    private func tell(_ entry: LedgerEntry, _ drill: DrillResult) {
        let manifest = entry.machine.manifest
        let held = [("cutover_held_ms", drill.cutoverHeldMillis), ("rollback_held_ms", drill.rollbackHeldMillis)]
        parts.events.append(EventRecord(
            .phase, database: manifest.database,
            cause: "migration \(manifest.id): drill \(drill.hasPassed ? "passed" : "failed"): \(drill.words)",
            figures: held.compactMap { name, millis in millis.map { .init(name, $0) } }))
    }

    // MARK: what is done

    private func moveReads(_ entry: LedgerEntry, _ step: Int, _ keepsRollBack: Bool) {
        let manifest = entry.machine.manifest
        let record = parts.memory.record(of: manifest.database)
        if keepsRollBack, entry.isOverruled(record) { return }
        var hundredths = 0
        var cohorts: [String: Int] = [:]
        for taken in manifest.steps.prefix(step + 1) {
            if let cohort = taken.cohort { cohorts[cohort] = taken.hundredths } else { hundredths = taken.hundredths }
        }
        order(.reads(database: manifest.database, hundredths: hundredths, cohorts: cohorts))
    }

    /// Waits until it is in force.
    private func order(_ traffic: MigrationTraffic) {
        if let failure = Self.order(traffic, parts.server, stopDescriptor, atMost: Self.controlMillis) {
            complain(failure)
        }
    }

    /// - Returns: why it is not in force; nil: it is.
    private static func order(
        _ traffic: MigrationTraffic, _ server: ProxyServer, _ stopDescriptor: CInt, atMost millis: CInt
    ) -> String? {
        let reply = Mailbox<ControlOutcome>()
        server.control.post(.migration(traffic) { reply.post($0) })
        var ready = [
            pollfd(fd: reply.descriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: stopDescriptor, events: Int16(POLLIN), revents: 0),
        ]
        _ = poll(&ready, 2, millis)
        switch reply.take().first {
        case .done, .noticed, .table: return nil
        case .refused(let words): return words
        case .failed(let error): return error.message
        case nil: return "the control thread has not answered"
        }
    }

    /// On a thread of its own.
    ///
    /// - Parameter isRestored: another process has begun it. A switch that did not happen is not made by itself then:
    ///   who ordered it may not be there any more.
    private func perform(_ work: MigrationState.Work, _ entry: LedgerEntry, isRestored: Bool = false) {
        guard let settings = settings(entry) else { return refuse(work, entry) }
        guard entry.working.insert(work).inserted else { return }
        let (id, machine, parts, inbox) = (entry.migration.id, entry.machine, parts, inbox)
        if work == .drill { return drill(entry, settings, isRestored: isRestored) }
        let (manifest, isSwitched) = (machine.manifest, machine.state.isSwitched)
        // The comparison holds snapshots in both databases, and heartbeats leave keys in the journal.
        let (survey, comparison, stop, patience) = (entry.survey, entry.comparison, stopDescriptor, Self.mirrorMillis)
        if work == .remove { (entry.survey, entry.comparison) = (nil, nil) }
        let verify = comparison?.findings.verify
        let (term, store) = (held, parts.store)
        // Whoever has lost the migrations makes no switch for them.
        @Sendable func isOurs() -> Bool { term.map { store.term() == .ours($0) } ?? false }
        @Sendable func traffic(_ order: MigrationTraffic) -> String? {
            Self.order(order, parts.server, stop, atMost: patience)
        }
        entry.lane.async {
            let failure: String?
            switch work {
            case .install:
                failure = MigrationWork.install(manifest, settings)
                    ?? traffic(.mirror(database: manifest.database, runs: true))
            case .remove:
                survey?.stop()
                comparison?.stop()
                let name = manifest.database
                failure = MigrationWork.alone(parts.engine, name) {
                    traffic(isSwitched ? .finish(database: name) : .mirror(database: name, runs: false))
                        ?? MigrationWork.isStored(parts.store) ?? MigrationWork.remove(settings)
                        ?? DrillCanary.remove(settings, DrillCanary.name(of: id, settings))
                }
            case .switchOver:
                let order = MigrationWork.order(.cutover, machine, verify)
                failure = isRestored
                    ? MigrationWork.settle(parts.engine, order, settings)
                    : MigrationWork.perform(parts.engine, order, mayGoOn: isOurs)
            case .drill: preconditionFailure("drilled elsewhere")
            case .switchBack:
                failure = MigrationWork.perform(
                    parts.engine, MigrationWork.order(.rollback, machine, verify), mayGoOn: isOurs)
            }
            inbox.post(failure.map { .failed(id, work, $0) } ?? .worked(id, work))
        }
    }

    private func drill(_ entry: LedgerEntry, _ settings: DatabaseSettings, isRestored: Bool) {
        let (id, inbox) = (entry.migration.id, inbox)
        guard let order = entry.machine.state.drill else { preconditionFailure("a drill without its order") }
        entry.drillCancel = Mailbox()
        let (term, store) = (held, parts.store)
        let rehearsal = MigrationRehearsal(
            machine: entry.machine, database: settings, engine: parts.engine, logger: parts.logger,
            verify: entry.comparison?.findings.verify, cancel: entry.drillCancel, stopDescriptor: stopDescriptor,
            mayGoOn: { term.map { store.term() == .ours($0) } ?? false })
        entry.lane.async {
            if let result = rehearsal.perform(order, isRestored: isRestored) { inbox.post(.drilled(id, result)) }
        }
    }
}
