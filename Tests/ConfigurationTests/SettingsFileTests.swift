import Testing

@testable import Configuration

/// A file of one database, with more lines before and inside it.
private func file(_ top: String = "", _ database: String = "") -> String {
    var text = top.contains("auth:") ? "" : "auth: {method: trust}\n"
    if !top.isEmpty { text += top + "\n" }
    text += "databases:\n  shop:\n    old: dbname=a\n    new: dbname=b\n"
    for line in database.split(separator: "\n") { text += "    \(line)\n" }
    return text
}

private func refusal(_ text: String) -> String {
    do {
        _ = try SettingsFile.parse(text: text, path: "g.yaml")
        return "accepted"
    } catch {
        return error.description
    }
}

@Suite struct SettingsFileTests {
    @Test func `what is not said has its default`() throws {
        let settings = try SettingsFile.parse(text: file(), path: "g.yaml")
        var expected = Settings()
        expected.auth.method = .trust
        var shop = DatabaseSettings(name: "shop")
        (shop.old, shop.new, shop.controlOld, shop.controlNew) = ("dbname=a", "dbname=b", "dbname=a", "dbname=b")
        expected.databases = [shop]
        #expect(settings == expected)
    }

    /// Every setting with a value that is not its default, by the key that `flatten` gives it.
    @Test(arguments: [
        ("listen: {address: 0.0.0.0}", "listen.address", "0.0.0.0"), ("listen: {port: 65535}", "listen.port", "65535"),
        ("listen: {unix_socket_directory: /run}", "listen.unix_socket_directory", "/run"),
        ("listen: {threads: 2}", "listen.threads", "2"), ("listen: {clients_max: 5}", "listen.clients_max", "5"),
        ("listen: {client_login_timeout: 1.5}", "listen.client_login_timeout", "1.5"),
        ("listen: {tls: {certificate: /c}}", "listen.tls.certificate", "/c"),
        ("listen: {tls: {key: k}}", "listen.tls.key", "/etc/k"), ("listen: {tls: {client_ca: k}}", "listen.tls.client_ca", "/etc/k"),
        ("listen: {tls: {mode: allow, certificate: c, key: k}}", "listen.tls.mode", "allow"),
        ("listen: {tls: {client_crl: k}}", "listen.tls.client_crl", "/etc/k"),
        ("listen: {tls: {min_version: TLSv1.3}}", "listen.tls.min_version", "TLSv1.3"),
        ("listen: {tls: {max_version: TLSv1.2}}", "listen.tls.max_version", "TLSv1.2"),
        ("listen: {tls: {ciphers: HIGH}}", "listen.tls.ciphers", "HIGH"),
        ("listen: {tls: {cipher_suites: X}}", "listen.tls.cipher_suites", "X"),
        ("auth: {method: trust, ident_file: i}", "auth.ident_file", "/etc/i"),
        ("auth: {method: trust, ident_file: i, ident_map: m}", "auth.ident_map", "m"),
        ("auth: {method: md5, users_file: u.txt}", "auth.method", "md5"),
        ("auth: {users_file: u.txt}", "auth.users_file", "/etc/u.txt"), ("admin: {users: [a, b]}", "admin.users", "a, b"),
        ("admin: {http: {address: 0.0.0.0}}", "admin.http.address", "0.0.0.0"),
        ("admin: {http: {port: 0}}", "admin.http.port", "0"), ("admin: {http: {token_file: t}}", "admin.http.token_file", "/etc/t"),
        ("admin: {http: {allow_plain_tokens: true}}", "admin.http.allow_plain_tokens", "true"),
        ("admin: {http: {tls: {certificate: c, key: /k}}}", "admin.http.tls.certificate", "/etc/c"),
        ("admin: {http: {tls: {certificate: c, key: /k}}}", "admin.http.tls.key", "/k"),
        ("admin: {http: {tls: {min_version: TLSv1.3}}}", "admin.http.tls.min_version", "TLSv1.3"),
        ("state: {path: /s}", "state.path", "/s"), ("state: {url: host=h}", "state.url", "host=h"),
        ("state: {address: 'https://a.b:9'}", "state.address", "https://a.b:9"), ("log: {level: debug}", "log.level", "debug"),
    ])
    func `a setting of the top is read`(text: String, key: String, value: String) throws {
        let settings = try SettingsFile.parse(text: file(text), path: "/etc/g.yaml")
        #expect(ReloadPolicy.flatten(settings).first { $0.key == key }?.value == value)
    }

    @Test(arguments: [
        ("control: {old: x}", "control.old", "x"), ("control: {new: x}", "control.new", "x"),
        ("pool: {size: 7}", "pool.size", "7"), ("pool: {waiters_max: 7}", "pool.waiters_max", "7"),
        ("pool: {query_wait_timeout: 7}", "pool.query_wait_timeout", "7"),
        ("pool: {server_connect_timeout: 7}", "pool.server_connect_timeout", "7"),
        ("pool: {server_login_retry: 7}", "pool.server_login_retry", "7"),
        ("pool: {server_idle_timeout: 7}", "pool.server_idle_timeout", "7"),
        ("pool: {server_lifetime: 7}", "pool.server_lifetime", "7"),
        ("pool: {idle_transaction_timeout: 7}", "pool.idle_transaction_timeout", "7"),
        ("pool: {client_idle_timeout: 0.5}", "pool.client_idle_timeout", "0.5"),
        ("pool: {max_prepared_statements: 0}", "pool.max_prepared_statements", "0"),
        ("reads: {percent: 0.29}", "reads.percent", "0.29"), ("reads: {percent: 100}", "reads.percent", "100"),
        ("reads: {key: [{setting: a.b}, {comment: c}]}", "reads.key", "setting: a.b, comment: c"),
        ("reads: {key: [{column: a}, {session: application_name}, {session: client_address}, {session: user}]}", "reads.key",
         "column: a, session: application_name, session: client_address, session: user"),
        ("reads: {keyless: session}", "reads.keyless", "session"), ("reads: {promote: proven}", "reads.promote", "proven"),
        ("reads: {promote_after: 7}", "reads.promote_after", "7"),
        ("reads: {promote_p95_factor: 1.5}", "reads.promote_p95_factor", "1.5"),
        ("reads: {cohorts: [{name: a, pattern: \"x-*\", percent: 1}]}", "reads.cohorts", "a: 1 % of pattern x-*"),
        ("reads: {cohorts: [{name: a, regex: ^x, percent: 1}]}", "reads.cohorts", "a: 1 % of regex ^x"),
        ("reads: {cohorts: [{name: a, range: {from: -1, to: 5}, percent: 1}]}", "reads.cohorts", "a: 1 % of -1 to 5"),
        ("rules: [{name: r, table: s.t, user: u, action: deny}]", "rules", "r: deny for table s.t, user u"),
        ("rules: [{name: r, shape: select 1, action: new}]", "rules", "r: new for shape select 1"),
        ("rules: [{name: r, schema: s, regex: \"^a\", action: old}]", "rules", "r: old for schema s, regex ^a"),
        ("rules: [{name: r, rewrite: {table: a, to: b.c}}]", "rules", "r: rewrite a to b.c for every statement"),
        ("mirror: {mode: async}", "mirror.mode", "async"), ("mirror: {mode: off}", "mirror.mode", "off"),
        ("mirror: {mode: \"off\"}", "mirror.mode", "off"), ("mirror: {mode: false}", "mirror.mode", "off"),
        ("mirror: {poll_millis: 5}", "mirror.poll_millis", "5"), ("mirror: {backfill_rows: 5}", "mirror.backfill_rows", "5"),
        ("mirror: {lag_max: 5}", "mirror.lag_max", "5"), ("mirror: {mode: sync}", "mirror.mode", "sync"),
        ("mirror: {ddl: allow}", "mirror.ddl", "allow"), ("mirror: {ddl: barrier}", "mirror.ddl", "barrier"),
        ("mirror: {ddl_wait: 0.5}", "mirror.ddl_wait", "0.5"),
        ("mirror: {sync_wait: 0.2}", "mirror.sync_wait", "0.2"),
        ("mirror: {backfill_rate: 9}", "mirror.backfill_rate", "9"),
        ("mirror: {throttle_lag: 0.5}", "mirror.throttle_lag", "0.5"),
        ("mirror: {throttle_sessions: 7}", "mirror.throttle_sessions", "7"),
        ("mirror: {throttle_query: SELECT true}", "mirror.throttle_query", "SELECT true"), ("breaker: {failures: 9}", "breaker.failures", "9"),
        ("breaker: {held: 0.25}", "breaker.held", "0.25"), ("breaker: {probes: 1}", "breaker.probes", "1"),
        ("shadow: {percent: 0}", "shadow.percent", "0"), ("shadow: {pause: 0.5}", "shadow.pause", "0.5"),
        ("mirror: {mode: async}\nshadow: {percent: 1.5}", "shadow.percent", "1.5"),
        ("shadow: {timeout: 3}", "shadow.timeout", "3"), ("shadow: {rows_max: 3}", "shadow.rows_max", "3"),
        ("shadow: {show_values: true}", "shadow.show_values", "true"),
        ("shadow: {old: user=s}", "shadow.old", "user=s"), ("shadow: {new: user=s}", "shadow.new", "user=s"),
        ("old: dbname=z", "old", "z"),
    ])
    func `a setting of a database is read`(text: String, key: String, value: String) throws {
        if key == "old" { return #expect(refusal(file("", text)).contains("g.yaml:6: old: is given twice")) }
        let settings = try SettingsFile.parse(text: file("", text), path: "g.yaml")
        #expect(ReloadPolicy.flatten(settings).first { $0.key == "databases.shop.\(key)" }?.value == value)
    }

    @Test func `cohorts are read in their order`() throws {
        let text = file("", "reads:\n  cohorts: [{name: a, keys: [7, \"x y\"], percent: 0.01}, {name: b, keys: [], percent: 100}]")
        let reads = try SettingsFile.parse(text: text, path: "g.yaml").databases[0].reads
        #expect(reads.cohorts == [.init(name: "a", keys: ["7", "x y"], hundredths: 1), .init(name: "b", keys: [], hundredths: 10_000)])
    }

    @Test(arguments: [
        ("", "g.yaml:1: databases: is missing"),
        ("a: b", "g.yaml:1: a: unknown key"),
        ("- a", "g.yaml:1: expected a mapping (key: value), found a list"),
        ("auth: {method: trust}\ndatabases: {}", "g.yaml:2: databases: expected at least one database, found none"),
        ("auth: {method: trust}\ndatabases:\n  godwit: {old: a, new: b}", "g.yaml:3: databases.godwit: is the name of the console's database"),
        ("auth: {method: trust}\ndatabases:\n  shop: {old: a}", "g.yaml:3: databases.shop.new: is missing"),
        ("auth: {method: trust}\ndatabases:\n  shop:", "g.yaml:3: databases.shop: expected a mapping (key: value), found nothing"),
        (file("auth: {method: md5}"), "g.yaml:1: auth.users_file: is missing"),
        (file("listen: {prot: 1}"), "g.yaml:2: listen.prot: unknown key, did you mean 'port'?"),
        (file("listen: {listen_port: 1}"), "g.yaml:2: listen.listen_port: unknown key, did you mean 'listen.port'?"),
        (file("listen: {tls: {client_tls13_ciphers: x}}"), "g.yaml:2: listen.tls.client_tls13_ciphers: unknown key, did you mean 'listen.tls.cipher_suites'?"),
        (file("listen:\n  port: 65536"), "g.yaml:3: listen.port: expected a whole number from 0 to 65535, found \"65536\""),
        (file("listen: {port: \"1\"}"), "g.yaml:2: listen.port: expected a whole number from 0 to 65535, found \"1\""),
        (file("listen: {port: 1.5}"), "g.yaml:2: listen.port: expected a whole number from 0 to 65535, found \"1.5\""),
        (file("listen: {port: [1]}"), "g.yaml:2: listen.port: expected a whole number from 0 to 65535, found a list"),
        (file("listen: {address: }"), "g.yaml:2: listen.address: expected text, found nothing"),
        (file("listen: 5"), "g.yaml:2: listen: expected a mapping (key: value), found \"5\""),
        (file("listen: {tls: {mode: require}}"), "g.yaml:2: listen.tls.certificate: is missing"),
        (file("listen: {tls: {mode: allow, certificate: c}}"), "g.yaml:2: listen.tls.key: is missing"),
        (file("listen: {tls: {mode: verify-ca, certificate: c, key: k}}"), "g.yaml:2: listen.tls.client_ca: is missing"),
        (file("listen: {tls: {mode: allow, certificate: c, key: k, client_crl: r}}"), "g.yaml:2: listen.tls.client_crl: needs client_ca"),
        (file("listen: {tls: {min_version: TLSv1.3, max_version: TLSv1.2}}"), "g.yaml:2: listen.tls.min_version: is above max_version"),
        (file("listen: {tls: {min_version: TLSv1}}"), "g.yaml:2: listen.tls.min_version: expected one of TLSv1.2, TLSv1.3, found \"TLSv1\""),
        (file("auth: {method: cert}"), "g.yaml:1: auth.method: cert needs listen.tls with a mode other than disable, and its client_ca"),
        (file("log: {level: loud}"), "g.yaml:2: log.level: expected one of trace, debug, info, notice, warning, error, critical, found \"loud\""),
        (file("", "pool:\n  size: 0"), "g.yaml:7: databases.shop.pool.size: expected a whole number from 1 to 100000, found \"0\""),
        (file("", "pool: {server_lifetime: -1}"), "seconds, 0 or more"), (file("", "pool: {server_lifetime: inf}"), "seconds, 0 or more"),
        (file("", "pool: {server_lifetime: 1e9}"), "seconds, 0 or more"),
        (file("", "reads: {percent: 0.001}"), "g.yaml:6: databases.shop.reads.percent: expected a percentage from 0 to 100 in steps of 0.01, found \"0.001\""),
        (file("", "reads: {percent: 100.01}"), "steps of 0.01"), (file("", "reads: {percent: -1}"), "steps of 0.01"),
        (file("", "reads: {percent: \"5\"}"), "steps of 0.01"), (file("", "reads: {percent: 1e1}"), "steps of 0.01"),
        (file("", "reads: {key: [{column: \"a b\"}]}"), "expected letters"),
        (file("", "reads: {key: [{session: database}]}"), "expected user, application_name or client_address, found \"database\""),
        (file("", "reads: {key: [{setting: user}]}"), "expected a name with a dot"),
        (file("", "reads: {key: [{comment: a, setting: b.c}]}"), "expected one of"), (file("", "reads: {key: comment}"), "expected a list"),
        (file("", "reads: {key: [{comment: \"a b\"}]}"), "expected letters"),
        (file("", "reads: {cohorts: [{name: a, percent: 1}]}"), "keys: is missing"),
        (file("", "reads: {cohorts: [{name: a, keys: []}]}"), "percent: is missing"),
        (file("", "reads: {cohorts: [{name: a, keys: [], percent: 1}, {name: a, keys: [], percent: 2}]}"), "two cohorts are named \"a\""),
        (file("", "reads: {cohorts: [{name: a, keys: [], file: f, percent: 1}]}"), "a cohort has one of keys, file, pattern, regex, range"),
        (file("", "reads: {cohorts: [{name: a, file: nowhere.txt, percent: 1}]}"), "nowhere.txt: no such file"),
        (file("", "reads: {cohorts: [{name: a, regex: \"(a\", percent: 1}]}"), "'(' is not closed"),
        (file("", "reads: {cohorts: [{name: a, regex: \"a{999}\", percent: 1}]}"), "a repetition is at most 100 times"),
        (file("", "reads: {cohorts: [{name: a, pattern: \"\", percent: 1}]}"), "expected a pattern, found nothing"),
        (file("", "reads: {cohorts: [{name: a, range: {from: 5, to: 1}, percent: 1}]}"), "must not be below 'from' (5)"),
        (file("", "reads: {cohorts: [{name: a, range: {from: 5}, percent: 1}]}"), "range.to: is missing"),
        (file("", "reads: {cohorts: [{name: a, range: 1-5, percent: 1}]}"), "expected a mapping"),
        (file("", "reads: {keyless: new}"), "expected one of old, session"), (file("", "reads: {promote: some}"), "expected one of all, proven"),
        (file("", "reads: {promote_after: 0}"), "a whole number from 1 to 1000000"),
        (file("", "reads: {promote_p95_factor: 0.5}"), "a number from 1.0 to 1000.0"),
        (file("", "rules: [{action: old}]"), "rules.name: is missing"), (file("", "rules: [{name: r, table: t}]"), "action: is missing"),
        (file("", "rules: [{name: r, action: old}]"), "one of shape, table, schema, regex, user in the rule"),
        (file("", "rules: [{name: r, table: a.b.c, action: old}]"), "expected a table, or schema.table, found \"a.b.c\""),
        (file("", "rules: [{name: r, table: t, action: drop}]"), "expected one of old, new, deny, found \"drop\""),
        (file("", "rules: [{name: r, action: old, rewrite: {table: a, to: b}}]"), "a rule rewrites or acts, not both"),
        (file("", "rules: [{name: r, rewrite: {table: a}}]"), "rewrite.to: is missing"),
        (file("", "rules: [{name: r, table: t, action: old}, {name: r, table: u, action: old}]"), "two rules are named \"r\""),
        (file("", "rules: [{name: r, tabel: t, action: old}]"), "did you mean 'table'?"),
        (file("", "mirror: {sync_wait: 0}"), "expected seconds, at least 0.001"),
        (file("", "mirror: {mode: maybe}"), "expected one of off, async, sync"),
        (file("", "shadow: {percent: 1}"), "set mirror.mode, too"),
        (file("", "breaker: {held: 0}"), "at least 0.001"), (file("", "poool: {size: 1}"), "did you mean 'pool'?"),
        (file("", "pool: {size: 5}\npool: {size: 6}"), "g.yaml:7: pool: is given twice"),
        ("a: [", "g.yaml:"), ("a: \u{01}", "is not YAML"), ("a: *x", "g.yaml:1: YAML anchors and aliases are not accepted"),
        ("a: &x b", "anchors and aliases"), ("? *x\n: b", "anchors and aliases"), ("a: b\n---\nc: d", "is not YAML"),
        ("a: " + String(repeating: "[", count: 100_000), "is nested deeper than 16 levels"),
        (String(repeating: "- ", count: 100_000), "is nested deeper than 16 levels"),
        (String(repeating: "? ", count: 100_000), "is nested deeper than 16 levels"),
        ((0..<3000).map { String(repeating: " ", count: $0) + "a:\n" }.joined(), "is nested deeper than 16 levels"),
    ])
    func `what is wrong is refused with its place and what was expected`(text: String, message: String) {
        let refusal = refusal(text)
        #expect(refusal.contains(message), "\(refusal)")
    }

    @Test func `a file of the most bytes is read, a byte more is not`() {
        let text = file()
        let most = text + "#" + String(repeating: "x", count: SettingsLimits.fileBytesMax - text.utf8.count - 1)
        #expect(refusal(most) == "accepted")
        #expect(refusal(most + "x").contains("expected at most"))
    }

    @Test func `stars and ampersands inside of values are no aliases`() {
        let text = file("listen: {address: \"*\"}", "control: {old: 'postgresql://h/d?a=1&b=2'}")
        #expect(refusal(text) == "accepted")
    }

    @Test func `a missing file is said`() {
        #expect(throws: SettingsError(path: "/nowhere/g.yaml", line: 0, key: "", .unreadable("no such file"))) {
            try SettingsFile.load(path: "/nowhere/g.yaml")
        }
    }

    @Test func `hundredths of a percent are exact`() {
        for hundredths in 0...10_000 { #expect(Percent.hundredths(Percent.text(hundredths)) == hundredths) }
        for text in ["", ".", ".5", "5.", "+5", "0x5", "1000", "٥", "5.0.0", "100.001"] { #expect(Percent.hundredths(text) == nil) }
        #expect(Percent.hundredths("12.340") == 1234)
    }
}

@Suite struct SettingsPlaceTests {
    @Test(arguments: [("c", "s"), ("/c", "/s"), ("./c", "./s"), ("/etc/godwit/c.yaml", "/etc/godwit/s"), ("", "s")])
    func `a relative path starts at the file's folder, however short that is named`(path: String, wanted: String) throws {
        let text = "auth: {method: trust}\nstate: {path: s}\ndatabases: {shop: {old: \"host=a\", new: \"host=b\"}}"
        #expect(try SettingsFile.parse(text: text, path: path).state.path == wanted)
    }
}
