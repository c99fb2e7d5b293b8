import Configuration

/// When a migration goes back by itself: a limit was passed for long enough, without a break. A value, one owner; times
/// are microseconds since 1970.
struct AbortWatch: Sendable {
    enum Verdict: Sendable, Equatable {
        case fine
        case warn(String)
        case abort(String)
    }

    private let limits: MigrationManifest.Abort
    private var passedSince: [String: Int64] = [:]
    private var hasWarned = false

    init(_ limits: MigrationManifest.Abort) { self.limits = limits }

    mutating func judge(_ state: MigrationState, _ readings: MigrationReadings, now: Int64) -> Verdict {
        let passed = Self.passed(limits, state, readings)
        passedSince = passedSince.filter { entry in passed.contains { $0.name == entry.key } }
        for limit in passed {
            let since = passedSince[limit.name] ?? now
            passedSince[limit.name] = since
            let held = limit.isAtOnce ? 0 : limits.heldSeconds
            if Double(now - since) / 1e6 >= held { return .abort(limit.words) }
        }
        return warning(state, readings)
    }

    private mutating func warning(_ state: MigrationState, _ readings: MigrationReadings) -> Verdict {
        guard let lag = readings.lagSeconds, lag > limits.lagWarnSeconds, state.phase >= .mirror else {
            hasWarned = false
            return .fine
        }
        if hasWarned { return .fine }
        hasWarned = true
        return .warn("the mirror is \(GateJudge.text(lag)) s behind (warning from "
            + "\(GateJudge.text(limits.lagWarnSeconds)) s, back to OLD from \(GateJudge.text(limits.lagSeconds)) s)")
    }

    private struct Passed {
        var name: String
        var words: String
        /// A count does not need to be held.
        var isAtOnce = false
    }

    /// Limits that are passed now. What NEW answers counts while it answers, lag from then on.
    private static func passed(
        _ limits: MigrationManifest.Abort, _ state: MigrationState, _ readings: MigrationReadings
    ) -> [Passed] {
        var all: [Passed] = []
        // Behind the switch, going back would make a difference worse; and one who is behind is no better a place.
        if !state.isSwitched, let verify = readings.verify, verify.outcome == .different,
            verify.differing >= limits.validationErrors {
            all.append(Passed(
                name: "validation", words: "\(verify.differing) keys differ, the limit is \(limits.validationErrors)",
                isAtOnce: true))
        }
        guard state.phase >= .shift else { return all }
        if !state.isSwitched, let lag = readings.lagSeconds, lag > limits.lagSeconds {
            all.append(Passed(
                name: "lag",
                words: "\(GateJudge.text(lag)) s behind, the limit is \(GateJudge.text(limits.lagSeconds)) s"))
        }
        if let compared = readings.compared, compared.reads >= readings.callsMin,
            compared.mismatchPercent > limits.mismatchPercent {
            let found = "\(GateJudge.text(compared.mismatchPercent)) % of the compared reads differ"
            all.append(Passed(
                name: "mismatch", words: "\(found), the limit is \(GateJudge.text(limits.mismatchPercent)) %"))
        }
        guard let new = readings.new, new.calls >= readings.callsMin else { return all }
        if new.errorPercent > limits.errorPercent {
            all.append(Passed(
                name: "errors", words: "\(GateJudge.text(new.errorPercent)) % errors on NEW, the limit is "
                    + "\(GateJudge.text(limits.errorPercent)) %"))
        }
        // Behind the switch nobody reads on OLD: there is nothing to compare with.
        guard !state.isSwitched, let old = readings.old, old.calls >= readings.callsMin else { return all }
        if new.errorPercent > old.errorPercent + limits.errorPoints {
            all.append(Passed(
                name: "errors over OLD", words: "\(GateJudge.text(new.errorPercent)) % errors on NEW, "
                    + "\(GateJudge.text(old.errorPercent)) % on OLD; the limit is "
                    + "\(GateJudge.text(limits.errorPoints)) points more"))
        }
        if let ours = old.p95Micros, let theirs = new.p95Micros {
            let (left, right) = (Double(ours) / 1000, Double(theirs) / 1000)
            if right > max(left * limits.latencyFactor, left + GateJudge.slackMillis) {
                all.append(Passed(
                    name: "latency", words: "p95 of NEW is \(GateJudge.text(right)) ms, of OLD "
                        + "\(GateJudge.text(left)) ms; the limit is \(GateJudge.text(limits.latencyFactor)) times"))
            }
        }
        return all
    }
}

extension MigrationPhase {
    static func >= (left: MigrationPhase, right: MigrationPhase) -> Bool { left.position >= right.position }
}
