import Foundation
import Glibc
import TestSupport
import Testing

/// Tables that are others on NEW, through Godwit: what is not translated stays where it is right, and the writes move
/// and come back.
@Suite(.serialized) struct MappedSwitchTests {
    let servers: Servers
    let switches: SwitchTests

    init() throws {
        servers = try Servers.shared.get()
        switches = try SwitchTests()
    }

    /// `which` tells who answered.
    static func which(_ side: String) -> String {
        """
        CREATE TABLE plain (id int PRIMARY KEY, v text);
        CREATE FUNCTION which() RETURNS text IMMUTABLE LANGUAGE sql AS $$SELECT '\(side)'$$;

        """
    }

    static let old = which("old") + """
        CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
        CREATE TABLE entries (client int, n bigint, mark bigserial UNIQUE, PRIMARY KEY (client, n));
        CREATE VIEW rich AS SELECT id FROM accounts WHERE balance > 1000000;
        CREATE VIEW richer AS SELECT count(*) AS n FROM rich;
        CREATE FUNCTION total() RETURNS numeric STABLE LANGUAGE sql AS 'SELECT sum(balance) FROM Accounts';
        INSERT INTO accounts SELECT n, 0 FROM generate_series(1, 20) n;
        INSERT INTO plain VALUES (1, 'p')
        """
    /// Views of the old names: the application says what it always said.
    static let new = which("new") + """
        CREATE SCHEMA bank;
        CREATE TABLE bank.ledger (total numeric(20) NOT NULL, account bigint PRIMARY KEY, opened text DEFAULT 'never');
        CREATE VIEW accounts AS SELECT account AS id, total AS balance FROM bank.ledger;
        CREATE TABLE bank.postings (twice bigint, who int, n bigint, number bigserial UNIQUE, PRIMARY KEY (who, n));
        CREATE VIEW entries AS SELECT who AS client, n, number AS mark FROM bank.postings;
        CREATE VIEW rich AS SELECT id FROM accounts WHERE balance > 1000000;
        CREATE VIEW richer AS SELECT count(*) AS n FROM rich;
        CREATE FUNCTION total() RETURNS numeric STABLE LANGUAGE sql AS 'SELECT sum(balance) FROM Accounts'
        """
    static let accounts = """
        public.accounts: {to: bank.ledger, columns: {account: id, total: balance}, back: {id: account, balance: total}}
        """
    static let entries = "public.entries: {to: bank.postings, columns: {who: client, number: mark, twice: \"n * 2\"}}"
    static let filtered = """
        public.entries: {to: bank.postings, columns: {who: client, number: mark, twice: "n * 2"}, where: n % 2 = 0}
        """

    func mirroring(_ database: String, _ tables: [String], percent: String = "0") throws -> GodwitProcess {
        try servers.mirroring(database) { configuration in
            configuration.database.readsPercent = percent
            configuration.database.mirror["tables"] = "{\(tables.joined(separator: ", "))}"
        }
    }

    func expectEqual(_ database: String) throws {
        let sql = """
            SELECT (SELECT md5(string_agg(a::text, ',' ORDER BY id)) FROM accounts a),
                   (SELECT md5(string_agg(e::text, ',' ORDER BY client, n)) FROM entries e)
            """
        try waitUntil {
            try servers.old.psql(sql, database: database) == servers.new.psql(sql, database: database)
        }
    }

    @Test func `reads of mapped tables, and of what reads them, stay where the writes are`() throws {
        let database = try servers.makeDatabase(old: Self.old, new: Self.new)
        let godwit = try mirroring(database, [Self.accounts, Self.entries], percent: "100")
        let client = try WireClient(port: godwit.port, database: database)
        func side(_ from: String) throws -> String? { try client.value("SELECT which() \(from)") }
        #expect(try side("FROM plain") == "new")
        #expect(try side("FROM accounts LIMIT 1") == "old")
        #expect(try side("FROM richer") == "old")
        #expect(try side("WHERE total() = 0") == "old")
        #expect(try side("FROM plain WHERE EXISTS (SELECT FROM public.entries) OR true") == "old")
        // Nor in transactions, whether they say that they read only or not.
        for begin in ["BEGIN READ ONLY", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "BEGIN"] {
            // NEW has to show what the client may have written.
            try waitUntil { try side("FROM plain") == "new" }
            _ = try client.query(begin)
            _ = try side("FROM plain")
            #expect(try side("FROM accounts LIMIT 1") == "old", "\(begin)")
            _ = try client.query("COMMIT")
        }
        // NEW's name is no way around it.
        #expect(try client.query("SELECT which() FROM bank.ledger").contains { $0.sqlState == "42P01" })

        try switches.switchOver(godwit, "CUTOVER", database)
        #expect(try side("FROM accounts LIMIT 1") == "new")
        #expect(try side("FROM bank.ledger LIMIT 1") == "new")
    }

    @Test func `writers go on through cutovers and rollbacks between two schemas`() throws {
        let database = try servers.makeDatabase(old: Self.old, new: Self.new)
        let godwit = try mirroring(database, [Self.accounts, Self.entries])
        let writers = try SwitchTests.Writers(switches.conninfo(godwit, database))
        for _ in 0..<2 {
            try writers.awaitMore()
            try switches.switchOver(godwit, "CUTOVER", database)
            try writers.awaitMore()
            try switches.waitForMirror(godwit)
            try switches.switchOver(godwit, "ROLLBACK", database)
            try switches.waitForMirror(godwit)
        }
        try writers.awaitMore()
        let outcome = try writers.end()
        #expect(outcome.errors == [])
        try switches.expectWhole(outcome, database, authority: "old")
        try expectEqual(database)
        let verify = try GodwitProcess.command(["verify", "--config", godwit.directory + "/godwit.yaml", database])
        #expect(verify.wait() == .code(0), "\(verify.output.text)")
        // What was computed on the way to NEW is there for rows of either side.
        let wrong = try servers.new.psql(
            "SELECT count(*) FROM bank.postings WHERE twice <> n * 2 OR twice IS NULL", database: database)
        #expect(wrong.hasPrefix("0"), "\(wrong)")
    }

    @Test func `a mapping without a way back must be meant, and then there is no rollback`() throws {
        let database = try servers.makeDatabase(old: Self.old, new: Self.new)
        let first = try mirroring(database, [Self.accounts, Self.filtered])
        let refused = try first.console("CUTOVER \(database) DRY RUN DEADLINE 60000 WITHOUT VERIFY")
        let rail = try #require(refused.first { $0["name"] == "mapping" })
        #expect(rail["ok"] == "no" && rail["value"]?.contains("public.entries") == true, "\(rail)")
        #expect(first.terminate() == .code(0))

        let oneWay = Self.filtered.replacing("where:", with: "one_way: true, where:")
        let godwit = try mirroring(database, [Self.accounts, oneWay])
        try switches.switchOver(godwit, "CUTOVER", database)
        _ = try godwit.psql("UPDATE accounts SET balance = 7 WHERE id = 3", database: database)
        _ = try godwit.psql("INSERT INTO entries (client, n) VALUES (1, 3)", database: database)
        // The other table is still mirrored back.
        try waitUntil {
            try servers.old.psql("SELECT balance FROM accounts WHERE id = 3", database: database).hasPrefix("7")
        }
        #expect(try servers.old.psql("SELECT count(*) FROM entries", database: database).hasPrefix("0"))
        let back = try godwit.console("ROLLBACK \(database) DRY RUN DEADLINE 60000 WITHOUT VERIFY")
        #expect(back.contains { $0["name"] == "mapping" && $0["ok"] == "no" }, "\(back)")
        let verify = try GodwitProcess.command(["verify", "--config", godwit.directory + "/godwit.yaml", database])
        #expect(verify.wait() == .code(0), "\(verify.output.text)")
        #expect(verify.output.text.contains("mapped one way"))
    }
}
