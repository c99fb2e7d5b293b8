import Configuration
import Foundation
import Migration
import Primitives
import TestSupport
import Testing

@testable import ControlPlane

@Suite struct StateStoreTests {
    private func path() -> String { TestResources.uniquePath("state") }

    private func stored(_ id: String, _ state: MigrationState) -> StateStore.StoredMigration {
        .init(id: id, database: "shop", manifest: "id: \(id)", by: "ann", micros: 5, state: state)
    }

    @Test(arguments: StatePlace.allCases)
    func `the last state is what another process finds`(place: StatePlace) throws {
        let open = try place.opener()
        var state = MigrationState(since: 1)
        do {
            let store = try open()
            try store.becomeRunner()
            #expect(try store.add(stored("a", state)))
            #expect(try !store.add(stored("a", state)), "the id is taken")
            state.phase = .shift
            state.step = 2
            state.approvals = ["ann"]
            try store.add(state, of: "a", micros: 7)
        }
        let store = try open()
        let found = try store.migrations()
        #expect(found == [stored("a", state)])
        #expect(try store.steps(of: "a").map(\.state.phase) == [.prepare, .shift])
    }

    @Test func `nobody else may read the file`() throws {
        let path = path()
        _ = try StateStore(path: path)
        let rights = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
        #expect(rights == 0o600)
    }

    @Test func `what is written to the file is on the disk`() throws {
        let store = try StateStore(path: path())
        // FULL.
        #expect(try store.write(StateStatement("PRAGMA synchronous")).map { $0.integer(0) } == [2])
    }

    @Test(arguments: StatePlace.allCases)
    func `who reads sequences is known to the next process`(place: StatePlace) throws {
        let open = try place.opener()
        do {
            let store = try open()
            for user in ["ann", "ben", "ann"] { store.noteSequenceReader(database: "shop", user: user) }
            store.noteSequenceReader(database: "other", user: "ann")
            store.flush()
        }
        let known = try open().sequenceReaders().map { "\($0.database) \($0.user)" }
        #expect(known.sorted() == ["other ann", "shop ann", "shop ben"])
    }

    @Test(arguments: StatePlace.allCases)
    func `what was decided is never changed`(place: StatePlace) throws {
        let store = try place.runner()
        #expect(try store.add(stored("a", MigrationState(since: 1))))
        for sql in ["UPDATE state SET json = ''", "DELETE FROM state", "DELETE FROM migration", "UPDATE migration SET by = ''"] {
            #expect(throws: StateStore.Failure.self) { try store.write(StateStatement(sql)) }
        }
    }

    @Test(arguments: StatePlace.allCases)
    func `decisions, readings and events come back in their order`(place: StatePlace) throws {
        let store = try place.runner()
        #expect(try store.add(stored("a", MigrationState(since: 1))))
        for number in 1...3 {
            try store.add(
                .init(micros: Int64(number), by: "b", verb: "advance", reason: "", isTaken: number == 2, answer: "x", gates: "[]"),
                of: "a")
            try store.add(
                [Gate("lag", value: "\(number) s", threshold: "5 s", holds: number == 1 ? nil : true)], phase: .mirror,
                of: "a", micros: Int64(number))
        }
        #expect(try store.decisions(of: "a").map(\.isTaken) == [false, true, false])
        #expect(try store.lastReadings(of: "a").map(\.value) == ["3 s"])
        let log = EventLog()
        log.add(store)
        for number in 1...5 { log.append(EventRecord(.phase, database: number == 3 ? "other" : "shop", cause: "\(number)")) }
        log.append(EventRecord(.reload, cause: "6"))
        store.flush()
        let all = try store.events(database: "shop", from: 0, to: nil, after: 0, limit: 100)
        #expect(all.count == 5)
        let later = try store.events(database: "shop", from: 0, to: nil, after: all[2].number, limit: 1)
        #expect(later.map(\.number) == [all[3].number])
        #expect(all.last?.json.contains("\"kind\":\"reload\"") == true)
        #expect(store.health.lostEvents == 0)
    }

    @Test(arguments: StatePlace.allCases)
    func `orders about traffic outlive the process`(place: StatePlace) throws {
        let open = try place.opener()
        var record = TrafficPlan.Record()
        record.ordered = 500
        record.cohorts = ["staff": 10_000]
        record.forced = "old"
        do {
            let store = try open()
            store.remember(TrafficPlan.Record(), of: "shop")
            store.remember(record, of: "shop")
            store.flush()
        }
        #expect(try open().traffic() == ["shop": .init(number: 2, record: record)])
    }

    @Test func `what could not be kept is known behind the wait for it`() throws {
        let store = try StateStore(path: path())
        try store.write(StateStatement(
            "CREATE TRIGGER full BEFORE INSERT ON traffic BEGIN SELECT RAISE(ABORT, 'no room'); END"))
        store.remember(TrafficPlan.Record(), of: "shop")
        store.flush()
        #expect(store.health.failure != nil)
        try store.write(StateStatement("DROP TRIGGER full"))
        store.remember(TrafficPlan.Record(), of: "shop")
        store.flush()
        #expect(store.health.failure == nil)
    }

    @Test(arguments: StatePlace.allCases)
    func `answers are given again for their time`(place: StatePlace) throws {
        let store = try place.opener()()
        #expect(try store.answer(key: "k") == nil)
        try store.keep(.init(request: "r", status: 201, body: "{}"), key: "k")
        #expect(try store.answer(key: "k") == .init(request: "r", status: 201, body: "{}"))
        try store.keep(.init(request: "s", status: 200, body: "it's \\ \u{0} 7?"), key: "k")
        #expect(try store.answer(key: "k")?.status == 200)
    }

    @Test(arguments: StatePlace.allCases)
    func `texts come back as they were`(place: StatePlace) throws {
        let store = try place.runner()
        #expect(try store.add(stored("a", MigrationState(since: 1))))
        let texts = ["", "it's", #"back\slash '?' "quoted" ;"#, "zeile\nzwei", "$1 $$ ?", "naïve ✓"]
        for text in texts {
            try store.add(
                .init(micros: 1, by: text, verb: "abort", reason: text, isTaken: true, answer: text, gates: "[]"), of: "a")
        }
        #expect(try store.decisions(of: "a").map(\.reason) == texts)
        #expect(try store.decisions(of: "a").map(\.by) == texts)
    }

    @Test func `a file that is damaged, of something else, or out of reach is refused with what to do`() throws {
        let garbage = path()
        try Data(repeating: 7, count: 5000).write(to: URL(filePath: garbage))
        #expect { try StateStore(path: garbage) } throws: { "\($0)".contains("move it away") }
        #expect { try StateStore(path: "/nonexistent/folder/state") } throws: { "\($0)".contains("No such file") }
        // Torn in the middle.
        let torn = path()
        do {
            let store = try StateStore(path: torn)
            #expect(try store.add(stored("a", MigrationState(since: 1))))
            try store.write(StateStatement("SELECT 1"))
        }
        let whole = try Data(contentsOf: URL(filePath: torn))
        try whole.prefix(whole.count / 2 + 100).write(to: URL(filePath: torn))
        for name in ["-wal", "-shm"] { try? FileManager.default.removeItem(atPath: torn + name) }
        #expect(throws: StateStore.Failure.self) { try StateStore(path: torn) }
    }

    @Test func `a version that is later is not touched`() throws {
        let path = path()
        do {
            let store = try StateStore(path: path)
            try store.write(StateStatement("INSERT INTO grdb_migrations VALUES ('99')"))
        }
        #expect { try StateStore(path: path) } throws: { "\($0)".contains("later version") }
    }
}
