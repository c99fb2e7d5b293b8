import Configuration
import Foundation
import Migration
import Primitives
import Synchronization
import TestSupport
import Testing

@testable import ControlPlane

/// One PostgreSQL as the state of several Godwits.
@Suite struct SharedStateTests {
    private let database: String
    private let server: PostgresCluster

    init() throws {
        server = try StatePlace.cluster()
        database = try StatePlace.makeDatabase()
    }

    private func open(through relay: TCPRelay? = nil, address: String = "") throws -> StateStore {
        try StateStore(url: try StatePlace.url(database, port: relay?.port), address: address)
    }

    private func wait(_ what: String, _ condition: () throws -> Bool) throws {
        try waitUntil(what) { try condition() }
    }

    /// Asks the server each time, so that it is no busy loop.
    private func wait(_ store: StateStore, for wanted: (StateTerm) -> Bool) throws {
        try wait("a change of who runs the migrations") {
            try server.psql("SELECT 1")
            return wanted(store.term())
        }
    }

    private func isOurs(_ term: StateTerm) -> Bool { if case .ours = term { true } else { false } }

    private func state(_ phase: MigrationPhase) -> MigrationState {
        var state = MigrationState(since: 1)
        state.phase = phase
        return state
    }

    private func add(_ store: StateStore) throws {
        let migration = StateStore.StoredMigration(
            id: "a", database: "shop", manifest: "id: a", by: "ann", micros: 5, state: state(.prepare))
        #expect(try store.add(migration))
    }

    @Test func `of several one runs the migrations, and the next one when it has ended`() throws {
        let second = try open(address: "http://two:1")
        do {
            let first = try open(address: "http://one:1")
            #expect(try first.becomeRunner() == 1)
            try add(first)
            try wait(second) { if case .others(_, "http://one:1") = $0 { true } else { false } }
            #expect { try second.add(state(.shift), of: "a", micros: 1) } throws: {
                ($0 as? StateStore.Failure)?.isSuperseded == true
            }
        }
        #expect(try second.becomeRunner() == 2)
        try second.add(state(.mirror), of: "a", micros: 1)
        #expect(try second.migrations().map(\.state.phase) == [.mirror])
        let third = try open()
        _ = third.term()
        second.resign()
        #expect(try third.becomeRunner() == 3)
        #expect(try server.psql("SELECT count(DISTINCT process) FROM godwit_state.term", database: database) == "3")
    }

    @Test func `who was cut off writes nothing once another one has the migrations`() throws {
        let relay = try TCPRelay(to: server.port)
        let first = try open(through: relay)
        let second = try open()
        #expect(try first.becomeRunner() == 1)
        try add(first)
        _ = second.term()
        relay.become(.refusing)
        #expect(try second.becomeRunner() == 2)
        try wait(first) { if case .unknown = $0 { true } else { false } }
        #expect(throws: StateStore.Failure.self) { try first.add(state(.cutover), of: "a", micros: 1) }
        relay.become(.passing)
        try wait(first) { if case .others = $0 { true } else { false } }
        // It still believes that it runs them.
        #expect { try first.add(state(.cutover), of: "a", micros: 1) } throws: {
            ($0 as? StateStore.Failure)?.isSuperseded == true
        }
        var record = TrafficPlan.Record()
        record.ordered = 10_000
        record.isManaged = true
        let answer = Mailbox<Int64?>()
        first.remember(record, of: "shop", term: first.held) { answer.post($0) }
        first.flush()
        #expect(answer.take() == [nil])
        #expect(try second.traffic().isEmpty)
        #expect(try second.steps(of: "a").count == 1)
    }

    @Test func `who comes back before anybody else has had them goes on`() throws {
        let relay = try TCPRelay(to: server.port)
        let store = try open(through: relay)
        var watch = TermWatch()
        #expect(try store.becomeRunner() == 1)
        #expect(watch.handle(store.term()) == .begin(1))
        relay.cutAll()
        try wait(store) { $0 == .ours(2) }
        #expect(watch.handle(store.term()) == .goOn(2))
    }

    @Test func `who hangs loses them`() throws {
        let relay = try TCPRelay(to: server.port)
        let first = try open(through: relay)
        #expect(try first.becomeRunner() == 1)
        try add(first)
        let second = try open()
        _ = second.term()
        relay.become(.silent)
        #expect(try second.becomeRunner() == 2)
        try second.add(state(.mirror), of: "a", micros: 1)
        relay.become(.passing)
        try wait(first) { !isOurs($0) && $0 != .nobody }
        #expect(throws: StateStore.Failure.self) { try first.add(state(.cutover), of: "a", micros: 1) }
        #expect(try second.migrations().map(\.state.phase) == [.mirror])
    }

    @Test func `an event is kept once, though its answer was lost or the server away`() throws {
        let relay = try TCPRelay(to: server.port)
        let store = try open(through: relay)
        let log = EventLog()
        log.add(store)
        log.append(EventRecord(.phase, database: "shop", cause: "first"))
        store.flush()
        for number in 1...5 {
            relay.cutAfterAnswer(to: "lost \(number)")
            log.append(EventRecord(.phase, database: "shop", cause: "lost \(number)"))
            log.append(EventRecord(.phase, database: "shop", cause: "behind \(number)"))
            try wait("the event to be kept") {
                try server.psql(
                    "SELECT count(*) FROM godwit_state.event WHERE json LIKE '%behind \(number)%'", database: database
                ) == "1"
            }
        }
        #expect(relay.cuts == 5)
        relay.become(.refusing)
        for number in 1...20 { log.append(EventRecord(.phase, database: "shop", cause: "away \(number)")) }
        #expect(throws: StateStore.Failure.self) { try store.write(StateStatement("SELECT 1")) }
        #expect(store.health.failure != nil)
        relay.become(.passing)
        try wait("all of them") {
            try server.psql("SELECT count(*) FROM godwit_state.event", database: database) == "31"
        }
        store.flush()
        #expect(store.health.failure == nil && store.health.lostEvents == 0)
        #expect(try server.psql(
            "SELECT bool_and(ordinal = number) FROM (SELECT ordinal, row_number() OVER (ORDER BY number) AS number FROM godwit_state.event) e",
            database: database) == "t", "in their order")
    }

    @Test func `numbers of several writers become visible in their order`() throws {
        let stores = [try open(), try open(), try open()]
        for (place, store) in stores.enumerated() {
            let log = EventLog()
            log.add(store)
            for number in 1...200 { log.append(EventRecord(.phase, database: "shop", cause: "\(place) \(number)")) }
        }
        // Who reads on from the last number it has seen misses nothing.
        var seen: [Int64] = []
        while seen.count < 600 {
            seen += try stores[0].events(
                database: "shop", from: 0, to: nil, after: seen.last ?? 0, limit: 50).map(\.number)
        }
        #expect(seen == seen.sorted() && Set(seen).count == 600)
    }

    @Test func `a word of one is news to the other at once`() throws {
        let (one, two) = (try open(), try open())
        let heard = Mailbox<Bool>()
        two.observe(term: { _ in }, news: { heard.post(true) })
        _ = try two.traffic()
        var record = TrafficPlan.Record()
        record.ordered = 500
        one.remember(record, of: "shop")
        try wait("the word") {
            try server.psql("SELECT 1")
            return try !heard.take().isEmpty && two.traffic()["shop"]?.record == record
        }
    }

    @Test func `what others are shown is replaced, in the order in which migrations began`() throws {
        let store = try open()
        try store.becomeRunner()
        for id in ["b", "a"] {
            #expect(try store.add(.init(
                id: id, database: "d", manifest: "", by: "", micros: 1, state: state(.prepare))))
        }
        for text in ["1", "2"] { for id in ["a", "b"] { try store.show("\(id)\(text)", of: id) } }
        #expect(try store.shown() == ["b2", "a2"])
    }

    @Test func `a store whose server is away at the start is there when it comes`() throws {
        let relay = try TCPRelay(to: server.port)
        relay.become(.refusing)
        let url = try StatePlace.url(database, port: relay.port)
        #expect(throws: StateStore.Failure.self) { try StateStore(url: url, address: "") }
        let store = try StateStore(url: url, address: "", mayBeAway: true)
        #expect(store.absence != nil)
        #expect(throws: StateStore.Failure.self) { try store.traffic() }
        let log = EventLog()
        log.add(store)
        log.append(EventRecord(.phase, database: "shop", cause: "before"))
        relay.become(.passing)
        #expect(try store.becomeRunner() == 1)
        store.flush()
        #expect(try store.events(database: "shop", from: 0, to: nil, after: 0, limit: 9).count == 1)
        // What somebody would have to mend is no absence.
        #expect { try StateStore(url: url.replacing(database, with: "nowhere"), address: "", mayBeAway: true) } throws: {
            "\($0)".contains("does not exist")
        }
    }

    @Test func `marks change with what they stand for, and with nothing else`() throws {
        let store = try open()
        try store.becomeRunner()
        try add(store)
        var last = try store.marks()
        func hasChanged() throws -> [Bool] {
            let marks = try store.marks()
            defer { last = marks }
            return [marks.traffic != last.traffic, marks.shown != last.shown]
        }
        #expect(try hasChanged() == [false, false])
        store.remember(TrafficPlan.Record(), of: "shop")
        store.flush()
        #expect(try hasChanged() == [true, false])
        for text in ["1", "2"] {
            try store.show(text, of: "a")
            #expect(try hasChanged() == [false, true])
        }
        try store.add(state(.mirror), of: "a", micros: 1)
        #expect(try hasChanged() == [false, false])
    }

    @Test func `several may begin at once`() async throws {
        let url = try StatePlace.url(database)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<4 { group.addTask { _ = try StateStore(url: url, address: "") } }
            try await group.waitForAll()
        }
        #expect(try server.psql("SELECT count(*) FROM godwit_state.start", database: database) == "4")
    }

    @Test func `what cannot be used is refused with what to do`() throws {
        #expect { try StateStore(url: "host=", address: "") } throws: { "\($0)".contains("state.url") || "\($0)".contains("cannot") }
        #expect { try StateStore(url: "nonsense", address: "") } throws: { "\($0)".contains("not a connection string") }
        let closed = try FreePort.find()
        #expect { try StateStore(url: "host=127.0.0.1 port=\(closed) dbname=x", address: "") } throws: {
            "\($0)".contains("cannot connect")
        }
        try server.psql("DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'plain') THEN CREATE ROLE plain LOGIN; END IF; END$$")
        let plain = "host=127.0.0.1 port=\(server.port) dbname=\(database) user=plain"
        #expect { try StateStore(url: plain, address: "") } throws: { "\($0)".contains("GRANT CREATE ON DATABASE") }
        _ = try open()
        try server.psql("UPDATE godwit_state.version SET number = 99", database: database)
        #expect { try open() } throws: { "\($0)".contains("later version") }
        let migrated = try StatePlace.makeDatabase()
        try server.psql("CREATE SCHEMA godwit; CREATE TABLE godwit.authority (epoch bigint)", database: migrated)
        #expect { try StateStore(url: try StatePlace.url(migrated), address: "") } throws: { "\($0)".contains("migrated") }
    }
}

@Suite struct TermWatchTests {
    private func run(_ terms: [StateTerm]) -> [TermWatch.Action] {
        var watch = TermWatch()
        return terms.map { watch.handle($0) }
    }

    private let gone = StateTerm.unknown(reason: "gone")
    private let other = StateTerm.others(process: "x", address: "")

    @Test func `they are begun once`() {
        #expect(run([.nobody, .ours(1), .ours(1)]) == [.nothing, .begin(1), .nothing])
        #expect(run([other, .ours(7)]) == [.nothing, .begin(7)])
    }

    @Test func `a store that was away changes nothing when nobody else had them`() {
        #expect(run([.ours(3), gone, gone, .ours(4), .ours(4)])
            == [.begin(3), .standStill(reason: "gone"), .standStill(reason: "gone"), .goOn(4), .nothing])
        #expect(run([.ours(3), gone, .ours(3)]) == [.begin(3), .standStill(reason: "gone"), .goOn(3)])
    }

    @Test func `whoever finds another one in between begins anew`() {
        #expect(run([.ours(3), gone, .ours(5)]) == [.begin(3), .standStill(reason: "gone"), .begin(5)])
        #expect(run([.ours(3), other, .ours(5)]) == [.begin(3), .drop(successor: "x"), .begin(5)])
        #expect(run([.ours(3), other, .ours(4)]) == [.begin(3), .drop(successor: "x"), .begin(4)])
    }

    @Test func `who has none stands for nothing`() {
        #expect(run([gone, other, gone, .nobody]) == [.nothing, .nothing, .nothing, .nothing])
        var watch = TermWatch()
        _ = watch.handle(.ours(1))
        watch.giveUp()
        #expect(watch.held == nil && watch.handle(.ours(1)) == .begin(1))
    }
}
