import Capture
import Configuration
import Console
import Digests
import Logging
import PGWire
import Pooling
import Primitives
import Reactor
import Routing
import SQLAnalysis
import Sessions

/// One application's connection: its socket, what its session has set and named, and the unit it is at.
/// Used on its reactor's thread.
final class ClientConnection {
    enum Phase {
        /// Not in yet, and in no pool.
        var isOutside: Bool { self == .login || self == .handshake || self == .cancelling }

        case login
        /// TLS is being agreed on.
        case handshake
        /// It wanted a query cancelled, and is closed when that has been passed on.
        case cancelling
        /// Proven, and waiting for a first server that tells us what to greet with.
        case greeting
        /// No server; the next unit is being gathered.
        case idle
        /// A unit waits for a server.
        case waiting
        /// An operator holds what the next unit is for.
        case held
        /// A read waits until NEW has caught up.
        case awaitingHorizon
        /// Its DDL runs on both sides, by other hands than a server's of ours.
        case changing
        /// It has a server, which is being given the session's settings first.
        case applyingSettings
        case leased
        case console
        /// A console command waits for other threads.
        case consoleWaiting
        case closed
    }

    /// Bytes of a unit that are gathered before it is routed; a longer one goes to the authority as it comes.
    static let unitBytesMax = 1 << 20
    /// Bytes kept while nothing can be done with them, before the socket is not read any more.
    private static let parkedBytesMax = 256 * 1024
    /// Bytes of an answer of NEW that are held back until it is whole.
    private static let heldBytesMax = 64 * 1024
    /// A buffer kept by an idle client is no larger than this.
    private static let keptCapacity = 4096

    // What every unit is looked at with lies together: of many clients none is in the processor's caches, and each line
    // of memory is waited for (docs/PERFORMANCE.md).
    let id: ClientID
    let worker: Worker
    private let registration: Registration
    var stream: ByteStream
    private var interest: Interest = .read
    var phase: Phase = .login
    /// The session reads quotes as the standard has it, and its encoding has no quotes inside characters.
    var hasStandardStrings = true
    var hasSafeEncoding = true
    var isTextTrusted: Bool { hasStandardStrings && hasSafeEncoding }
    /// The open transaction has changed the schema.
    var hasChangedSchema = false
    var isForcedToAuthority = false
    var isHolding = false
    private(set) var isProcessing = false
    /// Something happened while bytes were looked at that lets them go on.
    private var hasMoved = false
    private(set) var isReadingPaused = false
    private(set) var isClosingAfterFlush = false
    /// The client sends no more (FIN, or close_notify), and may still listen to what it has asked for.
    private(set) var hasEnded = false
    var waitingSide: Side = .old
    /// Queries of ours in flight that put back what RESET has taken.
    var startupRestores: UInt32 = 0
    var database: DatabaseState?
    var server: ServerConnection?
    var unitPlace: UnsafeMutablePointer<Unit>?
    var inbox: [UInt8] = []
    var scanner: UnitScanner
    var limits: ClientLimits?
    /// Why it keeps its server: see PinReasons.
    var pins: [PinReason] = []
    var unnamed: UnnamedStatement?
    var unnamedBefore: [UnnamedChange] = []
    /// Bytes of the texts in it.
    var replacedBytes: UInt32 = 0
    var lastUnnamedChange: UInt32 = 0
    var statements = StatementMap()
    /// What messages in flight changed in `statements`.
    var changes = StatementChanges()
    var names = StatementNames()
    var transaction = TransactionFacts()
    private(set) var lastActivity: MonotonicInstant
    /// When its last unit was over, and the next one could begin.
    var idleSince = MonotonicInstant(nanoseconds: 0)
    var waitingSince = MonotonicInstant(nanoseconds: 0)
    /// What writes down what it sends and gets; nil: nothing does.
    var tap: CaptureTap?
    var sessionKey: StatementKey?
    var settings = SessionSettings()
    var reported: ReportedStartup?
    private var pools: (old: PoolEntry?, new: PoolEntry?) = (nil, nil)
    var ledger = SessionLedger()
    private(set) var bytesToSkip = 0
    var lazy: LazyTransaction?
    /// Bytes of the unit that waits behind the first part of what was cut: see UnitCut.
    var restOfCut: UInt32?
    /// Batch that NEW must have before what waits in `stream` may be sent: see SyncCommit.
    var batchAwaited: UInt64?
    /// Since when the unit has waited, where an operator has held it meanwhile.
    var heldSince: MonotonicInstant?

    // Of its login.
    let address: SocketAddress
    let connectedAt: MonotonicInstant
    /// By the protocol's version.
    var cancelSecretSize: UInt8 = 4
    var login: LoginState?
    /// The certificate that belongs to what `login` offers; a reload may bring another one meanwhile.
    var context: TLSContext?
    /// What the login has proven that servers may want too.
    var proof: ServerProof?
    var user = ""
    var databaseName = ""
    var cancelKey: Int32?
    /// The captures that it was asked for: see `WorkerCaptures.generation`.
    var captureAsked: UInt32 = 0
    var cancelSecret = CancelSecret.long([])
    lazy var console = ConsoleSession()

    // The session, wherever its next unit runs.
    var startupSettings = SessionSettings()
    var applicationName = ""
    /// The same, as it was at the start.
    var startupName = ""
    /// Values of the settings that are routing keys (`godwit.user`).
    var keyValues = KeyValues()
    /// Where it may have drawn the latest value of a sequence.
    var sequenceServer: ServerID?
    /// Processing goes on when the server owes no more than so many replies.
    var repliesAwaited: UInt32?
    /// Batch that NEW must have applied before this client may read there.
    var batchNeeded: UInt64 = 0
    var pinnedAt = MonotonicInstant(nanoseconds: 0)
    /// What pins it may be gone: see `verifyPins`.
    var maySetFree = false
    var isVerifyingPins = false
    var pinsVerifiedAt = MonotonicInstant(nanoseconds: 0)

    // The present unit and transaction.
    /// Of an idle client: a new one, for which room is taken when something is to be written in it.
    var unit: Unit {
        unsafeAddress { unitPlace.map { UnsafePointer($0) } ?? worker.spareUnits.new }
        unsafeMutableAddress { unitPlace ?? takeUnit() }
    }
    /// A query of `startupRestores` ran in the open transaction: what the server has set then depends on its end.
    var hasRestoredStartup = false
    /// Settings committed at the server's defaults since the lease, and put back in the open transaction only.
    var resetsCommitted: Set<String> = []
    /// What stays of the ended transaction, until the server is quiet.
    var settledEffects: [SessionEffect] = []
    /// Where it is counted.
    var ofDatabase: SharedCount?
    var ofUser: SharedCount?
    /// Since when reads that would go to NEW have gone to the authority, because NEW lacks something.
    var divertedSince: MonotonicInstant?
    /// Tells the present wait for NEW from earlier ones.
    var horizonWait: UInt64 = 0
    /// The unit's bytes while it may still be run again on the authority.
    var replay: [UInt8] = []
    /// Answers of NEW that are held back until it is sure that the unit need not be run again.
    private var held: [UInt8] = []
    /// Bytes of a message whose head has been handed to the server.
    var passToServer = 0
    /// Bytes of a unit that has been looked at, and whose rest waits for names; and of that from the first denied
    /// message on.
    var notedAhead = 0
    var deniedAhead: Int?

    /// Tells the present wait for `batchAwaited` from earlier ones.
    var commitWait: UInt64 = 0
    var followed: FollowedTransaction?
    /// It is closed within bytes that were looked at: messages that were counted may not have been sent.
    private(set) var hasBrokenOff = false
    /// It was tried whether it still listens.
    private var hasProbed = false
    /// Bytes that were kept when the server was last asked to send all that it has.
    private var keptAtFlush: UInt32?
    /// It keeps its server, and may not begin another unit while writes are held.
    var isAtBorder = false
    /// Its place among the database's held clients; 0: it has none.
    var holdToken: UInt64 = 0

    init(_ id: ClientID, _ socket: consuming SocketDescriptor, _ address: SocketAddress, worker: Worker) {
        self.id = id
        self.address = address
        self.worker = worker
        scanner = UnitScanner(packetMax: worker.packetMax)
        connectedAt = worker.now
        lastActivity = worker.now
        let raw = socket.raw
        stream = ByteStream(socket)
        // The slot needs self, which needs the registration: the slot is filled in right after.
        registration = worker.makeRegistration(.mailbox)
        worker.fill(registration, .client(Unmanaged.passUnretained(self)))
        worker.loop.register(raw, interest, as: registration)
    }

    deinit {
        if unitPlace == nil { return }
        unit = Unit()
        giveBackUnit()
    }

    /// Whom the authority's servers are logged in as for this client.
    var poolUser: String { database.flatMap { $0.route.endpoint($0.authority).user } ?? user }
    /// The side that takes the writes.
    var authority: Side { database?.authority ?? .old }
    /// Gives the pool to `body` uncounted: as long as it is the client's.
    @inline(__always) func withPoolEntry<Outcome>(_ side: Side, _ body: (PoolEntry) -> Outcome) -> Outcome? {
        if (side == .old ? pools.old : pools.new) == nil { _ = poolEntry(side) }
        return withUncounted(side == .old ? pools.old : pools.new, body)
    }

    func poolEntry(_ side: Side) -> PoolEntry? {
        guard let database else { return nil }
        if let entry = side == .old ? pools.old : pools.new { return entry }
        let entry = worker.poolEntry(database, user: user, side: side)
        if let proof, entry.key.user.hasSameBytes(as: user) { entry.note(proof, of: id) }
        entry.attach()
        if side == .old { pools.old = entry } else { pools.new = entry }
        return entry
    }

    // MARK: reading

    func onReadable() {
        if phase == .closed { return }
        // Nothing is read any more: the kernel reports that the connection is broken.
        if hasEnded { return vanished() }
        let outcome = stream.receive(into: worker.buffer)
        if phase == .handshake && !handshakeGoesOn(after: outcome) { return }
        switch outcome {
        case .bytes(let count):
            lastActivity = worker.now
            withUncounted(database) { $0.counters.received &+= UInt64(count) }
            received(UnsafeRawBufferPointer(start: worker.buffer.baseAddress, count: count))
            if stream.isAtEnd && phase != .closed { stream.failure == nil ? ended() : vanished() }
        case .wouldBlock:
            return
        case .closed:
            ended()
        case .failed:
            vanished()
        }
    }

    /// The client has said goodbye behind what it wants done. It does not wait for the answers, so there is nothing to
    /// find out: PostgreSQL would do it all, also with nobody there.
    func terminated() {
        hasProbed = true
        ended()
    }

    /// The client has ended its side. Bytes that were kept may be on their way to be looked at: first they are.
    private func ended() {
        hasEnded = true
        updateInterest()
        worker.resumeLater(self)
    }

    @inline(__always)
    private func received(_ bytes: UnsafeRawBufferPointer) {
        if isClosingAfterFlush { return }
        if worker.captures.isCapturing { captureReceived(bytes, isQuiet: inbox.isEmpty && bytesToSkip == 0) }
        if inbox.isEmpty {
            let consumed = process(bytes)
            if consumed < bytes.count && phase != .closed {
                inbox = worker.spareBuffers.take()
                inbox.append(contentsOf: UnsafeRawBufferPointer(rebasing: bytes[consumed...]))
            }
        } else {
            inbox.append(contentsOf: bytes)
            processInbox()
        }
        adjustReading()
    }

    /// Goes on with what was kept: a server was granted, or its answer is complete.
    func resume() {
        if phase == .closed || isClosingAfterFlush { return }
        processInbox()
        adjustReading()
        if hasEnded { endIfAnswered() } else if worker.isDraining && phase != .held { drain() }
    }

    private func processInbox() {
        if unit.isCutDue { cutUnit() }
        let kept = inbox
        inbox = []
        let consumed = kept.withUnsafeBytes { process($0) }
        if phase == .closed { return }
        precondition(inbox.isEmpty, "bytes were put before those that are being processed")
        if consumed == 0 {
            inbox = kept
        } else if consumed < kept.count {
            inbox = Array(kept[consumed...])
        }
    }

    /// Reads while what comes can go on, or be kept. Asked of the present state after every step, not at events: a
    /// server's queue that was full in one step may be sent in the next one, and nothing tells of that later.
    @inline(__always)
    func adjustReading() {
        // Who has a server gets answers of ours, too (ParseComplete, CloseComplete), which that need not send first.
        let isFilled = stream.count > SendQueue.highWater || withUncounted(server) { $0.isCongested } == true
        let mustPause = isFilled || inbox.count > ClientLogin.bufferedMax && isParked
        if mustPause != isReadingPaused { adjustReading(isPaused: mustPause) }
    }

    private func adjustReading(isPaused mustPause: Bool) {
        if phase == .closed { return }
        isReadingPaused = mustPause
        updateInterest()
    }

    /// What is kept waits for something else than more bytes, and is as much as may be kept.
    private var isParked: Bool {
        if inbox.count <= Self.parkedBytesMax { return phase.isOutside }
        if phase != .leased { return phase != .idle }
        return server.map { repliesAwaited != nil || isAtBorder || holdsNextUnit($0) } ?? false
    }

    private func process(_ bytes: UnsafeRawBufferPointer) -> Int {
        isProcessing = true
        defer { isProcessing = false }
        if phase != .idle || bytesToSkip > 0 || bytes.isEmpty || isStuffed { return processParts(of: bytes) }
        hasMoved = false
        let consumed = processLone(bytes)
        // It is with its server: there is nothing to look at.
        if consumed == bytes.count && phase == .leased && unit.lone != nil { return bytes.count }
        return processParts(of: bytes, behind: consumed ?? processIdle(bytes))
    }

    /// - Parameter first: bytes that the first look has done with, at a client that was idle.
    private func processParts(of bytes: UnsafeRawBufferPointer, behind first: Int? = nil) -> Int {
        var offset = 0
        var consumed = first ?? 0
        var before: Phase? = first == nil ? nil : .idle
        while true {
            offset += consumed
            let skipped = min(bytesToSkip, bytes.count - offset)
            bytesToSkip -= skipped
            offset += skipped
            if skipped == 0 {
                if isClosingAfterFlush || phase == .closed { return bytes.count }
                if consumed == 0 && phase == before && !hasMoved { return offset }
                if consumed > 0 && offset == bytes.count && unit.lone != nil && phase == .leased { return offset }
            }
            before = phase
            hasMoved = false
            consumed = processOne(UnsafeRawBufferPointer(rebasing: bytes[offset...]))
        }
    }

    private func processOne(_ rest: UnsafeRawBufferPointer) -> Int {
        switch phase {
        case .idle: rest.isEmpty || isStuffed ? 0 : processLone(rest) ?? processIdle(rest)
        case .login: rest.isEmpty ? 0 : processLogin(rest)
        case .leased: processLeased(rest)
        case .console: rest.isEmpty ? 0 : processConsole(rest)
        case .closed: rest.count
        case .handshake, .cancelling, .greeting, .waiting, .held, .awaitingHorizon, .changing, .applyingSettings,
            .consoleWaiting:
            0
        }
    }

    /// The unit at the front of what was kept is not run after all.
    func skipUnit(_ count: Int) { bytesToSkip = count }

    /// Goes on with kept bytes: in the loop that is at them, or at the end of the batch.
    func resumeSoon() {
        if isProcessing { hasMoved = true } else { worker.resumeLater(self) }
    }

    // MARK: sending

    func send(_ bytes: [UInt8]) { bytes.withUnsafeBytes { sendFromServer($0) } }

    /// Queued: a send follows in the same event.
    func queueAnswer(_ tag: UInt8) {
        let message: [UInt8] = [tag, 0, 0, 0, 4]
        message.withUnsafeBytes { queueFromServer($0) }
    }

    func queueFromServer(_ range: UnsafeRawBufferPointer) {
        if hold(range) { return }
        tap?.sent(range, at: worker.now)
        stream.queue(range)
    }

    /// Sends `range`, and before it what waits; while the unit may still be run elsewhere it is held back.
    func sendFromServer(_ range: UnsafeRawBufferPointer) {
        if phase == .closed { return }
        if isHolding && hold(range) { return }
        if let tap { tap.sent(range, at: worker.now) }
        if batchAwaited != nil {
            stream.queue(range)
            if stream.count > SendQueue.highWater { server?.pauseReading() }
            return
        }
        if range.isEmpty && stream.isEmpty { return }
        withUncounted(database) { $0.counters.sent &+= UInt64(range.count) }
        let outcome = range.isEmpty ? stream.flush() : stream.send(range)
        switch outcome {
        case .bytes, .wouldBlock:
            if stream.count > SendQueue.highWater {
                server?.pauseReading()
            } else if stream.count < SendQueue.lowWater {
                // What an earlier piece of the same answer had filled.
                sourceGoesOn()
            }
            // Nothing else can have changed.
            if interest.isToWrite == stream.isEmpty { updateInterest() }
        case .closed, .failed:
            stream.clear()
            vanished()
        }
    }

    /// Keeps a part of NEW's answer until it is whole, or too long to be kept: then the unit cannot be run elsewhere,
    /// and what was kept goes out before what follows.
    private func hold(_ range: UnsafeRawBufferPointer) -> Bool {
        if !isHolding { return false }
        if held.count + range.count <= Self.heldBytesMax {
            held.append(contentsOf: range)
            return true
        }
        stopHolding()
        return false
    }

    /// The unit will not be run elsewhere: what was held back goes out.
    @inline(__always) func stopHolding() { if isHolding { sendHeld() } }

    private func sendHeld() {
        isHolding = false
        replay.removeAll(keepingCapacity: replay.capacity <= Self.keptCapacity)
        if let tap { held.withUnsafeBytes { tap.sent($0, at: worker.now) } }
        stream.queue(held)
        held.removeAll(keepingCapacity: held.capacity <= Self.keptCapacity)
    }

    func dropHeld() {
        isHolding = false
        held.removeAll(keepingCapacity: held.capacity <= Self.keptCapacity)
    }

    func onWritable() {
        if phase == .closed || batchAwaited != nil { return updateInterest() }  // not to be told again and again
        switch stream.flush() {
        case .bytes, .wouldBlock:
            if isClosingAfterFlush && stream.isEmpty { return close() }
            if stream.count < SendQueue.lowWater { sourceGoesOn() }
            updateInterest()
            if hasEnded && stream.isEmpty { worker.resumeLater(self) }
        case .closed, .failed:
            vanished()
        }
    }

    /// The server has room again for what we send it.
    func serverDrained() {
        if isReadingPaused || !inbox.isEmpty { worker.resumeLater(self) }
    }

    func updateInterest() {
        if phase == .closed { return }
        let isFrozen = worker.gate.isSuspended && database != nil
        let wanted = Interest(
            reads: !isReadingPaused && !hasEnded && !isFrozen, writes: !stream.isEmpty && batchAwaited == nil)
        if wanted.rawValue == interest.rawValue { return }
        interest = wanted
        worker.loop.modify(stream.socket.raw, wanted, as: registration)
    }

    // MARK: the end

    /// A client that sends no more is gone when nothing is on its way to it: no answer of a server, no output of ours.
    private func endIfAnswered() {
        if phase == .closed || isClosingAfterFlush || !stream.isEmpty || batchAwaited != nil { return }
        switch phase {
        case .login:
            if login?.exchange.awaitsClient == true { close() }
        case .handshake, .idle, .console:
            close()
        case .leased:
            if let server, isAtBorder || owesAnswer(server) { probe() } else { close() }
        case .waiting, .held, .awaitingHorizon, .changing, .applyingSettings, .consoleWaiting:
            probe()
        case .cancelling, .greeting, .closed:
            break
        }
    }

    /// Whether more comes of the server by itself. What it owes without a Sync it sends when it is told to flush.
    private func owesAnswer(_ server: ServerConnection) -> Bool {
        if server.isCongested { return true }  // kept messages go on then
        let owesNothing = server.session.expectedCount == 0 && !server.isWithinMessage
        if passToServer > 0 || server.session.awaitsCopyData || owesNothing { return false }
        if !server.session.owesReady && keptAtFlush != UInt32(truncatingIfNeeded: inbox.count) {
            keptAtFlush = UInt32(truncatingIfNeeded: inbox.count)
            server.queue([FrontendTag.flush, 0, 0, 0, 4])
            server.flush()
        }
        return true
    }

    /// A client that has ended its side looks like one that was killed, for which no query should run on. What is sent
    /// to one that is gone is answered by a reset: so it is told, between two messages, a setting that it knows.
    private func probe() {
        if hasProbed || server?.isWithinMessage == true { return }
        hasProbed = true
        let name = "integer_datetimes"
        var writer = MessageWriter()
        // It is "on" since PostgreSQL 10, and so for a console.
        writer.parameterStatus(name, database?.greetings.latest?.parameters.first { $0.name == name }?.value ?? "on")
        switch writer.bytes.withUnsafeBytes({ stream.send($0) }) {
        case .bytes, .wouldBlock: updateInterest()
        case .closed, .failed: vanished()
        }
    }

    /// Tells the client why, and closes when it has been sent.
    func close(with error: ErrorResponse) { close(after: error.encoded) }

    func close(after farewell: [UInt8]) {
        if phase == .closed || isClosingAfterFlush { return }
        if phase == .handshake || server?.isWithinMessage == true { return close() }  // there is no way to tell it
        stopHolding()
        batchAwaited = nil
        isClosingAfterFlush = true
        if isProcessing { hasBrokenOff = true }
        send(farewell)
        farewellGoesOn(left: .max)
    }

    /// The client has gone.
    func vanished() { close() }

    func close() {
        if phase == .closed { return }
        let last = phase
        phase = .closed
        if isProcessing { hasBrokenOff = true }
        tap?.ended(at: worker.now)
        tap = nil
        letGo(of: last)
        leaveLimits()
        pools.old?.detach()
        pools.new?.detach()
        pools = (nil, nil)
        if let database {
            database.clientCount -= 1
            for statement in statements.removeAll() + changes.settle() + names.own.removeAll() {
                database.statements.release(statement)
            }
        }
        worker.dropRegistration(registration)
        worker.loop.unregister(stream.socket.raw)
        stream.shutdown()
        worker.clientClosed(self)
        inbox = []
        batchAwaited = nil
        stream.clear()
    }

    /// There is something to resume.
    var hasParkedBytes: Bool { !inbox.isEmpty || isReadingPaused }
    var parkedByteCount: Int { inbox.count }
    var hasUnsentBytes: Bool { !stream.isEmpty && batchAwaited == nil }
    var isConsole: Bool { phase == .console || phase == .consoleWaiting }
    var handle: ClientHandle { ClientHandle(worker: worker.index, client: id) }
}
