import Foundation
import Testing

@testable import Configuration

@Suite struct SettingOverrideTests {
    static let text = """
        listen: {port: 7000, max_client_conn: 50}
        auth: {method: trust}
        pool: {default_pool_size: 5}
        users: {"first.last": {pool_size: 3}}
        databases:
          shop: {old: "host=a", new: "host=b", pool: {pool_size: 6}}
          shop.eu: {old: "host=c", new: "host=d"}
        """

    func settings(_ overrides: (String, String)...) throws -> Settings {
        try SettingsFile.parse(
            text: Self.text, path: "test.yaml",
            overrides: overrides.map { key, value in
                SettingOverride(path: try #require(path(key), "\(key)"), value: value)
            })
    }

    func path(_ key: String) -> [String]? { SettingName.path(of: key, databases: ["shop", "shop.eu"]) }

    @Test func `every setting that is shown and can be reloaded can be set to what it is`() throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../conf/godwit.yaml")
        let text = try String(contentsOf: file, encoding: .utf8)
        let settings = try SettingsFile.parse(text: text, path: file.path)
        let lists = ["users", "stats_users", "key", "cohorts", "rules", "hooks", "bulk"]
        var count = 0
        for entry in ReloadPolicy.flatten(settings) where ReloadPolicy.effect(of: entry.key) == .reload {
            let path = try #require(SettingName.path(of: entry.key, databases: ["shop"]), "\(entry.key)")
            #expect(path.joined(separator: ".") == entry.key)
            if lists.contains(path.last ?? "") { continue }
            let changed = try SettingsFile.parse(
                text: text, path: file.path, overrides: [SettingOverride(path: path, value: entry.value)])
            #expect(ReloadPolicy.changes(from: settings, to: changed) == [], "\(entry.key)")
            count += 1
        }
        #expect(count > 60)
    }

    @Test(arguments: [
        ("listen.clients_max", "listen.clients_max"), ("max_client_conn", "listen.clients_max"),
        ("listen.max_client_conn", "listen.clients_max"), ("query_timeout", "pool.query_timeout"),
        ("default_pool_size", "pool.size"), ("pool.default_pool_size", "pool.size"), ("auth_file", "auth.users_file"),
        ("client_tls_sslmode", "listen.tls.mode"), ("databases.shop.pool.size", "databases.shop.pool.size"),
        ("databases.shop.eu.pool.pool_size", "databases.shop.eu.pool.size"), ("users.a.b.pool_mode", "users.a.b.pool_mode"),
        ("databases.shop.reads.percent", "databases.shop.reads.percent"), ("level", "log.level"),
    ])
    func `a setting has several names`(name: String, key: String) {
        #expect(path(name)?.joined(separator: ".") == key)
    }

    @Test(arguments: [
        "", "nothing", "listen", "listen.tls", "databases", "databases.shop", "databases.other.pool.size",
        "databases.shop.pool", "databases.shop.pool.sizes", "users.a", "users.pool_size", "users.", "pool..size", ".",
        "reads.percent", "percent",
    ])
    func `what is no setting, or more than one, has no place`(name: String) {
        #expect(path(name) == nil)
    }

    @Test func `a value takes the place of the file's, whatever name the file uses`() throws {
        let changed = try settings(
            ("max_client_conn", "60"), ("pool.size", "7"), ("databases.shop.pool.size", "8"),
            ("users.first.last.pool_size", "4"), ("users.new.query_timeout", "0.5"), ("admin.users", "[a, \"b c\"]"),
            ("databases.shop.eu.reads.cohorts", "[{name: x, keys: [\"1\"], percent: 2}]"))
        #expect(changed.listen.clientsMax == 60)
        #expect(changed.listen.port == 7000)
        #expect(changed.database(named: "shop")?.pool.size == 8)
        #expect(changed.database(named: "shop.eu")?.pool.size == 7)
        #expect(changed.user(named: "first.last")?.poolSize == 4)
        #expect(changed.user(named: "new")?.queryTimeoutSeconds == 0.5)
        #expect(changed.admin.users == ["a", "b c"])
        #expect(changed.database(named: "shop.eu")?.reads.cohorts.count == 1)
    }

    @Test(arguments: [("pool.size", "0"), ("pool.size", ""), ("pool_mode", "none"), ("admin.users", "[&a b, *a]"),
        ("admin.users", "["), ("admin.users", "{a: b}"), ("pool.size", "[1]"), ("query_timeout", "5s"),
    ])
    func `what the file could not say is refused`(key: String, value: String) {
        #expect(throws: SettingsError.self) { try settings((key, value)) }
    }
}
