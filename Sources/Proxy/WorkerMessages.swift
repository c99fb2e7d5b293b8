import Capture
import Console
import PGWire
import Pooling
import Primitives
import Reactor
import Routing
import SQLAnalysis

/// What other threads ask of a Worker.
enum WorkerMessage: Sendable {
    /// A client that worker 0 accepted; the descriptor is owned by the message until it is taken.
    case adopt(descriptor: CInt, address: SocketAddress)
    case apply(ProxySnapshot)
    case cancel(processID: Int32, secret: [UInt8], by: Canceller)
    /// It has been passed on, or there was nothing to cancel.
    case cancelEnded(ClientID)
    /// A console on worker `from` wants everybody's figures.
    case collect(request: UInt64, from: Int)
    case collected(request: UInt64, WorkerReport)
    /// The control plane wants everybody's figures.
    case report(ReportCollection)
    case controlDone(client: ClientID, ControlOutcome)
    case lookedUp(UInt64, LookUpAnswer)
    /// A limit over all threads has room again that somebody wanted.
    case slotsFreed
    /// Somebody wants the place of an idle server of this database, or of this user.
    case evict(database: String?, user: String?, side: Side)
    /// Clients of `by` wait for a server of this pool, and there was an idle one here.
    case serverWanted(PoolKey, by: Int)
    case serverMoved(MovedServer)
    /// A pool has room again for a server, and clients that lack one.
    case placesFreed(PoolKey)
    /// What an operator orders of all traffic.
    case gate(GateControl.Action)
    /// A console on worker `from` wants this client to go.
    case killClient(ClientID, from: Int, console: ClientID)
    /// A breaker opened: who waits for that side need not.
    case sideTripped(database: String, Side)
    /// The authority has told how it spells what a startup packet had.
    case spelled(database: String, SpelledValues)
    case shapeDemoted(database: String, ShapeID, TripCause)
    /// A sampled read has run on both sides.
    case compared(database: String, AnalysedStatement, differs: Bool)
    /// Traffic of its database is to be written down, from now on.
    case capture(CaptureSession)
    /// Nothing more for this one.
    case captureEnds(CaptureSession)
    /// The control plane has given up the open transaction's DDL: the client has to go.
    case endFollowed(client: ClientID, change: UInt64, ErrorResponse)
    /// Stop accepting for a moment, or go on.
    case pauseListening(Bool)
    /// Copies of the sockets on which clients are accepted are wanted; the reactor that has none says nothing.
    case shareListeners(@Sendable ([CInt]) -> Void)
}

/// A connection that wants a query cancelled. It is closed when that has been passed on, as a server does it: libpq
/// takes the end of its connection for that, and the client's next query is not hit.
package struct Canceller: Sendable {
    /// -1: it came to another process, which the control thread answers by the number in `client`.
    let worker: Int
    let client: ClientID

    init(worker: Int, client: ClientID) {
        self.worker = worker
        self.client = client
    }

    /// A request that another process has passed on to us.
    package init(passedOn number: UInt64) {
        worker = -1
        client = ClientID(number)
    }

    /// The number of a request that was passed on to us; nil: it came to us.
    package var passedOn: UInt64? { worker < 0 ? client.value : nil }
}

/// What a console asks of the control thread.
package enum ControlRequest: Sendable {
    case reload
    case reads(database: String, hundredths: Int)
    /// The share of the reads that are compared, until the next reload.
    case shadow(database: String, hundredths: Int)
    case mirror(database: String, MirrorOrder)
    /// A setting, until the next reload.
    case set(key: String, value: String)
    case gate(GateCommand)
    case force(database: String, ForceOrder)
    case capture(database: String, CaptureCommand)
    case switchOver(SwitchCommand)
}

/// What a client asks for DDL that is to run on both sides (`mirror.ddl: barrier`), and the session that it runs in.
package struct ChangeOrder: Sendable, Equatable {
    package enum Part: Sendable, Equatable {
        /// By itself: a transaction on each side.
        case whole
        /// Of the client's own open transaction, which goes on on the authority when the other side has the statement.
        case statement
        /// That transaction has gone back to a savepoint behind which it had DDL. Not answered.
        case goBack
        /// That transaction, of this number on the authority, may commit.
        case commit(transaction: String)
        /// A unit that might have committed it has ended, or the transaction, or the connection.
        case end(ChangeEnd)
    }

    package var database: String
    package var user: String
    package var part = Part.whole
    /// Tells the open transaction from others of the client.
    package var change: UInt64 = 0
    package var statement = ""
    /// SQL that makes a session what the client's is.
    package var settings = ""
    /// The same of what the open transaction has set.
    package var localSettings = ""
    /// Statements of the open transaction that stand on the authority: what it has rolled back were the last.
    package var standing = 0
    /// The open transaction has savepoints, so that what fails, or stands, may be rolled back by itself.
    package var hasSavepoint = false
    /// The open transaction has written before, and may hold locks that others wait for.
    package var mayHoldLocks = false
}

/// Whether a client's DDL for both sides has yet to be brought to its end.
package struct ChangeEnd: Sendable, Equatable {
    /// No transaction of it is open any more, or nobody can tell.
    package var isOver: Bool
    /// The client waits to hear what has become of it.
    package var waits: Bool
}

/// What a migration wants of one database's traffic and mirror.
package enum MigrationTraffic: Sendable {
    /// Shares in hundredths of a percent: of all users, and of cohorts by their names.
    case reads(database: String, hundredths: Int, cohorts: [String: Int])
    /// All reads go to the authority, whatever the file says.
    case hold(database: String)
    case mirror(database: String, runs: Bool)
    /// Another Godwit with the same state has decided something of it, which lies ready.
    case adopt(database: String)
    /// NEW has it for good: no mirror, no switches, whatever the databases say of it, now and in later processes.
    case finish(database: String)
}

/// What the control thread answers to a `ControlRequest`.
package enum ControlOutcome: Sendable {
    case done
    /// Done; the sentence is for the operator.
    case noticed(String)
    /// Nothing was changed; the sentence says why.
    case refused(String)
    case failed(ErrorResponse)
    /// Done, or found out; the table tells it.
    case table(ConsoleReport)
}

/// What a switch of the authority asks of the control thread.
package enum SwitchRequest: Sendable {
    case hold(database: String, limitSeconds: Double, endsPinned: Bool)
    /// Units that may write wait, for a moment and for the same authority; what the asker has open goes on.
    case holdForChange(database: String, limitSeconds: Double, asker: GateAsker)
    case letGo(database: String)
    /// It is near: see `GateCommand.warm`.
    case warm(database: String, limitSeconds: Double)
    /// This side takes the writes from now on: told when all threads know it. `letsGo`: and when what was held has
    /// gone on, which no thread does before all know.
    case own(database: String, side: Side, epoch: Int64, letsGo: Bool)
    /// The mirror runs from the authority to the other side.
    case turnMirror(database: String)
}

/// The answer to a `SwitchRequest`.
package enum SwitchReply: Sendable {
    /// `at`: when the last thread had it.
    case gate(GateControl.Answer, at: MonotonicInstant)
    case done
}

/// All that the control thread hears: of reactors, consoles, other processes, migrations.
package enum ControlMessage: Sendable {
    case request(ControlRequest, worker: Int, client: ClientID)
    /// See `GateControl.Event`; `at`: when the thread looked.
    case standing(watch: UInt64, worker: Int, GateBlockers, at: MonotonicInstant)
    /// A console is gone, or does not want to wait any longer, while its request is under way.
    case consoleGone(worker: Int, client: ClientID)
    case consoleCanceled(worker: Int, client: ClientID)
    case workerEnded(Int)
    /// Another process takes our place, or we have taken one's.
    case takeover(TakeoverStep)
    /// A cancel request for none of our clients; asked only while there is another process whose clients it may mean.
    case strayCancel(processID: Int32, secret: [UInt8], by: Canceller)
    /// A request that was passed on to us is done with.
    case canceled(number: UInt64)
    /// DDL was committed through us: what is known of the catalog may be old.
    case schemaChanged(database: String)
    /// The breaker of a database's other side opened because it answers worse than it may.
    case readsUnsafe(database: String, cause: String, figures: [EventRecord.Figure])
    /// Its file is closed.
    case captureEnded(CaptureSession)
    /// `done` is called on the control thread, or on a capture's end.
    case captureAsked(CaptureAsked, done: @Sendable (CaptureReply) -> Void)
    /// A signal came.
    case signal(Int32)
    /// What a migration orders; `done` is called on the control thread, or later, when it is in force.
    case migration(MigrationTraffic, done: @Sendable (ControlOutcome) -> Void)
    /// A client's DDL that runs on both sides; answered as a console's request is.
    case change(ChangeOrder, worker: Int, client: ClientID)
    /// What a switch of the authority needs of the traffic; answered by mail.
    case switching(SwitchRequest, reply: Mailbox<SwitchReply>?)
    /// An authority's catalog was read, and differs from what was known.
    case catalog(database: String, CatalogSnapshot)
}
