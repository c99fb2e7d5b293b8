import Configuration
import Digests
import Dispatch
import Foundation
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Migration
import NIOCore
import Primitives
import Synchronization

/// What is asked of who runs migrations.
package enum MigrationOrder: Sendable {
    case start(manifest: String)
    /// - Parameter from: nothing is done where it is somewhere else by now; nil: wherever it is.
    case command(String, MigrationMachine.Command, from: String? = nil)
    case list
    case status(String)
}

/// What an order about migrations came to.
package enum MigrationOutcome: Sendable {
    case one(MigrationDocument)
    case all([MigrationDocument])
    case answered(MigrationAnswer)
    case refused(HTTPProblem)
    /// Another Godwit runs them. The address of its HTTP; empty: not known.
    case elsewhere(process: String, address: String)
}

/// Runs migrations, wherever that is.
package typealias MigrationDesk = @Sendable (MigrationOrder, _ by: String) async -> MigrationOutcome

/// `/migrations` and what is below it; docs/openapi.yaml says the same. Immutable, any thread.
package struct MigrationRoutes: Sendable {
    private static let commandBytesMax = 16 * 1024
    private static let nameBytesMax = 100
    private static let reasonBytesMax = 2000
    private static let keyBytesMax = 200
    /// Of what is not answered yet.
    private static let begunStatus = 0
    /// No words: any.
    private static let advanceOptions = ["dry_run": ["0", "1", "false", "true"], "from": []]
    private static let eventsMax = 1000
    /// Milliseconds from one look for new events to the next, and looks without one until a sign of life.
    private static let streamMillis = 250
    private static let streamSilence = 40
    /// Streams at once: whoever is to order something finds a connection.
    static let streamsMax = HTTPService.connectionsMax / 2

    private let desk: MigrationDesk
    private let store: StateStore
    /// Where the store is asked: its server may be silent for seconds, and HTTP has one thread.
    private let questions = DispatchQueue(label: "godwit-http-state")
    private let keys = KnownKeys()
    private let streams = StreamCount()

    package init(desk: @escaping MigrationDesk, store: StateStore) {
        self.desk = desk
        self.store = store
    }

    package var all: [HTTPRoute] {
        let verbs = ["advance", "pause", "resume", "abort", "approve", "force", "drill"]
        return [
            .get("/openapi.yaml", .none) { HTTPAnswer(200, "application/yaml", PackageResources.openapi_yaml) },
            HTTPRoute(.get, "/migrations", .read) { try await list($0) },
            HTTPRoute(.post, "/migrations", .write) { try await start($0) },
            HTTPRoute(.get, "/migrations/{id}/status", .read) { try await status($0) },
            HTTPRoute(.get, "/migrations/{id}/events", .read) { try await events($0) },
            HTTPRoute(.get, "/migrations/{id}/report", .read) { try await report($0) },
        ] + verbs.map { verb in
            HTTPRoute(.post, "/migrations/{id}/\(verb)", .write) { try await command(verb, $0) }
        }
    }

    private func asked<Value: Sendable>(
        _ question: @escaping @Sendable (StateStore) throws -> Value
    ) async throws -> Value {
        let store = store
        return try await withCheckedThrowingContinuation { continuation in
            questions.async { continuation.resume(with: Result { try question(store) }) }
        }
    }

    // MARK: looking

    private func list(_ call: HTTPCall) async throws -> Response {
        try response(await desk(.list, ""))
    }

    private func status(_ call: HTTPCall) async throws -> Response {
        try response(await desk(.status(call.part("id")), ""))
    }

    private func report(_ call: HTTPCall) async throws -> Response {
        let id = call.part("id")
        guard let report = try await asked({ try MigrationReport.make(of: id, from: $0) }) else {
            throw Self.unknown(call)
        }
        return Response(200, "application/json", Document.bytes(report))
    }

    private func events(_ call: HTTPCall) async throws -> Response {
        let id = call.part("id")
        guard let migration = try await asked({ try $0.migrations().first { $0.id == id } }) else {
            throw Self.unknown(call)
        }
        let wanted = call.header("Last-Event-ID") ?? call.query("after") ?? "0"
        guard let after = Int64(wanted), after >= 0 else {
            throw HTTPProblem(400, "after is no number", "give the number of the last event that you have")
        }
        if call.header("Accept")?.contains("text/event-stream") == true || call.query("follow") == "1" {
            return try stream(migration, after: after)
        }
        let found = try await asked { store in
            let end = migration.state.isOver ? try store.steps(of: id).last?.micros : nil
            store.flush()
            return try store.events(
                database: migration.database, from: migration.micros, to: end, after: after, limit: Self.eventsMax)
        }
        let last = found.last?.number ?? after
        let json = "{\"events\":[\(found.map(Self.numbered).joined(separator: ","))],\"last\":\(last)}"
        return Response(200, "application/json", Array(json.utf8))
    }

    /// The event with the number that `after` means: that of the store.
    private static func numbered(_ event: StateStore.StoredEvent) -> String {
        "{\"id\":\(event.number),\"event\":\(event.json)}"
    }

    /// Server-sent events, until the client goes.
    private func stream(_ migration: StateStore.StoredMigration, after: Int64) throws -> Response {
        if streams.count >= Self.streamsMax {
            throw HTTPProblem(503, "too many streams are open", "\(Self.streamsMax) at most: ask without follow")
        }
        var response = Response(200, "text/event-stream", [])
        response.body = ResponseBody { writer in
            streams.add(1)
            defer { streams.add(-1) }
            var last = after
            var silence = Self.streamSilence
            while !Task.isCancelled {
                let known = last
                let found = try await asked {
                    try $0.events(
                        database: migration.database, from: migration.micros, to: nil, after: known,
                        limit: Self.eventsMax)
                }
                for event in found {
                    let text = "id: \(event.number)\ndata: \(Self.numbered(event))\n\n"
                    try await writer.write(ByteBuffer(string: text))
                    last = event.number
                }
                silence = found.isEmpty ? silence + 1 : 0
                if silence >= Self.streamSilence {
                    try await writer.write(ByteBuffer(string: ": nothing new\n\n"))
                    silence = 0
                }
                try await Task.sleep(for: .milliseconds(Self.streamMillis))
            }
            try await writer.finish(nil)
        }
        return response
    }

    // MARK: doing

    private func start(_ call: HTTPCall) async throws -> Response {
        _ = try call.options()
        let manifest = try await call.body(bytesMax: ManifestLimits.bytesMax)
        let by = try Self.operatorName(call)
        return try await once(call, "POST /migrations \(manifest)") {
            let outcome = await desk(.start(manifest: manifest), by)
            guard case .answered(let answer) = outcome else { return try answered(outcome) }
            return HTTPAnswer(201, "application/json", Document.bytes(answer))
        }
    }

    private func command(_ verb: String, _ call: HTTPCall) async throws -> Response {
        let id = call.part("id")
        let options = try call.options(verb == "advance" ? Self.advanceOptions : [:])
        let from = options["from"]
        if ["1", "true"].contains(options["dry_run"]) {
            return try response(await desk(.status(id), ""))
        }
        let body = try await call.body(bytesMax: Self.commandBytesMax)
        let by = try Self.operatorName(call)
        if verb == "drill" {
            let order = try Self.drill(body)
            return try await once(call, "POST \(id) drill \(body)") {
                try answered(await desk(.command(id, .drill(order)), by))
            }
        }
        let reason = try Self.reason(body)
        let command: MigrationMachine.Command
        switch verb {
        case "advance": command = .advance
        case "resume": command = .resume
        case "pause": command = .pause(reason: reason.isEmpty ? "paused" : reason)
        case "abort": command = .abort(reason: reason.isEmpty ? "aborted" : reason)
        case "approve":
            if by.isEmpty { throw HTTPProblem(422, "who approves has no name", "send Godwit-Operator: <your name>") }
            command = .approve
        default:
            if reason.isEmpty {
                throw HTTPProblem(422, "a reason is missing", "send {\"reason\": \"why the gates do not count\"}")
            }
            command = .force(reason: reason)
        }
        let request = "POST \(id) \(verb) \(body)" + (from.map { " from \($0)" } ?? "")
        return try await once(call, request) {
            try answered(await desk(.command(id, command, from: from), by))
        }
    }

    private static func operatorName(_ call: HTTPCall) throws -> String {
        let name = (call.header("Godwit-Operator") ?? "").trimmingCharacters(in: .whitespaces)
        if name.utf8.count > nameBytesMax {
            throw HTTPProblem(422, "the operator's name is too long", "\(nameBytesMax) bytes at most")
        }
        return name
    }

    private struct DrillWish: Decodable {
        var whole: Bool?
        var seconds: Double?
    }

    /// From `{"whole": true, "seconds": 60}`; an empty body is a canary's.
    private static func drill(_ body: String) throws -> DrillOrder {
        if body.trimmingCharacters(in: .whitespacesAndNewlines).isEmpty { return DrillOrder(isWhole: false) }
        guard let wish = JSONWish.read(DrillWish.self, of: body, members: ["whole", "seconds"]) else {
            throw HTTPProblem(
                400, "the body cannot be read", "send nothing for a canary's, or {\"whole\": true, \"seconds\": 30}")
        }
        let isWhole = wish.whole ?? false
        if wish.seconds != nil, !isWhole {
            throw HTTPProblem(422, "seconds are for a whole drill", "say \"whole\": true, or leave them out")
        }
        let seconds = wish.seconds ?? DrillOrder.watchSecondsDefault
        guard seconds >= 0, seconds <= DrillOrder.watchSecondsMax else {
            throw HTTPProblem(422, "seconds cannot be \(seconds)", "0 to \(Int(DrillOrder.watchSecondsMax))")
        }
        return DrillOrder(isWhole: isWhole, watchSeconds: seconds)
    }

    private struct Words: Decodable {
        var reason: String?
    }

    /// From `{"reason": "..."}`; an empty body is one without.
    private static func reason(_ body: String) throws -> String {
        if body.trimmingCharacters(in: .whitespacesAndNewlines).isEmpty { return "" }
        guard let words = JSONWish.read(Words.self, of: body, members: ["reason"]) else {
            throw HTTPProblem(400, "the body cannot be read", "send nothing, or {\"reason\": \"text\"}")
        }
        let reason = words.reason ?? ""
        if reason.utf8.count > reasonBytesMax {
            throw HTTPProblem(422, "the reason is too long", "\(reasonBytesMax) bytes at most")
        }
        return reason
    }

    /// With an `Idempotency-Key` that was seen before the same answer is given, and nothing is done.
    private func once(
        _ call: HTTPCall, _ request: String, _ perform: () async throws -> HTTPAnswer
    ) async throws -> Response {
        guard let key = call.header("Idempotency-Key") else {
            let made = try await perform()
            return Response(made.status, made.contentType, made.body)
        }
        guard !key.isEmpty, key.utf8.count <= Self.keyBytesMax else {
            throw HTTPProblem(422, "the Idempotency-Key cannot be used", "1 to \(Self.keyBytesMax) bytes")
        }
        let print = Digest.sha256(Array(request.utf8)).hex
        // From here to its end nobody else has the key: what is looked up is not overtaken.
        guard keys.begin(key) else {
            throw HTTPProblem(409, "a request with this Idempotency-Key is under way", "ask again in a moment")
        }
        defer { keys.end(key) }
        var known = keys.unkept(key)
        if known == nil { known = try await asked { try $0.answer(key: key) } }
        if let known {
            if known.request != print {
                throw HTTPProblem(
                    422, "this Idempotency-Key was for something else", "give each request one of its own")
            }
            if known.status == Self.begunStatus {
                throw HTTPProblem(
                    409, "a request with this Idempotency-Key was begun, and what came of it is not known",
                    "it runs yet, or Godwit ended in its midst: look at the status; the next request needs another key")
            }
            var response = Response(known.status, "application/json", Array(known.body.utf8))
            if let name = HTTPField.Name("Idempotent-Replayed") { response.headers[name] = "true" }
            return response
        }
        // Noted before: whoever is killed in its midst is not to do it again.
        let begun = StateStore.StoredAnswer(request: print, status: Self.begunStatus, body: "")
        _ = try? await asked { try $0.keep(begun, key: key) }
        let made: HTTPAnswer
        do { made = try await perform() } catch {
            // Nothing was done.
            _ = try? await asked { try $0.forget(key: key) }
            throw error
        }
        let answer = StateStore.StoredAnswer(
            request: print, status: made.status, body: String(decoding: made.body, as: UTF8.self))
        // It was done, and that is what is told, also where the store does not take the answer.
        do { try await asked { try $0.keep(answer, key: key) } } catch { keys.note(answer, key) }
        return Response(made.status, made.contentType, made.body)
    }

    // MARK: answers

    private func response(_ outcome: MigrationOutcome) throws -> Response {
        let made = try answered(outcome)
        return Response(made.status, made.contentType, made.body)
    }

    private func answered(_ outcome: MigrationOutcome) throws -> HTTPAnswer {
        switch outcome {
        case .one(let document): HTTPAnswer(200, "application/json", Document.bytes(document))
        case .all(let documents): HTTPAnswer(200, "application/json", Document.bytes(MigrationList(documents)))
        case .answered(let answer): HTTPAnswer(200, "application/json", Document.bytes(answer))
        case .refused(let problem): throw problem
        case .elsewhere(let process, ""):
            throw HTTPProblem(
                503, "another Godwit runs the migrations",
                "ask \(process), or name its state.address: then you are sent there")
        case .elsewhere(let process, let address):
            throw HTTPProblem(
                307, "another Godwit runs the migrations", "ask \(process), at \(address)", elsewhere: address)
        }
    }

    private static func unknown(_ call: HTTPCall) -> HTTPProblem {
        HTTPProblem(404, "there is no migration \"\(call.part("id"))\"", "GET /migrations lists them")
    }
}

/// Keys of requests that are not answered yet, and answers that the store has not taken. Any thread.
private final class KnownKeys: Sendable {
    /// Answers; whichever is in the way goes.
    private static let unkeptMax = 100

    private struct State {
        var underWay: Set<String> = []
        var unkept: [String: StateStore.StoredAnswer] = [:]
    }

    private let state = Mutex(State())

    func begin(_ key: String) -> Bool { state.withLock { $0.underWay.insert(key).inserted } }

    func end(_ key: String) { state.withLock { _ = $0.underWay.remove(key) } }

    func unkept(_ key: String) -> StateStore.StoredAnswer? { state.withLock { $0.unkept[key] } }

    func note(_ answer: StateStore.StoredAnswer, _ key: String) {
        state.withLock { state in
            if state.unkept.count >= Self.unkeptMax, let other = state.unkept.keys.first { state.unkept[other] = nil }
            state.unkept[key] = answer
        }
    }
}

/// Streams that are open. Any thread.
private final class StreamCount: Sendable {
    private let open = Atomic<Int>(0)

    var count: Int { open.load(ordering: .relaxed) }

    func add(_ change: Int) { open.add(change, ordering: .relaxed) }
}
