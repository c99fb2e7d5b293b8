import Configuration
import Primitives
import Testing

@Suite struct HBAFileTests {
    private static let local = LocalNetworks(
        hosts: [NetworkAddress("10.1.2.3")!, NetworkAddress("fe80::1")!],
        ranges: [NetworkRange(NetworkAddress("10.1.2.3")!, prefix: 16)!])

    private func parse(_ text: String) throws(SettingsError) -> HBAFile {
        try HBAFile.parse(text: text, path: "hba", local: Self.local)
    }

    private func line(
        _ text: String, from address: String? = "192.0.2.7", encrypted: Bool = false, database: String = "shop",
        user: String = "ann"
    ) throws -> Int? {
        let peer = HBAFile.Peer(address: address.flatMap { NetworkAddress($0) }, isEncrypted: encrypted)
        return try parse(text).rule(for: peer, database: database, user: user)?.line
    }

    @Test(arguments: [
        ("host all all all trust", nil, false, false), ("host all all all trust", "192.0.2.7", false, true),
        ("host all all all trust", "192.0.2.7", true, true), ("hostssl all all all trust", "192.0.2.7", false, false),
        ("hostssl all all all trust", "192.0.2.7", true, true),
        ("hostnossl all all all trust", "192.0.2.7", true, false),
        ("hostnossl all all all trust", "192.0.2.7", false, true), ("local all all trust", nil, false, true),
        ("local all all trust", "192.0.2.7", false, false),
    ] as [(String, String?, Bool, Bool)])
    func `the kind of line says over what it is for`(
        text: String, address: String?, encrypted: Bool, isFor: Bool
    ) throws {
        #expect((try line(text, from: address, encrypted: encrypted) != nil) == isFor)
    }

    @Test(arguments: [
        ("all", true), ("shop", true), ("other", false), ("other,shop", true), ("other, shop", true),
        ("\"all\"", false), ("sameuser", false), ("replication", false), ("/^sh", true), ("/^x", false),
        ("\"/^sh\"", false), ("SHOP", false), ("\"shop\"", true), ("sh\"op\"", true),
    ])
    func `databases are names, lists, patterns and keywords`(field: String, isFor: Bool) throws {
        #expect((try line("host \(field) ann all trust") != nil) == isFor)
    }

    @Test func `sameuser, and a quoted keyword, are what they say`() throws {
        #expect(try line("host sameuser all all trust", database: "ann") == 1)
        #expect(try line("host \"all\" all all trust", database: "all") == 1)
        #expect(try line("host all \"+ann\" all trust", user: "+ann") == 1)
    }

    @Test func `names are told apart by their bytes`() throws {
        #expect(try line("host all caf\u{E9} all trust", user: "caf\u{E9}") == 1)
        #expect(try line("host all caf\u{E9} all trust", user: "cafe\u{301}") == nil)
    }

    @Test(arguments: [
        ("192.0.2.7/32", true), ("192.0.2.0/24", true), ("192.0.2.8/32", false), ("0.0.0.0/0", true),
        ("192.0.2.0 255.255.255.0", true), ("192.0.2.8 255.255.255.255", false), ("::/0", false), ("all", true),
        ("samehost", false), ("samenet", false), ("192.0.2.6/31", true), ("192.0.2.99/24", true),
    ])
    func `an IPv4 client is in the ranges that have its first bits`(range: String, isFor: Bool) throws {
        #expect((try line("host all all \(range) trust") != nil) == isFor)
        let mapped = NetworkAddress(ipv6: 0xFFFF_C000_0207)
        #expect(mapped == NetworkAddress("192.0.2.7"))
    }

    @Test(arguments: [
        ("2001:db8::/32", "2001:db8::1", true), ("2001:db8::/32", "2001:db9::1", false), ("::1/128", "::1", true),
        ("::/0", "2001:db8::1", true), ("0.0.0.0/0", "::1", false), ("fe80:: ffff::", "fe80::9", true),
        ("samehost", "fe80::1", true), ("samehost", "10.1.2.3", true), ("samenet", "10.1.255.255", true),
        ("samenet", "10.2.0.0", false),
    ])
    func `so is an IPv6 client, and this machine's own are known`(
        range: String, address: String, isFor: Bool
    ) throws {
        #expect((try line("host all all \(range) trust", from: address) != nil) == isFor)
    }

    @Test func `the first line that is for the client decides`() throws {
        let text = """
            # TYPE DATABASE USER ADDRESS METHOD
            host  other   all  all            reject

            host  shop \\
                  bob  all  md5   # joined
            host  shop    ann  192.0.2.0/24   scram-sha-256
            host  all     all  all            reject
            """
        #expect(try line(text) == 6)
        #expect(try line(text, user: "bob") == 4)
        #expect(try line(text, from: "198.51.100.1") == 7)
        #expect(try parse(text).rules.map(\.method) == [.reject, .md5, .scramSHA256, .reject])
        #expect(try line(text, from: nil) == nil)
    }

    @Test func `options are read`() throws {
        let file = try parse("""
            hostssl all all all cert map=m
            local all all peer "map=my map"
            local all all ident
            hostssl all all all scram-sha-256 clientcert=verify-full
            """)
        #expect(file.rules.map(\.map) == ["m", "my map", nil, nil])
        #expect(file.rules[2].method == .peer)
        #expect(file.rules[3].clientCertificate == .verifyFull)
        #expect(file.maps.map(\.line) == [1, 2])
    }

    @Test(arguments: [
        ("all", "hba:1: expected local, host, hostssl or hostnossl, found \"all\""),
        ("host all", "hba:1: expected users, found the end of the line"),
        ("\nhost all all all", "hba:2: expected a method"), ("host all all 1.2.3.4 trust", "hba:1: expected the mask"),
        ("host all all 1.2.3.4", "hba:1: expected the mask of 1.2.3.4, found the end of the line"),
        ("host all all 1.2.3.4/33 trust", "hba:1: expected /0 to /32"), ("host all all 1.2.3.4/ trust", "expected /0"),
        ("host all all ::1/129 trust", "expected /0 to /128"), ("host all all 1.2.3.4 ::1 trust", "expected the mask"),
        ("host all all db.example trust", "a host's name in an HBA file (db.example) is not available"),
        ("host all all .example trust", "a host's name"), ("host all all 1.2.3 trust", "hba:1: expected an address"),
        ("host all +group all trust", "+group: Godwit does not know who is a member"),
        ("host samerole all all trust", "samerole: Godwit does not know"), ("host all all all ldap", "the method ldap"),
        ("host all all all what", "found \"what\""), ("host all all all peer", "peer is for local lines"),
        ("host all all all cert", "cert is for hostssl lines"), ("host all all all trust map=x", "map= is for"),
        ("local all all trust x", "expected name=value"), ("local all all trust x=y", "the option x="),
        ("hostssl all all all md5 clientcert=1", "expected clientcert=verify-ca or verify-full"),
        ("host all all all md5 clientcert=verify-ca", "clientcert= is for hostssl"),
        ("include other", "include in an HBA file"), ("hostgssenc all all all trust", "hostgssenc in an HBA file"),
        ("host \"all all all trust", "expected a closing quote"),
        ("host /( all all trust", "expected a regular expression"),
        ("host all,\u{0} all all trust", "text without NUL"), ("local,host all all trust", "found a list"),
        ("host @/nowhere/list all all trust", "/nowhere/list: cannot be read: no such file"),
    ])
    func `what is wrong is refused with its line`(text: String, message: String) {
        do {
            _ = try parse(text)
            Issue.record("accepted: \(text)")
        } catch {
            #expect(error.description.contains(message), "\(error)")
        }
    }

    @Test func `as many lines as the bound are read, and one more is refused`() throws {
        let line = "local all all trust\n"
        let most = String(repeating: line, count: SettingsLimits.accessRulesMax)
        #expect(try parse(most).rules.count == SettingsLimits.accessRulesMax)
        #expect(throws: SettingsError.self) { try parse(most + line) }
    }

    @Test(arguments: 1...20) func `words in any order are read or refused`(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let words = [
            "host", "local", "all", "\"", ",", " ", "\n", "\\", "#", "@", "/", "1.2.3.4", "/8", "trust", "=", "é",
        ]
        for _ in 0..<100 {
            let text = (0..<12).map { _ in words.randomElement(using: &generator) ?? "" }.joined()
            _ = try? parse(text.replacing("@", with: "@/nowhere/"))
            _ = try? IdentFile.parse(text: text, path: "ident")
        }
    }
}

@Suite struct IdentFileTests {
    private static let text = #"""
        # map system user
        m   ann          annie
        m   /^(.*)@example\.com$   \1
        m   /^ops-(.+)$  "op_\1"
        m   root         all
        n   /^x          /^y
        "m" "/lit"       lit
        """#

    @Test(arguments: [
        ("m", "ann", "annie", true), ("m", "ann", "ann", false), ("n", "ann", "annie", false),
        ("m", "bob@example.com", "bob", true), ("m", "bob@example.com", "eve", false),
        ("m", "bob@exampleXcom", "bob", false), ("m", "@example.com", "", true), ("m", "ops-7", "op_7", true),
        ("m", "ops-", "op_", false), ("m", "root", "anybody", true), ("n", "xa", "ya", true), ("n", "xa", "a", false),
        ("m", "/lit", "lit", true), ("o", "ann", "annie", false),
    ])
    func `a map says who may be whom`(map: String, system: String, user: String, isAllowed: Bool) throws {
        let file = try IdentFile.parse(text: Self.text, path: "ident")
        #expect(file.allows(map: map, system: system, user: user) == isAllowed)
    }

    @Test func `without a map the names must be the same, byte by byte`() {
        #expect(IdentFile.empty.allows(map: nil, system: "ann", user: "ann"))
        #expect(!IdentFile.empty.allows(map: nil, system: "caf\u{E9}", user: "cafe\u{301}"))
        #expect(!IdentFile.empty.has(map: "m"))
    }

    @Test(arguments: [
        ("m a", "ident:1: expected a map's name"), ("m a b c", "found 4 fields"), ("\nm a,b c", "ident:2:"),
        (#"m /^(a|b)$ \1"#, #"\1 behind a regular expression"#), ("m /( b", "expected a regular expression"),
        ("m a +g", "+g: Godwit does not know"),
    ])
    func `what is wrong is refused with its line`(text: String, message: String) {
        do {
            _ = try IdentFile.parse(text: text, path: "ident")
            Issue.record("accepted: \(text)")
        } catch {
            #expect(error.description.contains(message), "\(error)")
        }
    }
}
