import Configuration
import Console
import Digests
import Logging
import PGWire
import Primitives
import Reactor
import Routing
import Sessions

/// What only a login needs: its memory is given back with the end of it.
final class LoginState {
    var exchange: ClientLogin
    /// Whose secret was looked up for it.
    var lookedUp: SecretCache.Key?

    init(_ exchange: ClientLogin) { self.exchange = exchange }
}

/// What a cancel request has to know.
enum CancelSecret {
    /// The four bytes of protocol 3.0, which take no memory of their own.
    case short(UInt32)
    case long([UInt8])

    init(_ bytes: [UInt8]) {
        self = bytes.count == 4 ? .short(bytes.withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) }) : .long(bytes)
    }

    var bytes: [UInt8] {
        switch self {
        case .short(let number): withUnsafeBytes(of: number) { Array($0) }
        case .long(let bytes): bytes
        }
    }
}

/// A client's way in: TLS, its login, and the greeting.
extension ClientConnection {
    private static let applicationName = "application_name"
    /// A login waits for so long for a server that can tell it more than is known: who has all servers may be waiting
    /// for this very login.
    private static let greetingSeconds = 5.0

    /// One too many is heard nevertheless: it may want a query cancelled, or the console, where an operator finds out
    /// who all the others are. And an error before its first word is no answer to who asks for TLS.
    func start(_ admission: ClientCount.Admission) {
        if admission == .refused { return close(with: Self.tooMany) }
        let isLocal = if case .unix = address { true } else { false }
        let snapshot = worker.snapshot
        login = LoginState(ClientLogin(
            policy: snapshot.auth, randomBytes: worker.randomBytes.take(ClientLogin.randomByteCount),
            peer: LoginPeer(address: address.network), encryption: isLocal ? .plain : snapshot.encryption,
            refusal: admission == .regular ? nil : { snapshot.isConsole($0.database) ? nil : Self.tooMany }))
        context = isLocal ? nil : snapshot.tls
        let limit = snapshot.settings.listen.clientLoginTimeoutSeconds
        if limit > 0 { worker.schedule(.clientLogin(id), at: worker.now.advanced(bySeconds: limit)) }
    }

    private static let tooMany = ErrorResponse(
        .fatal, .tooManyConnections, "no more connections allowed (listen.clients_max)",
        hint: "Raise listen.clients_max, or close connections that are not needed.")

    func processLogin(_ bytes: UnsafeRawBufferPointer) -> Int {
        guard let login else { preconditionFailure("a login without its state") }
        var actions: [ClientLogin.Action] = []
        let consumed = login.exchange.receive(bytes, &worker.startups, &actions)
        perform(actions, rest: UnsafeRawBufferPointer(rebasing: bytes[consumed...]))
        // What came behind it is TLS.
        if case .startTLS? = actions.last { return bytes.count }
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
        guard phase == .login, let login else { return }
        var actions: [ClientLogin.Action] = []
        step(&login.exchange, &actions)
        perform(actions)
        resumeSoon()
    }

    /// - Parameter rest: what has come and the login has not taken.
    private func perform(
        _ actions: [ClientLogin.Action], rest: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)
    ) {
        for action in actions {
            // It may have gone while it was being answered.
            if phase == .closed { return }
            switch action {
            case .send(let content): send(content)
            case .startTLS(let isDirect):
                startTLS(isDirect: isDirect, received: rest)
            case .authenticated(let request): authenticated(request)
            case .lookUpSecret(let database, let user):
                login?.lookedUp = SecretCache.Key(database: database, user: user)
                worker.lookUpSecret(database: database, user: user, for: self)
            case .lookUpSystemUser:
                if let number = stream.socket.peerUserID() {
                    worker.lookUpSystemUser(number, for: self)
                } else {
                    supply(systemUser: nil)
                }
            case .cancel(let processID, let secret):
                phase = .cancelling
                worker.cancelRequested(processID: processID, secret: secret, by: self)
            case .refuse(let error):
                if error.state == .invalidPassword || error.state == .invalidAuthorization {
                    worker.logger.notice("login from \(address.host) failed: \(error.message)")
                    if let lookedUp = login?.lookedUp { worker.secrets.doubt(lookedUp, now: worker.now) }
                }
                close(with: error)
            case .dismiss(let content): close(after: content)
            case .close: close()
            }
        }
    }

    private func startTLS(isDirect: Bool, received: UnsafeRawBufferPointer) {
        guard let context else { preconditionFailure("TLS was offered without a certificate") }
        if phase == .closed || !stream.isEmpty { return close() }  // our answer could not be sent
        phase = .handshake
        let outcome = stream.startTLS(TLSStream(context, worker.scratch, isDirect: isDirect), received: received)
        _ = handshakeGoesOn(after: outcome)
        updateInterest()
    }

    /// - Returns: whether the client may be listened to.
    func handshakeGoesOn(after outcome: SocketDescriptor.Outcome) -> Bool {
        if let reason = stream.failure {
            worker.logger.info("TLS handshake with \(address.host) failed: \(reason)")
            close()
            return false
        }
        guard stream.isOpen, let security = stream.security else {
            switch outcome {
            case .bytes, .wouldBlock: break
            case .closed, .failed: close()
            }
            return false
        }
        let certificate = security.peerCertificate
        login?.exchange.secured(ChannelFacts(
            endpointDigest: security.endpointDigest, hasCertificate: certificate != nil,
            certificateName: certificate?.commonName))
        context = nil
        phase = .login
        return true
    }

    /// What encrypts the connection, as SHOW CLIENTS has it.
    var tlsSummary: String { stream.security.map { $0.summary } ?? "" }

    private func authenticated(_ request: LoginRequest) {
        login = nil
        context = nil
        user = request.user
        proof = request.proof
        cancelSecretSize = UInt8(request.cancelSecretSize)
        databaseName = request.database
        let nameSize = Self.applicationName.utf8.count
        for setting in request.settings
        where setting.name.utf8.count == nameSize && setting.name.lowercased() == Self.applicationName {
            applicationName = setting.value
        }
        startupName = applicationName
        if worker.snapshot.isConsole(request.database) { return enterConsole() }
        if worker.gate.isDisabled(request.database) {
            return close(with: ErrorResponse(
                .fatal, .cannotConnectNow, "database \"\(request.database)\" is disabled",
                hint: "An operator has disabled it for new connections; ENABLE in the console lets them in again."))
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
        // From now on SUSPEND is for it, too.
        updateInterest()
        if let proof { worker.note(proof, of: self, state) }
        take(request.settings, state)
        if let own = state.greetings.find(poolUser), !asksBeforeGreeting(state) { return greet(own) }
        phase = .greeting
        awaitGreeting()
        waitForServer(state.authority)
    }

    func awaitGreeting() {
        worker.schedule(.greeting(id), at: worker.now.advanced(bySeconds: Self.greetingSeconds))
    }

    private func take(_ parameters: [StartupPacket.Parameter], _ state: DatabaseState) {
        let keySettings = state.route.table.keySettings
        if let known = state.knownStartup, known.parameters == parameters, known.keySettings == keySettings {
            settings = known.settings
            (hasStandardStrings, hasSafeEncoding) = (known.hasStandardStrings, known.hasSafeEncoding)
        } else {
            note(parameters, keySettings)
            if keyValues.current.isEmpty {
                state.knownStartup = KnownStartup(
                    parameters: parameters, keySettings: keySettings, settings: settings,
                    hasStandardStrings: hasStandardStrings, hasSafeEncoding: hasSafeEncoding)
            }
        }
        startupSettings = settings
        noteReported(parameters, keySettings)
        routingChanged()
    }

    private func note(_ parameters: [StartupPacket.Parameter], _ keySettings: [String]) {
        for parameter in parameters {
            let name = parameter.name.lowercased()
            if keySettings.contains(name) {
                keyValues.start(name, with: parameter.value)
                if KeyValues.isOurs(name) { continue }
            }
            settings.set(name: name, value: parameter.value)
            noteParameter(name, parameter.value)
        }
    }

    /// ParameterStatus as the authority reports them, with what this client asked for, then the cancel key.
    ///
    /// - Parameter known: its user's own, where it has just been looked up.
    func greet(_ known: Greeting? = nil) {
        let own = known ?? database?.greetings.find(poolUser)
        guard let greeting = own ?? database?.greetings.latest else {
            preconditionFailure("a greeting without a server's")
        }
        if own == nil { noteOthers(greeting) }
        noteStrings(greeting.parameters)
        noteEncoding(greeting.parameters)
        let key = worker.nextCancelKey()
        let secret = takeCancelKey(key)
        var writer = MessageWriter(reserving: 1024)
        if let reported {
            tellAll(of: reported, &writer)
        } else {
            writer.raw(greeting.common)
            if greeting.hasUser { writer.parameterStatus("session_authorization", user) }
        }
        if greeting.hasApplicationName { writer.parameterStatus("application_name", applicationName) }
        writer.backendKeyData(processID: key, secret: secret)
        writer.readyForQuery(.idle)
        phase = .idle
        startNextUnit()
        send(writer.bytes)
        if worker.isDraining { return drain() }
        resumeSoon()
    }

    private func takeCancelKey(_ key: Int32) -> [UInt8] {
        let secret = worker.randomBytes.take(Int(cancelSecretSize))
        cancelKey = key
        cancelSecret = CancelSecret(secret)
        worker.clientsByKey[key] = self
        return secret
    }

    private func enterConsole() {
        let admin = worker.snapshot.settings.admin
        console.isAdmin = admin.users.contains { $0.hasSameBytes(as: user) }
        if !console.isAdmin && !admin.statsUsers.contains(where: { $0.hasSameBytes(as: user) }) {
            return close(with: ErrorResponse(
                .fatal, .insufficientPrivilege, "user \"\(user)\" may not use the console",
                hint: "Add the user to admin.users, or to admin.stats_users, in Godwit's configuration."))
        }
        console.speaksPgBouncer = databaseName == ProxySnapshot.pgBouncerDatabase
        greetConsole()
    }

    private func greetConsole() {
        phase = .console
        // So that Ctrl-C in psql ends a command that waits.
        let key = worker.nextCancelKey()
        let secret = takeCancelKey(key)
        var writer = MessageWriter()
        for (name, value) in [
            ("server_version", "15.0 (Godwit)"), ("server_encoding", "UTF8"), ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"), ("TimeZone", "UTC"), ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"), ("application_name", applicationName),
        ] { writer.parameterStatus(name, value) }
        writer.backendKeyData(processID: key, secret: secret)
        writer.readyForQuery(.idle)
        send(writer.bytes)
    }

    func loginTimedOut() {
        switch phase {
        case .login:
            close(with: ErrorResponse(.fatal, .protocolViolation, "login took longer than client_login_timeout"))
        case .handshake:
            worker.logger.info("TLS handshake with \(address.host) took longer than client_login_timeout")
            close()
        case .cancelling:
            close()
        default:
            break
        }
    }
}
