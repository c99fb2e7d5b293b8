import Configuration
import Digests
import PGWire
import Primitives

/// What a client asked for when it logged in. Immutable.
package struct LoginRequest: Equatable, Sendable {
    package var user: String
    package var database: String
    /// Every `-c` of the startup packet's `options`, then every other parameter of it, in order.
    package var settings: [StartupPacket.Parameter]
    /// The minor version of protocol 3 that both speak.
    package var minor: UInt16
    /// What the login has proven and servers may want too.
    package var proof: ServerProof?

    package init(user: String, database: String, settings: [StartupPacket.Parameter], minor: UInt16 = 0) {
        self.user = user
        self.database = database
        self.settings = settings
        self.minor = minor
    }

    /// Bytes of the cancel key that the client can take: it is four before 3.2 (PROTOCOL-CANCEL-KEY).
    package var cancelSecretSize: Int { minor >= 2 ? Self.longCancelSecret : 4 }

    /// As long as PostgreSQL 18's.
    private static let longCancelSecret = 32
}

/// A client from its first byte until it has proven who it is (PROTOCOL-FLOW-START-UP). Pure; one connection's value.
package struct ClientLogin {
    package enum Action: Equatable {
        case send([UInt8])
        /// TLS begins with the bytes that come next: then `secured` tells of it.
        case startTLS(isDirect: Bool)
        case authenticated(LoginRequest)
        case cancel(processID: Int32, secret: [UInt8])
        /// Find out the user's secret and say it by `supply(_:)`.
        case lookUpSecret(database: String, user: String)
        /// Find out the name of the system's user at the other end of the Unix socket; `supply(systemUser:)`.
        case lookUpSystemUser
        /// Send the error and close.
        case refuse(ErrorResponse)
        /// Send these bytes and close: for a peer that does not speak protocol 3.
        case dismiss([UInt8])
        /// Close without a word: nobody is there who would understand one.
        case close
    }

    /// What came of a look-up.
    package enum LookedUp: Equatable, Sendable {
        case found(AuthPolicy.Secret)
        /// There is none that may log in.
        ///
        /// - Parameter iterations: that others there have; nil: not known.
        case none(iterations: Int?)
        case failed(ErrorResponse)
    }

    private enum State: Equatable {
        case startup
        case encrypting
        case lookingUpSecret(AuthPolicy.Method)
        case lookingUpSystemUser(map: String?)
        case md5(expected: String, isKnown: Bool)
        case password
        case saslFirst, saslFinal, done
    }

    private var state: State = .startup
    private var scram: SCRAMServer?
    private var request = LoginRequest(user: "", database: "", settings: [])
    private let policy: AuthPolicy
    /// What the transport has proven.
    private(set) var peer: LoginPeer
    private let encryption: EncryptionPolicy
    /// The user's; nil: there is none.
    private var secret: AuthPolicy.Secret?
    private let randomBytes: [UInt8]
    private let refusal: ((LoginRequest) -> ErrorResponse?)?
    /// SSLRequest and GSSENCRequest may each come once.
    private var encryptionRequests = 0

    package static let randomByteCount = 22

    /// - Parameters:
    ///   - randomBytes: `randomByteCount` bytes from a secure generator.
    ///   - refusal: why who asks for this is not let in, before he has to prove anything; nil: he is.
    package init(
        policy: AuthPolicy, randomBytes: [UInt8], peer: LoginPeer = LoginPeer(address: nil),
        encryption: EncryptionPolicy = .plain, refusal: ((LoginRequest) -> ErrorResponse?)? = nil
    ) {
        precondition(randomBytes.count == Self.randomByteCount, "randomness of the wrong size")
        self.policy = policy
        self.peer = peer
        self.encryption = encryption
        self.randomBytes = randomBytes
        self.refusal = refusal
    }

    /// Bytes that one login step may need before it can go on: of who has not proven yet who it is no more are kept.
    package static let bufferedMax = WireLimits.authenticationMessageMax + 1

    /// Consumes one packet or message from the start of `bytes`.
    ///
    /// - Parameter memory: of all logins on this thread.
    /// - Returns: bytes consumed; 0 when more are needed.
    package mutating func receive(
        _ bytes: UnsafeRawBufferPointer, _ memory: inout StartupMemory, _ actions: inout [Action]
    ) -> Int {
        switch state {
        case .startup:
            if bytes.first == Self.tlsHandshake, encryption.isOffered, !peer.isEncrypted, encryptionRequests == 0 {
                state = .encrypting
                actions.append(.startTLS(isDirect: true))
                return 0
            }
            if let (known, size) = memory.find(bytes) {
                request = known
                authenticate(&actions)
                return size
            }
            do {
                guard let (packet, size) = try StartupPacket.parse(bytes) else { return 0 }
                handle(
                    packet, UnsafeRawBufferPointer(rebasing: bytes[..<size]), isLast: size == bytes.count, &memory,
                    &actions)
                return size
            } catch {
                refuse(error, &actions)
                return bytes.count
            }
        case .md5, .password, .saslFirst, .saslFinal:
            guard let header = FrameHeader.parse(bytes, at: 0) else { return 0 }
            guard header.tag == FrontendTag.password, header.frontendError() == nil else {
                finish(.refuse(Self.protocolError("expected a password message")), &actions)
                return bytes.count
            }
            if bytes.count < header.frameSize { return 0 }
            handlePassword(Array(bytes[FrameHeader.size..<header.frameSize]), &actions)
            return header.frameSize
        case .encrypting, .lookingUpSecret, .lookingUpSystemUser, .done:
            return 0
        }
    }

    /// Nothing goes on without more from the client.
    package var awaitsClient: Bool {
        switch state {
        case .startup, .md5, .password, .saslFirst, .saslFinal: true
        case .encrypting, .lookingUpSecret, .lookingUpSystemUser, .done: false
        }
    }

    /// The handshake that `startTLS` asked for is done; what comes now was encrypted.
    package mutating func secured(_ facts: ChannelFacts) {
        precondition(state == .encrypting, "TLS that nobody asked for")
        peer.secured(facts)
        state = .startup
    }

    /// The type of the record that a ClientHello comes in. No startup packet is as long as it would mean.
    private static let tlsHandshake: UInt8 = 0x16

    // MARK: startup

    /// - Parameters:
    ///   - bytes: the packet's.
    ///   - isLast: nothing has come behind it yet.
    private mutating func handle(
        _ packet: StartupPacket, _ bytes: UnsafeRawBufferPointer, isLast: Bool, _ memory: inout StartupMemory,
        _ actions: inout [Action]
    ) {
        switch packet {
        case .sslRequest where encryption.isOffered && !peer.isEncrypted:
            // Bytes behind it were sent before the handshake, maybe not by the client (CVE-2021-23214).
            if !isLast { return finish(.refuse(EncryptionPolicy.unencryptedData), &actions) }
            state = .encrypting
            actions.append(.send([UInt8(ascii: "S")]))
            actions.append(.startTLS(isDirect: false))
        case .sslRequest where peer.isEncrypted, .gssEncryptionRequest where peer.isEncrypted:
            finish(.refuse(Self.protocolError("encryption was asked for within TLS")), &actions)
        case .sslRequest, .gssEncryptionRequest:
            encryptionRequests += 1
            if encryptionRequests > 2 {
                finish(.close, &actions)
            } else {
                actions.append(.send([UInt8(ascii: "N")]))
            }
        case .cancelRequest(let processID, let secret):
            finish(.cancel(processID: processID, secret: secret), &actions)
        case .startup(let minor, let parameters):
            let answered = actions.count
            guard note(minor: minor, parameters, &actions) else { return }
            if actions.count == answered { memory.note(bytes, request) }
            authenticate(&actions)
        }
    }

    /// - Returns: false when it is refused.
    private mutating func note(
        minor: UInt16, _ parameters: [StartupPacket.Parameter], _ actions: inout [Action]
    ) -> Bool {
        var options: [StartupPacket.Parameter] = []
        var unknownExtensions: [String] = []
        for parameter in parameters {
            switch parameter.name {
            case "user": request.user = parameter.value
            case "database": request.database = parameter.value
            case "replication":
                if ["", "0", "false", "off", "no"].contains(parameter.value.lowercased()) { continue }
                finish(.refuse(ErrorResponse(
                    .fatal, .featureNotSupported, "replication connections do not pass through Godwit",
                    hint: "Connect to the database server itself for replication.")), &actions)
                return false
            case "options":
                guard let parsed = Self.parseOptions(parameter.value) else {
                    finish(.refuse(ErrorResponse(
                        .fatal, .invalidParameterValue, "cannot read the startup option \"\(parameter.value)\"",
                        hint: "Godwit takes -c name=value and --name=value.")), &actions)
                    return false
                }
                options = parsed
            case let name where name.hasPrefix("_pq_."): unknownExtensions.append(name)
            default: request.settings.append(parameter)
            }
        }
        // PostgreSQL takes them first: what the packet says itself comes over them, wherever they stand in it.
        request.settings = options + request.settings
        if request.user.isEmpty {
            finish(.refuse(ErrorResponse(
                .fatal, .invalidAuthorization, "no PostgreSQL user name specified in startup packet")), &actions)
            return false
        }
        if request.database.isEmpty { request.database = request.user }
        request.minor = min(minor, StartupPacket.newestMinor)
        if minor > StartupPacket.newestMinor || !unknownExtensions.isEmpty {
            actions.append(.send(Self.negotiation(request.minor, unknownExtensions)))
        }
        return true
    }

    /// NegotiateProtocolVersion: the version that both speak, never above what was asked for, and the extensions that
    /// we do not know. libpq's 3.9999, which nobody will ever speak, is answered in the same way: it asks for that to
    /// find out who answers wrongly.
    private static func negotiation(_ minor: UInt16, _ unknown: [String]) -> [UInt8] {
        var writer = MessageWriter()
        writer.message(BackendTag.negotiateProtocolVersion) { body in
            body.int32(0x0003_0000 | Int32(minor))
            body.int32(Int32(unknown.count))
            for name in unknown { body.cString(name) }
        }
        return writer.bytes
    }

    /// `-c name=value`, `-cname=value` and `--name=value`; a backslash takes the next character as it is.
    static func parseOptions(_ text: String) -> [StartupPacket.Parameter]? {
        var words: [String] = []
        var word: String?
        var isEscaped = false
        for character in text {
            if isEscaped {
                word = (word ?? "") + String(character)
                isEscaped = false
            } else if character == "\\" {
                isEscaped = true
            } else if character == " " || character == "\t" || character == "\n" {
                if let word { words.append(word) }
                word = nil
            } else {
                word = (word ?? "") + String(character)
            }
        }
        if let word { words.append(word) }
        var parameters: [StartupPacket.Parameter] = []
        var remaining = words[...]
        while let first = remaining.popFirst() {
            let assignment: Substring
            if first == "-c" {
                guard let next = remaining.popFirst() else { return nil }
                assignment = next[...]
            } else if first.hasPrefix("-c") || first.hasPrefix("--") {
                assignment = first.dropFirst(2)
            } else {
                return nil
            }
            guard let equals = assignment.firstIndex(of: "="), equals > assignment.startIndex else { return nil }
            let name = String(assignment[..<equals]).replacing("-", with: "_")
            let value = String(assignment[assignment.index(after: equals)...])
            parameters.append(StartupPacket.Parameter(name: name, value: value))
        }
        return parameters
    }

    // MARK: proof

    private mutating func authenticate(_ actions: inout [Action]) {
        if let error = refusal?(request) { return finish(.refuse(error), &actions) }
        if let refusal = encryption.refusal(of: peer, user: request.user, policy) {
            return finish(.refuse(refusal), &actions)
        }
        switch policy.demand(of: peer, database: request.database, user: request.user) {
        case .refuse(let error):
            finish(.refuse(error), &actions)
        case .method(.trust, _):
            succeed(&actions)
        case .method(.cert, let map):
            guard peer.isEncrypted, let name = peer.certificateName else {
                return finish(.refuse(AuthPolicy.noCertificate), &actions)
            }
            identified(as: name, map: map, "certificate", &actions)
        case .method(.peer, let map):
            if peer.address != nil {
                return finish(.refuse(ErrorResponse(
                    .fatal, .invalidAuthorization, "peer authentication is for Unix sockets only")), &actions)
            }
            state = .lookingUpSystemUser(map: map)
            actions.append(.lookUpSystemUser)
        case .method(let method, _):
            secret = policy.secret(of: request.user)
            if secret != nil || !policy.looksUp { return challenge(method, iterations: nil, &actions) }
            state = .lookingUpSecret(method)
            actions.append(.lookUpSecret(database: request.database, user: request.user))
        }
    }

    /// The answer to `lookUpSecret`. A user without a secret goes through the same exchange and fails at its end.
    package mutating func supply(_ found: LookedUp, _ actions: inout [Action]) {
        guard case .lookingUpSecret(let method) = state else { return }
        switch found {
        case .found(let known):
            secret = known
            challenge(method, iterations: nil, &actions)
        case .none(let iterations):
            challenge(method, iterations: iterations, &actions)
        case .failed(let error):
            finish(.refuse(error), &actions)
        }
    }

    /// The answer to `lookUpSystemUser`; nil: the system does not know a name.
    package mutating func supply(systemUser name: String?, _ actions: inout [Action]) {
        guard case .lookingUpSystemUser(let map) = state else { return }
        guard let name else { return finish(.refuse(AuthPolicy.notMapped("Peer", request.user)), &actions) }
        identified(as: name, map: map, "Peer", &actions)
    }

    private mutating func identified(
        as name: String, map: String?, _ method: String, _ actions: inout [Action]
    ) {
        if policy.maps.allows(map: map, system: name, user: request.user) {
            succeed(&actions)
        } else {
            finish(.refuse(AuthPolicy.notMapped(method, request.user)), &actions)
        }
    }

    private mutating func challenge(_ method: AuthPolicy.Method, iterations: Int?, _ actions: inout [Action]) {
        var method = method
        // An md5 exchange cannot be made of a SCRAM secret; PostgreSQL changes over too.
        if method == .md5 {
            switch secret {
            case .scram?: method = .scramSHA256
            case nil: if iterations != nil || policy.mocksSCRAM { method = .scramSHA256 }
            case .plain?, .md5?: break
            }
        }
        var writer = MessageWriter()
        switch method {
        case .md5:
            let salt = Array(randomBytes[18..<22])
            // A user without an md5 secret goes through the same exchange and fails at its end.
            let mock = MD5Password.secret(password: "", user: request.user)
            let expected = secret.flatMap { AuthPolicy.md5Secret($0, of: request.user) }
            state = .md5(
                expected: MD5Password.response(secret: expected ?? mock, salt: salt), isKnown: expected != nil)
            writer.authentication(5, salt)
        case .password:
            state = .password
            writer.authentication(3)
        case .scramSHA256:
            let (known, isKnown) = policy.scramSecret(secret, of: request.user, iterations: iterations)
            let binding = peer.endpointDigest.isEmpty ? nil : peer.endpointDigest
            scram = SCRAMServer(
                secret: known, isKnownUser: isKnown, randomBytes: Array(randomBytes[..<18]), binding: binding)
            state = .saslFirst
            let mechanisms = (binding == nil ? [] : [SCRAMMechanism.plus]) + [SCRAMMechanism.plain]
            writer.authentication(10, mechanisms.flatMap { Array($0.rawValue.utf8) + [0] } + [0])
        case .trust, .cert, .peer:
            preconditionFailure("a method without a password")
        }
        actions.append(.send(writer.bytes))
    }

    private mutating func handlePassword(_ body: [UInt8], _ actions: inout [Action]) {
        switch state {
        case .md5(let expected, let isKnown):
            let answer = Array(body.prefix { $0 != 0 })
            // Compared in any case, so that an unknown user takes as long.
            let isRight = Digest.equal(answer, Array(expected.utf8)) && isKnown
            if isRight { succeed(&actions) } else { finish(.refuse(wrongPassword), &actions) }
        case .password:
            let given = Array(body.prefix { $0 != 0 })
            // PostgreSQL too takes an empty password for none.
            guard !given.isEmpty, let text = String(validating: given, as: UTF8.self),
                policy.isPassword(text, secret, of: request.user)
            else { return finish(.refuse(wrongPassword), &actions) }
            request.proof = .password(text)
            succeed(&actions)
        case .saslFirst:
            guard let (mechanism, initial) = Self.saslInitialResponse(body) else {
                return finish(.refuse(Self.protocolError("malformed SASL initial response")), &actions)
            }
            step(&actions, code: 11, next: .saslFinal) { (scram: inout SCRAMServer) throws(SCRAMServer.Failure) in
                try scram.first(initial, mechanism: mechanism)
            }
        case .saslFinal:
            step(&actions, code: 12, next: .done) { (scram: inout SCRAMServer) throws(SCRAMServer.Failure) in
                try scram.final(body)
            }
        case .startup, .encrypting, .lookingUpSecret, .lookingUpSystemUser, .done:
            preconditionFailure("a password message is handled in authentication only")
        }
    }

    private mutating func step(
        _ actions: inout [Action], code: Int32, next: State,
        _ body: (inout SCRAMServer) throws(SCRAMServer.Failure) -> [UInt8]
    ) {
        guard var exchange = scram else { preconditionFailure("SASL without an exchange") }
        do {
            let answer = try body(&exchange)
            scram = exchange
            state = next
            var writer = MessageWriter()
            writer.authentication(code, answer)
            actions.append(.send(writer.bytes))
            if next == .done {
                if case .scram? = secret { request.proof = exchange.provenKeys.map { .scram($0) } }
                succeed(&actions)
            }
        } catch {
            switch error {
            case .malformed: finish(.refuse(Self.protocolError("malformed SCRAM message")), &actions)
            case .wrongPassword: finish(.refuse(wrongPassword), &actions)
            case .bindingNotOffered, .bindingDowngraded, .bindingMismatch:
                finish(.refuse(EncryptionPolicy.bindingError(error)), &actions)
            }
        }
    }

    /// SASLInitialResponse: mechanism, length, data.
    private static func saslInitialResponse(_ body: [UInt8]) -> (SCRAMMechanism, [UInt8])? {
        body.withUnsafeBytes { raw in
            var reader = BodyReader(raw)
            guard let name = reader.cString(), let mechanism = SCRAMMechanism(rawValue: String(wire: name)),
                let length = reader.int32(), length >= 0, Int(length) == reader.remaining
            else { return nil }
            return (mechanism, Array(reader.rest()))
        }
    }

    private mutating func succeed(_ actions: inout [Action]) {
        switch (request.proof, secret) {
        case (nil, .plain(let password)?): request.proof = .password(password)
        case (nil, .md5(let stored)?): request.proof = .md5(stored)
        case (nil, .scram?), (nil, nil), (.some, _): break
        }
        var writer = MessageWriter()
        writer.authentication(0)
        actions.append(.send(writer.bytes))
        finish(.authenticated(request), &actions)
    }

    private mutating func finish(_ action: Action, _ actions: inout [Action]) {
        state = .done
        scram = nil
        secret = nil
        actions.append(action)
    }

    private var wrongPassword: ErrorResponse {
        ErrorResponse(
            .fatal, .invalidPassword, "password authentication failed for user \"\(request.user)\"")
    }

    private static func protocolError(_ what: String) -> ErrorResponse {
        ErrorResponse(.fatal, .protocolViolation, what)
    }

    private mutating func refuse(_ error: WireError, _ actions: inout [Action]) {
        switch error {
        case .unsupportedProtocol(let major, let minor):
            let newest = "3.\(StartupPacket.newestMinor)"
            let text = "unsupported frontend protocol \(major).\(minor): Godwit supports 3.0 to \(newest)"
            if major >= 3 {
                finish(.refuse(ErrorResponse(.fatal, .featureNotSupported, text)), &actions)
            } else {
                // Before protocol 3 an error was a line of text.
                finish(.dismiss([BackendTag.errorResponse] + Array("FATAL:  \(text)\n".utf8) + [0]), &actions)
            }
        case .nameNotUTF8:
            finish(.refuse(ErrorResponse(
                .fatal, .characterNotInRepertoire, "the name of the user or database is not valid UTF-8",
                hint: "Godwit takes names in UTF-8, whatever the session's client_encoding.")), &actions)
        case .malformedStartup, .lengthOutOfRange, .unexpectedMessage, .malformedBody, .packetTooLong:
            finish(.refuse(Self.protocolError("invalid startup packet")), &actions)
        }
    }
}
