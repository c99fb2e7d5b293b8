import Capture
import LibPQ
import PGWire
import Primitives
import Reactor
import Replay

/// One captured connection on one side: its socket and its player. Used on the run's thread.
final class PlayedConnection {
    enum State: Equatable {
        /// Waits for its turn to connect.
        case waiting
        case connecting
        /// The session is being given what it had.
        case settingUp
        case open
        case closed
        /// It failed, or broke off.
        case lost
    }

    /// A unit that was asked to end, and when it is asked again.
    struct Cancelling {
        var unit: ScriptUnit
        var nanos: UInt64
        var wait: UInt64
    }

    let side: Int
    let pair: PlayedPair
    let player: SessionPlayer
    var state: State = .waiting
    var session: WireSession?
    var registration: Registration?
    var interest: Interest = []
    var reader: ResultReader
    var registeredDescriptor: CInt = -1
    /// ReadyForQuery messages of our own that are still to come.
    var setUpReplies = 0
    /// Statements that are run once more, and what they have given.
    var rerun: [StatementOutcome]?
    var cancelling: Cancelling?
    /// The place that it waits for, where order is kept.
    var orderedFor: UInt64?
    /// The last error, which may be why the server closes the connection.
    var farewell: String?

    init(side: Int, pair: PlayedPair, reader: consuming ResultReader) {
        self.side = side
        self.pair = pair
        player = SessionPlayer(connection: pair.connection)
        self.reader = reader
    }

    var isGone: Bool { state == .closed || state == .lost }
}

/// One captured connection on all sides. Used on the run's thread.
final class PlayedPair {
    struct Rerun {
        var unit: ScriptUnit
        var first: [[StatementOutcome]]
        var statement: Int
        var difference: ResultComparison.Difference
        var second: [[StatementOutcome]?]
    }

    let connection: UInt64
    let captured: CapturedConnection
    let prepared: [[UInt8]]
    /// When it is needed.
    let opensNanos: UInt64
    var sides: [PlayedConnection] = []
    /// Results of units that not all sides have finished yet.
    var results: [UInt64: [[StatementOutcome]?]] = [:]
    /// Both sides are asked again, and nothing else goes on meanwhile.
    var rerun: Rerun?
    /// It is in the list of those that wait for a time.
    var timer: UInt64?

    init(connection: UInt64, captured: CapturedConnection, prepared: [[UInt8]], opensNanos: UInt64) {
        self.connection = connection
        self.captured = captured
        self.prepared = prepared
        self.opensNanos = opensNanos
    }

    var isGone: Bool { sides.allSatisfy(\.isGone) }
}
