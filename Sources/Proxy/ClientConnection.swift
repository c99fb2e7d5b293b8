import Configuration
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
        case login
        /// Proven, and waiting for a first server that tells us what to greet with.
        case greeting
        /// No server; the next unit is being gathered.
        case idle
        /// A unit waits for a server.
        case waiting
        /// A read waits until NEW has caught up.
        case awaitingHorizon
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
    /// A buffer kept by an idle client is no larger than this.
    private static let keptCapacity = 4096

    let id: ClientID
    let address: SocketAddress
    let connectedAt: MonotonicInstant
    let worker: Worker
    private let socket: SocketDescriptor
    private let registration: Registration
    private var interest: Interest = .read

    var phase: Phase = .login
    var login: ClientLogin?
    /// Whose secret was looked up for the login.
    private var lookedUp: SecretCache.Key?
    /// What the login has proven that servers may want too.
    private var proof: ServerProof?
    private(set) var user = ""
    private(set) var databaseName = ""
    private(set) var database: DatabaseState?
    private(set) var cancelKey: Int32?
    private(set) var cancelSecret: [UInt8] = []
    /// By the protocol's version.
    private var cancelSecretSize = 4

    // The console's own state.
    var isSkippingToSync = false
    var consoleTag = ""

    // The session, wherever its next unit runs.
    var settings = SessionSettings()
    var startupSettings = SessionSettings()
    var applicationName = ""
    /// Values of the settings that are routing keys (`godwit.user`).
    var keyValues: [String: String] = [:]
    var sessionKey: StatementKey?
    /// The open transaction has changed the schema.
    var hasChangedSchema = false
    var statements = StatementMap()
    var unnamed: UnnamedStatement?
    /// What messages in flight changed in them, the names apart from the unnamed statement.
    var changes = StatementChanges()
    var unnamedBefore: [UnnamedChange] = []
    var lastUnnamedChange: UInt32 = 0
    /// Processing goes on when the server owes no more than so many replies.
    var repliesAwaited: Int?
    /// The session reads quotes as the standard has it, and its encoding has no quotes inside characters.
    var hasStandardStrings = true
    var hasSafeEncoding = true
    var isTextTrusted: Bool { hasStandardStrings && hasSafeEncoding }
    /// Batch that NEW must have applied before this client may read there.
    var batchNeeded: UInt64 = 0
    var pin: PinReason?
    var pinnedAt = MonotonicInstant(nanoseconds: 0)

    // The present unit and transaction.
    var scanner: UnitScanner
    var unit = Unit()
    var transaction = TransactionFacts()
    var server: ServerConnection?
    var limits: ClientLimits?
    /// Counts that it is in.
    var counts: [SharedCount] = []
    private var pools: (old: PoolEntry?, new: PoolEntry?) = (nil, nil)
    var lazy: LazyTransaction?
    var isForcedToAuthority = false
    /// Since when reads that would go to NEW have gone to the authority, because NEW lacks something.
    var divertedSince: MonotonicInstant?
    /// Tells the present wait for NEW from earlier ones.
    var horizonWait: UInt64 = 0
    /// The unit's bytes while it may still be run again on the authority.
    var replay: [UInt8] = []
    /// Answers of NEW that are held back until it is sure that the unit need not be run again.
    private var held: [UInt8] = []
    var isHolding = false
    /// Bytes of a message whose head has been handed to the server.
    var passToServer = 0

    private var out = SendQueue()
    private var inbox: [UInt8] = []
    private var bytesToSkip = 0
    private var isProcessing = false
    /// Something happened while bytes were looked at that lets them go on.
    private var hasMoved = false
    private var isReadingPaused = false
    private var isClosingAfterFlush = false
    private(set) var lastActivity: MonotonicInstant
    var waitingSince = MonotonicInstant(nanoseconds: 0)
    var waitingSide: Side = .old

    init(_ id: ClientID, _ socket: consuming SocketDescriptor, _ address: SocketAddress, worker: Worker) {
        self.id = id
        self.address = address
        self.worker = worker
        scanner = UnitScanner(packetMax: worker.packetMax)
        connectedAt = worker.now
        lastActivity = worker.now
        let raw = socket.raw
        self.socket = socket
        // The slot needs self, which needs the registration: the slot is filled in right after.
        registration = worker.makeRegistration(.mailbox)
        worker.fill(registration, .client(self))
        worker.loop.register(raw, interest, as: registration)
    }

    func start(isRefused: Bool) {
        if isRefused {
            return close(with: ErrorResponse(
                .fatal, .tooManyConnections, "no more connections allowed (listen.clients_max)",
                hint: "Raise listen.clients_max, or close connections that are not needed."))
        }
        login = ClientLogin(
            policy: worker.snapshot.auth, randomBytes: Digest.randomBytes(ClientLogin.randomByteCount),
            peer: LoginPeer(address: address.network))
        let limit = worker.snapshot.settings.listen.clientLoginTimeoutSeconds
        if limit > 0 { worker.schedule(.clientLogin(id), at: worker.now.advanced(bySeconds: limit)) }
    }

    /// Whom the authority's servers are logged in as for this client.
    var poolUser: String { database?.route.old.user ?? user }

    func poolEntry(_ side: Side) -> PoolEntry? {
        guard let database else { return nil }
        if let entry = side == .old ? pools.old : pools.new { return entry }
        let entry = worker.poolEntry(database, user: user, side: side)
        if let proof, entry.key.user.hasSameBytes(as: user) { entry.proof = proof }
        entry.attach()
        if side == .old { pools.old = entry } else { pools.new = entry }
        return entry
    }

    // MARK: reading

    func onReadable() {
        if phase == .closed { return }
        switch socket.receive(into: worker.buffer) {
        case .bytes(let count):
            lastActivity = worker.now
            database?.counters.received += UInt64(count)
            received(UnsafeRawBufferPointer(rebasing: worker.buffer[..<count]))
        case .wouldBlock:
            return
        case .closed, .failed:
            vanished()
        }
    }

    private func received(_ bytes: UnsafeRawBufferPointer) {
        if isClosingAfterFlush { return }
        if inbox.isEmpty {
            let consumed = process(bytes)
            if consumed < bytes.count && phase != .closed { inbox.append(contentsOf: bytes[consumed...]) }
        } else {
            inbox.append(contentsOf: bytes)
            processInbox()
        }
        pauseIfParked()
    }

    /// Goes on with what was kept: a server was granted, or its answer is complete.
    func resume() {
        if phase == .closed || isClosingAfterFlush { return }
        processInbox()
        if isReadingPaused && inbox.count < Self.parkedBytesMax && server?.isCongested != true {
            isReadingPaused = false
            updateInterest()
        }
        pauseIfParked()
    }

    private func processInbox() {
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

    private func pauseIfParked() {
        let isStuck = phase != .idle && (phase != .leased || server?.isCongested == true || isHolding)
        if isStuck && !isReadingPaused && inbox.count > Self.parkedBytesMax { pauseReading() }
    }

    private func process(_ bytes: UnsafeRawBufferPointer) -> Int {
        isProcessing = true
        defer { isProcessing = false }
        var offset = min(bytesToSkip, bytes.count)
        bytesToSkip -= offset
        while true {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[offset...])
            let before = phase
            hasMoved = false
            let consumed: Int
            switch phase {
            case .login: consumed = rest.isEmpty ? 0 : processLogin(rest)
            case .idle: consumed = rest.isEmpty ? 0 : processIdle(rest)
            case .leased: consumed = processLeased(rest)
            case .console: consumed = rest.isEmpty ? 0 : processConsole(rest)
            case .greeting, .waiting, .awaitingHorizon, .applyingSettings, .consoleWaiting: consumed = 0
            case .closed: return bytes.count
            }
            offset += consumed
            if bytesToSkip > 0 {
                let skipped = min(bytesToSkip, bytes.count - offset)
                bytesToSkip -= skipped
                offset += skipped
                if skipped > 0 { continue }
            }
            if isClosingAfterFlush || phase == .closed { return bytes.count }
            if consumed == 0 && phase == before && !hasMoved { return offset }
        }
    }

    /// The unit at the front of what was kept is not run after all.
    func skipUnit(_ count: Int) { bytesToSkip = count }

    /// Puts a unit back to be run again, before what came behind it. Not while bytes are being processed.
    func putBack(_ unit: [UInt8]) {
        precondition(!isProcessing, "a unit put back into bytes that are being processed")
        inbox = unit + inbox
    }

    /// Goes on with kept bytes: in the loop that is at them, or at the end of the batch.
    func resumeSoon() {
        if isProcessing { hasMoved = true } else { worker.resumeLater(self) }
    }

    func pauseReading() {
        isReadingPaused = true
        updateInterest()
    }

    // MARK: login

    private func processLogin(_ bytes: UnsafeRawBufferPointer) -> Int {
        guard var exchange = login else { preconditionFailure("a login without its state") }
        var actions: [ClientLogin.Action] = []
        let consumed = exchange.receive(bytes, &actions)
        login = exchange
        perform(actions)
        return consumed
    }

    /// What was looked up for the login has come, at once or later.
    func supply(_ found: ClientLogin.LookedUp) {
        goOnWithLogin { $0.supply(found, &$1) }
    }

    func supply(systemUser name: String?) {
        goOnWithLogin { $0.supply(systemUser: name, &$1) }
    }

    private func goOnWithLogin(_ step: (inout ClientLogin, inout [ClientLogin.Action]) -> Void) {
        guard phase == .login, var exchange = login else { return }
        var actions: [ClientLogin.Action] = []
        step(&exchange, &actions)
        login = exchange
        perform(actions)
        resumeSoon()
    }

    private func perform(_ actions: [ClientLogin.Action]) {
        for action in actions {
            switch action {
            case .send(let content): send(content)
            case .authenticated(let request): authenticated(request)
            case .lookUpSecret(let database, let user):
                lookedUp = SecretCache.Key(database: database, user: user)
                worker.lookUpSecret(database: database, user: user, for: self)
            case .lookUpSystemUser:
                if let number = socket.peerUserID() {
                    worker.lookUpSystemUser(number, for: self)
                } else {
                    supply(systemUser: nil)
                }
            case .cancel(let processID, let secret):
                worker.cancelRequested(processID: processID, secret: secret)
                close()
            case .refuse(let error):
                if error.state == .invalidPassword {
                    worker.logger.notice("login from \(address.host) failed: \(error.message)")
                    if let lookedUp { worker.secrets.doubt(lookedUp, now: worker.now) }
                }
                close(with: error)
            case .dismiss(let content): close(after: content)
            case .close: close()
            }
        }
    }

    private func authenticated(_ request: LoginRequest) {
        login = nil
        user = request.user
        proof = request.proof
        cancelSecretSize = request.cancelSecretSize
        databaseName = request.database
        for setting in request.settings where setting.name.lowercased() == "application_name" {
            applicationName = setting.value
        }
        if request.database == ProxySnapshot.consoleDatabase {
            if !worker.snapshot.settings.admin.users.contains(where: { $0.hasSameBytes(as: user) }) {
                return close(with: ErrorResponse(
                    .fatal, .insufficientPrivilege, "user \"\(user)\" may not use the console",
                    hint: "Add the user to admin.users in Godwit's configuration."))
            }
            return greetConsole()
        }
        let state: DatabaseState
        switch worker.database(named: request.database) {
        case .state(let found): state = found
        case .unknown:
            return close(with: ErrorResponse(
                .fatal, .undefinedDatabase, "database \"\(request.database)\" does not exist",
                hint: "Godwit serves the entries of `databases` in its configuration."))
        case .tooMany:
            return close(with: ErrorResponse(
                .fatal, .configurationLimitExceeded, "too many databases are in use already",
                detail: "The entry \"*\" makes at most \(SettingsLimits.autoDatabasesMax)."))
        }
        if let refusal = enterLimits(of: state) { return close(with: refusal) }
        database = state
        state.clientCount += 1
        limitsChanged()
        take(request.settings, state)
        if state.welcome != nil { return greet() }
        phase = .greeting
        waitForServer(.old)
    }

    private func take(_ parameters: [StartupPacket.Parameter], _ state: DatabaseState) {
        for parameter in parameters {
            let name = parameter.name.lowercased()
            if state.route.table.keySettings.contains(name) {
                keyValues[name] = parameter.value
            } else {
                settings.set(name: name, value: parameter.value)
                noteParameter(name, parameter.value)
            }
        }
        startupSettings = settings
        routingChanged()
    }

    /// ParameterStatus as the authority reports them, with what this client asked for, then the cancel key.
    func greet() {
        guard let welcome = database?.welcome else { preconditionFailure("a greeting without a server's") }
        let key = worker.nextCancelKey()
        cancelKey = key
        cancelSecret = Digest.randomBytes(cancelSecretSize)
        worker.clientsByKey[key] = self
        var writer = MessageWriter(reserving: 512)
        for parameter in welcome {
            switch parameter.name {
            case "application_name": writer.parameterStatus(parameter.name, applicationName)
            case "session_authorization": writer.parameterStatus(parameter.name, user)
            default: writer.parameterStatus(parameter.name, parameter.value)
            }
        }
        writer.backendKeyData(processID: key, secret: cancelSecret)
        writer.readyForQuery(.idle)
        phase = .idle
        send(writer.bytes)
        if worker.isDraining { return drain() }
        resumeSoon()
    }

    func greetConsole() {
        phase = .console
        var writer = MessageWriter()
        for (name, value) in [
            ("server_version", "15.0 (Godwit)"), ("server_encoding", "UTF8"), ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"), ("TimeZone", "UTC"), ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"), ("application_name", applicationName),
        ] { writer.parameterStatus(name, value) }
        writer.backendKeyData(processID: 0, secret: Array(repeating: 0, count: cancelSecretSize))
        writer.readyForQuery(.idle)
        send(writer.bytes)
    }

    func loginTimedOut() {
        if phase == .login {
            close(with: ErrorResponse(.fatal, .protocolViolation, "login took longer than client_login_timeout"))
        }
    }

    // MARK: sending

    func send(_ bytes: [UInt8]) { bytes.withUnsafeBytes { sendFromServer($0) } }

    /// Queued: a send follows in the same event.
    func queueAnswer(_ tag: UInt8) {
        let message: [UInt8] = [tag, 0, 0, 0, 4]
        message.withUnsafeBytes { queueFromServer($0) }
    }

    func queueFromServer(_ range: UnsafeRawBufferPointer) {
        if isHolding { held.append(contentsOf: range) } else { out.append(range) }
    }

    /// Sends `range`, and before it what waits; while the unit may still be run elsewhere it is held back.
    func sendFromServer(_ range: UnsafeRawBufferPointer) {
        if phase == .closed { return }
        if isHolding {
            held.append(contentsOf: range)
            return
        }
        if range.isEmpty && out.isEmpty { return }
        database?.counters.sent += UInt64(range.count)
        let outcome = range.isEmpty ? out.flush(to: socket) : out.send(range, to: socket)
        switch outcome {
        case .bytes, .wouldBlock:
            if out.count > SendQueue.highWater { server?.pauseReading() }
            updateInterest()
        case .closed, .failed:
            out.clear()
            vanished()
        }
    }

    /// The unit will not be run elsewhere: what was held back goes out.
    func stopHolding() {
        if !isHolding { return }
        isHolding = false
        replay.removeAll(keepingCapacity: replay.capacity <= Self.keptCapacity)
        out.append(held)
        held.removeAll(keepingCapacity: held.capacity <= Self.keptCapacity)
    }

    func dropHeld() {
        isHolding = false
        held.removeAll(keepingCapacity: held.capacity <= Self.keptCapacity)
    }

    func onWritable() {
        if phase == .closed { return }
        switch out.flush(to: socket) {
        case .bytes, .wouldBlock:
            if isClosingAfterFlush && out.isEmpty { return close() }
            if out.count < SendQueue.lowWater { server?.resumeReading() }
            updateInterest()
        case .closed, .failed:
            vanished()
        }
    }

    /// The server has room again for what we send it.
    func serverDrained() {
        if isReadingPaused || !inbox.isEmpty { worker.resumeLater(self) }
    }

    private func updateInterest() {
        if phase == .closed { return }
        let wanted = Interest(reads: !isReadingPaused, writes: !out.isEmpty)
        if wanted.rawValue == interest.rawValue { return }
        interest = wanted
        worker.loop.modify(socket.raw, wanted, as: registration)
    }

    // MARK: the end

    /// Tells the client why, and closes when it has been sent.
    func close(with error: ErrorResponse) { close(after: error.encoded) }

    private func close(after farewell: [UInt8]) {
        if phase == .closed || isClosingAfterFlush { return }
        stopHolding()
        isClosingAfterFlush = true
        send(farewell)
        if phase != .closed && out.isEmpty { close() }
    }

    /// The client has gone, or has said that it goes.
    func vanished() { close() }

    func close() {
        if phase == .closed { return }
        let last = phase
        phase = .closed
        letGo(of: last)
        leaveLimits()
        pools.old?.detach()
        pools.new?.detach()
        pools = (nil, nil)
        if let database {
            database.clientCount -= 1
            for statement in statements.removeAll() + changes.settle() {
                database.statements.release(statement)
            }
        }
        worker.dropRegistration(registration)
        worker.loop.unregister(socket.raw)
        worker.clientClosed(self)
        inbox = []
        out = SendQueue()
    }

    var hasParkedBytes: Bool { !inbox.isEmpty }
}

/// What the unnamed prepared statement of a client is, so that it can follow the client to another server.
struct UnnamedStatement {
    /// Parse's body behind the name.
    var parseBody: [UInt8]
    var token: UInt64
    var analysis: AnalysedStatement
    var key: StatementKey?
}

/// What the unnamed statement was before a message in flight that the server may yet skip.
struct UnnamedChange {
    let change: UInt32
    var previousChange: UInt32
    var statement: UnnamedStatement?
}
