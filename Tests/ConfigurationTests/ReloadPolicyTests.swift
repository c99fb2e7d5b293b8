import Primitives
import Testing

@testable import Configuration

@Suite struct ReloadPolicyTests {
    private func settings(_ change: (inout Settings) -> Void = { _ in }) -> Settings {
        var settings = Settings()
        var shop = DatabaseSettings(name: "shop")
        shop.old = "host=a password=secret"
        settings.databases = [shop]
        change(&settings)
        return settings
    }

    @Test func `nothing changed is nothing to say`() {
        #expect(ReloadPolicy.changes(from: settings(), to: settings()).isEmpty)
    }

    @Test func `a change is told with both values and its effect`() {
        let after = settings { $0.databases[0].reads.hundredths = 1050; $0.listen.port = 1 }
        #expect(ReloadPolicy.changes(from: settings(), to: after) == [
            .init(key: "listen.port", old: "6432", new: "1", effect: .restart),
            .init(key: "databases.shop.reads.percent", old: "0", new: "10.5", effect: .reload),
        ])
    }

    @Test func `a password is never told`() {
        let after = settings { $0.databases[0].old = "host=b password = 'an''o th\\'er' user=x" }
        let changes = ReloadPolicy.changes(from: settings(), to: after)
        #expect(changes.count == 1)
        #expect(changes[0].old == "host=a password=***")
        #expect(changes[0].new == "host=b password = *** user=x")
    }

    @Test(arguments: [
        ("postgresql://u:p@h/d?x=1", "postgresql://u:***@h/d?x=1"), ("postgres://u@h/d", "postgres://u@h/d"),
        ("postgresql://h/d?password=p&x=1", "postgresql://h/d?password=***&x=1"), ("host=a", "host=a"),
        ("PASSWORD=p host=a", "PASSWORD=*** host=a"), ("password=a\\ b host=c", "password=*** host=c"),
        ("password=a&b host=c", "password=*** host=c"), ("password=a'b\"c host=d", "password=*** host=d"),
        ("password='a&b c' host=d", "password=*** host=d"),
        ("postgresql://h/d?password=p'q r&x=1", "postgresql://h/d?password=***&x=1"),
    ])
    func `passwords are masked in both forms of conninfo`(conninfo: String, masked: String) {
        #expect(ReloadPolicy.maskedConninfo(conninfo) == masked)
    }

    @Test func `reads for a mirror that begins with the next start begin with it`() throws {
        let running = settings {
            $0.databases[0].reads.cohorts = [.init(name: "staff", keys: ["ann"], hundredths: 100)]
            $0.databases[0].rules = [RuleSettings(name: "there", action: .new)]
        }
        let next = settings {
            $0.databases[0].mirror.mode = .async
            $0.databases[0].pool.size = 7
            $0.databases[0].reads.hundredths = 5000
            $0.databases[0].shadow.hundredths = 100
            $0.databases[0].reads.cohorts = [
                .init(name: "staff", keys: ["ann"], hundredths: 10_000), .init(name: "more", keys: ["b"], hundredths: 1),
            ]
            $0.databases[0].rules = [
                RuleSettings(name: "no", action: .deny), RuleSettings(name: "there", action: .new),
                RuleSettings(name: "also", action: .new),
            ]
        }
        let kept = ReloadPolicy.keepingRestartOnly(of: running, in: next).databases[0]
        #expect(kept.mirror.mode == .off && kept.pool.size == 7)
        #expect(kept.reads.hundredths == 0 && kept.shadow.hundredths == 0)
        #expect(kept.reads.cohorts.map(\.hundredths) == [100, 0])
        #expect(kept.rules.map(\.name) == ["no", "there"])
        let changes = ReloadPolicy.changes(from: running, to: next)
        func effect(_ key: String) -> ReloadPolicy.Effect? {
            changes.first { $0.key == "databases.shop.\(key)" }?.effect
        }
        #expect(effect("reads.percent") == .restart && effect("shadow.percent") == .restart)
        #expect(effect("rules") == .restart && effect("pool.size") == .reload)
        // With what it follows already they are the reload's, and fewer always.
        var mirrored = running
        mirrored.databases[0].mirror.mode = .async
        #expect(ReloadPolicy.keepingRestartOnly(of: mirrored, in: next) == next)
        var moved = next
        moved.databases[0].new = "host=c"
        moved.databases[0].reads.hundredths = 100
        let less = ReloadPolicy.keepingRestartOnly(of: next, in: moved).databases[0]
        #expect(less.new == "" && less.reads.hundredths == 100)
    }

    @Test(arguments: ["auth", "pool", "shop.reads", "rules", "mirror"])
    func `a database may be called as a section is`(name: String) {
        var before = Settings()
        before.databases = [DatabaseSettings(name: name)]
        var after = before
        after.databases[0].new = "host=b"
        after.databases[0].pool.size = 7
        after.databases[0].mirror.mode = .async
        let effects = ReloadPolicy.changes(from: before, to: after).map { ($0.key, $0.effect) }
        #expect(effects.map(\.1) == [.restart, .reload, .restart])
        for (key, effect) in effects { #expect(ReloadPolicy.effect(of: key) == effect, "\(key)") }
    }

    @Test func `a cohort with other keys is a change, and its keys are not told`() {
        let one = settings { $0.databases[0].reads.cohorts = [.init(name: "a", keys: ["alice"], hundredths: 100)] }
        let two = settings { $0.databases[0].reads.cohorts = [.init(name: "a", keys: ["carol"], hundredths: 100)] }
        let changes = ReloadPolicy.changes(from: one, to: two)
        #expect(changes.count == 1 && changes[0].effect == .reload)
        #expect(!"\(changes)".contains("alice"))
    }

    @Test func `a database that comes or goes is told`() {
        let after = settings { $0.databases = [] }
        let settingsOfOne = ReloadPolicy.flatten(settings()).count - ReloadPolicy.flatten(after).count
        #expect(ReloadPolicy.changes(from: settings(), to: after).count == settingsOfOne)
        #expect(ReloadPolicy.changes(from: after, to: settings()).count == settingsOfOne)
    }
}

@Suite struct UserListTests {
    private func parse(_ text: String) throws(SettingsError) -> NameTable<String> {
        try UserList.parse(text: text, path: "u").secrets
    }

    @Test func `PgBouncer's format is read`() throws {
        let text = """
            ; a comment
            "app" "plain"

            "m" "md50123456789abcdef0123456789abcdef" ; behind
              "s"\t"SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy" "old third field"\r
            "q""x" "a""b"
            "empty" ""
            """
        #expect(try parse(text) == [
            "app": "plain", "m": "md50123456789abcdef0123456789abcdef",
            "s": "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy", "q\"x": "a\"b", "empty": "",
        ])
    }

    @Test(arguments: [
        ("\"a\"", "u:1: expected a secret in quotes, found the end of the line"), ("\n\"a\" b", "u:2: expected a name or secret in double quotes"),
        ("\"a\" \"b", "u:1: expected a closing quote"), ("a b", "u:1: expected a name or secret in double quotes"),
        ("\"\" \"b\"", "u:1: expected a user's name"), ("\"a\" \"b\"\n\"a\" \"c\"", "u:2: a: is given twice"),
        ("\"a\" \"\u{0}\"", "u:1: expected text without NUL"),
    ])
    func `what is wrong is refused with its line`(text: String, message: String) {
        do {
            _ = try parse(text)
            Issue.record("accepted")
        } catch {
            #expect(error.description.contains(message), "\(error)")
        }
    }

    @Test func `a name of the most bytes is read, a byte more is not`() throws {
        let name = String(repeating: "a", count: SettingsLimits.userFieldBytesMax)
        #expect(try parse("\"\(name)\" \"\"").count == 1)
        #expect(throws: SettingsError.self) { try parse("\"\(name)a\" \"\"") }
    }
}
