import Foundation
import Glibc
import TestSupport
import Testing

/// HBA files, names and passwords beyond ASCII, and what time and size tell of users.
@Suite struct AccessRulesTests {
    private func godwit(
        hba: String, ident: String = "", _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> GodwitProcess {
        try Servers.shared.get().godwit("postgres") {
            $0.authMethod = "hba"
            $0.users = "\"app\" \"right\"\n\"other\" \"right\"\n"
            $0.auth = ["hba_file": "DIRECTORY/hba", "ident_file": "DIRECTORY/ident"]
            $0.files = ["hba": hba, "ident": ident]
            change(&$0)
        }
    }

    private func refusal(_ conninfo: String) throws -> String {
        let psql = try ChildProcess(["psql", "-XAtw", "-d", conninfo, "-c", "SELECT 1"])
        #expect(psql.wait() == .code(2))
        return psql.errors.text
    }

    @Test func `the first line that is for a client decides, and none refuses`() throws {
        let godwit = try godwit(hba: """
            host postgres app   127.0.0.1/32  scram-sha-256
            host postgres other 127.0.0.0/8   reject
            host other    all   all           trust
            """)
        #expect(try godwit.psql("SELECT 1", database: "postgres", password: "right") == "1")
        #expect(try refusal(godwit.conninfo(database: "postgres", user: "other")).contains(
            "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"other\", database \"postgres\", no "))
        #expect(try refusal(godwit.conninfo(database: "postgres", user: "third")).contains(
            "no pg_hba.conf entry for host \"127.0.0.1\", user \"third\", database \"postgres\", no encryption"))
        let client = try WireClient(port: godwit.port)
        client.send(FrameBuilder.startup([("user", "third"), ("database", "postgres")]))
        #expect(try client.readToError()?.sqlState == "28000")
    }

    @Test func `a reload takes other lines, and refuses a file with an error whole`() throws {
        let godwit = try godwit(hba: "host all all all reject\n")
        let hba = godwit.directory + "/hba"
        let configuration = try String(contentsOfFile: godwit.configurationPath, encoding: .utf8)
        _ = try refusal(godwit.conninfo(database: "postgres"))
        try "host all all all trust\n".write(toFile: hba, atomically: true, encoding: .utf8)
        try godwit.reload(text: configuration)
        #expect(try godwit.psql("SELECT 1", database: "postgres") == "1")
        let broken = "host all all all reject\nhost all all nowhere trust\n"
        try broken.write(toFile: hba, atomically: true, encoding: .utf8)
        let told = try godwit.reload(text: configuration)
        #expect(told.contains { $0.contains("reload refused") && $0.contains("/hba:2: a host's name") })
        #expect(try godwit.psql("SELECT 1", database: "postgres") == "1")
    }

    @Test func `a map that nobody has written is an error of the line that names it`() throws {
        let directory = try GodwitProcess.makeDirectory({
            var configuration = GodwitConfiguration([try Servers.shared.get().entry("postgres")])
            configuration.authMethod = "hba"
            configuration.auth = ["hba_file": "DIRECTORY/hba"]
            configuration.files = ["hba": "\nlocal all all peer map=m\n"]
            return configuration
        }())
        let serve = try GodwitProcess.command(["serve", "--config", directory + "/godwit.yaml"])
        #expect(serve.wait() == .code(2))
        #expect(serve.errors.text.contains("/hba:2: the map \"m\" is not in auth.ident_file"))
    }

    @Test func `a client on a Unix socket is whom the system says, or whom the map lets it be`() throws {
        let name = String(cString: getpwuid(geteuid()).pointee.pw_name)
        let socket = TestResources.uniquePath("s")
        try ChildProcess.run(["mkdir", socket])
        let port = try FreePort.find()
        let godwit = try godwit(
            hba: "local all \(name),mapped peer\nlocal all app peer map=m\nhost all all all reject\n",
            ident: "m \(name) app\n"
        ) {
            $0.listen["unix_socket_directory"] = socket
            $0.port = port
        }
        try godwit.log.waitForLine(containing: "listening on \(socket)/.s.PGSQL.")
        func conninfo(_ user: String) -> String { "host=\(socket) port=\(port) dbname=postgres user=\(user)" }
        #expect(try ChildProcess.run(["psql", "-XAtw", "-d", conninfo("app"), "-c", "SELECT current_user"]) == "app\n")
        #expect(try refusal(conninfo("mapped")).contains("Peer authentication failed for user \"mapped\""))
        #expect(try refusal(conninfo("third")).contains("no pg_hba.conf entry for host \"[local]\""))
    }

    // MARK: names and passwords

    @Test func `names that only look alike are two users with two pools`() throws {
        let servers = try Servers.shared.get()
        let (composed, decomposed) = ("caf\u{E9}", "cafe\u{301}")
        for server in [servers.old, servers.new] {
            for name in [composed, decomposed] { try server.createRole(name) }
        }
        let godwit = try servers.godwit("postgres") {
            $0.authMethod = "md5"
            $0.users = "\"\(composed)\" \"one\"\n\"\(decomposed)\" \"two\"\n\"godwit\" \"x\"\n"
        }
        func name(_ user: String, _ password: String) throws -> String {
            try godwit.psql(
                "SELECT length(current_user)", database: "postgres", user: user, password: password)
        }
        #expect(try name(composed, "one") == "4")
        #expect(try name(decomposed, "two") == "5")
        #expect(try name(composed, "one") == "4")
        #expect(try refusal(godwit.conninfo(database: "postgres", user: composed, password: "two"))
            .contains("password authentication failed"))
    }

    @Test func `a password is prepared as libpq and PostgreSQL prepare it`() throws {
        let servers = try Servers(authentication: .scramSHA256)
        let (written, typed) = ("\u{FB01}ne\u{AD} pass\u{2003}e\u{301}", "fine pass \u{E9}")
        for server in [servers.old, servers.new] { try server.psql("ALTER ROLE app PASSWORD '\(typed)'") }
        let godwit = try servers.godwit("postgres") {
            $0.authMethod = "scram-sha-256"
            $0.users = "\"app\" \"\(written)\"\n"
        }
        for password in [written, typed] {
            let conninfo = godwit.conninfo(database: "postgres") + " password='\(password)'"
            #expect(try ChildProcess.run(["psql", "-XAtw", "-d", conninfo, "-c", "SELECT 1"]) == "1\n")
        }
    }

    // MARK: unknown users

    @Test(arguments: ["md5", "scram-sha-256", "password"])
    func `an unknown user costs as many bytes on the wire as a known one`(method: String) throws {
        let godwit = try godwit(hba: "host all all all \(method)\n")
        var sizes: [[Int]] = []
        for user in ["app", "eve"] {
            let client = try WireClient(port: godwit.port)
            client.send(FrameBuilder.startup([("user", user), ("database", "postgres")]))
            var messages = [try #require(try client.read())]
            if method == "scram-sha-256" {
                let first = Array("n,,n=,r=abcdefghijklmnopqrstuvwx".utf8)
                client.send(FrameBuilder.message(
                    "p", FrameBuilder.string("SCRAM-SHA-256") + FrameBuilder.bigEndian(UInt32(first.count)) + first))
                let challenge = try #require(try client.read())
                messages.append(challenge)
                let text = String(decoding: challenge.body.dropFirst(4), as: UTF8.self)
                let nonce = text.split(separator: ",").first.map(String.init) ?? ""
                let proof = String(repeating: "A", count: 43) + "="
                client.send(FrameBuilder.message("p", Array("c=biws,\(nonce),p=\(proof)".utf8)))
            } else {
                client.send(FrameBuilder.message("p", FrameBuilder.string("md5" + String(repeating: "0", count: 32))))
            }
            messages += try client.readToEnd()
            #expect(messages.last?.sqlState == "28P01")
            sizes.append(messages.map(\.body.count))
        }
        #expect(sizes[0] == sizes[1])
    }
}
