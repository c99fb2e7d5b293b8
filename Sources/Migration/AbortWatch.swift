import Configuration

/// Which limit has taken a migration back: what an operator asks first. Immutable, any thread.
package struct AbortCause: Sendable, Equatable, Codable {
    package enum Limit: String, Sendable, Codable, CaseIterable {
        case errors
        case errorsOverOld = "errors_over_old"
        case latency, mismatch, lag, validation
    }

    package var limit: Limit
    /// What was measured last, and what it may be: percent, milliseconds, seconds or keys.
    package var figure: Double
    package var threshold: Double
    /// Microseconds since 1970 from which on it was passed without a break, and at which it took the migration back.
    package var since: Int64
    package var at: Int64
    /// One sentence.
    package var words: String
}

/// When a migration goes back by itself: a limit was passed for long enough, without a break. A value, one owner; times
/// are microseconds since 1970.
struct AbortWatch: Sendable {
    enum Verdict: Sendable, Equatable {
        case fine
        case warn(String)
        case abort(AbortCause)
    }

    private let limits: MigrationManifest.Abort
    private var passedSince: [AbortCause.Limit: Int64] = [:]
    private var hasWarned = false
    /// Of a mirror back that is later than it may be before the switch.
    private var hasWarnedOfWayBack = false

    init(_ limits: MigrationManifest.Abort) { self.limits = limits }

    mutating func judge(_ state: MigrationState, _ readings: MigrationReadings, now: Int64) -> Verdict {
        let passed = Self.passed(limits, state, readings)
        passedSince = passedSince.filter { entry in passed.contains { $0.limit == entry.key } }
        for found in passed {
            let since = passedSince[found.limit] ?? now
            passedSince[found.limit] = since
            // A count does not need to be held.
            let held = found.limit == .validation ? 0 : limits.heldSeconds
            if Double(now - since) / 1e6 >= held {
                return .abort(AbortCause(
                    limit: found.limit, figure: found.figure, threshold: found.threshold, since: since, at: now,
                    words: found.words))
            }
        }
        return warning(state, readings)
    }

    private mutating func warning(_ state: MigrationState, _ readings: MigrationReadings) -> Verdict {
        guard let lag = readings.lagSeconds, lag > limits.lagWarnSeconds, state.phase >= .mirror else {
            (hasWarned, hasWarnedOfWayBack) = (false, false)
            return .fine
        }
        let found = "\(GateJudge.text(lag)) s behind"
        if state.isSwitched, lag > limits.lagSeconds, !hasWarnedOfWayBack {
            (hasWarned, hasWarnedOfWayBack) = (true, true)
            return .warn("OLD is \(found) (limit \(GateJudge.text(limits.lagSeconds)) s): the way back is no better "
                + "place, so the writes stay on NEW; see to OLD and to the mirror back")
        }
        if hasWarned { return .fine }
        hasWarned = true
        let then = state.isSwitched ? "told again" : "back to OLD"
        return .warn("the mirror is \(found) (warning from \(GateJudge.text(limits.lagWarnSeconds)) s, \(then) from "
            + "\(GateJudge.text(limits.lagSeconds)) s)")
    }

    private struct Passed {
        var limit: AbortCause.Limit
        var figure: Double
        var threshold: Double
        var words: String

        init(_ limit: AbortCause.Limit, _ figure: Double, over threshold: Double, _ words: String) {
            self.limit = limit
            self.figure = figure
            self.threshold = threshold
            self.words = words
        }
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
                .validation, Double(verify.differing), over: Double(limits.validationErrors),
                "\(verify.differing) keys differ, the limit is \(limits.validationErrors)"))
        }
        guard state.phase >= .shift else { return all }
        if !state.isSwitched, let lag = readings.lagSeconds, lag > limits.lagSeconds {
            all.append(Passed(
                .lag, lag, over: limits.lagSeconds,
                "\(GateJudge.text(lag)) s behind, the limit is \(GateJudge.text(limits.lagSeconds)) s"))
        }
        if let compared = readings.compared, compared.reads >= readings.callsMin,
            compared.mismatchPercent > limits.mismatchPercent {
            let found = "\(GateJudge.text(compared.mismatchPercent)) % of the compared reads differ"
            all.append(Passed(
                .mismatch, compared.mismatchPercent, over: limits.mismatchPercent,
                "\(found), the limit is \(GateJudge.text(limits.mismatchPercent)) %"))
        }
        guard let new = readings.new, new.calls >= readings.callsMin else { return all }
        return all + quality(limits, new, baseline(state, readings))
    }

    /// How NEW answers, for itself and against OLD.
    private static func quality(
        _ limits: MigrationManifest.Abort, _ new: MigrationReadings.Answers, _ old: MigrationState.Baseline?
    ) -> [Passed] {
        var all: [Passed] = []
        if new.errorPercent > limits.errorPercent {
            all.append(Passed(
                .errors, new.errorPercent, over: limits.errorPercent, "\(GateJudge.text(new.errorPercent)) % errors "
                    + "on NEW, the limit is \(GateJudge.text(limits.errorPercent)) %"))
        }
        guard let old else { return all }
        if new.errorPercent > old.errorPercent + limits.errorPoints {
            all.append(Passed(
                .errorsOverOld, new.errorPercent, over: old.errorPercent + limits.errorPoints,
                "\(GateJudge.text(new.errorPercent)) % errors on NEW, \(GateJudge.text(old.errorPercent)) % on OLD; "
                    + "the limit is \(GateJudge.text(limits.errorPoints)) points more"))
        }
        if let ours = old.p95Micros, let theirs = new.p95Micros {
            let (left, right) = (Double(ours) / 1000, Double(theirs) / 1000)
            let limit = max(left * limits.latencyFactor, left + GateJudge.slackMillis)
            if right > limit {
                all.append(Passed(
                    .latency, right, over: limit, "p95 of NEW is \(GateJudge.text(right)) ms, of OLD "
                        + "\(GateJudge.text(left)) ms; the limit is \(GateJudge.text(limits.latencyFactor)) times"))
            }
        }
        return all
    }

    /// OLD in the same window; behind the switch, where nobody uses it, as it was last before. nil: not known.
    private static func baseline(_ state: MigrationState, _ readings: MigrationReadings) -> MigrationState.Baseline? {
        state.isSwitched ? state.baseline : MigrationState.Baseline(readings)
    }
}

extension MigrationState.Baseline {
    /// nil: too few answers to say anything.
    init?(_ readings: MigrationReadings) {
        guard let old = readings.old, old.calls >= readings.callsMin else { return nil }
        self.init(errorPercent: old.errorPercent, p95Micros: old.p95Micros)
    }
}

extension MigrationPhase {
    static func >= (left: MigrationPhase, right: MigrationPhase) -> Bool { left.position >= right.position }
}
