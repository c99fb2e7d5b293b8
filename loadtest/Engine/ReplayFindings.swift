import LibPQ
import PGWire
import Replay

/// What a run finds: differences between two sides, and the report.
extension ReplayRun {
    // MARK: two sides

    func note(_ outcomes: [StatementOutcome], of unit: ScriptUnit, _ side: PlayedConnection) {
        let pair = side.pair
        var results = pair.results.removeValue(forKey: unit.number) ?? Array(repeating: nil, count: targets.count)
        results[side.side] = outcomes
        guard let first = results[0], let second = results[1] else {
            pair.results[unit.number] = results
            return
        }
        var rules = ComparisonRules()
        rules.floatTolerance = options.floatTolerance
        guard let (statement, difference) = ResultComparison.difference(unit, first, second, rules) else {
            return comparison.add(unit, .equal)
        }
        if unit.isSideDependent {
            return comparison.add(unit, .sideDependent, statement: statement, words: difference.words)
        }
        let canRepeat = options.compares && unit.isRead && unit.repeatable?.isEmpty == false && pair.rerun == nil
            && pair.sides.allSatisfy { $0.player.isIdle && $0.player.status != .failed && $0.state == .open }
        guard canRepeat, let bytes = unit.repeatable else {
            return comparison.add(unit, .unproven, statement: statement, words: difference.words)
        }
        pair.rerun = PlayedPair.Rerun(
            unit: unit, first: [first, second], statement: statement, difference: difference,
            second: Array(repeating: nil, count: targets.count))
        for side in pair.sides {
            side.rerun = []
            send(bytes, to: side)
        }
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
        for side in pair.sides { side.rerun = nil }
        var rules = ComparisonRules()
        rules.floatTolerance = options.floatTolerance
        guard let first = rerun.second[0], let second = rerun.second[1] else {
            return comparison.add(rerun.unit, .unproven, statement: rerun.statement, words: rerun.difference.words)
        }
        let isStable = ResultComparison.difference(rerun.unit, rerun.first[0], first, rules) == nil
        let differsAgain = ResultComparison.difference(rerun.unit, first, second, rules) != nil
        comparison.add(
            rerun.unit, isStable && differsAgain ? .mismatch : .noise, statement: rerun.statement,
            words: rerun.difference.words)
        goOn(pair)
    }

    // MARK: what came of it

    package func report(kind: String, title: String, startedAt: String, stopped: Bool) -> RunReport {
        var notes = source.notes
        if stopped { notes.append("the run was stopped before its end") }
        if let endsEarly { notes.append(endsEarly) }
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
            verdict: verdict(sides, wasCutShort: stopped || endsEarly != nil))
    }

    private func verdict(_ sides: [RunReport.Side], wasCutShort: Bool) -> RunReport.Verdict {
        let isDifferent = targets.count > 1
            ? comparison.totals.mismatches > 0 : sides.contains { $0.otherThanCaptured > 0 }
        if isDifferent { return .different }
        let hasLosses = sides.contains { $0.unitsLost > 0 || $0.connectionsFailed > 0 || $0.connectionsLost > 0 }
        let isUnproven = targets.count > 1 && comparison.totals.unproven > 0
        return wasCutShort || hasLosses || isUnproven || sides.allSatisfy { $0.units == 0 } ? .unknown : .equal
    }
}
