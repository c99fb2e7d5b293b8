import PGWire
import Sessions
import Testing

/// What is not ASCII, by its bytes.
private func converted(_ hex: String) -> String {
    "pg_catalog.convert_from(pg_catalog.decode('\(hex)', 'hex'), 'UTF8')"
}

@Suite struct SessionSettingsTests {
    private func settings(_ pairs: [(String, String)]) -> SessionSettings {
        var settings = SessionSettings()
        for (name, value) in pairs { settings.set(name: name, value: value) }
        return settings
    }

    private func sets(_ name: String, _ value: String) -> String {
        "SELECT pg_catalog.set_config('\(name)', \(value), false)"
    }

    @Test func `equal settings need nothing`() {
        let both = settings([("a", "1"), ("b", "2")])
        #expect(both.statements(from: both) == nil)
        #expect(both.statements(from: settings([("b", "2"), ("a", "1")])) == nil)
        #expect(SessionSettings().statements(from: SessionSettings()) == nil)
    }

    @Test func `a value is what it was set to`() {
        let known = settings([("app.x", "it's"), ("My.Y", "caf\u{e9}"), ("app.x", "a\\b")])
        #expect(known.value(of: "app.x") == "a\\b" && known.value(of: "my.y") == "caf\u{e9}")
        #expect(known.value(of: "app.z") == nil)
    }

    @Test func `values that differ in their Unicode form differ`() {
        var one = settings([("role", "caf\u{e9}")]), other = settings([("role", "cafe\u{301}")])
        #expect(one.statements(from: other) != nil)
        #expect(one != other && !SessionSettings.unify(&one, &other))
    }

    @Test func `only what differs is set or reset`() {
        let wanted = settings([("a", "1"), ("b", "2"), ("c", "3")])
        let current = settings([("b", "2"), ("c", "4"), ("d", "5"), ("my.x", "6")])
        #expect(
            wanted.statements(from: current)
                == "RESET \"d\";RESET \"my\".\"x\";" + sets("a", "'1'") + ";" + sets("c", "'3'"))
        #expect(SessionSettings().statements(from: settings([("a", "1")])) == "RESET \"a\"")
        #expect(settings([("a", "1")]).statements(from: SessionSettings()) == sets("a", "'1'"))
    }

    @Test func `a value in other words stays at its place`() {
        var session = settings([("datestyle", "ISO"), ("role", "r")])
        session.respell(name: "datestyle", value: "ISO, DMY")
        session.respell(name: "timezone", value: "UTC")
        #expect(session == settings([("datestyle", "ISO, DMY"), ("role", "r")]))
    }

    @Test func `a server is asked for its spelling from its own defaults, and nothing of it stays`() {
        let sql = SessionSettings.spellingQuery([
            .init(name: "datestyle", value: "ISO"), .init(name: "client_encoding", value: "it's"),
        ])
        #expect(sql == """
            SET LOCAL "datestyle" TO DEFAULT;SET LOCAL "client_encoding" TO DEFAULT;\
            SELECT pg_catalog.set_config('datestyle', 'ISO', true);\
            SELECT pg_catalog.set_config('client_encoding', 'it''s', true)
            """)
    }

    @Test func `from an unknown state everything is reset first, the role too`() {
        let toLogin = "RESET SESSION AUTHORIZATION;SET ROLE NONE;RESET ALL;"
        #expect(SessionSettings().statements(from: nil) == toLogin + "RESET ROLE")
        #expect(settings([("a", "1")]).statements(from: nil) == toLogin + sets("a", "'1'") + ";RESET ROLE")
        #expect(
            settings([("role", "r"), ("a", "1")]).statements(from: nil)
                == toLogin + sets("a", "'1'") + ";" + sets("role", "'r'"))
    }

    @Test func `parameters are set and reset as the login user, before the session's user and role`() {
        let toLogin = "RESET SESSION AUTHORIZATION;SET ROLE NONE;"
        let user = sets("session_authorization", "'u'")
        let role = sets("role", "'r'")
        let wanted = settings([("session_authorization", "u"), ("role", "r"), ("a", "1")])
        let all = toLogin + sets("a", "'1'") + ";" + user + ";" + role
        #expect(wanted.statements(from: SessionSettings()) == all)
        #expect(wanted.statements(from: settings([("session_authorization", "u"), ("role", "r")])) == all)
        #expect(wanted.statements(from: settings([("session_authorization", "u"), ("role", "r"), ("a", "1")])) == nil)
        #expect(
            SessionSettings().statements(from: wanted) == toLogin + "RESET \"a\";RESET ROLE",
            "what a login has of its own comes back")
        #expect(
            settings([("session_authorization", "u")]).statements(from: wanted) == toLogin + "RESET \"a\";" + user)
        #expect(settings([("a", "1")]).statements(from: wanted) == toLogin + "RESET ROLE")
    }

    @Test func `whoever changes the session's user has no role any more`() {
        var session = settings([("role", "r"), ("a", "1"), ("session_authorization", "u")])
        #expect(session.entries.map(\.name) == ["a", "session_authorization"])
        session.set(name: "ROLE", value: "s")
        session.reset(name: "session_authorization")
        #expect(session.entries.map(\.name) == ["a"])
    }

    @Test func `RESET ALL reaches neither the session's user nor its role`() {
        let start = settings([("work_mem", "1MB"), ("role", "first")])
        var session = settings([("session_authorization", "u"), ("role", "r"), ("a", "1"), ("work_mem", "2MB")])
        session.resetAll(to: start)
        #expect(session == settings([("work_mem", "1MB"), ("session_authorization", "u"), ("role", "r")]))
        #expect(start.reachedByResetAll.map(\.name) == ["work_mem"])
    }

    @Test func `names are the same in any case and a later value replaces an earlier one`() {
        let both = settings([("DateStyle", "ISO"), ("a", "1"), ("datestyle", "German")])
        #expect(both.entries.map(\.name) == ["a", "datestyle"])
        #expect(both.entries.last?.statement == sets("datestyle", "'German'"))
        var reset = both
        reset.reset(name: "DATESTYLE")
        #expect(reset.entries.map(\.name) == ["a"])
    }

    /// Each tried with PostgreSQL 15: SET of the one, then of the other, is the same as SET of the third alone.
    @Test(arguments: [
        ("German, DMY", "ISO", "iso, dmy"), ("German", "iso", "iso, dmy"), ("SQL, DMY", "mdy", "sql, mdy"),
        ("Postgres, European", "ISO", "iso, european"), ("dmy", "SQL", "sql, dmy"), ("ISO, YMD", "German", "German"),
        ("ISO, DMY", "SQL, MDY", "SQL, MDY"), ("ISO", "SQL", "SQL"), ("dmy", "ymd", "ymd"),
    ])
    func `a part of DateStyle leaves the other as it was`(former: String, value: String, whole: String) {
        let session = settings([("DateStyle", former), ("a", "1"), ("datestyle", value)])
        #expect(session.entries.last?.statement == sets("datestyle", "'\(whole)'"))
        #expect(settings([("datestyle", value)]).entries.last?.statement == sets("datestyle", "'\(value)'"))
    }

    @Test func `what a part of DateStyle leaves open is the default, not what another session has left`() {
        let left = settings([("datestyle", "SQL, DMY")])
        let (part, whole) = (settings([("datestyle", "ISO")]), settings([("datestyle", "ISO, MDY")]))
        #expect(part.statements(from: left) == "RESET \"datestyle\";\(sets("datestyle", "'ISO'"))")
        #expect(whole.statements(from: left) == sets("datestyle", "'ISO, MDY'"))
        #expect(part.statements(from: SessionSettings()) == sets("datestyle", "'ISO'"))
    }

    @Test func `an entry is put back as it was`() throws {
        var settings = settings([("a", "1"), ("b", "2")])
        let before = settings
        let entry = try #require(settings.entries.last)
        settings.set(name: "b", value: "3")
        #expect(settings != before)
        settings.restore(entry)
        #expect(settings == before)
        settings.reset(name: "b")
        settings.restore(entry)
        #expect(settings == before)
    }

    @Test(arguments: [
        ("", "''"), ("a b", "'a b'"), ("it's", "'it''s'"), ("'; DROP TABLE t; --", "'''; DROP TABLE t; --'"),
        ("a\\", " E'a\\\\'"), ("\\'", " E'\\\\'''"), ("'\u{301}", converted("27cc81")),
        ("x'\u{301} y", converted("7827cc812079")), ("\u{1F600}", converted("f09f9880")),
        ("\n\u{301}'", converted("0acc8127")), ("'\u{200D}'", converted("27e2808d27")), ("\r\n'", "'\r\n'''"),
        ("\"$user\", public", "'\"$user\", public'"), ("$$'$$", "'$$''$$'"),
    ])
    func `a hostile value stays within its quotes`(value: String, literal: String) {
        let statement = settings([("a", value)]).statements(from: SessionSettings()) ?? ""
        #expect(Array(statement.utf8) == Array(sets("a", literal).utf8))
    }

    @Test(arguments: [
        ("a\"b", "\"a\"\"b\""), ("a;b", "\"a;b\""),
        ("a.b.c", "\"a\".\"b\".\"c\""),
        ("a'b", "\"a'b\""),
    ])
    func `a hostile name stays within its quotes`(name: String, quoted: String) {
        let statement = SessionSettings().statements(from: settings([(name, "1")])) ?? ""
        #expect(Array(statement.utf8) == Array("RESET \(quoted)".utf8))
    }

    @Test(arguments: [("a\"\u{301}b", "6122cc8162"), ("a.\u{301}b", "612ecc8162"), ("app.\u{e9}", "6170702ec3a9")])
    func `a name that is not ASCII is reset in whatever encoding the server reads`(name: String, hex: String) {
        let statement = SessionSettings().statements(from: settings([("client_encoding", "LATIN1"), (name, "1")])) ?? ""
        #expect(statement == "RESET \"client_encoding\";SELECT pg_catalog.set_config(\(converted(hex)), NULL, false)")
    }
}
