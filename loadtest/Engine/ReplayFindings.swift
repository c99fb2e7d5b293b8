import LibPQ
import PGWire
import Primitives
import Replay

/// What a run finds: differences between two sides, and the report.
extension ReplayRun {
    // MARK: two sides

    /// - Returns: whether both sides are asked again: the unit has not ended before `finishRerun`.
    func note(_ outcomes: [StatementOutcome], of unit: ScriptUnit, _ side: PlayedConnection) -> Bool {
        let pair = side.pair
        var results = pair.results.removeValue(forKey: unit.number) ?? Array(repeating: nil, count: targets.count)
        results[side.side] = outcomes
        guard let first = results[0], let second = results[1] else {
            pair.results[unit.number] = results
            return false
        }
        var rules = ComparisonRules()
        rules.floatTolerance = options.floatTolerance
        guard let (statement, difference) = ResultComparison.difference(unit, first, second, rules) else {
            comparison.add(unit, .equal)
            return false
        }
        if unit.isSideDependent(statement) {
            comparison.add(unit, .sideDependent, statement: statement, words: difference.words)
            return false
        }
        // Of what somebody had ended nobody knows how long it would go on.
        let canRepeat = options.compares && unit.isRead && unit.repeatable?.isEmpty == false && pair.rerun == nil
            && !(unit.expected + first + second).contains { $0.state == Self.queryCancelled }
            && pair.sides.allSatisfy { $0.player.isIdle && $0.player.status != .failed && $0.state == .open }
        guard canRepeat, let bytes = unit.repeatable else {
            comparison.add(unit, .unproven, statement: statement, words: difference.words)
            return false
        }
        running += 1
        pair.rerun = PlayedPair.Rerun(
            unit: unit, first: [first, second], statement: statement, difference: difference,
            second: Array(repeating: nil, count: targets.count))
        for side in pair.sides {
            side.rerun = []
            send(bytes, to: side)
        }
        return true
    }

    func rerunHandled(_ event: ResultReader.Event, _ side: PlayedConnection) {
        switch event {
        case .outcome(let outcome): side.rerun?.append(outcome)
        case .ready:
            side.pair.rerun?.second[side.side] = side.rerun
            side.rerun = nil
            if side.pair.rerun?.second.allSatisfy({ $0 != nil }) == true { finishRerun(side.pair) }
        case .progress, .violation: break
        }
    }

    /// What gives the same twice on the first side, and something else on the second both times, differs.
    func finishRerun(_ pair: PlayedPair) {
        guard let rerun = pair.rerun else { return }
        pair.rerun = nil
        running -= 1
        finishedOnSide(rerun.unit)
        for side in pair.sides { side.rerun = nil }
        var rules = ComparisonRules()
        rules.floatTolerance = options.floatTolerance
        guard let first = rerun.second[0], let second = rerun.second[1] else {
            return comparison.add(rerun.unit, .unproven, statement: rerun.statement, words: rerun.difference.words)
        }
        let isStable = ResultComparison.difference(rerun.unit, rerun.first[0], first, rules) == nil
        let differsAgain = ResultComparison.difference(rerun.unit, first, second, rules) != nil
        // What is refused only when it is asked again says nothing of what it gives.
        let isRefused = first.contains { $0.kind == .failed } && !rerun.first[0].contains { $0.kind == .failed }
        let finding: PairStatistics.Finding = isRefused ? .unproven : isStable && differsAgain ? .mismatch : .noise
        comparison.add(rerun.unit, finding, statement: rerun.statement, words: rerun.difference.words)
        goOn(pair)
    }

    // MARK: what came of it

    /// What is under way when the time is over, or should be, has no latency yet: it may be what takes longest.
    func noteUnanswered() {
        for side in pairs.values.flatMap(\.sides) where !side.isGone {
            let times = side.player.unanswered { step in
                // At full speed nothing has a time of its own.
                if options.pace == .max { return nil }
                let nanos = dueNanos(step.micros)
                return nanos <= now.nanoseconds ? nanos : nil
            }
            let waited = times.map { now.nanoseconds - min($0, now.nanoseconds) }.max() ?? 0
            unanswered[side.side].count += times.count
            unanswered[side.side].micros = max(unanswered[side.side].micros, waited / 1000)
        }
    }

    /// Some waited longer than all that had an answer: the latencies are not the whole truth.
    private func hidesLatencies(_ side: Int) -> Bool {
        unanswered[side].micros > max(1_000_000, statistics[side].present.max)
    }

    package func report(kind: String, title: String, startedAt: String, stopped: Bool) -> RunReport {
        var notes = source.notes
        if stopped { notes.append("the run was stopped before its end") }
        if let endsEarly { notes.append(endsEarly) }
        for side in targets.indices where hidesLatencies(side) {
            let (count, micros) = unanswered[side]
            notes.append(
                "\(targets[side].name): \(count) units were due and had no answer at the end, one for "
                    + "\(ReportText.millis(micros)) ms: the latencies do not have them")
        }
        if released > 0 { notes.append("the captured order could not be kept at \(released) places") }
        if options.pace != .max {
            let late = ReportText.millis(lateNanosMax / 1000)
            notes.append("the latest step was sent \(late) ms after its time; latencies count from its time")
        }
        let sides = statistics.map { $0.report(source.book, at: seconds) }
        let hasTwo = targets.count > 1
        return RunReport(
            kind: kind, title: title, startedAt: startedAt, seconds: seconds,
            captured: hasCaptured ? captured.summary : nil, sides: sides,
            comparison: hasTwo ? comparison.report(source.book) : nil, notes: notes,
            verdict: verdict(
                sides, wasCutShort: stopped || endsEarly != nil || targets.indices.contains(where: hidesLatencies)))
    }

    private func verdict(_ sides: [RunReport.Side], wasCutShort: Bool) -> RunReport.Verdict {
        // A comparison is of the two, whatever the capture has; a replay is of both with the capture, too.
        let isOther = !options.compares && sides.contains { $0.otherThanCaptured > 0 }
        let isDifferent = targets.count > 1 && comparison.totals.mismatches > 0 || isOther
        if isDifferent { return .different }
        let hasLosses = sides.contains { $0.unitsLost > 0 || $0.connectionsFailed > 0 || $0.connectionsLost > 0 }
        let isUnproven = targets.count > 1 && comparison.totals.unproven > 0
        return wasCutShort || hasLosses || isUnproven || sides.allSatisfy { $0.units == 0 } ? .unknown : .equal
    }
}
