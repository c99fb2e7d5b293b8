import Primitives

/// The running Godwit's part of a hand-over: when it may begin, what is prepared, undone or done. Pure; owned by the
/// control thread.
///
/// Reads of the side that is not the authority are withheld before the other process serves its first client: from
/// then on this one does not know what users write over there, and a user reads what it wrote.
package struct HandOverMachine {
    package enum Event: Equatable {
        /// - `obstacle`: what stands in the way, for the one who asks; nil: nothing.
        case step(TakeoverStep, obstacle: String?)
        case elapsed(now: MonotonicInstant)
        /// The end was ordered, by whatever way.
        case ending
    }

    package enum Action: Equatable {
        case grant
        case refuse(String)
        /// No client is accepted; the kernel keeps those that come.
        case pauseListening
        case withholdReads
        case go
        /// As if nothing had been.
        case resumeListening
        case allowReads
        /// The other process is the service: it has the sockets, the mirrors, the supervisor.
        case leave(process: Int32)
        /// Clients have had the time to go by themselves.
        case drain
        case tell(String)
        case warn(String)
    }

    private enum State: Equatable {
        case serving
        case asked(process: Int32)
        case paused(process: Int32)
        /// - Parameter drainsAt: nil: its clients have been told to go.
        case left(process: Int32, drainsAt: MonotonicInstant?)
        case ending
    }

    private var state: State = .serving
    /// Our end is the end of all: a container goes with its first process.
    private let isFirst: Bool

    package init(isFirst: Bool = false) { self.isFirst = isFirst }

    /// When `elapsed` is to be said.
    package var deadline: MonotonicInstant? {
        if case .left(_, let drainsAt) = state { drainsAt } else { nil }
    }

    /// The process that will be the service, or is: orders are its own from here on.
    package var successor: Int32? {
        switch state {
        case .paused(let process), .left(let process, _): process
        case .serving, .asked, .ending: nil
        }
    }

    private static let firstProcess =
        "it is process 1 of a container, which would end with it: start another container beside it"

    /// Another process is the service.
    package var hasLeft: Bool { if case .left = state { true } else { false } }

    /// - Parameter waitSeconds: for clients to leave by themselves, before they are told to.
    package mutating func handle(
        _ event: Event, now: MonotonicInstant, waitSeconds: Double, _ actions: inout [Action]
    ) {
        switch (state, event) {
        case (.serving, .step(.asked(let process), let obstacle)):
            if let obstacle = isFirst ? Self.firstProcess : obstacle {
                return actions += [.refuse(obstacle), .warn("process \(process) was refused: \(obstacle)")]
            }
            state = .asked(process: process)
            actions += [.grant, .tell("process \(process) takes over: it was given the sockets")]
        case (.asked(let process), .step(.ready, let obstacle)):
            if let obstacle {
                // A PAUSE came in between. Without `go` the other one gives up.
                state = .serving
                return actions += [.refuse(obstacle), .warn("process \(process) was refused: \(obstacle)")]
            }
            state = .paused(process: process)
            actions += [.withholdReads, .pauseListening, .go]
        case (.paused, .step(.serving(let process), _)):
            state = .left(process: process, drainsAt: now.advanced(bySeconds: waitSeconds))
            actions += [
                .leave(process: process),
                .tell("process \(process) serves new clients; the present ones have \(Int(waitSeconds)) s to leave"),
            ]
        case (.asked(let process), .step(.lost(let why), _)):
            state = .serving
            actions.append(.warn("process \(process) did not take over, nothing has changed: \(why)"))
        case (.paused(let process), .step(.lost(let why), _)):
            state = .serving
            actions += [
                .resumeListening, .allowReads,
                .warn("process \(process) did not take over, clients are accepted again: \(why)"),
            ]
        case (.left(let process, _), .step(.lost(let why), _)):
            actions.append(.warn("process \(process), which took over: \(why)"))
        case (.left(let process, let drainsAt), .elapsed(let now)):
            guard let drainsAt, drainsAt <= now else { return }
            // It stays one that has left: its end is not the service's, and what is ordered is not its to take.
            state = .left(process: process, drainsAt: nil)
            actions += [.drain, .tell("the clients that are still here, and not with process \(process), are let go")]
        case (.asked, .ending), (.serving, .ending), (.paused, .ending):
            if case .paused = state { actions.append(.allowReads) }
            state = .ending
        case (.ending, .step(.asked, _)):
            actions.append(.refuse("it is shutting down"))
        case (.asked, .step(.asked, _)), (.paused, .step(.asked, _)), (.left, .step(.asked, _)):
            actions.append(.refuse("another process takes over already"))
        case (.ending, .step(.ready, _)):
            actions.append(.refuse("it is shutting down"))
        case (_, .step(.successorExited(let process, let status), _)):
            guard status != 0 else { return }
            actions.append(.warn("process \(process), started to take over, ended with status \(status)"))
        case (.serving, .elapsed), (.asked, .elapsed), (.paused, .elapsed), (.ending, .elapsed), (.ending, .ending),
            (.left, .ending), (.serving, .step), (.asked, .step), (.paused, .step), (.left, .step), (.ending, .step):
            break
        }
    }
}
