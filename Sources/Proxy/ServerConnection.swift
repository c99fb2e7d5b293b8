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

/// One connection of ours to a database: its socket, its login, and the relay of its answers to the client that holds
/// it. Used on its reactor's thread.
final class ServerConnection {
    enum State {
        case connecting
        /// TLS is being agreed on.
        case negotiating
        case login
        /// It has logged in, and reads the catalog of its database before anybody gets it: see ComingServers.
        case warming
        case idle
        /// A client holds it.
        case leased
        /// Nobody holds it, but something of the last holder is still on its way (answers, ROLLBACK, DISCARD ALL).
        case settling
        case closed
    }

    /// What we call ourselves where no client has a name of its own.
    static let ownName = "godwit"
    /// A body that we want to look at is kept until it is whole, up to this size; a larger one is passed on unseen.
    private static let keptBodyMax = 64 * 1024

    // What every unit is looked at with lies together: see ClientConnection.
    let id: ServerID
    let worker: Worker
    let entry: PoolEntry
    private var stream: ByteStream
    private let registration: Registration
    private var interest: Interest = [.write]
    var state: State = .connecting
    /// It leads to the side that does not take the writes, as it was when it was opened: only reads go there.
    let isReadOnly: Bool
    /// It leads to the side that takes the writes next, and nobody has it before that does: see ComingServers.
    var isComing: Bool
    /// It has left its pool, and is closed in a moment: see `Worker.retire`.
    var isRetired = false
    /// A reload changed where it should lead, or its answer was given up: it is closed when it has done.
    var isOutdated = false
    private var passIsForwarded = false
    private var isReadingPaused = false
    var client: ClientConnection?
    private var inbox: [UInt8] = []
    /// The rest of a message whose head has been handled.
    private var passRemaining = 0
    var leasedAt = MonotonicInstant(nanoseconds: 0)
    /// When bytes came from it last, or a client got it or let go of it while it was at work.
    var heardAt = MonotonicInstant(nanoseconds: 0)
    /// Which client's unnamed statement the server has now; 0: nobody's.
    var unnamedToken: UInt64 = 0
    /// In which batch (see `ServerSession.batchesSent`) the server was sent a statement that it did not have, until all
    /// is answered: an error before it would have the server skip it.
    var preparedIn: [StatementID: UInt32] = [:]
    /// The same of the unnamed statement.
    var unnamedPreparedIn: UInt32?
    /// What is set in the server's session; nil: unknown.
    var settings: SessionSettings? = SessionSettings()
    var session = ServerSession()
    var statements: ServerStatements
    /// Cancel requests on their way to it: it is not handed on before they have arrived.
    var cancelsInFlight = 0
    let endpoint: ServerEndpoint
    // What few look at.
    let openedAt: MonotonicInstant
    private var negotiation: ServerNegotiation
    private(set) var login: ServerLogin
    /// The `unnamedToken` of a server that may have anybody's.
    static let unknownToken = UInt64.max
    var sequences = SequenceHolder.nobody
    /// Cancel requests that may still be sent to end what nobody waits for; nil: somebody does.
    var cancelsLeft: Int?
    /// The server said why it will close the connection.
    var farewell: ErrorResponse?
    var quietFailure: ErrorResponse?

    init(
        _ id: ServerID, _ socket: consuming SocketDescriptor, _ endpoint: ServerEndpoint, _ entry: PoolEntry,
        credentials: ServerLogin.Credentials, attempt: ServerEncryption.Attempt, isComing: Bool, worker: Worker
    ) {
        self.id = id
        self.endpoint = endpoint
        self.entry = entry
        self.worker = worker
        openedAt = worker.now
        self.isComing = isComing
        isReadOnly = endpoint.side != entry.database.authority && !isComing
        login = ServerLogin(
            credentials: credentials, randomBytes: Digest.randomBytes(18),
            minor: entry.database.route.settings.pool.protocolVersion.minor,
            channelBinding: endpoint.tls?.encryption.channelBinding ?? .prefer)
        statements = ServerStatements(bound: entry.database.route.settings.pool.preparedStatementsMax)
        let raw = socket.raw
        stream = ByteStream(socket)
        negotiation = ServerNegotiation(endpoint.tls, attempt: attempt)
        // The slot needs self, which needs the registration: the slot is filled in right after.
        registration = worker.makeRegistration(.mailbox, comesFirst: true)
        worker.fill(registration, .server(Unmanaged.passUnretained(self)))
        worker.loop.register(raw, interest, as: registration)
    }

    /// Of an idle server that another thread had.
    init(_ id: ServerID, _ parts: Parts, _ entry: PoolEntry, worker: Worker) {
        self.id = id
        self.entry = entry
        self.worker = worker
        endpoint = parts.endpoint
        openedAt = parts.openedAt
        isReadOnly = parts.isReadOnly
        isComing = false
        login = parts.login
        negotiation = parts.negotiation
        settings = parts.settings
        statements = ServerStatements(bound: entry.database.route.settings.pool.preparedStatementsMax)
        unnamedToken = Self.unknownToken
        // Whoever drew them is a client of another thread.
        sequences = parts.hasSequences ? .several : .nobody
        stream = ByteStream(SocketDescriptor(owning: parts.descriptor), resuming: parts.tls, worker.scratch)
        state = .idle
        leasedAt = worker.now
        heardAt = worker.now
        interest = worker.gate.isSuspended ? [] : .read
        registration = worker.makeRegistration(.mailbox, comesFirst: true)
        worker.fill(registration, .server(Unmanaged.passUnretained(self)))
        worker.loop.register(stream.socket.raw, interest, as: registration)
    }

    var processID: Int32 { login.processID }
    var cancelSecret: [UInt8] { login.cancelSecret }

    // MARK: sending

    /// Queues without a system call; `send` or `flush` follows.
    func queue(_ bytes: [UInt8]) { stream.queue(bytes) }
    func queue(_ range: UnsafeRawBufferPointer) { stream.queue(range) }

    func send(_ range: UnsafeRawBufferPointer) {
        if range.isEmpty { return flush() }
        sent(stream.send(range))
    }

    func flush() {
        if !stream.isEmpty { sent(stream.flush()) }
    }

    @inline(__always)
    private func sent(_ outcome: SocketDescriptor.Outcome) {
        switch outcome {
        case .bytes, .wouldBlock: break
        // The read side tells: what the server said before it went is still to be read there.
        case .closed, .failed: stream.clear()
        }
        // Nothing else can have changed.
        if interest.isToWrite == stream.isEmpty { updateInterest() }
    }

    var isCongested: Bool { stream.count > SendQueue.highWater }
    var hasUnsentBytes: Bool { !stream.isEmpty }

    func updateInterest() {
        let isFrozen = worker.gate.isSuspended && !isOpening
        let wanted = Interest(reads: !isReadingPaused && !isFrozen, writes: !stream.isEmpty || state == .connecting)
        if wanted.rawValue == interest.rawValue || state == .closed { return }
        interest = wanted
        worker.loop.modify(stream.socket.raw, wanted, as: registration)
    }

    /// The client has got the head of a message whose rest never came.
    var isWithinMessage: Bool { passRemaining > 0 && passIsForwarded }

    /// What SHOW SERVERS and its kin tell of the socket and its buffers.
    func describe(in row: inout WorkerReport.ConnectionRow) {
        row.localAddress = stream.socket.localAddress
        row.descriptor = stream.socket.raw
        row.statements = statements.count
        (row.bytesWaiting, row.bytesPassing, row.bytesToSend) = (inbox.count, passRemaining, stream.count)
    }

    func pauseReading() {
        isReadingPaused = true
        updateInterest()
    }

    func resumeReading() {
        if !isReadingPaused { return }
        isReadingPaused = false
        updateInterest()
    }

    // MARK: readiness

    func onWritable() {
        if state == .connecting { return connected() }
        if state == .closed { return }
        flush()
        if stream.count < SendQueue.lowWater { client?.serverDrained() }
    }

    private func connected() {
        let code = stream.socket.connectError()
        if code != 0 {
            return fail(worker.connectFailure(
                endpoint, SocketError(operation: .connect, errno: code).reason))
        }
        state = .negotiating
        take(negotiation.begin(&stream, worker))
    }

    private func take(_ step: ServerNegotiation.Step) {
        switch step {
        case .wait:
            updateInterest()
        case .open:
            if let security = stream.security { login.secured(endpointDigest: security.endpointDigest) }
            logIn()
        case .failed(let reason, let failure):
            fail(worker.connectFailure(endpoint, reason), failure)
        }
    }

    /// What encrypts the connection, as SHOW SERVERS has it; empty: nothing does.
    var tlsSummary: String { stream.security.map { $0.summary } ?? "" }
    /// How it was opened: a cancel request goes the same way.
    var attempt: ServerEncryption.Attempt { stream.isEncrypted ? negotiation.attempt : .plain }

    private func logIn() {
        state = .login
        var parameters: [StartupPacket.Parameter] = [
            .init(name: "application_name", value: Self.ownName), .init(name: "client_encoding", value: "UTF8"),
        ]
        // A write that hides in a read fails there with 25006 instead of being done on one side only.
        var options = endpoint.options ?? ""
        if isReadOnly { options += (options.isEmpty ? "" : " ") + "-c default_transaction_read_only=on" }
        if !options.isEmpty { parameters.append(.init(name: "options", value: options)) }
        queue(login.startupPacket(database: endpoint.database, parameters: parameters))
        flush()
        updateInterest()
    }

    func onReadable() {
        if state == .closed || state == .connecting { return }
        if state == .negotiating { return take(negotiation.advance(&stream, worker)) }
        let outcome = stream.receive(into: worker.buffer)
        switch outcome {
        case .bytes(let count):
            received(UnsafeRawBufferPointer(start: worker.buffer.baseAddress, count: count))
            if stream.isAtEnd && state != .closed {
                fail(farewell ?? worker.connectFailure(endpoint, stream.failure ?? "the server closed the connection"))
            }
        case .wouldBlock:
            return
        case .closed:
            fail(farewell ?? worker.connectFailure(endpoint, "the server closed the connection"))
        case .failed(let code):
            fail(farewell ?? worker.connectFailure(
                endpoint, stream.failure ?? SocketError(operation: .connect, errno: code).reason))
        }
    }

    @inline(__always)
    private func received(_ bytes: UnsafeRawBufferPointer) {
        heardAt = worker.now
        // Its thread has the client, until the end of the batch if it is closed.
        let isNext = inbox.isEmpty && passRemaining == 0
        if withUncounted(client, { answerLone(bytes, $0, isNext: isNext) }) == true { return }
        receivedPart(bytes)
    }

    private func receivedPart(_ bytes: UnsafeRawBufferPointer) {
        if inbox.isEmpty {
            let consumed = process(bytes)
            if consumed < bytes.count && state != .closed { inbox.append(contentsOf: bytes[consumed...]) }
            return
        }
        inbox.append(contentsOf: bytes)
        let whole = inbox
        inbox = []
        let consumed = whole.withUnsafeBytes { process($0) }
        if consumed < whole.count && state != .closed { inbox = Array(whole[consumed...]) }
    }

    func loginTimedOut() {
        if isOpening {
            fail(worker.connectFailure(endpoint, "no answer within server_connect_timeout"))
        }
    }

    // MARK: messages

    private func process(_ bytes: UnsafeRawBufferPointer) -> Int {
        var relay = Relay(bytes)
        if passRemaining > 0 {
            let count = min(passRemaining, bytes.count)
            passRemaining -= count
            relay.step(to: count, isForwarded: passIsForwarded, client)
        }
        while passRemaining == 0 {
            // Behind what came before, and not within it: the rest of a message may be still to come.
            while let tag = session.nextAnswer() { relay.insert(tag, client) }
            guard let header = FrameHeader.parse(bytes, at: relay.offset) else { break }
            if let error = header.backendError(packetMax: worker.packetMax) { return violated(bytes, &relay, error) }
            if state == .login, Int(header.length) > WireLimits.serverLoginMessageMax { return violated(bytes, &relay) }
            let end = relay.offset + header.frameSize
            let isWhole = end <= bytes.count
            if !isWhole && wantsBody(header) { break }
            let body = UnsafeRawBufferPointer(
                rebasing: bytes[(relay.offset + FrameHeader.size)..<min(end, bytes.count)])
            if state == .login {
                logIn(header.tag, body)
                if state == .closed { return bytes.count }
                relay.step(to: end, isForwarded: false, client)
                continue
            }
            let isForwarded = handle(header.tag, body, &relay)
            if state == .closed { return bytes.count }
            if !isWhole {
                passRemaining = end - bytes.count
                passIsForwarded = isForwarded
            }
            relay.step(to: min(end, bytes.count), isForwarded: isForwarded, client)
        }
        finish(&relay)
        return relay.offset
    }

    /// Bodies that decisions need; all others go through as they come.
    private func wantsBody(_ header: FrameHeader) -> Bool {
        if Int(header.length) > Self.keptBodyMax { return false }
        switch header.tag {
        case BackendTag.readyForQuery, BackendTag.errorResponse, BackendTag.parameterStatus,
            BackendTag.commandComplete:
            return true
        case BackendTag.dataRow: return client?.wantsQuietRow == true
        default:
            return state == .login
        }
    }

    private func violated(_ bytes: UnsafeRawBufferPointer, _ relay: inout Relay, _ error: WireError? = nil) -> Int {
        // The end of a message that the client has a part of comes before what it is told: else that would be its end.
        if let client { relay.finish(client) }
        var (state, what) = (SQLState.protocolViolation, "at \(endpoint.host):\(endpoint.port) broke the protocol")
        if case .packetTooLong(let length)? = error {
            state = .programLimitExceeded
            what = "sent a message of \(length) bytes, which is longer than max_packet_size"
        }
        fail(ErrorResponse(.fatal, state, "\(side) \(what)"))
        return bytes.count
    }

    /// - Returns: whether the client gets the message.
    private func handle(_ tag: UInt8, _ body: UnsafeRawBufferPointer, _ relay: inout Relay) -> Bool {
        if tag == BackendTag.parameterStatus { return parameterChanged(body, &relay) }
        let verdict = session.received(tag: tag, body: body)
        switch verdict {
        case .forwardHeader:
            if tag == BackendTag.notificationResponse && !isReadOnly { client?.stampNotified() }
            return client != nil
        case .forwardResult:
            switch tag {
            case BackendTag.copyInResponse: client?.unit.session.ignoreBatchEnds(session.ignoredSyncs)
            case BackendTag.commandComplete: commandCompleted(body)
            case BackendTag.emptyQueryResponse, BackendTag.portalSuspended: client?.unit.session.notePartCompleted()
            default: break
            }
            return client != nil
        case .forwardError:
            return error(body, &relay)
        case .swallow:
            client?.take(quiet: tag, body)
            return false
        case .swallowError:
            quietFailure = ErrorResponse.parse(body: body)
            return false
        case .ready(let status, isForwarded: true):
            guard let client else {
                settleIfQuiet()  // the last answer to a client that let go of it
                return false
            }
            client.resultBegan()
            client.undefine(session.takeDropped(), on: self)  // what came after the error and was skipped
            let isPart = client.endsFirstPart()
            client.unitEnded(status, on: self)
            if let untold = client.takeUntold() { relay.insert(untold, client) }
            return !isPart
        case .surplusReady:
            return client != nil
        case .ready(_, isForwarded: false):
            quietWorkEnded()
            return false
        case .violation:
            _ = violated(body, &relay)
            return false
        }
    }

    private func error(_ body: UnsafeRawBufferPointer, _ relay: inout Relay) -> Bool {
        let error = ErrorResponse.parse(body: body)
        if error.severity == .fatal || state == .idle {
            takeLeave(error)
            return false
        }
        session.goesOnAfterError()
        let skippedEnds = session.takeSkippedEnds()
        guard let client else { return false }
        client.undefine(session.takeDropped(), on: self)
        client.unit.session.skipBatchEnds(skippedEnds)
        if client.canRetry && error.state.isServersOwn {
            relay.discard()
            client.retryOnAuthority(because: error)
            return false
        }
        client.resultBegan()
        client.errorForwarded(
            // A failover has made a standby of it: 25006 is its fault then, not the application's.
            error, isServersOwn: error.state.isServersOwn && (error.state != .readOnlyTransaction || login.isStandby))
        if let refusal = client.refusal(replacing: error) {
            var writer = MessageWriter()
            refusal.write(to: &writer)
            relay.insert(writer.bytes, client)
            return false
        }
        return true
    }

    /// A setting that the server reports: told to the client that changed it, and noted for the next login.
    private func parameterChanged(_ body: UnsafeRawBufferPointer, _ relay: inout Relay) -> Bool {
        var reader = BodyReader(body)
        guard let name = reader.cString(), let value = reader.cString() else { return false }
        if login.noteStandby(name, value) { entry.database.promoted(self) }
        guard let client, !client.awaitsSpelling, !session.isQuiet, state == .leased else { return false }
        // The greeting has told its name; one without a name must not hear of ours.
        if client.isApplyingSettings { return !name.elementsEqual("application_name".utf8) }
        if name.elementsEqual("application_name".utf8), value.elementsEqual(Self.ownName.utf8),
            let clients = client.nameBehindReset
        {
            var writer = MessageWriter()
            writer.parameterStatus("application_name", clients)
            relay.insert(writer.bytes, client)
            return false
        }
        let changed = String(wire: name)
        client.parameterReported(
            changed, String(wire: value), loginValue: login.parameters.first { $0.name == changed }?.value,
            isAuthority: !isReadOnly)
        return true
    }

    private func finish(_ relay: inout Relay) {
        guard let client else { return }
        client.stampPart(of: self)
        relay.finish(client)
        if client.hasEnded || worker.isDraining { worker.resumeLater(client) }
        guard state == .leased else { return }
        // A message counts with its head, and the client has it only with its end, which may be waiting for a Flush.
        let isWhole = passRemaining == 0
        if isWhole && session.needsBarrier && client.passToServer == 0 {
            runQuietly("")
        } else if isWhole && session.isFree && client.mayGiveBack {
            client.giveBack(self)
        } else if isWhole && session.lacksOnlySync && client.mayGiveBack && client.hasOnlyPrepared {
            client.giveBack(self, lacksSync: true)
        } else if isWhole && session.isBetweenUnits && client.mayPark {
            client.parkOnNew()
        } else if let awaited = client.repliesAwaited, session.expectedCount <= awaited || awaited == 0 {
            client.repliesAwaited = nil
            worker.resumeLater(client)
        } else if isReadOnly && client.hasParkedBytes && (session.skipsNext || session.expectedCount == 0) {
            worker.resumeLater(client)  // see `holdsNextUnit`
        }
    }

    // MARK: login

    private func logIn(_ tag: UInt8, _ body: UnsafeRawBufferPointer) {
        let isRefusal = tag == BackendTag.errorResponse && !login.isAuthenticated
        var actions: [ServerLogin.Action] = []
        login.receive(tag: tag, body: body, &actions)
        for action in actions {
            switch action {
            case .send(let bytes):
                queue(bytes)
                flush()
            case .ready:
                state = isComing ? .warming : .idle
                updateInterest()
                if isComing { runQuietly(ComingServers.warmingQuery) } else { worker.serverOpened(self) }
            case .failed(let error):
                fail(error, isRefusal ? .login : .other)
            }
        }
    }

    // MARK: to another thread

    /// All that an idle server is. Its descriptor is owned by whoever has the parts.
    struct Parts {
        let descriptor: CInt
        let tls: TLSStream?
        let endpoint: ServerEndpoint
        let openedAt: MonotonicInstant
        let isReadOnly: Bool
        let login: ServerLogin
        let negotiation: ServerNegotiation
        let settings: SessionSettings?
        /// Under names that only the thread knows which prepared them.
        let hasStatements: Bool
        let hasSequences: Bool
    }

    /// Takes it from its thread: only its memory is left here, and nothing may be asked of it any more.
    ///
    /// - Returns: nil, and nothing changes, while something of it is not settled, or there is no descriptor left.
    func takeApart() -> Parts? {
        guard state == .idle, cancelsInFlight == 0, inbox.isEmpty, passRemaining == 0, stream.isEmpty,
            let descriptor = stream.socket.duplicate()
        else { return nil }
        state = .closed
        worker.dropRegistration(registration)
        worker.loop.unregister(stream.socket.raw)
        var hasSequences = true
        if case .nobody = sequences { hasSequences = false }
        return Parts(
            descriptor: descriptor, tls: stream.security, endpoint: endpoint, openedAt: openedAt,
            isReadOnly: isReadOnly, login: login, negotiation: negotiation, settings: settings,
            hasStatements: statements.count > 0, hasSequences: hasSequences)
    }

    // MARK: the end

    static let goodbye: [UInt8] = {
        var writer = MessageWriter()
        writer.message(FrontendTag.terminate) { _ in }
        return writer.bytes
    }()

    /// Closes in good order.
    func close() {
        if state == .closed { return }
        if !isOpening { queue(Self.goodbye) }
        flush()
        end()
    }

    /// The server is gone or broken.
    private func fail(_ error: ErrorResponse, _ failure: ServerEncryption.Failure = .other) {
        if state == .closed { return }  // whoever had it was found to be gone, and has closed it
        let (holder, wasLoggingIn) = (client, isOpening)
        end()
        if wasLoggingIn, let next = endpoint.tls?.encryption.attempt(after: negotiation.attempt, failure) {
            worker.logger.info("\(error.message); trying \(next == .plain ? "without" : "with") TLS")
            worker.openAgain(entry, next, isComing: isComing)
        } else if wasLoggingIn {
            if !isComing { worker.openFailed(entry, error) }
        } else if let holder {
            holder.serverLost(self, error)
        }
    }

    func end() {
        let wasOpen = !isOpening
        state = .closed
        client = nil
        worker.dropRegistration(registration)
        worker.loop.unregister(stream.socket.raw)
        stream.shutdown()
        worker.serverClosed(self, wasOpen: wasOpen)
    }

    private var isOpening: Bool {
        switch state {
        case .connecting, .negotiating, .login, .warming: true
        case .idle, .leased, .settling, .closed: false
        }
    }

    /// At the end of the process: the socket goes with the object.
    func closeSocket() {
        if !isOpening { queue(Self.goodbye) }
        flush()
        stream.shutdown()
    }
}
