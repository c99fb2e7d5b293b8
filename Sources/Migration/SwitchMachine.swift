/// The order of a switch's steps, and what a failure of each means. Pure; owned by the thread that performs it.
///
/// The commit point is `claim`: one transaction on the side that is to take the writes. Before it every failure takes
/// everything back; behind it there is only forwards, and what fails there is left to the recovery. A claim whose
/// answer was lost is found out about first.
package struct SwitchMachine {
    package enum Event: Equatable {
        case start
        /// The step that was asked for has been done.
        case done(SwitchStep)
        /// It could not be done, or not in time.
        case failed(SwitchStep, reason: String)
        /// A guard rail is not met.
        case railsMissed
        /// The claim was sent, and its answer never came.
        case claimUnknown(reason: String)
        /// What the side says of the claim: it has it, or it can have it never any more.
        case claimFound(Bool)
        case claimUnreachable(reason: String)
        /// Everything is as it was before.
        case takenBack
        /// The fence could not be taken away: its side does not answer.
        case takeBackFailed(reason: String)
    }

    package enum Action: Equatable {
        case perform(SwitchStep)
        /// Ask the side that was to claim, and let it refuse from now on if it has not.
        case findOutAboutClaim
        /// Take the fence away if there may be one, end the transactions, let held units go on where they were.
        case takeBack(mayBeFenced: Bool)
        case finish(SwitchReport.Outcome)
    }

    private enum State: Equatable {
        case idle
        case performing(SwitchStep)
        case findingOut(reason: String)
        case takingBack(reason: String)
        case finished
    }

    private var state: State = .idle
    private let isDryRun: Bool

    package init(isDryRun: Bool) { self.isDryRun = isDryRun }

    package var isFinished: Bool { state == .finished }

    package mutating func handle(_ event: Event) -> Action {
        switch (state, event) {
        case (.idle, .start):
            return begin(.rails)
        case (.performing(.rails), .railsMissed):
            return finish(.refused)
        case (.performing(let step), .done(let done)) where step == done:
            return after(step)
        case (.performing(let step), .failed(let failed, let reason)) where step == failed:
            return failedStep(step, reason)
        case (.performing(.claim), .claimUnknown(let reason)):
            state = .findingOut(reason: reason)
            return .findOutAboutClaim
        case (.findingOut, .claimFound(true)):
            return begin(.swap)
        case (.findingOut(let reason), .claimFound(false)):
            return takeBack(reason, mayBeFenced: true)
        case (.findingOut, .claimUnreachable(let reason)):
            return finish(.undecided(reason: reason))
        case (.takingBack(let reason), .takenBack):
            return finish(.resumed(reason: reason))
        case (.takingBack, .takeBackFailed(let reason)):
            return finish(.undecided(reason: reason))
        case (.idle, _), (.performing, _), (.findingOut, _), (.takingBack, _), (.finished, _):
            preconditionFailure("\(event) in state \(state)")
        }
    }

    private mutating func begin(_ step: SwitchStep) -> Action {
        state = .performing(step)
        return .perform(step)
    }

    private mutating func finish(_ outcome: SwitchReport.Outcome) -> Action {
        state = .finished
        return .finish(outcome)
    }

    private mutating func takeBack(_ reason: String, mayBeFenced: Bool) -> Action {
        state = .takingBack(reason: reason)
        return .takeBack(mayBeFenced: mayBeFenced)
    }

    private mutating func after(_ step: SwitchStep) -> Action {
        switch step {
        case .rails: isDryRun ? finish(.ready) : begin(.reserve)
        case .reserve: begin(.hold)
        case .hold: begin(.fence)
        case .fence: begin(.sequences)
        case .sequences: begin(.batch)
        case .batch: begin(.claim)
        case .claim: begin(.swap)
        case .swap: begin(.handOver)
        case .handOver: begin(.reverse)
        case .reverse: finish(.done)
        }
    }

    private mutating func failedStep(_ step: SwitchStep, _ reason: String) -> Action {
        let words = "\(step.rawValue): \(reason)"
        switch step {
        case .rails: return finish(.resumed(reason: words))
        case .reserve, .hold: return takeBack(words, mayBeFenced: false)
        // The fence's own commit may have been done although its answer was lost.
        case .fence, .batch, .sequences, .claim: return takeBack(words, mayBeFenced: true)
        case .swap: return finish(.undecided(reason: words))
        // The other side has the writes; the mirror back begins as soon as the fenced side answers again.
        case .handOver, .reverse: return finish(.done)
        }
    }
}
