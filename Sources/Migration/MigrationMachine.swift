import Configuration

/// What a migration does next. Pure: what was measured and the time come in, orders go out. One owner.
///
/// The owner stores `state` after each event that has changed it, and only then carries out the actions: after a crash
/// the stored state and `.restored` give the same actions again, each of which may be done twice.
package struct MigrationMachine: Sendable {
    package enum Command: Sendable, Equatable {
        case advance, resume, approve
        /// Advance though gates do not hold.
        case force(reason: String)
        case pause(reason: String)
        case abort(reason: String)
        case drill(DrillOrder)
    }

    /// Times are microseconds since 1970.
    package enum Event: Sendable {
        /// The process has begun; `state` is what was stored last.
        case restored(now: Int64)
        /// Once a second.
        case tick(MigrationReadings, now: Int64)
        case command(Command, by: String, now: Int64)
        case worked(MigrationState.Work, now: Int64)
        case failed(MigrationState.Work, reason: String, now: Int64)
        case drilled(DrillResult, now: Int64)
    }

    package enum Action: Sendable, Equatable {
        case perform(MigrationState.Work)
        /// The reads of steps 0...step go to NEW. `keepsRollBack`: but what a roll-back took away stays away.
        case reads(step: Int, keepsRollBack: Bool)
        /// All reads go to the authority, from now on and whatever the file says.
        case holdReads
        case alarm(String)
        /// What is rehearsed goes back at once.
        case cancelDrill
        /// A command was taken or not; the sentence is for who gave it.
        case accepted(String)
        case refused(String)
    }

    /// Seconds from a failed way back to the next try.
    package static let returnRetrySeconds = 5.0

    package let manifest: MigrationManifest
    package private(set) var state: MigrationState
    /// As of the last tick.
    package private(set) var readings = MigrationReadings()
    private var lastTick: Int64
    private var memory = GateMemory()
    private var watch: AbortWatch
    private var retryAt: Int64?

    /// A new one.
    package init(_ manifest: MigrationManifest, by: String, now: Int64) {
        self.manifest = manifest
        state = MigrationState(since: now)
        state.by = by
        state.cause = "started"
        state.work = .install
        lastTick = now
        watch = AbortWatch(manifest.abort)
    }

    /// One that goes on.
    package init(_ manifest: MigrationManifest, state: MigrationState) {
        self.manifest = manifest
        self.state = state
        lastTick = state.since
        watch = AbortWatch(manifest.abort)
    }

    // MARK: what is asked of it

    /// Everything that decides whether it may advance: the go/no-go list.
    package func gates(now: Int64) -> [Gate] {
        if state.isOver || state.standing != .running && state.standing != .paused { return [] }
        var gates = GateJudge.gates(state, manifest, readings, now: now)
        for index in gates.indices { gates[index].since = memory.since(gates[index].name) }
        return gates + conditions(now: now)
    }

    /// What the phase asks besides what is measured.
    private func conditions(now: Int64) -> [Gate] {
        let phase = manifest[state.phase]
        var gates: [Gate] = []
        if phase.soakSeconds > 0 {
            // It forgets with each phase and step. When those began is by a clock that may have been set since.
            let held = memory.allHoldSince.map { Double(now - $0) / 1e6 } ?? 0
            gates.append(Gate(
                "soak", value: "\(GateJudge.text(held.rounded(.down))) s",
                threshold: "all of it holds for \(GateJudge.text(phase.soakSeconds)) s",
                holds: held >= phase.soakSeconds, advice: "wait"))
        }
        if phase.approvals > 0 {
            let names = state.approvals.isEmpty ? "" : " (\(state.approvals.joined(separator: ", ")))"
            gates.append(Gate(
                "approvals", value: "\(state.approvals.count)\(names)", threshold: "\(phase.approvals)",
                holds: state.approvals.count >= phase.approvals, advice: "godwit migrate approve, by other names"))
        }
        if !manifest.windows.isEmpty {
            gates.append(Gate(
                "window", value: readings.isWindowOpen ? "open" : "closed", threshold: "open",
                holds: readings.isWindowOpen, advice: "wait for the manifest's next window"))
        }
        return gates
    }

    /// What `advance` would do now.
    package var nextStep: String {
        switch (state.standing, state.phase) {
        case (.aborted, _): "remove everything of Godwit from both databases"
        case (.finished, _), (.removed, _): "nothing: it is over"
        case (.returning, _), (.removing, _): "nothing: it is under way"
        case (.running, .shift), (.paused, .shift):
            if let step = following { "reads: \(Self.words(step))" }
            else if manifest.strategy == .reads { "nothing: with strategy reads it ends here" }
            else { "cutover" }
        case (.running, .cutover), (.paused, .cutover): "move the writes to NEW, then watch"
        case (.running, .cleanup), (.paused, .cleanup): "remove everything of Godwit from both databases"
        case (.running, let phase), (.paused, let phase): phase.next?.rawValue ?? ""
        }
    }

    /// The next of the steps of `shift`.
    private var following: MigrationManifest.ReadStep? {
        state.step + 1 < manifest.steps.count ? manifest.steps[state.step + 1] : nil
    }

    package static func words(_ step: MigrationManifest.ReadStep) -> String {
        step.cohort.map { "\(Percent.text(step.hundredths)) % of cohort \($0)" } ?? "\(Percent.text(step.hundredths)) %"
    }

    /// Of the users, whose reads go to NEW by the last step.
    package var readsPercent: Double {
        if state.isSwitched { return 100 }
        guard state.standing == .running || state.standing == .paused, hasReadsOnNew else { return 0 }
        let taken = manifest.steps.prefix(state.step + 1).last { $0.cohort == nil }
        return Double(taken?.hundredths ?? 0) / 100
    }

    /// The reads have begun to move, and the writes have not.
    private var hasReadsOnNew: Bool {
        !state.isSwitched && (state.phase == .shift || state.phase == .cutover)
    }

    // MARK: events

    /// Nobody has measured for a while, or the clock was set: whatever holds does so from the next tick on.
    package mutating func measureAnew() {
        memory = GateMemory()
        watch = AbortWatch(manifest.abort)
        if retryAt != nil { retryAt = .min }
    }

    package mutating func handle(_ event: Event, _ actions: inout [Action]) {
        switch event {
        case .restored(let now): restore(now, &actions)
        case .tick(let readings, let now): tick(readings, now, &actions)
        case .command(let command, let by, let now):
            lastTick = max(lastTick, now)
            take(command, by, now, &actions)
        case .worked(let work, let now): worked(work, now, &actions)
        case .failed(let work, let reason, let now): failed(work, reason, now, &actions)
        case .drilled(let result, let now):
            lastTick = max(lastTick, now)
            drilled(result, &actions)
        }
    }

    private mutating func restore(_ now: Int64, _ actions: inout [Action]) {
        lastTick = now
        memory = GateMemory()
        // It was aborted, and ended with the process: nobody tells any more what has come of it.
        if state.work != .drill, !state.isOver { state.drill = nil }
        if let work = state.work { actions.append(.perform(work)) }
        switch state.standing {
        case .running, .paused:
            if hasReadsOnNew { actions.append(.reads(step: state.step, keepsRollBack: true)) }
        case .aborted: actions.append(.holdReads)
        case .returning:
            actions.append(.holdReads)
            // When it was to be tried again is not stored.
            if state.work == nil { retryAt = now }
        case .removing, .removed, .finished: break
        }
    }

    private mutating func tick(_ readings: MigrationReadings, _ now: Int64, _ actions: inout [Action]) {
        self.readings = readings
        lastTick = now
        if state.standing == .returning, state.work == nil, let at = retryAt, now >= at {
            retryAt = nil
            state.work = .switchBack
            actions.append(.perform(.switchBack))
            return
        }
        if state.work == nil, let found = readings.isSwitched, found != state.isSwitched {
            return meet(found, now, &actions)
        }
        guard state.standing == .running || state.standing == .paused else { return }
        memory.take(GateJudge.gates(state, manifest, readings, now: now), now: now)
        switch hasRemovedWayBack ? .fine : watch.judge(judged, readings, now: now) {
        case .fine: break
        case .warn(let cause): actions.append(.alarm(cause))
        case .abort(let cause):
            abort("by itself: \(cause.words)", by: "godwit", &actions)
            state.abortCause = cause
            return
        }
        guard state.standing == .running else { return }
        if hasReadsOnNew, !readings.readsOverruled.isEmpty, state.work != .drill {
            stand(.paused, "\(readings.readsOverruled): resume brings the reads back to this step", by: "godwit")
            actions.append(.alarm("paused: \(state.cause)"))
            return
        }
        if manifest[state.phase].advance == .auto, state.work == nil, canAdvanceFurther, blocking(now).isEmpty {
            advance("its gates hold", by: "godwit", now, &actions)
        }
    }

    /// Where the writes are, also while a drill has moved them.
    private var judged: MigrationState {
        var judged = state
        if isDrillingWhole { judged.isSwitched = readings.isSwitched ?? state.isSwitched }
        return judged
    }

    /// The mirror back has ended for good, or is just about to.
    private var hasRemovedWayBack: Bool {
        state.phase == .cleanup && state.standing != .aborted && (state.work == .remove || !state.isPrepared)
    }

    private var isDrillingWhole: Bool { state.work == .drill && state.drill?.isWhole == true }

    /// Somebody else has moved the writes: an operator in the console, or another Godwit.
    private mutating func meet(_ isSwitched: Bool, _ now: Int64, _ actions: inout [Action]) {
        switch state.standing {
        case .removing, .removed, .finished: return
        case .running, .paused, .returning, .aborted: break
        }
        state.isSwitched = isSwitched
        state.approvals = []
        retryAt = nil
        if isSwitched {
            stand(.paused, "the writes were moved to NEW by other means: resume watches over them", by: "godwit")
            enter(.watch, now)
        } else {
            stand(.aborted, "the writes went back to OLD by other means", by: "godwit")
            actions.append(.holdReads)
        }
        actions.append(.alarm(state.cause))
    }

    /// There is something behind the present step.
    private var canAdvanceFurther: Bool {
        !(manifest.strategy == .reads && state.phase == .shift && following == nil)
    }

    private func blocking(_ now: Int64) -> [Gate] { gates(now: now).filter(\.blocks) }

    // MARK: commands

    private mutating func take(
        _ command: Command, _ by: String, _ now: Int64, _ actions: inout [Action]
    ) {
        switch (command, state.standing) {
        case (.abort, .running), (.abort, .paused): break
        case (.abort, .aborted), (.abort, .returning), (.abort, .removing), (.abort, .removed):
            return actions.append(.refused("it is \(state.standing.rawValue) already"))
        case (_, .finished), (_, .removed): return actions.append(.refused("it is over: \(state.standing.rawValue)"))
        case (.resume, .returning):
            guard state.work == nil else { return actions.append(.refused("the writes are just going back to OLD")) }
        case (_, .returning): return actions.append(.refused("it is on its way back to OLD"))
        case (_, .removing): return actions.append(.refused("what is Godwit's is being removed"))
        case (_, .running), (_, .paused), (_, .aborted): break
        }
        switch command {
        case .advance: advanceAsked(nil, by, now, &actions)
        case .force(let reason): advanceAsked(reason, by, now, &actions)
        case .pause(let reason): pause(reason, by, &actions)
        case .resume: resume(by, now, &actions)
        case .approve: approve(by, &actions)
        case .drill(let order): drillAsked(order, by, now, &actions)
        case .abort(let reason):
            if hasRemovedWayBack {
                let tense = state.work == .remove ? "is being removed" : "was removed, in part at least"
                return actions.append(.refused("the way back \(tense): it cannot be taken any more"))
            }
            abort(reason, by: by, &actions)
            actions.append(.accepted(
                state.standing == .aborted ? "reads and writes are OLD's" : "the writes go back to OLD"))
        }
    }

    private mutating func advanceAsked(
        _ reason: String?, _ by: String, _ now: Int64, _ actions: inout [Action]
    ) {
        if state.standing == .aborted {
            stand(.removing, reason ?? "advanced: what is Godwit's goes", by: by)
            state.work = .remove
            actions += [.perform(.remove), .accepted("removing everything of Godwit from both databases")]
            return
        }
        if state.phase == .prepare, !state.isPrepared, state.work == nil {
            state.work = .install
            actions += [.perform(.install), .accepted("preparing again")]
            return
        }
        if let work = state.work { return actions.append(.refused("\(work.rawValue) is under way: wait for its end")) }
        if state.standing == .paused { return actions.append(.refused("it is paused: resume it first")) }
        if !canAdvanceFurther {
            return actions.append(.refused("with strategy reads it ends at this step: OLD keeps the writes"))
        }
        let obstacles = blocking(now)
        if let reason {
            if state.phase == .prepare {
                return actions.append(.refused("nothing can stand in for the preparation"))
            }
            let names = obstacles.map(\.name).joined(separator: ", ")
            state.isForced = true
            advance("forced\(names.isEmpty ? "" : " against \(names)"): \(reason)", by: by, now, &actions)
        } else if let words = Self.words(of: obstacles) {
            return actions.append(.refused(words))
        } else {
            advance("advanced", by: by, now, &actions)
        }
        if state.work == nil { state.isForced = false }
        actions.append(.accepted(place))
    }

    /// nil: there are none.
    private static func words(of obstacles: [Gate]) -> String? {
        guard let first = obstacles.first else { return nil }
        let more = obstacles.count > 1 ? ", and \(obstacles.count - 1) more" : ""
        return "\(first.name) is \(first.value), wanted \(first.threshold)\(more); \(first.advice)"
    }

    // MARK: drills

    private mutating func drillAsked(
        _ order: DrillOrder, _ by: String, _ now: Int64, _ actions: inout [Action]
    ) {
        guard state.standing == .running || state.standing == .paused else {
            return actions.append(.refused("it is \(state.standing.rawValue): resume it first"))
        }
        if let work = state.work { return actions.append(.refused("\(work.rawValue) is under way: wait for its end")) }
        if state.drill != nil { return actions.append(.refused("the drill before is just ending: wait for it")) }
        if order.isWhole {
            // What it moves is what the cutover moves, so it may where that may.
            guard state.phase == .cutover, state.standing == .running else {
                let here = "\(place) (\(state.standing.rawValue))"
                return actions.append(.refused("a whole drill begins where the cutover would, and this is at \(here)"))
            }
            if let words = Self.words(of: blocking(now)) { return actions.append(.refused(words)) }
        }
        state.work = .drill
        state.drill = order
        state.cause = "drill, \(order.words)"
        state.by = by
        actions += [.perform(.drill), .accepted(state.cause)]
    }

    private mutating func drilled(_ result: DrillResult, _ actions: inout [Action]) {
        guard state.drill != nil, !state.isOver else { return }
        let isWhole = isDrillingWhole
        state.drill = nil
        state.drilled = result
        if !result.hasPassed { actions.append(.alarm("the drill failed: \(result.words)")) }
        // Aborted meanwhile, and something else is under way.
        guard state.work == .drill else { return }
        state.work = nil
        if state.standing == .returning {
            if isWhole, readings.isSwitched == true {
                // Or were a moment ago: to order it once more does no harm, to forget it would leave them there.
                state.isSwitched = true
                retryAt = lastTick
            } else {
                state.standing = .aborted
            }
            return
        }
        state.cause = "\(result.hasPassed ? "drill passed" : "drill failed"): \(result.words)"
        // What was measured meanwhile says nothing of now.
        if isWhole { memory = GateMemory() }
        if isWhole, !result.hasPassed {
            // Its way back has taken the reads away: whoever resumes brings them back, though it is paused already.
            if state.standing == .running { stand(.paused, state.cause, by: "godwit") }
        } else if isWhole, hasReadsOnNew {
            actions.append(.reads(step: state.step, keepsRollBack: false))
            readings.readsOverruled = ""
        }
    }

    /// `shift, reads 25 %`
    package var place: String {
        if let work = state.work { return "\(state.phase.rawValue), \(work.rawValue) is under way" }
        if state.phase == .shift, state.standing == .running || state.standing == .paused {
            return "shift, reads \(Self.words(manifest.steps[state.step]))"
        }
        return state.phase.rawValue
    }

    /// Where whoever orders something may say that it is: `place`, or how it stands once it does not go on.
    package var position: String {
        switch state.standing {
        case .running, .paused: place
        case .returning, .aborted, .removing, .removed, .finished: state.standing.rawValue
        }
    }

    private mutating func pause(_ reason: String, _ by: String, _ actions: inout [Action]) {
        switch state.standing {
        case .running:
            stand(.paused, reason, by: by)
            actions.append(.accepted("it stays where it is until resume"))
        case .paused, .aborted, .returning, .removing, .removed, .finished:
            actions.append(.refused("it is \(state.standing.rawValue)"))
        }
    }

    private mutating func resume(_ by: String, _ now: Int64, _ actions: inout [Action]) {
        switch state.standing {
        case .running, .removing, .removed, .finished:
            return actions.append(.refused("it is \(state.standing.rawValue)"))
        case .paused:
            stand(.running, "resumed", by: by)
            if hasReadsOnNew {
                actions.append(.reads(step: state.step, keepsRollBack: false))
                readings.readsOverruled = ""
            }
        case .returning:
            // The writes are NEW's still.
            retryAt = nil
            stand(.running, "resumed: the writes stay on NEW", by: by)
            if state.phase == .cutover { enter(.watch, now) }
        case .aborted:
            // What was found before does not count any more.
            let phase: MigrationPhase = !state.isPrepared ? .prepare : state.phase < .mirror ? state.phase : .mirror
            stand(.running, "resumed from \(phase.rawValue)", by: by)
            enter(phase, now)
            if phase == .prepare {
                state.work = .install
                actions.append(.perform(.install))
            }
        }
        state.abortCause = nil
        memory = GateMemory()
        watch = AbortWatch(manifest.abort)
        actions.append(.accepted(place))
    }

    private mutating func approve(_ by: String, _ actions: inout [Action]) {
        guard state.standing != .aborted else { return actions.append(.refused("it is aborted: resume it first")) }
        guard manifest[state.phase].approvals > 0 else {
            return actions.append(.refused("\(state.phase.rawValue) asks for no approval"))
        }
        guard !by.isEmpty else { return actions.append(.refused("who approves must give a name")) }
        guard !state.approvals.contains(by) else { return actions.append(.refused("\(by) has approved already")) }
        guard state.approvals.count < ManifestLimits.approvalsMax else {
            return actions.append(.refused("there are enough approvals"))
        }
        state.approvals.append(by)
        actions.append(.accepted("\(state.approvals.count) of \(manifest[state.phase].approvals) approvals"))
    }

    // MARK: steps

    private mutating func stand(_ standing: MigrationState.Standing, _ cause: String, by: String) {
        state.standing = standing
        state.cause = cause
        state.by = by
    }

    private mutating func enter(_ phase: MigrationPhase, _ now: Int64) {
        state.phase = phase
        state.step = 0
        state.since = now
        state.approvals = []
        memory = GateMemory()
    }

    private mutating func advance(_ cause: String, by: String, _ now: Int64, _ actions: inout [Action]) {
        state.cause = cause
        state.by = by
        if !state.isSwitched, let found = MigrationState.Baseline(readings) { state.baseline = found }
        switch state.phase {
        case .shift where following != nil:
            state.step += 1
            state.since = now
            memory = GateMemory()
            actions.append(.reads(step: state.step, keepsRollBack: false))
        case .shift:
            let last = state.step
            enter(.cutover, now)
            state.step = last
        case .shadow:
            enter(.shift, now)
            actions.append(.reads(step: 0, keepsRollBack: false))
        case .cutover:
            state.work = .switchOver
            actions.append(.perform(.switchOver))
        case .cleanup:
            state.work = .remove
            actions.append(.perform(.remove))
        case .prepare, .backfill, .mirror, .validate, .watch:
            if let next = state.phase.next { enter(next, now) }
        }
    }

    private mutating func abort(_ reason: String, by: String, _ actions: inout [Action]) {
        actions.append(.holdReads)
        retryAt = nil
        if state.work == .drill { actions.append(.cancelDrill) }
        switch (state.work, state.isSwitched) {
        case (.drill, false) where isDrillingWhole: stand(.returning, reason, by: by)
        // It may have happened: what comes of it is told first.
        case (.switchOver, _): stand(.returning, reason, by: by)
        case (_, true):
            stand(.returning, reason, by: by)
            state.work = .switchBack
            actions.append(.perform(.switchBack))
        case (_, false):
            stand(.aborted, reason, by: by)
            state.work = nil
        }
        state.approvals = []
    }

    // MARK: what work has come to

    private mutating func worked(_ work: MigrationState.Work, _ now: Int64, _ actions: inout [Action]) {
        // What was aborted meanwhile.
        if work == .install, !state.isOver { state.isPrepared = true }
        guard state.work == work else { return }
        state.work = nil
        state.isForced = false
        switch (work, state.standing) {
        case (.install, _): state.cause = "prepared"
        case (.switchOver, .returning):
            state.isSwitched = true
            state.work = .switchBack
            actions.append(.perform(.switchBack))
        case (.switchOver, _):
            state.isSwitched = true
            state.cause = "NEW has the writes"
            enter(.watch, now)
        case (.switchBack, _):
            state.isSwitched = false
            state.standing = .aborted
        case (.remove, .removing):
            state.standing = .removed
            state.cause = "nothing of Godwit is left in both databases"
        case (.remove, _):
            state.cause = "nothing of Godwit is left in both databases"
            state.standing = .finished
        case (.drill, _): preconditionFailure("a drill ends by its result")
        }
    }

    private mutating func failed(
        _ work: MigrationState.Work, _ reason: String, _ now: Int64, _ actions: inout [Action]
    ) {
        guard state.work == work else { return }
        state.work = nil
        state.isForced = false
        switch (work, state.standing) {
        case (.switchOver, .returning): state.standing = .aborted
        case (.switchBack, _):
            retryAt = now + Int64(Self.returnRetrySeconds * 1e6)
            actions.append(.alarm("the writes cannot go back to OLD yet, it is tried again: \(reason)"))
        case (.remove, .removing):
            state.standing = .aborted
            state.cause = "cannot remove: \(reason)"
            // The mirror has ended, and some of it may be gone: whoever resumes prepares again.
            state.isPrepared = false
        case (.install, _), (.switchOver, _), (.remove, _), (.drill, _):
            state.cause = "\(work.rawValue) failed: \(reason)"
            state.by = "godwit"
            if work == .remove { state.isPrepared = false }
            // Nobody is to be surprised by a second try, or woken each second by one that fails again.
            if work == .switchOver || work == .remove, state.standing == .running { state.standing = .paused }
            actions.append(.alarm(state.cause))
        }
    }
}

extension MigrationPhase {
    package static func < (left: MigrationPhase, right: MigrationPhase) -> Bool { left.position < right.position }
}
