import Foundation
import Testing

@testable import Configuration

@Suite struct ManifestReaderTests {
    private func parse(_ text: String) throws(SettingsError) -> MigrationManifest {
        try ManifestReader.parse("id: a\ndatabase: shop\n" + text)
    }

    @Test func `conf shows the defaults`() throws {
        let path = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "conf/migration.yaml").path
        var (shown, text) = try ManifestReader.load(path: path)
        shown.id = "a"
        shown.invariants = []
        shown.windows = []
        var least = try parse("")
        for phase in MigrationPhase.allCases { least.phases[phase] = least[phase] }
        #expect(shown == least)
        for (section, keys) in ManifestReader.keys {
            for key in keys { #expect(text.contains("\(key):") , "\(section): \(key) is not shown") }
        }
    }

    @Test func `JSON is taken as well`() throws {
        let json = #"{"id": "a", "database": "b", "phases": {"shift": {"soak": 7, "advance": "manual"}}, "reads": {"steps": [0.5, 100]}}"#
        let manifest = try ManifestReader.parse(json)
        #expect(manifest[.shift] == .init(advance: .manual, soakSeconds: 7))
        #expect(manifest.steps == [.init(hundredths: 50), .init(hundredths: 10_000)])
    }

    @Test func `cohorts come before shares`() throws {
        let manifest = try parse("reads: {steps: [{cohort: staff}, {cohort: free, percent: 50}, 10, 100]}")
        #expect(manifest.steps == [
            .init(cohort: "staff", hundredths: 10_000), .init(cohort: "free", hundredths: 5000), .init(hundredths: 1000),
            .init(hundredths: 10_000),
        ])
    }

    @Test func `a mapping is written as in the configuration, and compared with it`() throws {
        #expect(try parse("scope: {tables: []}").mapping == nil)
        #expect(try parse("scope: {mapping: {}}").mapping == [])
        let tables = "public.a: {to: shop.b, columns: {x: y}}, public.c: {drop: [z], where: n > 1}"
        let manifest = try parse("scope: {mapping: {\(tables)}}")
        func differing(_ tables: String) throws -> [String] {
            let database = "{old: host=a dbname=a, new: host=b dbname=b, mirror: {tables: {\(tables)}}}"
            let settings = try SettingsFile.parse(text: "auth: {method: trust}\ndatabases: {shop: \(database)}", path: "godwit.yaml")
            return manifest.otherwiseMapped(in: settings.databases[0].mirror)
        }
        #expect(try differing(tables) == [])
        #expect(try differing("public.c: {drop: [z], where: n > 1}, public.a: {columns: {x: y}, to: shop.b}") == [])
        #expect(try differing("") == ["public.a", "public.c"])
        #expect(try differing(tables.replacing("n > 1", with: "n > 2")) == ["public.c"])
        #expect(try differing(tables + ", public.d: {one_way: true}") == ["public.d"])
        #expect(try parse("").otherwiseMapped(in: MirrorSettings()) == [])
    }

    @Test func `windows have days, hours and a zone`() throws {
        let manifest = try parse("""
            windows:
              time_zone: Europe/Berlin
              allow: [{days: [mon, Sun], hours: "22:30-06:00"}, {}]
            """)
        #expect(manifest.timeZone == "Europe/Berlin")
        #expect(manifest.windows == [
            .init(days: [1, 7], fromMinute: 1350, toMinute: 360), .init(days: Set(1...7), fromMinute: 0, toMinute: 1440),
        ])
    }

    @Test(arguments: [
        ("phases: {shft: {}}", "did you mean 'shift'"), ("phases: {shift: {soak: long}}", "seconds"),
        ("phases: {shift: {advance: yes}}", "manual, auto"), ("reads: {steps: []}", "one step"),
        ("reads: {steps: [10, 5, 100]}", "greater"), ("reads: {steps: [10]}", "must be 100"),
        ("reads: {steps: [0, 100]}", "percentage"), ("reads: {steps: [{percent: 5}]}", "missing"),
        ("gates: {lag: -1}", "seconds"), ("abort: {held: x}", "seconds"), ("strategy: half", "full, reads"),
        ("invariants: [{name: a, sql: x}, {name: a, sql: y}]", "twice"), ("invariants: [{name: a}]", "missing"),
        ("windows: {time_zone: Mars/Phobos}", "Europe/Berlin"), ("windows: {allow: [{hours: 8-9}]}", "08:00"),
        ("windows: {allow: [{days: [someday]}]}", "mon"), ("scope: {tables: [public.a]}", "strategy: reads"),
        ("strategy: reads\nscope: {tables: [a]}", "schema.table"), ("scope: {mapping: {a: {to: s.b}}}", "schema.table"),
        ("scope: {mapping: {s.a: {too: s.b}}}", "did you mean 'to'"), ("hooks: x", "a list"), ("id: b", "twice"),
        ("nonsense: 1", "unknown key"), ("cutover: {deadline_millis: 1}", "10 to 60000"), ("x: *a", "aliases"),
    ])
    func `what is wrong is refused with what was expected`(text: String, words: String) throws {
        #expect { try parse(text) } throws: { error in
            let said = "\(error)"
            return said.contains(words) && said.hasPrefix("manifest:")
        }
    }

    @Test(arguments: ["", "id: a", "id: ../x\ndatabase: b", "id: .x\ndatabase: b", "[1]", "id: [a]\ndatabase: b"])
    func `a manifest without a name or a database is refused`(text: String) {
        #expect(throws: SettingsError.self) { try ManifestReader.parse(text) }
    }

    @Test func `a manifest is bounded`() {
        let text = "id: a\ndatabase: b\n#" + String(repeating: "x", count: ManifestLimits.bytesMax)
        #expect { try ManifestReader.parse(text) } throws: { "\($0)".contains("at most") }
    }
}
