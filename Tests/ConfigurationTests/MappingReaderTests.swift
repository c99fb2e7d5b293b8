import Testing

@testable import Configuration

/// `mirror.tables`: tables that are others on NEW.
@Suite struct MappingReaderTests {
    private func mirror(_ tables: String) throws(SettingsError) -> MirrorSettings {
        let text = """
            auth: {method: trust}
            databases:
              shop:
                old: "host=o"
                new: "host=n"
                mirror:
                  mode: async
                  tables:
            \(tables)
            """
        return try SettingsFile.parse(text: text, path: "g.yaml").databases[0].mirror
    }

    @Test func `a mapping is read whole, and a table that says nothing keeps its name`() throws {
        let tables = try mirror("""
                      public.orders:
                        to: shop.purchases
                        columns: {order_id: id, buyer: "first || ' ' || last"}
                        drop: [first, last]
                        back: {first: "split_part(buyer, ' ', 1)"}
                        where: NOT is_test
                        one_way: true
                      public.plain: {}
            """).tables
        #expect(tables.map(\.old) == ["public.orders", "public.plain"])
        #expect(tables.map(\.new) == ["shop.purchases", "public.plain"])
        #expect(tables[0].columns == ["order_id": "id", "buyer": "first || ' ' || last"])
        #expect(tables[0].drop == ["first", "last"] && tables[0].condition == "NOT is_test" && tables[0].isOneWay)
        #expect(tables[0].back == ["first": "split_part(buyer, ' ', 1)"])
        #expect(tables[1] == MappedTable(old: "public.plain", new: "public.plain"))
    }

    @Test(arguments: [
        ("          orders: {}", "schema.table"), ("          public.a: {to: b}", "schema.table"),
        ("          public.a: {colums: {a: b}}", "columns"), ("          public.a: {columns: [a]}", "a mapping"),
        ("          public.a: {columns: {a: ''}}", "SQL expression"), ("          public.a: {drop: a}", "a list"),
        ("          public.a: {one_way: perhaps}", "true or false"), ("          public.a: 5", "a mapping"),
        ("          public.a: {to: public.c}\n          public.b: {to: public.c}", "goes to public.c, too"),
    ])
    func `what is wrong is named with its place`(tables: String, words: String) {
        do {
            _ = try mirror(tables)
            Issue.record("it was taken")
        } catch {
            #expect("\(error)".contains(words) && "\(error)".contains("mirror.tables"), "\(error)")
        }
    }

    @Test func `a change needs a restart and is told`() throws {
        var settings = Settings()
        settings.databases = [DatabaseSettings(name: "shop")]
        var next = settings
        next.databases[0].mirror.tables = [MappedTable(old: "public.a", new: "public.b")]
        let changes = ReloadPolicy.changes(from: settings, to: next)
        #expect(changes.map(\.key) == ["databases.shop.mirror.tables"])
        #expect(changes[0].effect == .restart && changes[0].new.hasPrefix("public.a to public.b"))
        #expect(ReloadPolicy.keepingRestartOnly(of: settings, in: next) == settings)
    }

    @Test func `tables that are captured by statement are a list of names`() throws {
        let bulk = try mirror("          public.plain: {}\n      bulk: [public.events, \"odd.na.me\"]").bulk
        #expect(bulk == ["public.events", "odd.na.me"])
        #expect(try mirror("          public.plain: {}").bulk == [])
    }

    @Test(arguments: [
        ("[events]", "schema.table"), ("public.events", "a list"), ("[public.a, public.a]", "public.a is named twice"),
        ("[{public.a: {}}]", "mirror.bulk"), ("[.a]", "schema.table"),
    ])
    func `what is wrong in that list is named with its place`(bulk: String, words: String) {
        do {
            _ = try mirror("          public.plain: {}\n      bulk: \(bulk)")
            Issue.record("it was taken")
        } catch {
            #expect("\(error)".contains(words) && "\(error)".contains("mirror.bulk"), "\(error)")
        }
    }

    @Test func `a change of it is taken by a reload, for who prepares next`() throws {
        var settings = Settings()
        settings.databases = [DatabaseSettings(name: "shop")]
        var next = settings
        next.databases[0].mirror.bulk = ["public.a", "public.b"]
        let changes = ReloadPolicy.changes(from: settings, to: next)
        #expect(changes.map(\.key) == ["databases.shop.mirror.bulk"])
        #expect(changes[0].effect == .reload && changes[0].new == "public.a, public.b")
        #expect(ReloadPolicy.keepingRestartOnly(of: settings, in: next) == next)
    }
}
