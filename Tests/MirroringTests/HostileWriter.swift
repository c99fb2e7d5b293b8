import LibPQ
import Primitives
import TestSupport
import Testing

/// Transactions that break mirrors which replay row images: key changes, deferred swaps, savepoints,
/// TRUNCATE, sibling-row triggers, cascades, odd session settings. One writer per thread, reproducible from
/// its seed but for how the writers interleave.
struct HostileWriter {
    static let schema = """
        CREATE TABLE accounts (id bigint PRIMARY KEY, code int, balance numeric(20, 4), note text,
            CONSTRAINT accounts_code UNIQUE (code) DEFERRABLE INITIALLY DEFERRED);
        CREATE TABLE entries (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
            account bigint REFERENCES accounts ON DELETE CASCADE ON UPDATE CASCADE, amount float8, at timestamptz);
        CREATE TABLE pairs (a int, b uuid, v jsonb, tags text[], PRIMARY KEY (a, b));
        CREATE TABLE texts (k text PRIMARY KEY, f float8, b bytea, n text);
        CREATE TABLE numbers (n numeric PRIMARY KEY, v text);
        CREATE TABLE moments (t timestamptz, d date, i interval, v int, PRIMARY KEY (t, d, i));
        CREATE TABLE floats (f float8 PRIMARY KEY, v int);
        CREATE TABLE slots (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&));
        CREATE TABLE tree (id int PRIMARY KEY, parent int, total int NOT NULL DEFAULT 0);
        CREATE TABLE moved (id int PRIMARY KEY DEFERRABLE INITIALLY IMMEDIATE, v text);
        CREATE TABLE log (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, msg text, big text);
        CREATE FUNCTION sum_up() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN UPDATE tree SET total = total + 1 WHERE id = NEW.parent AND id <> NEW.id; RETURN NULL; END $$;
        CREATE TRIGGER sum_up AFTER INSERT OR UPDATE OF parent ON tree FOR EACH ROW EXECUTE FUNCTION sum_up();
        """

    static let fill = """
        INSERT INTO accounts SELECT g, g, g * 1.5, 'account ' || g FROM generate_series(1, 300) g;
        INSERT INTO entries (account, amount, at) SELECT 1 + g % 300, random(), now() FROM generate_series(1, 600) g;
        INSERT INTO pairs SELECT g % 17, md5(g::text)::uuid, jsonb_build_object('g', g), ARRAY['a', NULL, 'b"c']
            FROM generate_series(1, 300) g;
        INSERT INTO texts SELECT 'k' || g, g / 3.0, decode(md5(g::text), 'hex'), NULL FROM generate_series(1, 300) g;
        INSERT INTO numbers SELECT g, 'x' FROM generate_series(1, 100) g;
        INSERT INTO moments SELECT '2020-01-01'::timestamptz + g * interval '1 hour', '2020-01-01'::date + g,
            g * interval '1 minute', g FROM generate_series(1, 100) g;
        INSERT INTO floats SELECT g / 7.0, g FROM generate_series(1, 100) g;
        INSERT INTO slots SELECT g, int4range(g * 10, g * 10 + 5) FROM generate_series(1, 50) g;
        INSERT INTO tree SELECT g, g / 2, 0 FROM generate_series(1, 100) g;
        INSERT INTO moved SELECT g, 'm' || g FROM generate_series(1, 100) g;
        INSERT INTO log (msg) SELECT 'start ' || g FROM generate_series(1, 200) g;
        """

    private var random: SeededGenerator
    private let number: Int

    init(seed: UInt64, number: Int) {
        random = SeededGenerator(seed: seed &+ UInt64(number) &* 7919)
        self.number = number
    }

    /// Runs this many transactions; what the server refuses (conflicts, deadlocks) is rolled back, as in
    /// life.
    /// - Returns: what was refused, one line each.
    mutating func run(
        transactions: Int, _ connection: borrowing Connection
    ) throws(PostgresFailure) -> [String] {
        var refusals: [String] = []
        try connection.execute(settings)
        for _ in 0..<transactions {
            do throws(PostgresFailure) {
                try connection.execute(next().joined(separator: ";\n"))
            } catch {
                guard error.kind == .refused else { throw error }
                try connection.execute("ROLLBACK")
                refusals.append("\(error.sqlState) \(error.message)")
            }
        }
        return refusals
    }

    /// Four of them, each on a thread of its own that is to be joined. Most of what they do must succeed.
    static func start(seed: UInt64, transactions: Int, _ conninfo: String) -> [OwnThread] {
        (0..<4).map { number in
            OwnThread(name: "writer") {
                do {
                    let connection = try Connection.open(try ConnectionString(parsing: conninfo), purpose: "writer")
                    var writer = HostileWriter(seed: seed, number: number)
                    let refusals = try writer.run(transactions: transactions, connection)
                    #expect(refusals.count < transactions / 2, "most must do something: \(refusals.suffix(3))")
                } catch {
                    Issue.record("writer \(number): \(error)")
                }
            }
        }
    }

    /// What this writer's sessions begin with.
    var settings: String {
        let settings = [
            "SET DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Kolkata'; SET extra_float_digits = 0",
            "SET IntervalStyle = 'sql_standard'; SET DateStyle = 'SQL, MDY'; SET bytea_output = 'escape'", "",
            "SET session_replication_role = replica",
        ]
        return "SET search_path = public; SET lock_timeout = '2s'; " + settings[number % settings.count]
    }

    /// Its sessions fire no ordinary triggers.
    var isReplica: Bool { settings.hasSuffix("replica") }

    /// The statements of the next transaction.
    mutating func next() -> [String] {
        var script = ["BEGIN"]
        for _ in 0...pick(3) { script.append(statement()) }
        script.append(pick(8) == 0 ? "ROLLBACK" : "COMMIT")
        return script
    }

    mutating func pick(_ bound: Int) -> Int { Int(random.next() % UInt64(bound)) }

    private mutating func statement() -> String {
        let id = 1 + pick(300), other = 1 + pick(300)
        switch pick(24) {
        case 0: return "UPDATE accounts SET balance = balance + 1.25, note = NULL WHERE id = \(id)"
        case 1:
            return """
                UPDATE accounts SET code = CASE id WHEN \(id) THEN b.code ELSE a2.code END FROM
                    (SELECT code FROM accounts WHERE id = \(id)) a2, (SELECT code FROM accounts WHERE id = \(other)) b
                 WHERE id IN (\(id), \(other)) AND \(id) <> \(other)
                """
        case 2: return "UPDATE accounts SET id = id + 1000 WHERE id = \(id)"
        case 3: return "UPDATE accounts SET id = id - 1000 WHERE id = \(id + 1000)"
        case 4: return "DELETE FROM accounts WHERE id = \(id)"
        case 5: return "INSERT INTO accounts VALUES (\(id), \(id), 0, 'again') ON CONFLICT (id) DO UPDATE SET note = 'up'"
        case 6: return "INSERT INTO entries (account, amount, at) SELECT id, random(), now() FROM accounts WHERE id % 50 = \(id % 50)"
        case 7: return "DELETE FROM entries WHERE id % 20 = \(id % 20)"
        case 8: return "INSERT INTO pairs VALUES (\(id % 17), md5('\(other)')::uuid, '{\"n\": \(id)}', NULL) ON CONFLICT DO NOTHING"
        case 9: return "UPDATE pairs SET a = (a + 1) % 17, v = v || '{\"s\": \"\\\\ ''\"}' WHERE b = md5('\(other)')::uuid"
        case 10: return "UPDATE texts SET k = k || '\\\\,''\"{}é', b = b || '\\x005c'::bytea WHERE k = 'k\(id)'"
        case 11: return "INSERT INTO texts VALUES ('k\(id)', 'NaN', NULL, E'tab\\tline\\n\\\\.') ON CONFLICT (k) DO UPDATE SET f = 0.1"
        case 12: return "UPDATE numbers SET n = n * 1.00, v = '\(id)' WHERE n = \(id % 100)"
        case 13: return "INSERT INTO numbers VALUES (\(id).\(other), NULL) ON CONFLICT DO NOTHING"
        case 14: return "UPDATE moments SET t = t + interval '1.5 seconds', i = i + interval '1 day' WHERE v = \(id % 100)"
        case 15: return "INSERT INTO floats VALUES (\(id) / 3.0, 1) ON CONFLICT (f) DO UPDATE SET v = floats.v + 1"
        case 16: return "UPDATE floats SET f = f * 1.1 WHERE v = \(id % 100)"
        case 17: return "UPDATE slots SET r = int4range(lower(r) + 1000 * (\(other) % 3), upper(r) + 1000 * (\(other) % 3)) WHERE id = \(id % 50)"
        case 18: return "INSERT INTO tree VALUES (\(id), \(other), 0) ON CONFLICT (id) DO UPDATE SET parent = EXCLUDED.parent"
        case 19: return "UPDATE moved SET id = 101 - id WHERE id <= 100; UPDATE moved SET v = '\(id)' WHERE id = \(id % 100)"
        case 20: return "SAVEPOINT s; DELETE FROM log WHERE id % 3 = 0; ROLLBACK TO s; INSERT INTO log (msg) VALUES ('after savepoint')"
        case 21: return pick(6) == 0 ? "TRUNCATE log" : "INSERT INTO log (msg, big) SELECT 'bulk', repeat('x', 3000) FROM generate_series(1, 20)"
        case 22: return pick(6) == 0 ? "TRUNCATE numbers; INSERT INTO numbers SELECT g, 't' FROM generate_series(1, 90) g" : "SELECT 1"
        default:
            return "SAVEPOINT a; UPDATE tree SET total = 0 WHERE id % 5 = \(id % 5); SAVEPOINT b; "
                + "DELETE FROM tree WHERE id = \(id); ROLLBACK TO b; RELEASE a"
        }
    }
}
