import PGWire
import Primitives
import Sessions
import Testing

extension StatementMap {
    fileprivate func find(_ name: String) -> StatementID? { Array(name.utf8).withUnsafeBytes { find($0) } }

    fileprivate mutating func define(_ name: String, _ statement: UInt64) -> UInt32? {
        Array(name.utf8).withUnsafeBytes { define($0, as: StatementID(statement)) }
    }

    fileprivate mutating func remove(_ name: String) -> StatementID? {
        Array(name.utf8).withUnsafeBytes { remove($0) }
    }
}

@Suite struct StatementMapTests {
    @Test(arguments: [1, 2, 3, 4] as [UInt64])
    func `the map does what a dictionary does`(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var map = StatementMap()
        var model: [String: (statement: UInt64, definition: UInt32)] = [:]
        var definitions: [UInt32] = [999_999]
        for step in 0..<5_000 {
            let name = ["", "s", "S", "é", "a\u{301}", "á"].randomElement(using: &random) ?? ""
            let key = name.utf8.map { String($0) }.joined(separator: " ") + "/\(step % 7)"
            let full = name + "\(step % 7)"
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<45:
                guard let definition = map.define(full, UInt64(step)) else {
                    Issue.record("refused: seed \(seed), step \(step)")
                    continue
                }
                #expect(!definitions.contains(definition), "seed \(seed), step \(step)")
                definitions.append(definition)
                model[key] = (UInt64(step), definition)
            case 45..<70:
                let removed = model.removeValue(forKey: key)
                #expect(map.remove(full)?.value == removed?.statement, "seed \(seed), step \(step)")
            case 70..<98:
                // Mostly of late ones, some of which were replaced or removed since.
                let definition = definitions.suffix(20).randomElement(using: &random) ?? 0
                let owner = model.first { $0.value.definition == definition }
                #expect(
                    map.undefine(definition)?.value == owner?.value.statement, "seed \(seed), step \(step)")
                if let owner { model[owner.key] = nil }
            default:
                #expect(Set(map.removeAll().map(\.value)) == Set(model.values.map(\.statement)))
                model = [:]
            }
            #expect(map.count == model.count, "seed \(seed), step \(step)")
            #expect(map.find(full)?.value == model[key]?.statement, "seed \(seed), step \(step)")
        }
    }

    @Test func `a statement that was named four thousand million statements ago is another one`() {
        let (first, later) = (StatementID(7), StatementID(7 + (1 << 32)))
        var statements = ServerStatements(bound: 2)
        #expect(statements.insert(first) == nil)
        #expect(statements.use(first) == true)
        #expect(statements.use(later) == false)
        #expect(statements.insert(later) == nil)
        #expect(statements.count == 2)
    }

    @Test func `a client may name as many statements as the bound and not one more`() {
        var map = StatementMap()
        for number in 0..<StatementMap.namesMax { _ = map.define("s\(number)", UInt64(number)) }
        #expect(map.count == StatementMap.namesMax)
        #expect(map.define("one more", 1) == nil)
        #expect(map.find("one more") == nil)
        // A name that is taken is not one more.
        #expect(map.define("s7", 77) != nil)
        #expect(map.find("s7") == StatementID(77))
        #expect(map.remove("s0") == StatementID(0))
        #expect(map.define("one more", 1) != nil)
        #expect(map.count == StatementMap.namesMax)
    }

    @Test func `undefining an older definition leaves the name to the newer one`() {
        var map = StatementMap()
        let first = map.define("s", 1)
        let second = map.define("s", 2)
        #expect(first.flatMap { map.undefine($0) } == nil)
        #expect(map.find("s") == StatementID(2))
        #expect(second.flatMap { map.undefine($0) } == StatementID(2))
        #expect(map.find("s") == nil)
    }

    @Test func `the server's statement used least recently goes first`() {
        var statements = ServerStatements(bound: 2)
        #expect(statements.insert(StatementID(1)) == nil)
        #expect(statements.insert(StatementID(2)) == nil)
        #expect(statements.use(StatementID(1)) == true)
        #expect(statements.insert(StatementID(3)) == StatementID(2))
        #expect(statements.use(StatementID(2)) == false)
        #expect(statements.insert(StatementID(4)) == StatementID(1))
        // It may be there: it is closed before it is prepared again.
        statements.doubt(StatementID(3))
        #expect(statements.use(StatementID(3)) == false)
        #expect(statements.insert(StatementID(3)) == StatementID(3))
        #expect(statements.use(StatementID(3)) == true)
        #expect(statements.count == 2)
        // 1 was told to go, and has not gone.
        statements.doubtEvicted()
        #expect(statements.insert(StatementID(1)) == StatementID(1))
        statements.removeAll()
        #expect(statements.count == 0)
        #expect(statements.use(StatementID(3)) == false)
    }

    @Test func `a statement is a session's only where its literals were read as that session does`() {
        func settings(_ zone: String, _ more: String) -> SessionSettings {
            var settings = SessionSettings()
            settings.set(name: "app.tenant", value: more)
            settings.set(name: "TimeZone", value: zone)
            return settings
        }
        let (utc, tokyo) = (settings("UTC", "1"), settings("Asia/Tokyo", "1"))
        var statements = ServerStatements(bound: 3)
        #expect(statements.insert(StatementID(1), .by(utc)) == nil)
        #expect(statements.insert(StatementID(2), .anyhow) == nil)
        #expect(statements.insert(StatementID(3), .once) == nil)
        #expect(statements.use(StatementID(1), by: settings("UTC", "2")) == true)
        for other in [tokyo, SessionSettings(), nil] { #expect(statements.use(StatementID(1), by: other) == false) }
        #expect(statements.use(StatementID(2), by: nil) == true)
        #expect(statements.use(StatementID(3), by: utc) == false)
        #expect(statements.insert(StatementID(1), .by(tokyo)) == StatementID(1))
        #expect(statements.use(StatementID(1), by: tokyo) == true)
        #expect(statements.use(StatementID(1), by: utc) == false)
        statements.doubtLiterals()
        #expect(statements.use(StatementID(1), by: tokyo) == false)
        #expect(statements.use(StatementID(2), by: tokyo) == true)
    }

    @Test func `a statement is a session's only where its names lead to the same`() {
        func settings(path: String?, zone: String) -> SessionSettings {
            var settings = SessionSettings()
            settings.set(name: "TimeZone", value: zone)
            if let path { settings.set(name: "search_path", value: path) }
            return settings
        }
        var statements = ServerStatements(bound: 3)
        #expect(statements.insert(StatementID(1), .names(settings(path: "a", zone: "UTC"))) == nil)
        #expect(statements.insert(StatementID(2), .by(settings(path: "a", zone: "UTC"))) == nil)
        #expect(statements.use(StatementID(1), by: settings(path: "a", zone: "CET")) == true)
        #expect(statements.use(StatementID(2), by: settings(path: "a", zone: "CET")) == false)
        for other in [settings(path: "b", zone: "UTC"), settings(path: nil, zone: "UTC"), nil] {
            #expect(statements.use(StatementID(1), by: other) == false)
            #expect(statements.use(StatementID(2), by: other) == false)
        }
        var role = settings(path: "a", zone: "UTC")
        role.set(name: "role", value: "other")
        #expect(statements.use(StatementID(1), by: role) == false)
        statements.doubtLiterals()
        #expect(statements.use(StatementID(1), by: settings(path: "a", zone: "UTC")) == false)
    }

    @Test(arguments: [(0, 1), (-5, 1), (1, 1), (7, 7)])
    func `a server keeps at least one statement`(bound: Int, kept: Int) {
        var statements = ServerStatements(bound: bound)
        for number in 0..<20 { _ = statements.insert(StatementID(UInt64(number))) }
        #expect(statements.count == kept)
    }

    @Test(arguments: [61, 62] as [UInt64])
    func `a server's statements are what a list in order of use is`(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let bound = Int.random(in: 1...9, using: &random)
        var statements = ServerStatements(bound: bound)
        var model: [StatementID] = []
        var doubtful: Set<StatementID> = []
        for step in 0..<3_000 {
            let statement = StatementID(UInt64.random(in: 0..<15, using: &random))
            let place = model.firstIndex(of: statement)
            if Int.random(in: 0..<10, using: &random) == 0 {
                statements.doubt(statement)
                if place != nil { doubtful.insert(statement) }
                continue
            }
            let isThere = place != nil && !doubtful.contains(statement)
            #expect(statements.use(statement) == isThere, "seed \(seed), step \(step)")
            if let place {
                model.append(model.remove(at: place))
                if !isThere { #expect(statements.insert(statement) == statement, "seed \(seed), step \(step)") }
                doubtful.remove(statement)
            } else {
                let victim = model.count == bound ? model.removeFirst() : nil
                #expect(statements.insert(statement) == victim, "seed \(seed), step \(step)")
                if let victim { doubtful.remove(victim) }
                model.append(statement)
            }
            #expect(statements.count == model.count)
        }
    }
}
