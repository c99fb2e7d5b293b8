import Capture
import Configuration
import Console
import ControlPlane
import Foundation
import Logging
import Primitives
import Proxy
import Reactor
import Synchronization

/// What operators and their tools are told over HTTP: /healthz, /readyz, /metrics, and migrations.
enum AdminService {
    /// Bytes of a file with a token.
    private static let tokenBytesMax = 4096

    /// Connections that the kernel keeps to be accepted.
    static let backlog = HTTPService.backlog

    /// What `admin.http` asks for; nil: there is none.
    struct Tokens: Sendable {
        var write: [UInt8]?
        var read: [UInt8]?
    }

    /// - Throws: `Refusal`.
    static func tokens(_ settings: HTTPSettings) throws(Refusal) -> Tokens {
        Tokens(
            write: try token(settings.tokenFile, "admin.http.token_file"),
            read: try token(settings.readTokenFile, "admin.http.read_token_file"))
    }

    /// A file that cannot be used, and what to do.
    struct Refusal: Error, CustomStringConvertible {
        var description: String
    }

    /// - Parameter runner: nil: there is no state store, and so no migrations.
    /// - Returns: nil when there is no thread or descriptor left for it, which is logged.
    static func start(
        on socket: ListenerHandle, tokens: Tokens, encryption: HTTPEncryption, _ server: ProxyServer, hooks: EventHooks,
        state: ServeState, runner: MigrationRunner?, logger: Logger
    ) -> HTTPService? {
        guard let listener = socket.take() else { return nil }
        var routes = routes(server, hooks, state, encryption)
        routes += CaptureRoutes(office: captureOffice(server)).all
        if let runner, let store = state.store { routes += MigrationRoutes(desk: runner.desk, store: store).all }
        let access = HTTPAccess(writeToken: tokens.write, readToken: tokens.read, routes: routes)
        do throws(SocketError) {
            let http = try HTTPService(
                on: listener, routes: routes, access: access, encryption: encryption, logger: logger)
            let scheme = encryption.isOn ? "HTTPS" : "HTTP"
            logger.notice("\(scheme) on \(http.address)\(tokens.write == nil ? "" : ", with a token")")
            return http
        } catch {
            logger.error("no HTTP on \(socket.address): \(error.reason)")
            return nil
        }
    }

    private static func token(_ path: String, _ key: String) throws(Refusal) -> [UInt8]? {
        if path.isEmpty { return nil }
        guard let handle = FileHandle(forReadingAtPath: path),
            let data = try? handle.read(upToCount: tokenBytesMax + 1)
        else { throw Refusal(description: "\(key): cannot read \(path)") }
        let token = Array(String(decoding: data, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines).utf8)
        guard !token.isEmpty, data.count <= tokenBytesMax, token.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            throw Refusal(
                description: "\(key): \(path) must hold one token: printable ASCII, \(tokenBytesMax) bytes at most")
        }
        return token
    }

    private static func routes(
        _ server: ProxyServer, _ hooks: EventHooks, _ state: ServeState, _ encryption: HTTPEncryption
    ) -> [HTTPRoute] {
        [
            .get("/healthz", .none) { HTTPAnswer(200, "ok") },
            .get("/readyz", .read) {
                let (isReady, json) = Readiness(await figures(server)).answer()
                return HTTPAnswer(isReady ? 200 : 503, "application/json", Array(json.utf8))
            },
            .get("/metrics", .read) {
                let figures = await figures(server)
                return HTTPAnswer(
                    200, ExpositionWriter.contentType,
                    ProxyMetrics(figures).text() + metrics(of: hooks) + metrics(of: state)
                        + metrics(ofCertificates: figures.snapshot, encryption))
            },
        ]
    }

    /// CAPTURE by HTTP: the control thread does it, unless it waits for HTTP to end.
    private static func captureOffice(_ server: ProxyServer) -> CaptureOffice {
        { order in
            let answer = AwaitedAnswer<CaptureReply>()
            server.control.post(.captureAsked(CaptureAsked(order)) { answer.give($0) })
            switch await answer.value(instead: .failure(CaptureDesk.ending)) {
            case .success(let sessions): return .captures(sessions.map { CaptureDocument($0) })
            case .failure(let refusal): return .refused(HTTPProblem(refusal))
            }
        }
    }

    private static func figures(_ server: ProxyServer) async -> ProxyFigures {
        await withCheckedContinuation { continuation in
            server.collectFigures { continuation.resume(returning: $0) }
        }
    }

    private static func metrics(of state: ServeState) -> [UInt8] {
        guard let store = state.store else { return [] }
        var writer = ExpositionWriter()
        let health = store.health
        writer.begin("godwit_state_up", .gauge, "1: the state store takes what is written.")
        writer.sample([], UInt64(health.failure == nil && store.isReachable ? 1 : 0))
        writer.begin("godwit_state_lost_events_total", .counter, "Events that the state store has not got.")
        writer.sample([], health.lostEvents)
        writer.begin("godwit_runs_migrations", .gauge, "1: this Godwit runs the migrations of its state store.")
        writer.sample([], UInt64(store.held == nil ? 0 : 1))
        return writer.bytes
    }

    private static func metrics(ofCertificates snapshot: ProxySnapshot, _ encryption: HTTPEncryption) -> [UInt8] {
        var writer = ExpositionWriter()
        writer.begin(
            "godwit_tls_certificate_expiry_timestamp_seconds", .gauge,
            "When our own certificate under this key of the configuration is over, in seconds since 1970.")
        let sides = snapshot.databases.values.sorted { $0.name < $1.name }.flatMap { route in
            [Side.old, .new].map { (SideConninfo.key(route.settings, $0), route.endpoint($0).tls?.context) }
        }
        for (key, context) in [("listen.tls", snapshot.tls), (AdminTLS.key, encryption.current)] + sides {
            if let end = context?.endsAt { writer.sample([("key", key)], UInt64(clamping: end)) }
        }
        return writer.bytes
    }

    private static func metrics(of hooks: EventHooks) -> [UInt8] {
        var writer = ExpositionWriter()
        let all = hooks.figures
        writer.begin("godwit_hook_runs_total", .counter, "Runs of the programs that are told of events.")
        for hook in all {
            for (outcome, count) in [
                ("succeeded", hook.succeeded), ("failed", hook.failed), ("timed_out", hook.timedOut),
            ] { writer.sample([("hook", hook.path), ("outcome", outcome)], count) }
        }
        writer.begin("godwit_hook_dropped_total", .counter, "Events that a program was not told of: its queue is full.")
        for hook in all { writer.sample([("hook", hook.path)], hook.dropped) }
        return writer.bytes
    }
}

extension CaptureAsked {
    fileprivate init(_ order: CaptureOrder) {
        switch order {
        case .list: self = .list
        case .stop(let database): self = .command(database: database, .stop)
        case .start(let database, let wish):
            var start = CaptureCommand.Start(file: wish.file)
            if let percent = wish.samplePercent { start.sampleHundredths = Int((percent * 100).rounded()) }
            start.seconds = wish.seconds
            start.bytesMax = wish.bytesMax
            start.withDigest = wish.digest ?? false
            start.isRedacted = wish.redact ?? false
            self = .command(database: database, .start(start))
        }
    }
}

extension CaptureDocument {
    fileprivate init(_ session: CaptureSession) {
        self.init(
            database: session.database, file: session.path, state: session.state.rawValue, reason: session.reason,
            digest: session.options.withDigest, redact: session.options.isRedacted)
        sinceSeconds = MonotonicInstant.now().microseconds(since: session.beganAt) / 1_000_000
        samplePercent = Double(session.options.sampleHundredths) / 100
        connections = session.connections.load(ordering: .relaxed)
        dropped = session.dropped.load(ordering: .relaxed)
        records = session.records.load(ordering: .relaxed)
        recordBytes = session.recordBytes.load(ordering: .relaxed)
        fileBytes = session.fileBytes.load(ordering: .relaxed)
    }
}

extension HTTPProblem {
    fileprivate init(_ refusal: CaptureRefusal) {
        switch refusal.kind {
        case .unknown: self.init(404, "there is nothing to capture", refusal.words)
        case .unusable: self.init(422, "the file cannot be named so", refusal.words)
        case .conflict: self.init(409, "it cannot be captured now", refusal.words)
        case .ending: self.init(503, "Godwit is ending", refusal.words)
        }
    }
}
