import Foundation
import TestSupport
import Testing

/// `godwit check`, for people and for programs.
@Suite(.serialized) struct CheckTests {
    let servers: Servers

    init() throws { servers = try Servers.shared.get() }

    private func check(_ configuration: GodwitConfiguration, _ arguments: [String] = []) throws -> ChildProcess {
        let directory = try GodwitProcess.makeDirectory(configuration)
        return try GodwitProcess.command(["check", "--config", directory + "/godwit.yaml"] + arguments)
    }

    private func json(_ process: ChildProcess) throws -> [String: Any] {
        let text = process.output.text
        return try #require(
            try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any], "\(text)\(process.errors.text)")
    }

    private func findings(_ report: [String: Any], _ weight: String) -> [[String: String]] {
        (report["findings"] as? [[String: String]] ?? []).filter { $0["weight"] == weight }
    }

    @Test func `a good file and good sides are status 0`() throws {
        let name = try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY)")
        let process = try check(GodwitConfiguration([servers.entry(name)]), ["--json"])
        #expect(process.wait() == .code(0), "\(process.output.text)\(process.errors.text)")
        let report = try json(process)
        #expect(report["outcome"] as? String == "ok")
        let row = try #require((report["databases"] as? [[String: Any]])?.first)
        #expect(row["name"] as? String == name)
        #expect((row["old_version"] as? String)?.hasPrefix("15.") == true, "\(row)")
        #expect((row["new_version"] as? String)?.hasPrefix("18.") == true, "\(row)")
        #expect(row["tables"] as? Int == 1)
    }

    @Test func `a place for the state that cannot be used is a problem, with its fix`() throws {
        let name = try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY)")
        var configuration = GodwitConfiguration([servers.entry(name)])
        for (url, words) in [
            (servers.old.conninfo(database: name, user: "app"), "which is migrated"),
            (servers.new.conninfo(database: "postgres", user: "app"), "GRANT CREATE ON DATABASE postgres TO app"),
        ] {
            configuration.state = ["url": "\"\(url)\""]
            let process = try check(configuration)
            #expect(process.wait() == .code(1), "\(process.output.text)\(process.errors.text)")
            #expect(process.output.text.contains(words), "\(process.output.text)")
            let serve = try GodwitProcess.command([
                "serve", "--config", try GodwitProcess.makeDirectory(configuration) + "/godwit.yaml",
            ])
            #expect(serve.wait() == .code(1) && serve.errors.text.contains(words.prefix(14)), "\(serve.errors.text)")
        }
        configuration.state = ["url": "\"\(servers.new.conninfo(database: "postgres", user: PostgresCluster.superuser))\""]
        #expect(try check(configuration).wait() == .code(0))
    }

    @Test func `what stands in the way is status 1, with its fix`() throws {
        let name = try servers.makeDatabase("CREATE TABLE keyless (word text)")
        let configuration = GodwitConfiguration([servers.entry(name)])
        let process = try check(configuration, ["--json"])
        #expect(process.wait() == .code(1), "\(process.output.text)\(process.errors.text)")
        let problems = findings(try json(process), "problem")
        #expect(problems.contains { $0["place"]?.contains("keyless") == true && $0["database"] == name }, "\(problems)")
        let text = try check(configuration)
        #expect(text.wait() == .code(1))
        #expect(text.output.text.contains("PROBLEM OLD public.keyless"), "\(text.output.text)")
    }

    @Test func `a side that is away, a wrong password and a wrong file are status 2`() throws {
        let name = try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY)")
        var away = GodwitConfiguration([servers.entry(name)])
        away.database.controlNew = "host=127.0.0.1 port=1 dbname=x user=x"
        let unreachable = try check(away, ["--json"])
        #expect(unreachable.wait() == .code(2))
        #expect(findings(try json(unreachable), "unknown").contains { $0["place"] == "NEW" && $0["database"] == name })
        // Without connecting there is nothing wrong with it.
        #expect(try check(away, ["--offline"]).wait() == .code(0))

        var clients = GodwitConfiguration([servers.entry(name)])
        clients.database.old += " user=nobody_of_this_name"
        let refused = try check(clients, ["--json"])
        #expect(refused.wait() == .code(2))
        #expect(findings(try json(refused), "unknown").contains { $0["place"] == "OLD, as clients come" })

        var broken = GodwitConfiguration([servers.entry(name)])
        broken.users = "no quotes\n"
        broken.authMethod = "scram-sha-256"
        let users = try check(broken, ["--json", "--offline"])
        #expect(users.wait() == .code(2))
        #expect(findings(try json(users), "unknown").contains { $0["place"] == "auth" })

        var invalid = GodwitConfiguration([servers.entry(name)])
        invalid.sections = "nonsense: 1"
        let file = try check(invalid, ["--json"])
        #expect(file.wait() == .code(2))
        #expect(try json(file)["outcome"] as? String == "unknown")
        #expect(try check(GodwitConfiguration([servers.entry(name)]), ["nowhere"]).wait() == .code(2))
    }

    /// libpq goes by all of these, the proxy does not: the mirror and the clients would be with different servers.
    @Test(arguments: [
        ("host=127.0.0.1,127.0.0.2 dbname=shop", "host has several"), ("service=shop", "no service file"),
        ("host=/run requirepeer=postgres", "requirepeer: Godwit does not"),
        ("host=127.0.0.1 port=5432,5433 dbname=shop", "port has several"),
        ("host=127.0.0.1 port=65536 dbname=shop", "1 to 65535"),
    ])
    func `where clients would not come to what libpq comes to is refused`(conninfo: String, words: String) throws {
        var configuration = GodwitConfiguration([servers.entry("shop")])
        configuration.database.new = conninfo
        let process = try check(configuration, ["--offline"])
        #expect(process.wait() == .code(2))
        let errors = process.errors.text
        #expect(errors.contains("databases.shop.new: ") && errors.contains(words), "\(errors)")
        let serve = try GodwitProcess.command([
            "serve", "--config", try GodwitProcess.makeDirectory(configuration) + "/godwit.yaml",
        ])
        #expect(serve.wait() == .code(2) && serve.errors.text.contains(words), "\(serve.errors.text)")
    }
}
