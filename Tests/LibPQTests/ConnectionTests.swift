import Glibc
import Primitives
import TestSupport
import Testing

@testable import LibPQ

@Suite(.serialized) struct ConnectionTests {
    static let cluster = try? PostgresCluster(.old15)

    static func target() throws -> ConnectionString {
        let cluster = try #require(cluster)
        return try ConnectionString(parsing: cluster.conninfo(user: PostgresCluster.superuser))
    }

    static func open(interrupt: CInt = -1) throws -> Connection {
        try Connection.open(try target(), purpose: "test", interrupt: interrupt)
    }

    @Test(arguments: ["0", "99999999999"])
    func `a connection whose time to connect has no end is made`(seconds: String) throws {
        let target = try Self.target().overriding(["connect_timeout": seconds])
        let connection = try Connection.open(target, purpose: "test")
        #expect(try connection.query("SELECT 1")[0, 0] == "1")
    }

    @Test func `sessions pin what a value's text depends on`() throws {
        let connection = try Self.open()
        let rows = try connection.query("""
            SELECT current_setting('search_path'), '2020-01-02 03:04:05+00'::timestamptz::text, (1.0::float8 / 3)::text,
                   '\\x00ff'::bytea::text, current_setting('application_name'), interval '1 day 2 hours'::text
            """)
        #expect((0..<6).map { rows[0, $0] } == [
            "pg_catalog, pg_temp", "2020-01-02 03:04:05+00", "0.3333333333333333", "\\x00ff", "godwit test",
            "1 day 02:00:00",
        ])
    }

    @Test func `who reads tables only is led to nothing else by a view in their place`() throws {
        let owner = try Self.open()
        try owner.execute("""
            CREATE TABLE public.kept (id int); CREATE VIEW public.shown AS SELECT id FROM public.kept
            """)
        let connection = try Connection.open(try Self.target(), purpose: "test", readsTablesOnly: true)
        let known = try connection.query("SELECT count(*) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'")
        #expect(try connection.query("SELECT count(*) FROM ONLY public.kept t").integer(0, 0) == 0)
        do {
            try connection.execute("SELECT count(*) FROM ONLY public.shown t")
            #expect(known.integer(0, 0) == 0)
        } catch {
            #expect(error.kind == .refused && error.sqlState == "55000")
        }
        #expect(try owner.query("SELECT count(*) FROM public.shown").integer(0, 0) == 0)
        try owner.execute("DROP VIEW public.shown; DROP TABLE public.kept")
    }

    @Test(arguments: [false, true])
    func `the server notices soon that our machine is gone`(isPlain: Bool) throws {
        let connection = try Connection.open(try Self.target(), purpose: "test", isPlain: isPlain)
        let rows = try connection.query("""
            SELECT current_setting('tcp_keepalives_idle'), current_setting('tcp_keepalives_interval'),
                   current_setting('tcp_keepalives_count'), current_setting('tcp_user_timeout')
            """)
        #expect((0..<4).map { rows[0, $0] } == ["5", "2", "3", "10000"])
    }

    @Test func `an error carries SQLSTATE and leaves the session usable`() throws {
        let connection = try Self.open()
        do {
            try connection.execute("SELECT 1; SELECT 1/0; SELECT 2")
            Issue.record("no error")
        } catch {
            #expect(error.kind == .refused && error.sqlState == "22012" && !error.isConnectionClass)
        }
        #expect(try connection.query("SELECT $1::int + 1", parameters: ["41"])?[0, 0] == "42")
        #expect(try connection.query("SELECT $1::text IS NULL", parameters: [nil])?.flag(0, 0) == true)
    }

    @Test(arguments: ["COPY (SELECT 1) TO STDOUT", "COPY copied FROM STDIN"])
    func `a COPY among an operator's statements is refused, and the session lives on`(copy: String) throws {
        let connection = try Self.open()
        try connection.execute("CREATE TEMP TABLE copied (n int)")
        let simple = #expect(throws: PostgresFailure.self) { try connection.execute("SELECT 1; \(copy)") }
        #expect(simple?.kind == .refused)
        let extended = #expect(throws: PostgresFailure.self) { try connection.query(copy, parameters: []) }
        #expect(extended?.kind == .refused)
        let streamed = #expect(throws: PostgresFailure.self) {
            try connection.send(statement: Array(copy.utf8), values: [])
            _ = try connection.takeRows(until: .now().adding(seconds: 60)) { _ in true }
        }
        #expect(streamed?.kind == .refused)
        #expect(try connection.query("SELECT 2")[0, 0] == "2")
        #expect(try connection.query("SELECT $1", parameters: ["3"])?[0, 0] == "3")
    }

    @Test func `a lost session is told from a refused statement`() throws {
        let connection = try Self.open()
        let error = #expect(throws: PostgresFailure.self) {
            try connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        }
        #expect(error?.isConnectionClass == true)
    }

    @Test func `a deadline ends a wait`() throws {
        let connection = try Self.open()
        let error = #expect(throws: PostgresFailure.self) {
            try connection.execute("SELECT pg_sleep(3600)", timeoutSeconds: 0.05)
        }
        #expect(error?.kind == .timedOut)
    }

    @Test func `a readable descriptor ends a wait`() throws {
        var ends: [CInt] = [-1, -1]
        #expect(pipe(&ends) == 0)
        let connection = try Self.open(interrupt: ends[0])
        #expect(try connection.query("SELECT 1")[0, 0] == "1")
        close(ends[1])
        let error = #expect(throws: PostgresFailure.self) { try connection.execute("SELECT pg_sleep(3600)") }
        #expect(error?.kind == .interrupted)
        close(ends[0])
    }

    @Test func `nobody at the address is an error of connecting, with the address`() throws {
        let port = try FreePort.find()
        let nobody = try ConnectionString(parsing: "host=127.0.0.1 port=\(port) user=x dbname=y")
        do {
            _ = try Connection.open(nobody, purpose: "test")
            Issue.record("connected")
        } catch {
            #expect(error.kind == .connecting && error.message.contains("port=\(port)"))
        }
    }

    @Test func `rows travel by COPY from one session to another unchanged`() throws {
        let source = try Self.open(), target = try Self.open()
        try target.execute("CREATE TEMP TABLE copied (a text, b text)")
        try source.send("COPY (SELECT g || E'\\t\\\\\\n', repeat('x', 10000) FROM generate_series(1, 3000) g) TO STDOUT")
        try target.send("COPY pg_temp.copied FROM STDIN")
        guard case .copyIn? = try target.next(), case .copyOut? = try source.next() else {
            Issue.record("no COPY")
            return
        }
        try source.copyOut { (row) throws(PostgresFailure) in try target.putCopy(row) }
        try source.finish()
        try target.endCopy()
        guard case .done(let changed)? = try target.next() else {
            Issue.record("no answer")
            return
        }
        #expect(changed == 3000)
        try target.finish()
        let sums = "SELECT sum(length(a) + length(b)) FROM "
        let expected = try source.query(sums + "(SELECT g || E'\\t\\\\\\n' a, repeat('x', 10000) b FROM generate_series(1, 3000) g) s")
        #expect(try target.query(sums + "pg_temp.copied")[0, 0] == expected[0, 0])
    }

    /// Where a server knows of it.
    @Test func `a transaction may take as long as it needs`() throws {
        let pair = try MirroredPair(schema: "")
        try pair.new.psql("ALTER DATABASE \(pair.database) SET transaction_timeout = '1min'", database: pair.database)
        for (conninfo, wanted) in [(pair.oldConninfo, nil), (pair.newConninfo, "0")] {
            let connection = try Connection.open(try ConnectionString(parsing: conninfo), purpose: "test")
            #expect(try connection.query("SELECT current_setting('transaction_timeout', true)")[0, 0] == wanted)
        }
    }
}
