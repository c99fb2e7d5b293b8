import Testing

@testable import LibPQ

@Suite struct ConnectionStringTests {
    @Test(arguments: [
        "host=db password=my s3cret dbname=shop", "postgresql://app:s3cret%@db/shop",
        "postgresql://app:s3cret@[::1/shop", "postgresql://db/shop?user=app&password=s3cret%zz",
        "host=db password=my s3cret=x", "postgresql://app:my/s3cret%@db/shop",
    ])
    func `what is wrong is said without the password`(text: String) throws {
        let error = #expect(throws: ConnectionStringError.self) { try ConnectionString(parsing: text) }
        let words = try #require(error?.description)
        #expect(!words.contains("s3cret") && words.contains("***"), "\(words)")
    }

    @Test(arguments: [
        "host=db.example port=5433 dbname=shop user=app password='it''s' sslmode=require connect_timeout=7",
        "postgresql://app:it%27s@db.example:5433/shop?sslmode=require&connect_timeout=7",
    ])
    func `conninfo and URI say the same`(text: String) throws {
        let text = text.replacing("''", with: "\\'")
        let target = try ConnectionString(parsing: text)
        #expect(target.host == "db.example" && target.port == 5433 && target.dbname == "shop")
        #expect(target.user == "app" && target.password == "it's" && target.sslmode == "require")
        #expect(target.connectTimeoutSeconds == 7 && target.hostaddr == nil && target.options == nil)
    }

    @Test(arguments: [
        ("1", 1), ("0", nil), ("-1", nil), ("86401", 86_400), ("99999999999", 86_400), ("soon", nil),
    ] as [(String, Int?)])
    func `a time to connect is one that can be waited for`(said: String, seconds: Int?) throws {
        #expect(try ConnectionString(parsing: "host=h connect_timeout=\(said)").connectTimeoutSeconds == seconds)
    }

    @Test func `text made from parameters means the same again`() throws {
        let odd = try ConnectionString(parsing: "host=/tmp dbname=x").overriding([
            "password": "a b'c\\d=é'\u{301}", "options": "-c search_path=a,b", "dbname": "",
        ])
        #expect(odd.dbname == nil)
        #expect(try ConnectionString(parsing: odd.text) == odd)
    }

    @Test(arguments: ["host", "nonsense=1", "postgresql://[bad", "host='open"])
    func `what libpq refuses is refused in its words`(text: String) {
        #expect(throws: ConnectionStringError.self) { try ConnectionString(parsing: text) }
    }

    @Test(arguments: [
        "host=h sslnegotiation=direct dbname=x", "sslnegotiation = 'direct' host=h dbname=x",
        "host=h dbname=x sslnegotiation=direct", "postgresql://h/x?sslnegotiation=direct",
        "postgresql://h/x?sslnegotiation=direct&sslmode=require", "postgresql://h/x?sslmode=require&sslnegotiation=direct",
    ])
    func `sslnegotiation is understood whatever libpq knows of it`(text: String) throws {
        let target = try ConnectionString(parsing: text)
        #expect(target.sslnegotiation == "direct")
        #expect(target.host == "h" && target.dbname == "x")
        #expect(target.sslmode == (text.contains("sslmode") ? "require" : nil))
        // What is left is what libpq itself can connect with.
        #expect(try ConnectionString(parsing: target.text).host == "h")
    }

    @Test func `a description never shows the password`() throws {
        let target = try ConnectionString(parsing: "host=h user=u password=secret")
        #expect("\(target)" == "host=h user=u")
    }

    @Test func `defaults fill what the text leaves out and nothing else`() throws {
        let filled = try ConnectionString(parsing: "host=h").fillingDefaults()
        #expect(filled.host == "h" && filled.port != nil)
    }

    @Test func `quotes double, also before a combining mark, and backslashes are escaped`() {
        #expect(SQL.literal("a'b") == "'a''b'")
        #expect(SQL.literal("a'\u{301}b") == "'a''\u{301}b'")
        #expect(SQL.literal("a\\'b") == " E'a\\\\''b'")
        #expect(SQL.identifier("a\"b") == "\"a\"\"b\"")
        #expect(SQL.literal(nil) == "NULL")
    }
}
