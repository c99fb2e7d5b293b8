import Primitives
import TestSupport

/// One message of a frontend, and how a report names it.
struct FrontendMessage: Sendable {
    let bytes: [UInt8]
    let text: String

    init(_ text: String, _ bytes: [UInt8]) {
        self.text = text
        self.bytes = bytes
    }
}

/// Messages that are sent at once, and how the reader knows that everything is answered.
struct ConformanceStep: Sendable {
    enum Ending: Equatable {
        /// So many ReadyForQuery, the last of which is the last message.
        case readies(Int)
        /// Only the server knows: see `ConformanceStep.barrier`.
        case barrier
    }

    var messages: [FrontendMessage]
    var ending: Ending
    /// It runs until it is cancelled, and answers nothing before.
    var isCancelled = false

    /// What ends everything that a client may have begun but transactions: a COPY, an unfinished batch, the skipping
    /// to Sync. Its answer cannot be mistaken: so many CloseComplete in a row come of nothing else.
    static let barrier: [UInt8] = FrameBuilder.message("f", FrameBuilder.string("barrier")) + FrameBuilder.sync
        + (0..<barrierCloses).flatMap { _ in FrameBuilder.closeStatement("barrier") } + FrameBuilder.sync
    static let barrierCloses = 6

    var bytes: [UInt8] { messages.flatMap(\.bytes) + (ending == .barrier ? Self.barrier : []) }

    var description: String {
        messages.map(\.text).joined(separator: ", ") + (ending == .barrier ? ", barrier" : "")
            + (isCancelled ? ", cancelled" : "")
    }
}

/// A sequence of frontend messages that a seed stands for. Pure.
///
/// Tables: `r` is never written; `t0`, `t1` belong to one client each.
struct ConformanceSequence: Sendable {
    let seed: UInt64
    /// Which client sends it.
    let lane: Int
    var steps: [ConformanceStep]

    init(seed: UInt64, lane: Int, steps: [ConformanceStep]) {
        self.seed = seed
        self.lane = lane
        self.steps = steps
    }

    init(seed: UInt64, lane: Int) {
        var generator = ConformanceGenerator(seed: seed, lane: lane)
        self.init(seed: seed, lane: lane, steps: generator.sequence())
    }

    var messageCount: Int { steps.reduce(0) { $0 + $1.messages.count } }

    var description: String {
        "seed \(seed), client \(lane):\n" + steps.map { "  - " + $0.description }.joined(separator: "\n")
    }

    /// Both databases before the first sequence, and a client's own table after each of its own.
    static func restore(lane: Int) -> String {
        "TRUNCATE t\(lane); INSERT INTO t\(lane) SELECT i, 'row ' || i FROM generate_series(1, 4) i"
    }

    /// Its words tell whose it is.
    static func slumber(lane: Int) -> String { "pg_sleep(\(3600 + lane))" }

    /// Without statistics, for plans depend on them, and what is answered before an error on plans.
    static let schema = """
        CREATE TABLE r (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
        INSERT INTO r SELECT i, 'read ' || i FROM generate_series(1, 6) i;
        CREATE TABLE t0 (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
        CREATE TABLE t1 (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
        \(restore(lane: 0));
        \(restore(lane: 1))
        """
}

/// Draws the messages. What it knows of names and parameters only makes most of them succeed.
private struct ConformanceGenerator {
    private var random: SeededGenerator
    private let seed: UInt64
    private let lane: Int
    /// Number of parameters of what a statement name was given last.
    private var parameters: [String: Int] = [:]
    private var isInTransaction = false

    init(seed: UInt64, lane: Int) {
        self.seed = seed
        self.lane = lane
        random = SeededGenerator(seed: seed)
    }

    mutating func sequence() -> [ConformanceStep] {
        (0..<Int.random(in: 2...9, using: &random)).map { _ in step() }
    }

    private mutating func step() -> ConformanceStep {
        switch roll(100) {
        case ..<30:
            return ConformanceStep(messages: [query(simpleText())], ending: .readies(1))
        case ..<38: return ConformanceStep(messages: pipeline() + [sync], ending: .readies(1))
        case ..<62:
            let batches = roll(4) == 0 ? 2 + roll(3) : 1
            var messages: [FrontendMessage] = []
            for _ in 0..<batches { messages += batch() + [sync] }
            return ConformanceStep(messages: messages, ending: .readies(batches))
        case ..<75:
            return ConformanceStep(messages: copy(), ending: .barrier)
        case ..<79:
            return ConformanceStep(messages: [functionCall()], ending: .readies(1))
        case 79: return cancelled()
        default:
            return ConformanceStep(messages: mixture(), ending: .barrier)
        }
    }

    /// In a failed transaction nothing runs, and is answered at once.
    private mutating func cancelled() -> ConformanceStep {
        let slumber = ConformanceSequence.slumber(lane: lane)
        let text = ["SELECT \(slumber)", "SELECT id, \(slumber) FROM r"][roll(2)]
        // Nothing behind it: PostgreSQL signals twice (the process, and its group), and the second one may come late.
        switch roll(2) {
        case 0:
            return ConformanceStep(
                messages: [query(text + ["", "; SELECT 1", "; COMMIT"][roll(3)])], ending: .readies(1), isCancelled: true)
        default:
            let messages = [
                // Under a name that nothing else binds: nobody would cancel it then.
                FrontendMessage("Close S 'slow'", FrameBuilder.closeStatement("slow")),
                FrontendMessage("Parse 'slow' \"\(text)\"", FrameBuilder.parse(text, name: "slow")),
                FrontendMessage("Bind '' to 'slow'", FrameBuilder.bind(statement: "slow")),
                FrontendMessage("Execute '' 0", FrameBuilder.execute()), sync,
            ]
            return ConformanceStep(messages: messages, ending: .readies(1), isCancelled: true)
        }
    }

    /// Anything behind anything.
    private mutating func mixture() -> [FrontendMessage] {
        var messages: [FrontendMessage] = []
        for _ in 0..<(1 + roll(4)) {
            switch roll(10) {
            case 0, 1: messages.append(query(simpleText()))
            case 2: messages += copy()
            case 3: messages.append(functionCall())
            case 4: messages.append(sync)
            case 5: messages.append(FrontendMessage("Flush", FrameBuilder.flush))
            case 6: messages += batch()
            default: messages += batch() + [sync]
            }
        }
        return messages
    }

    // MARK: messages

    private let sync = FrontendMessage("Sync", FrameBuilder.sync)

    private mutating func batch() -> [FrontendMessage] {
        var messages: [FrontendMessage] = []
        for _ in 0..<(1 + roll(3)) {
            switch roll(10) {
            case 0, 1, 2, 3:
                let name = statementName(), portal = portalName()
                messages.append(parse(name))
                if roll(3) == 0 { messages.append(describe(statement: name)) }
                messages.append(bind(name, portal))
                if roll(2) == 0 { messages.append(describe(portal: portal)) }
                messages += executes(portal)
            case 4, 5:
                let name = statementName(), portal = portalName()
                messages.append(bind(name, portal))
                messages += executes(portal)
            case 6: messages.append(parse(statementName()))
            // The unnamed portal as in an Execute: and it may be that of a BEGIN which no server has seen yet.
            case 7:
                messages.append(
                    roll(2) == 0 ? describe(statement: statementName()) : describe(portal: ["p1", "p2"][roll(2)]))
            case 8: messages.append(close())
            // Not of the unnamed one: behind a failed query PostgreSQL 15 finds that one's portal there, and looks into
            // memory that it has freed.
            default: messages += executes(["p1", "p2"][roll(2)])
            }
            if roll(8) == 0 { messages.append(FrontendMessage("Flush", FrameBuilder.flush)) }
        }
        return messages
    }

    /// Several statements of one form, as drivers pipeline them.
    private mutating func pipeline() -> [FrontendMessage] {
        let isParsed = roll(3) > 0, isDescribed = roll(2) == 0, isPlain = roll(3) > 0
        return (0..<(2 + roll(4))).flatMap { _ -> [FrontendMessage] in
            let name = isParsed ? "" : statementName()
            var messages = isParsed ? [parse(name, isPlain ? (read(), 0) : preparedText())] : []
            messages.append(bind(name, ""))
            if isDescribed { messages.append(describe(portal: "")) }
            return messages + [FrontendMessage("Execute '' 0", FrameBuilder.execute())]
        }
    }

    private mutating func parse(_ name: String) -> FrontendMessage { parse(name, preparedText()) }

    private mutating func parse(_ name: String, _ prepared: (String, Int)) -> FrontendMessage {
        let (text, count) = prepared
        parameters[name] = count
        return FrontendMessage("Parse '\(name)' \"\(text)\"", FrameBuilder.parse(text, name: name))
    }

    private mutating func bind(_ statement: String, _ portal: String) -> FrontendMessage {
        var count = parameters[statement] ?? 0
        if roll(15) == 0 { count = roll(3) }
        let isBinary = roll(4) == 0
        var body = FrameBuilder.string(portal) + FrameBuilder.string(statement)
        var formats = isBinary ? 1 : 0
        if roll(20) == 0 { formats = 2 }
        body += FrameBuilder.bigEndian(UInt16(formats))
        for _ in 0..<formats { body += FrameBuilder.bigEndian(UInt16(1)) }
        body += FrameBuilder.bigEndian(UInt16(count))
        var values: [String] = []
        for _ in 0..<count {
            let number = 1 + roll(6)
            if roll(10) == 0 {
                body += FrameBuilder.bigEndian(UInt32.max)
                values.append("null")
            } else if isBinary {
                body += FrameBuilder.bigEndian(UInt32(4)) + FrameBuilder.bigEndian(UInt32(number))
                values.append("\(number) binary")
            } else {
                let text = roll(12) == 0 ? "none" : "\(number)"
                body += FrameBuilder.bigEndian(UInt32(text.utf8.count)) + Array(text.utf8)
                values.append(text)
            }
        }
        let results = roll(4) == 0 ? [UInt16(1)] : roll(20) == 0 ? [0, 1, 0] : []
        body += FrameBuilder.bigEndian(UInt16(results.count)) + results.flatMap { FrameBuilder.bigEndian($0) }
        return FrontendMessage(
            "Bind '\(portal)' to '\(statement)' \(values) formats \(formats) results \(results)",
            FrameBuilder.message("B", body))
    }

    private mutating func executes(_ portal: String) -> [FrontendMessage] {
        var messages: [FrontendMessage] = []
        repeat {
            let rows = roll(3) == 0 ? UInt32(1 + roll(3)) : 0
            messages.append(FrontendMessage(
                "Execute '\(portal)' \(rows)", FrameBuilder.execute(portal: portal, rowsMax: rows)))
        } while roll(4) == 0
        return messages
    }

    private func describe(statement name: String) -> FrontendMessage {
        FrontendMessage("Describe S '\(name)'", FrameBuilder.describeStatement(name))
    }

    private func describe(portal name: String) -> FrontendMessage {
        FrontendMessage("Describe P '\(name)'", FrameBuilder.describePortal(name))
    }

    private mutating func close() -> FrontendMessage {
        if roll(3) == 0 {
            let name = portalName()
            return FrontendMessage("Close P '\(name)'", FrameBuilder.message("C", [0x50] + FrameBuilder.string(name)))
        }
        let name = statementName()
        return FrontendMessage("Close S '\(name)'", FrameBuilder.closeStatement(name))
    }

    private func query(_ text: String) -> FrontendMessage {
        FrontendMessage("Query \"\(text)\"", FrameBuilder.query(text))
    }

    /// `abs(int4)`, one that does not exist, and one with an argument too few.
    private mutating func functionCall() -> FrontendMessage {
        let (oid, count) = [(1397, 1), (1397, 1), (177, 2), (177, 1), (4_000_000, 1)][roll(5)]
        let isBinary = roll(2) == 0
        var body = FrameBuilder.bigEndian(UInt32(oid)) + FrameBuilder.bigEndian(UInt16(1))
            + FrameBuilder.bigEndian(UInt16(isBinary ? 1 : 0)) + FrameBuilder.bigEndian(UInt16(count))
        for number in 0..<count {
            let value = isBinary ? FrameBuilder.bigEndian(Int32(-7 - number)) : Array("-7".utf8)
            body += FrameBuilder.bigEndian(UInt32(value.count)) + value
        }
        return FrontendMessage(
            "FunctionCall \(oid) binary \(isBinary)", FrameBuilder.message("F", body + [0, UInt8(roll(2))]))
    }

    // MARK: COPY

    private mutating func copy() -> [FrontendMessage] {
        let isSimple = roll(2) == 0
        let text = [
            "COPY t\(lane) FROM STDIN", "COPY t\(lane) FROM STDIN", "COPY t\(lane) FROM STDIN", "COPY r TO STDOUT",
            "COPY (SELECT 10 / (4 - id) FROM r ORDER BY id) TO STDOUT", "COPY nowhere FROM STDIN",
            "COPY t\(lane) (id) FROM STDIN (FORMAT csv)",
        ][roll(7)]
        var messages: [FrontendMessage] = []
        if isSimple {
            let rest = ["", "", "; SELECT 5", "; COPY t\(lane) FROM STDIN"][roll(4)]
            messages.append(query((roll(6) == 0 ? "SELECT 4; " : "") + text + rest))
        } else {
            // Under a name that nothing else binds: a COPY begun by chance would swallow what follows.
            messages.append(FrontendMessage("Close S 'copy'", FrameBuilder.closeStatement("copy")))
            messages.append(FrontendMessage("Parse 'copy' \"\(text)\"", FrameBuilder.parse(text, name: "copy")))
            messages.append(FrontendMessage("Bind '' to 'copy'", FrameBuilder.bind(statement: "copy")))
            messages.append(FrontendMessage("Execute '' 0", FrameBuilder.execute()))
            if roll(4) == 0 { messages.append(sync) }
        }
        guard text.contains("FROM") else { return isSimple ? messages : messages + [sync] }
        for _ in 0..<roll(4) {
            switch roll(8) {
            case 0: messages.append(FrontendMessage("Flush", FrameBuilder.flush))
            // Behind data it counts or not by what the server has made of them: ProtocolTests.
            case 1: if !messages.contains(where: { $0.text.hasPrefix("CopyData") }) { messages.append(sync) }
            case 2: messages.append(copyData("no number\tx\n"))
            case 3: messages += [copyData("\(20 + roll(40))\t"), copyData("in pieces\n")]
            default: messages.append(copyData("\(20 + roll(4000))\tcopied\n"))
            }
        }
        switch roll(6) {
        case 0: messages.append(FrontendMessage("CopyFail", FrameBuilder.message("f", FrameBuilder.string("no more"))))
        case 1: break
        default: messages.append(FrontendMessage("CopyDone", FrameBuilder.message("c")))
        }
        // PostgreSQL closes the connection when a message of another kind comes in mid-COPY: what follows must find it
        // ended, so that two ends are sent where there may be two.
        let end = FrontendMessage("CopyFail", FrameBuilder.message("f", FrameBuilder.string("end")))
        if messages.last?.text != "CopyDone" || messages.contains(where: { $0.text.hasSuffix("STDIN\"") && isSimple }) {
            messages += [end, end]
        }
        if !isSimple && roll(5) > 0 || roll(3) == 0 { messages.append(sync) }
        return messages
    }

    private func copyData(_ text: String) -> FrontendMessage {
        FrontendMessage("CopyData \(text.debugDescription)", FrameBuilder.message("d", Array(text.utf8)))
    }

    // MARK: SQL

    private mutating func statementName() -> String { ["", "", "s1", "s1", "s2", "s3"][roll(6)] }
    private mutating func portalName() -> String { ["", "", "", "p1", "p2"][roll(5)] }

    private mutating func preparedText() -> (String, Int) {
        switch roll(20) {
        case ..<7: return (commented(read()), 0)
        case ..<12:
            return (commented([
                "SELECT $1::int + 1", "SELECT id, v FROM r WHERE id = $1", "SELECT id, v FROM t\(lane) WHERE id = $1",
            ][roll(3)]), 1)
        case 12: return ("SELECT $1::int, $2::int", 2)
        case 13: return ("INSERT INTO t\(lane) VALUES ($1, 'bound') RETURNING id", 1)
        case 14, 15: return (write(), 0)
        case 16: return (bad(), 0)
        case 17: return (roll(3) == 0 ? sqlPrepared() : sessionStatement(), 0)
        case 18: return (["", "SELECT 1; SELECT 2", "-- nothing"][roll(3)], 0)
        default: return (transaction(), 0)
        }
    }

    private mutating func simpleText() -> String {
        switch roll(20) {
        case ..<5: return commented(read())
        case ..<8: return transaction()
        case ..<10: return write()
        case 10: return bad()
        case 11, 12: return sessionStatement()
        case 13: return sqlPrepared()
        case 14: return cursor()
        case 15: return ["", ";", "-- nothing", "/* nothing */ ;;"][roll(4)]
        default:
            var statements = (0..<(2 + roll(3))).map { _ in
                switch roll(8) {
                case ..<4: read()
                case 4: write()
                case 5: transaction()
                case 6: bad()
                default: roll(3) == 0 ? sqlPrepared() : sessionStatement()
                }
            }
            // In a failed transaction, names of the protocol behind its end in one text are not what they are.
            if ["COMMIT", "ROLLBACK", "END", "ROLLBACK TO a"].contains(where: statements[0].hasPrefix) {
                for index in statements.indices where Self.namesPrepared(statements[index]) {
                    statements[index].replace(" s", with: " q", maxReplacements: 1)
                }
            }
            return statements.joined(separator: "; ")
        }
    }

    /// A statement of `sqlPrepared` with a name that the protocol has as well.
    private static func namesPrepared(_ statement: String) -> Bool {
        ["PREPARE s", "EXECUTE s", "DEALLOCATE s"].contains { statement.contains($0) }
    }

    /// Sometimes of a user of its own.
    private mutating func commented(_ text: String) -> String {
        roll(3) == 0 ? "/* user_id=\(seed % 100_000)x\(roll(3)) */ " + text : text
    }

    private mutating func read() -> String {
        [
            "SELECT 1 AS one", "SELECT id, v FROM r ORDER BY id", "SELECT id, v FROM t\(lane) ORDER BY id",
            "SELECT count(*) FROM t\(lane)", "SELECT generate_series(1, 7)", "SELECT NULL::text, 'x'::text WHERE false",
            "SELECT 10 / (4 - id) FROM r ORDER BY id", "SELECT repeat('wide', 5000)", "VALUES (1, 'a'), (2, 'b')",
            "SELECT 1/0",
        ][roll(10)]
    }

    private mutating func write() -> String {
        [
            "INSERT INTO t\(lane) VALUES (\(5 + roll(3)), 'inserted')", "UPDATE t\(lane) SET v = v || '+' WHERE id < 3",
            "DELETE FROM t\(lane) WHERE id = \(1 + roll(5)) RETURNING v", "INSERT INTO t\(lane) VALUES (1, 'twice')",
            "SELECT id FROM t\(lane) ORDER BY id FOR UPDATE", "DO $$ BEGIN RAISE NOTICE 'heard'; END $$",
            "WITH w AS (UPDATE t\(lane) SET v = 'cte' WHERE id = 2 RETURNING id) SELECT * FROM w",
        ][roll(7)]
    }

    private mutating func transaction() -> String {
        // More beginnings than ends, but not for long.
        isInTransaction.toggle()
        if isInTransaction && roll(4) > 0 {
            return [
                "BEGIN", "BEGIN", "BEGIN", "START TRANSACTION", "BEGIN READ ONLY", "BEGIN ISOLATION LEVEL REPEATABLE READ",
                "begin isolation level read committed",
            ][roll(7)]
        }
        return [
            "COMMIT", "COMMIT", "ROLLBACK", "END", "SAVEPOINT a", "ROLLBACK TO a", "RELEASE a", "COMMIT AND CHAIN",
            "ROLLBACK AND CHAIN", "SET TRANSACTION READ ONLY",
        ][roll(10)]
    }

    private mutating func bad() -> String {
        ["SELEC", "SELECT * FROM nowhere", "SELECT 'x'::int", "INSERT INTO r VALUES (1, 'taken')", "SELECT nothing()"][roll(5)]
    }

    private mutating func sessionStatement() -> String {
        [
            "SET TimeZone = 'Europe/Vienna'", "SET work_mem = '\(1 + roll(8))MB'", "SET LOCAL work_mem = '9MB'",
            "SHOW work_mem", "SHOW TimeZone", "RESET TimeZone", "SET no_such_setting_at_all = 1", "SHOW nothing_there",
            "SHOW transaction_isolation", "SHOW transaction_read_only", "RESET ALL", "DISCARD ALL", "DEALLOCATE ALL",
            "DEALLOCATE s1", "DEALLOCATE s2", "DEALLOCATE nothing_there", "SET DateStyle = 'SQL, DMY'",
            "SELECT current_setting('work_mem')", "SET application_name = 'conformance \(roll(2))'", "DISCARD PLANS",
        ][roll(20)]
    }

    /// Statements prepared in SQL. PostgreSQL has one space of names for these and the protocol's.
    private mutating func sqlPrepared() -> String {
        let name = ["q1", "q1", "q2", "s1", "s2", "s3"][roll(6)]
        switch roll(12) {
        case 0, 1: return "PREPARE \(name) AS SELECT id, v FROM r WHERE id < 3 ORDER BY id"
        case 2: return "PREPARE \(name) (int) AS SELECT $1 + 1"
        case 3, 4, 5: return "EXECUTE \(name)"
        case 6: return "EXECUTE \(name) (4)"
        case 7: return "EXPLAIN (COSTS OFF) EXECUTE \(name)"
        case 8: return "DEALLOCATE \(name)"
        case 9: return "DEALLOCATE PREPARE ALL"
        case 10: return "CREATE TEMP TABLE made AS EXECUTE \(name)"
        default: return "EXECUTE nothing_there"
        }
    }

    private mutating func cursor() -> String {
        [
            "DECLARE c CURSOR FOR SELECT id FROM r ORDER BY id", "FETCH 2 FROM c", "CLOSE c", "FETCH ALL FROM c",
            "DECLARE h CURSOR WITH HOLD FOR SELECT id FROM r ORDER BY id", "FETCH 1 FROM h",
            "CREATE TEMP TABLE IF NOT EXISTS own (id int)", "SELECT count(*) FROM own",
        ][roll(8)]
    }

    private mutating func roll(_ sides: Int) -> Int { Int.random(in: 0..<sides, using: &random) }
}
