import Console
import Testing

@Suite struct ConsoleParserTests {
    @Test(
        arguments: [
            ("SHOW POOLS", .show(.pools)), ("show pools;", .show(.pools)),
            ("  Show\t\nPools ; ", .show(.pools)),
            ("SHOW \"pools\"", .show(.pools)), ("-- a comment\nSHOW STATS -- another", .show(.stats)),
            ("SHOW\r\nVERSION\r\n", .show(.version)), ("--\r\nSHOW HELP", .show(.help)),
            ("RELOAD", .reload), ("reload;;", .reload),
            ("READS shop 12.34", .reads(database: "shop", hundredths: 1234)),
            ("reads shop 12.34%;", .reads(database: "shop", hundredths: 1234)),
            ("READS \"my \"\"shop\"\"; drop\" 0", .reads(database: "my \"shop\"; drop", hundredths: 0)),
            ("MIRROR PAUSE shop", .mirror(database: "shop", .pause)),
            ("mirror resume shop;", .mirror(database: "shop", .resume)),
            ("Mirror Throttle shop 5000", .mirror(database: "shop", .throttle(rowsPerSecond: 5000))),
            ("shadow shop 0.5", .shadow(database: "shop", hundredths: 50)),
            ("READS Shop 100", .reads(database: "Shop", hundredths: 10_000)),
            ("FORCE shop old", .force(database: "shop", .old)), ("force shop NEW;", .force(database: "shop", .new)),
            ("Force shop Auto", .force(database: "shop", .auto)),
            ("", .empty), (";;", .empty), ("-- only words", .empty), (" \n\t", .empty),
            ("SET application_name = 'x'", .ignored(tag: "SET")),
            ("SET DateStyle TO 'ISO, MDY'", .ignored(tag: "SET")), ("set time zone UTC", .ignored(tag: "SET")),
            ("BEGIN", .ignored(tag: "BEGIN")), ("start transaction;", .ignored(tag: "START TRANSACTION")),
            ("ROLLBACK", .ignored(tag: "ROLLBACK")),
            ("SET pool.size = 5", .set(key: "pool.size", value: "5")),
            ("set query_timeout='0.5';", .set(key: "query_timeout", value: "0.5")),
            ("SET users.x.pool_mode to session", .set(key: "users.x.pool_mode", value: "session")),
            ("SET auth.auth_query = 'SELECT ''a'' = $1; --'", .set(
                key: "auth.auth_query", value: "SELECT 'a' = $1; --")),
            ("SET admin.users = [a, b]", .set(key: "admin.users", value: "[a, b]")),
            ("SET databases.x.shadow.old = host=y password='my ''s3cret'", .set(
                key: "databases.x.shadow.old", value: "host = y password = 'my \\'s3cret'")),
            ("SHOW time zone", .showSetting(name: "timezone", value: "UTC")),
            ("show Client_Encoding", .showSetting(name: "client_encoding", value: "UTF8")),
            ("PAUSE", .gate(.pause(.init(.everything)))), ("pause shop;", .gate(.pause(.init(GateScope("shop"))))),
            ("PAUSE 5", .gate(.pause(.init(.everything, limit: 5)))),
            ("PAUSE \"5\"", .gate(.pause(.init(GateScope("5"))))),
            ("PAUSE shop 0.5", .gate(.pause(.init(GateScope("shop"), limit: 0.5)))),
            ("PAUSE WRITES", .gate(.pause(.init(.everything, .writes)))),
            ("PAUSE \"writes\" WRITES", .gate(.pause(.init(GateScope("writes"), .writes)))),
            ("pause shop 2 keep writes for 30", .gate(.pause(
                .init(GateScope("shop"), .writes, limit: 2, isKept: true, lifetime: 30)))),
            ("RESUME", .gate(.resume(.everything))), ("RESUME shop", .gate(.resume(GateScope("shop")))),
            ("DISABLE shop", .gate(.disable("shop"))), ("ENABLE \"my shop\"", .gate(.enable("my shop"))),
            ("RECONNECT", .gate(.reconnect(.everything))), ("RECONNECT a", .gate(.reconnect(GateScope("a")))),
            ("KILL", .gate(.kill(.everything))), ("KILL shop", .gate(.kill(GateScope("shop")))),
            ("KILL_CLIENT c0.17", .killClient("c0.17")), ("kill_client 9", .killClient("9")),
            ("SUSPEND", .gate(.suspend(limit: nil))), ("SUSPEND 3", .gate(.suspend(limit: 3))),
            ("WAIT_CLOSE", .gate(.waitClose(.everything, limit: nil))),
            ("WAIT_CLOSE shop 3", .gate(.waitClose(GateScope("shop"), limit: 3))),
            ("WAIT_CLOSE 3", .gate(.waitClose(.everything, limit: 3))),
            ("SHUTDOWN", .gate(.shutdown(.now))), ("shutdown wait_for_servers", .gate(.shutdown(.waitForServers))),
            ("SHUTDOWN WAIT_FOR_CLIENTS;", .gate(.shutdown(.waitForClients))),
        ] as [(String, ConsoleCommand)])
    func `a command is read in any case, with blanks, quotes and comments`(
        text: String, command: ConsoleCommand
    ) throws {
        #expect(try ConsoleParser.parse(text) == command)
    }

    @Test(arguments: ConsoleCommand.Subject.allCases)
    func `everything that can be shown is shown and named in the usage`(subject: ConsoleCommand.Subject)
        throws
    {
        #expect(try ConsoleParser.parse("SHOW \(subject.rawValue)") == .show(subject))
        #expect(
            ConsoleCommand.Subject.usage.split(separator: "|").contains(subject.rawValue.uppercased()[...]))
        #expect(ConsoleCommand.show(subject).isReadOnly == (subject != .fds))
    }

    @Test func `what changes something is not read-only`() {
        #expect(!ConsoleCommand.reload.isReadOnly)
        #expect(!ConsoleCommand.reads(database: "a", hundredths: 0).isReadOnly)
        #expect(!ConsoleCommand.shadow(database: "a", hundredths: 0).isReadOnly)
        #expect(!ConsoleCommand.force(database: "a", .old).isReadOnly)
        #expect(ConsoleCommand.empty.isReadOnly)
        #expect(ConsoleCommand.ignored(tag: "SET").isReadOnly)
    }

    @Test(
        arguments: [
            ("SHOW nothing", .unknownSubject("nothing")), ("SHOW \"\"", .unknownSubject("")),
            ("SHOW pools\u{0}", .unknownSubject("pools\u{0}")), ("SHOW pools'", .unknownSubject("pools'")),
            ("SELECT 1", .unknownCommand("SELECT")), ("\"\"", .unknownCommand("")),
            ("'", .unknownCommand("'")),
            ("\u{0}", .unknownCommand("\u{0}")), ("/* x */ SHOW POOLS", .unknownCommand("/*")),
            ("SHUTDOWN_NOW", .unknownCommand("SHUTDOWN_NOW")), ("ＳＨＯＷ POOLS", .unknownCommand("ＳＨＯＷ")),
            ("- SHOW", .unknownCommand("-")), ("SHOW\u{301} POOLS", .unknownCommand("SHOW\u{301}")),
        ] as [(String, ConsoleParser.Failure)])
    func `what is not a command is refused by its name`(text: String, failure: ConsoleParser.Failure) {
        #expect(throws: failure) { try ConsoleParser.parse(text) }
    }

    @Test(arguments: [
        "SET", "SET pool.size", "SET pool.size 5", "SET pool.size =", "SET x = 'y", "PAUSE a b", "PAUSE a 5 5",
        "PAUSE 5 a", "PAUSE KEEP KEEP", "PAUSE a FOR", "PAUSE a FOR 0", "PAUSE a FOR ever", "PAUSE; RESUME",
        "PAUSE a 1e3", "PAUSE a -1", "PAUSE a 99999999", "PAUSE a \"5\"", "RESUME a b", "DISABLE", "DISABLE a b",
        "ENABLE", "KILL a b", "KILL_CLIENT", "KILL_CLIENT 1 2", "SUSPEND a", "SUSPEND 1 2", "WAIT_CLOSE a b",
        "WAIT_CLOSE a 1 2", "SHUTDOWN now", "SHUTDOWN WAIT_FOR_SERVERS WAIT_FOR_CLIENTS", "RECONNECT a b",
        "SHOW", "SHOW POOLS CLIENTS", "SHOW POOLS; RELOAD", "RELOAD now", "READS", "READS shop", "SHADOW", "SHADOW shop 101",
        "FORCE shop", "FORCE shop both",
        "READS shop 1 2", "MIRROR", "MIRROR PAUSE", "MIRROR STOP shop", "MIRROR PAUSE shop now", "MIRROR THROTTLE shop",
        "MIRROR THROTTLE shop -1", "MIRROR THROTTLE shop 1e9", "MIRROR THROTTLE shop 99999999999",
        "READS shop abc", "READS shop -1", "READS shop --5", "READS shop 100.01", "READS \"shop 5", "\"",
        "\"\"\"",
        "SHOW \"pools", "READS shop 1e1",
    ])
    func `a command of another form is answered with its usage`(text: String) {
        do {
            _ = try ConsoleParser.parse(text)
            Issue.record("taken: \(text)")
        } catch {
            guard case .usage(let usage) = error else {
                Issue.record("\(error)")
                return
            }
            #expect(!usage.isEmpty)
        }
    }

    @Test func `a command is as long as the bound and not longer`() throws {
        let most = ConsoleParser.commandBytesMax
        let head = "RELOAD"
        #expect(
            try ConsoleParser.parse(head + String(repeating: " ", count: most - head.utf8.count)) == .reload)
        #expect(throws: ConsoleParser.Failure.self) {
            try ConsoleParser.parse(head + String(repeating: " ", count: most - head.utf8.count + 1))
        }
        // Counted in bytes, whatever the characters are.
        #expect(throws: ConsoleParser.Failure.self) {
            try ConsoleParser.parse(String(repeating: "é", count: 5_001))
        }
        #expect(throws: ConsoleParser.Failure.unknownCommand(String(repeating: "a", count: most))) {
            try ConsoleParser.parse(String(repeating: "a", count: most))
        }
    }

    @Test func `all ten thousand and one shares are read exactly, in every way of writing them`() {
        for hundredths in 0...10_000 {
            let whole = hundredths / 100
            let fraction = hundredths % 100
            let two = "\(whole).\(fraction < 10 ? "0" : "")\(fraction)"
            var forms = [two, two + "%", "0" + two]
            if whole == 100 { forms.removeLast() }
            if fraction % 10 == 0 { forms.append("\(whole).\(fraction / 10)") }
            if fraction == 0 { forms += ["\(whole)", "\(whole)%"] }
            for form in forms where ConsoleParser.percent(form) != hundredths {
                Issue.record("\(form) was read as \(String(describing: ConsoleParser.percent(form)))")
            }
        }
    }

    @Test(arguments: [
        "", "%", ".", ".5", "5.", "5.%", "5%%", "%5", "+5", "-5", "-0", " 5", "5 ", "1e2", "0x10", "100.01",
        "100.1",
        "101", "999", "1000", "0100", "12.345", "12.3.4", "1,5", "٣", "５", "NaN", "inf", "5\u{0}", "5\u{301}",
        "1_0",
        "99999999999999999999", "0.00000000000000000000000001",
    ])
    func `what is not a share in steps of a hundredth is refused`(text: String) {
        #expect(ConsoleParser.percent(text) == nil)
    }
}
