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
            ("READS Shop 100", .reads(database: "Shop", hundredths: 10_000)),
            ("FORCE shop old", .force(database: "shop", .old)), ("force shop NEW;", .force(database: "shop", .new)),
            ("Force shop Auto", .force(database: "shop", .auto)),
            ("", .empty), (";;", .empty), ("-- only words", .empty), (" \n\t", .empty),
            ("SET application_name = 'x'", .ignored(tag: "SET")), ("set", .ignored(tag: "SET")),
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
        #expect(ConsoleCommand.show(subject).isReadOnly)
    }

    @Test func `what changes something is not read-only`() {
        #expect(!ConsoleCommand.reload.isReadOnly)
        #expect(!ConsoleCommand.reads(database: "a", hundredths: 0).isReadOnly)
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
            ("SHUTDOWN", .unknownCommand("SHUTDOWN")), ("ＳＨＯＷ POOLS", .unknownCommand("ＳＨＯＷ")),
            ("- SHOW", .unknownCommand("-")), ("SHOW\u{301} POOLS", .unknownCommand("SHOW\u{301}")),
        ] as [(String, ConsoleParser.Failure)])
    func `what is not a command is refused by its name`(text: String, failure: ConsoleParser.Failure) {
        #expect(throws: failure) { try ConsoleParser.parse(text) }
    }

    @Test(arguments: [
        "SHOW", "SHOW POOLS CLIENTS", "SHOW POOLS; RELOAD", "RELOAD now", "READS", "READS shop", "FORCE shop", "FORCE shop both",
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
