import Primitives

/// Who may come from where, and how they prove it: a file in pg_hba.conf's form. Immutable, any thread.
package struct HBAFile: Sendable, Equatable {
    package enum Method: String, Sendable, CaseIterable {
        case trust, reject, md5, password, cert, peer
        case scramSHA256 = "scram-sha-256"
    }

    package enum Transport: String, Sendable, CaseIterable { case local, host, hostssl, hostnossl }

    /// What a client certificate must be beside what the method wants (`clientcert=`).
    package enum ClientCertificate: String, Sendable {
        case verifyCA = "verify-ca"
        case verifyFull = "verify-full"
    }

    package struct Rule: Sendable, Equatable {
        package let line: Int
        let transport: Transport
        let databases: [Name]
        let users: [Name]
        let addresses: Addresses
        package let method: Method
        /// The ident map's name; nil: the system's name must be the user's.
        package let map: String?
        package let clientCertificate: ClientCertificate?
    }

    enum Name: Sendable, Equatable {
        case all, sameUser
        /// Replication connections, which do not pass through us: matches nothing.
        case replication
        case exact(ExactName)
        case pattern(LinearPattern)
    }

    enum Addresses: Sendable, Equatable { case all, sameHost, sameNet, range(NetworkRange) }

    /// Where a client is, as far as rules look at it.
    package struct Peer: Sendable, Equatable {
        /// nil: a Unix socket.
        package var address: NetworkAddress?
        package var isEncrypted: Bool

        package init(address: NetworkAddress?, isEncrypted: Bool) {
            self.address = address
            self.isEncrypted = isEncrypted
        }
    }

    package let path: String
    package let rules: [Rule]
    private let local: LocalNetworks

    /// - Parameter local: what `samehost` and `samenet` stand for.
    package static func load(path: String, local: LocalNetworks) throws(SettingsError) -> HBAFile {
        try HBAFile(AccessFileLines(path: path), local: local)
    }

    package static func parse(
        text: String, path: String, local: LocalNetworks = LocalNetworks()
    ) throws(SettingsError) -> HBAFile {
        try HBAFile(AccessFileLines(text: text, path: path), local: local)
    }

    private init(_ lines: AccessFileLines, local: LocalNetworks) throws(SettingsError) {
        path = lines.path
        self.local = local
        var rules: [Rule] = []
        for line in lines.lines {
            var reader = HBARuleReader(lines, line)
            rules.append(try reader.rule())
        }
        self.rules = rules
    }

    /// The names of the ident maps that rules ask for, with their lines.
    package var maps: [(name: String, line: Int)] {
        rules.compactMap { rule in rule.map.map { (name: $0, line: rule.line) } }
    }

    // MARK: matching

    /// The first rule that is for this client.
    package func rule(for peer: Peer, database: String, user: String) -> Rule? {
        rules.first { rule in
            matches(rule.transport, peer) && matches(rule.addresses, peer)
                && rule.databases.contains { Self.matches($0, database, user: user) }
                && rule.users.contains { Self.matches($0, user, user: nil) }
        }
    }

    private func matches(_ transport: Transport, _ peer: Peer) -> Bool {
        switch transport {
        case .local: peer.address == nil
        case .host: peer.address != nil
        case .hostssl: peer.address != nil && peer.isEncrypted
        case .hostnossl: peer.address != nil && !peer.isEncrypted
        }
    }

    private func matches(_ addresses: Addresses, _ peer: Peer) -> Bool {
        guard let address = peer.address else { return true }
        switch addresses {
        case .all: return true
        case .sameHost: return local.hosts.contains(address)
        case .sameNet: return local.ranges.contains { $0.contains(address) }
        case .range(let range): return range.contains(address)
        }
    }

    private static func matches(_ name: Name, _ text: String, user: String?) -> Bool {
        switch name {
        case .all: true
        case .sameUser: user.map { text.hasSameBytes(as: $0) } ?? false
        case .replication: false
        case .exact(let exact): exact == ExactName(text)
        case .pattern(let pattern): pattern.matches(text)
        }
    }
}

/// One line. Lives within one call.
private struct HBARuleReader {
    private let lines: AccessFileLines
    private let line: AccessFileLines.Line
    private var fields: ArraySlice<[AccessFileLines.Word]>

    init(_ lines: AccessFileLines, _ line: AccessFileLines.Line) {
        self.lines = lines
        self.line = line
        fields = line.fields[...]
    }

    private func error(_ reason: SettingsError.Reason) -> SettingsError {
        SettingsError(path: lines.path, line: line.number, key: "", reason)
    }

    private mutating func next(_ what: String) throws(SettingsError) -> [AccessFileLines.Word] {
        guard let field = fields.popFirst() else { throw error(.expected(what, found: "the end of the line")) }
        return field
    }

    private mutating func word(_ what: String) throws(SettingsError) -> AccessFileLines.Word {
        let field = try next(what)
        guard field.count == 1 else { throw error(.expected(what, found: "a list")) }
        return field[0]
    }

    mutating func rule() throws(SettingsError) -> HBAFile.Rule {
        let kind = try word("local, host, hostssl or hostnossl")
        guard let transport = HBAFile.Transport(rawValue: kind.text) else {
            if ["hostgssenc", "hostnogssenc", "include", "include_if_exists", "include_dir"].contains(kind.text) {
                throw error(.unsupported("\(kind.text) in an HBA file"))
            }
            throw error(.expected("local, host, hostssl or hostnossl", found: "\"\(kind.text)\""))
        }
        let databases = try names(try next("databases"), isDatabase: true)
        let users = try names(try next("users"), isDatabase: false)
        let addresses = transport == .local ? .all : try addresses()
        let method = try method(transport)
        var map: String?
        var certificate: HBAFile.ClientCertificate?
        while let option = fields.popFirst() {
            let text = option.map(\.text).joined(separator: ",")
            let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            guard parts.count == 2 else { throw error(.expected("name=value", found: "\"\(text)\"")) }
            switch parts[0] {
            case "map":
                guard method == .cert || method == .peer else {
                    throw error(.conflict("map= is for the methods cert and peer"))
                }
                map = parts[1]
            case "clientcert":
                guard transport == .hostssl else { throw error(.conflict("clientcert= is for hostssl lines")) }
                guard let wanted = HBAFile.ClientCertificate(rawValue: parts[1]) else {
                    throw error(.expected("clientcert=verify-ca or verify-full", found: "\"\(parts[1])\""))
                }
                certificate = wanted
            default:
                throw error(.unsupported("the option \(parts[0])= in an HBA file"))
            }
        }
        return HBAFile.Rule(
            line: line.number, transport: transport, databases: databases, users: users, addresses: addresses,
            method: method, map: map, clientCertificate: certificate)
    }

    private func names(
        _ field: [AccessFileLines.Word], isDatabase: Bool
    ) throws(SettingsError) -> [HBAFile.Name] {
        var names: [HBAFile.Name] = []
        for word in try lines.expanded(field, line: line.number) {
            if word.isKeyword("all") {
                names.append(.all)
            } else if isDatabase && word.isKeyword("sameuser") {
                names.append(.sameUser)
            } else if isDatabase && word.isKeyword("replication") {
                names.append(.replication)
            } else if isDatabase && (word.isKeyword("samerole") || word.isKeyword("samegroup")) {
                throw error(.unsupported("\(word.text): Godwit does not know who is a member of which role;"))
            } else if !word.isQuoted && !isDatabase && word.text.hasPrefix("+") {
                throw error(.unsupported("\(word.text): Godwit does not know who is a member of which role;"))
            } else if !word.isQuoted && word.text.hasPrefix("/") {
                names.append(.pattern(try pattern(String(word.text.dropFirst()))))
            } else {
                names.append(.exact(ExactName(word.text)))
            }
        }
        if names.isEmpty { throw error(.expected("a name", found: "an empty list")) }
        return names
    }

    private func pattern(_ text: String) throws(SettingsError) -> LinearPattern {
        do {
            return try LinearPattern(regex: text)
        } catch {
            throw self.error(.expected("a regular expression", found: "\"\(text)\" (\(error))"))
        }
    }

    private mutating func addresses() throws(SettingsError) -> HBAFile.Addresses {
        let what = "an address as a.b.c.d/n, all, samehost or samenet"
        let word = try word(what)
        if word.isKeyword("all") { return .all }
        if word.isKeyword("samehost") { return .sameHost }
        if word.isKeyword("samenet") { return .sameNet }
        let parts = word.text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        guard let address = NetworkAddress(parts[0]) else {
            let isName = !parts[0].isEmpty && parts[0].allSatisfy { $0.isLetter || $0.isNumber || "-._".contains($0) }
            if isName && parts[0].contains(where: \.isLetter) {
                throw error(.unsupported("a host's name in an HBA file (\(word.text))"))
            }
            throw error(.expected(what, found: "\"\(word.text)\""))
        }
        if parts.count == 2 {
            guard let prefix = Int(parts[1]), let range = NetworkRange(address, prefix: prefix) else {
                throw error(.expected("/0 to /\(address.width)", found: "\"\(word.text)\""))
            }
            return .range(range)
        }
        let column = try self.word("the mask of \(word.text)")
        guard let mask = NetworkAddress(column.text), let range = NetworkRange(address, mask: mask) else {
            throw error(.expected("the mask of \(word.text)", found: "\"\(column.text)\""))
        }
        return .range(range)
    }

    private mutating func method(_ transport: HBAFile.Transport) throws(SettingsError) -> HBAFile.Method {
        let all = HBAFile.Method.allCases.map(\.rawValue).joined(separator: ", ")
        let word = try word("a method (\(all))")
        // As in PostgreSQL, ident on a Unix socket is another name for peer.
        let name = word.text == "ident" && transport == .local ? "peer" : word.text
        guard let method = HBAFile.Method(rawValue: name) else {
            let others = ["gss", "sspi", "ident", "pam", "bsd", "ldap", "radius", "oauth"]
            if others.contains(name) { throw error(.unsupported("the method \(name)")) }
            throw error(.expected("a method (\(all))", found: "\"\(word.text)\""))
        }
        if method == .peer && transport != .local { throw error(.conflict("peer is for local lines")) }
        if method == .cert && transport != .hostssl { throw error(.conflict("cert is for hostssl lines")) }
        return method
    }
}
