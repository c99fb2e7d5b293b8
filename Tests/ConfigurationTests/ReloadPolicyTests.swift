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
    ])
    func `passwords are masked in both forms of conninfo`(conninfo: String, masked: String) {
        #expect(ReloadPolicy.maskedConninfo(conninfo) == masked)
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
