import Configuration
import Foundation
import Logging
import Migration
import Reactor
import Synchronization
import TestSupport
import Testing

@testable import ControlPlane

/// What HTTP does with orders, whoever carries them out.
@Suite(.serialized) struct MigrationRoutesTests {
    typealias Exchange = TestSupport.HTTPExchange

    /// What was ordered, in order. Any thread.
    final class Orders: Sendable {
        private let noted = Mutex<[String]>([])

        func note(_ order: String) { noted.withLock { $0.append(order) } }

        var all: [String] { noted.withLock { $0 } }
    }

    /// HTTP before a desk that takes all it is asked, with a migration `m` in the store.
    final class Stage {
        let path: String
        let store: StateStore
        let orders: Orders
        let http: HTTPService

        init(office: CaptureOffice? = nil) throws {
            let (path, orders) = (TestResources.uniquePath("state"), Orders())
            let store = try StateStore(path: path)
            (self.path, self.store, self.orders) = (path, store, orders)
            let machine = MigrationMachine(try ManifestReader.parse("id: m\ndatabase: shop"), by: "ann", now: 1)
            let stored = StateStore.StoredMigration(
                id: "m", database: "shop", manifest: "id: m\ndatabase: shop", by: "ann", micros: 1,
                state: machine.state)
            #expect(try store.add(stored))
            let desk: MigrationDesk = { order, _ in
                orders.note("\(order)")
                return .answered(.init(answer: "taken", migration: .init(machine, started: 1, now: 2)))
            }
            let captures: CaptureOffice = { order in
                orders.note("\(order)")
                return .captures([])
            }
            var routes = MigrationRoutes(desk: desk, store: store).all
            routes += CaptureRoutes(office: office ?? captures).all
            routes.append(HTTPRoute.get("/healthz", .none) { HTTPAnswer(200, "ok") })
            let address = try #require(SocketAddress(host: "127.0.0.1", port: 0))
            http = try HTTPService(
                on: try Listener(on: address), routes: routes,
                access: HTTPAccess(writeToken: Array("t".utf8), readToken: nil, routes: routes),
                encryption: HTTPEncryption(nil), logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        }

        deinit { http.stop() }

        func begin(_ method: String, _ path: String, _ body: String = "", key: String = "") throws -> Exchange {
            let key = key.isEmpty ? "" : "Idempotency-Key: \(key)\r\n"
            let length = method == "GET" ? "" : "Content-Length: \(body.utf8.count)\r\n"
            return try Exchange(port: http.address.port).send(
                "\(method) \(path) HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer t\r\n"
                    + "\(length)\(key)\r\n\(body)")
        }

        func post(_ path: String, _ body: String = "", key: String = "") throws -> Exchange.Answer {
            try begin("POST", path, body, key: key).answer()
        }
    }

    let stage: Stage

    init() throws { stage = try Stage() }

    @Test(arguments: [
        ("/migrations/m/advance?dry_run=True", ""), ("/migrations/m/advance?dry_run=yes", ""),
        ("/migrations/m/advance?dry_run", ""), ("/migrations/m/advance?dry_run=1&dry_run=0", ""),
        ("/migrations/m/advance?dry-run=1", ""), ("/migrations/m/advance?from=", ""), ("/migrations/m/advance", #"{"dry_run": true}"#),
        ("/migrations/m/force?dry_run=1", #"{"reason": "r"}"#), ("/migrations/m/abort?dry_run=1", ""),
        ("/migrations/m/drill", #"{"whole": true, "second": 5}"#), ("/migrations/m/drill?whole=1", ""),
        ("/migrations?dry_run=1", "id: n\ndatabase: shop"), ("/captures/shop", #"{"file": "a", "redacted": true}"#),
        ("/captures/shop?redact=1", #"{"file": "a"}"#), ("/captures/shop/stop?x=1", ""),
    ])
    func `what is not known of a request keeps it from being done`(path: String, body: String) throws {
        let answer = try stage.post(path, body)
        #expect(answer.status == 400, "\(answer.body)")
        #expect(stage.orders.all == [])
    }

    @Test func `what is known is asked for, or done`() throws {
        for value in ["1", "true"] {
            #expect(try stage.post("/migrations/m/advance?dry_run=\(value)").status == 200)
        }
        #expect(stage.orders.all.allSatisfy { $0.hasPrefix("status") } && stage.orders.all.count == 2)
        for path in ["advance?dry_run=0", "advance?dry_run=false", "advance?", "advance"] {
            #expect(try stage.post("/migrations/m/\(path)").status == 200)
        }
        #expect(stage.orders.all.filter { $0.hasPrefix("command") }.count == 4)
        #expect(try stage.post("/migrations/m/pause", #"{"reason": "tea"}"#).status == 200)
        #expect(try stage.post("/migrations/m/drill", #"{"whole": true, "seconds": 5}"#).status == 200)
    }

    @Test func `what was done is told so, and done once, also where the answer cannot be kept`() throws {
        try stage.store.write(StateStatement(
            "CREATE TRIGGER full BEFORE INSERT ON answer BEGIN SELECT RAISE(ABORT, 'no room'); END"))
        let first = try stage.post("/migrations/m/advance", key: "k")
        #expect(first.status == 200, "\(first.body)")
        let again = try stage.post("/migrations/m/advance", key: "k")
        #expect(again.status == 200 && again.body == first.body)
        #expect(again.head.lowercased().contains("idempotent-replayed"))
        #expect(stage.orders.all.count == 1)
        #expect(try stage.post("/migrations/m/abort", key: "k").status == 422)
    }

    @Test func `what was begun when Godwit was killed is not done again`() throws {
        // Where it ends between the order and its answer.
        try stage.store.write(StateStatement(
            "CREATE TRIGGER killed BEFORE UPDATE ON answer BEGIN SELECT RAISE(ABORT, 'killed'); END"))
        #expect(try stage.post("/migrations/m/advance", key: "k").status == 200)
        let left = try #require(try stage.store.answer(key: "k"))
        #expect(left.body.isEmpty)
        try stage.store.write(StateStatement("DROP TRIGGER killed"))
        // The next process knows what is stored.
        #expect(try stage.post("/migrations/m/advance", key: "l").status == 200)
        try stage.store.keep(left, key: "l")
        let again = try stage.post("/migrations/m/advance", key: "l")
        #expect(again.status == 409 && again.body.contains("not known"), "\(again.body)")
        #expect(stage.orders.all.count == 2)
    }

    @Test func `who waits for the store keeps nobody else waiting`() throws {
        let lock = try ChildProcess(
            [
                "python3", "-c",
                """
                import sqlite3, sys
                held = sqlite3.connect(sys.argv[1], isolation_level=None)
                held.execute("BEGIN IMMEDIATE")
                print("locked", flush=True)
                sys.stdin.readline()
                """,
                stage.path,
            ], keepsInput: true)
        try lock.output.waitForLine(containing: "locked")
        let waits = try stage.begin("GET", "/migrations/m/events")
        #expect(try stage.begin("GET", "/healthz").answer().status == 200)
        #expect(!waits.hasAnswer)
        lock.endInput()
        #expect(try waits.answer().status == 200)
    }

    @Test func `streams leave connections for orders`() throws {
        var open: [Exchange] = []
        for _ in 0..<MigrationRoutes.streamsMax {
            let stream = try stage.begin("GET", "/migrations/m/events?follow=1")
            try stream.read(until: "nothing new")
            open.append(stream)
        }
        let refused = try stage.begin("GET", "/migrations/m/events?follow=1").answer()
        #expect(refused.status == 503 && refused.body.contains("streams"), "\(refused.body)")
        #expect(try stage.begin("GET", "/migrations/m/events").answer().status == 200)
        #expect(try stage.post("/migrations/m/abort").status == 200)
        withExtendedLifetime(open) {}
    }

    @Test func `HTTP ends also while somebody is asked who does not answer any more`() throws {
        let orders = Orders()
        let stage = try Stage { _ in
            let answer = AwaitedAnswer<CaptureOutcome>()
            orders.note("asked")
            return await answer.value(instead: .refused(HTTPProblem(503, "Godwit is ending", "ask later")))
        }
        let exchange = try stage.begin("GET", "/captures")
        waitUntil { orders.all == ["asked"] }
        stage.http.stop()
        withExtendedLifetime(exchange) {}
    }

    @Test func `the first answer counts, and one that is given before is not waited for`() async {
        let answer = AwaitedAnswer<Int>()
        answer.give(1)
        answer.give(2)
        #expect(await answer.value(instead: 3) == 1)
        let late = AwaitedAnswer<Int>()
        let task = Task { await late.value(instead: 3) }
        task.cancel()
        #expect(await task.value == 3)
        late.give(4)
    }
}
