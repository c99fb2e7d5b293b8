import ArgumentParser
import Configuration
import Console
import ControlPlane
import Foundation
import Logging
import Proxy
import Reactor

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

    /// - Throws: ExitCode after having said why.
    static func tokens(_ settings: HTTPSettings) throws -> Tokens {
        Tokens(
            write: try token(settings.tokenFile, "admin.http.token_file"),
            read: try token(settings.readTokenFile, "admin.http.read_token_file"))
    }

    /// - Parameter runner: nil: there is no state store, and so no migrations.
    /// - Returns: nil when there is no thread or descriptor left for it, which is logged.
    static func start(
        on socket: ListenerHandle, tokens: Tokens, _ server: ProxyServer, hooks: EventHooks, state: ServeState,
        runner: MigrationRunner?, logger: Logger
    ) -> HTTPService? {
        guard let listener = socket.take() else { return nil }
        var routes = routes(server, hooks)
        if let runner, let store = state.store { routes += MigrationRoutes(desk: runner.desk, store: store).all }
        let access = HTTPAccess(writeToken: tokens.write, readToken: tokens.read, routes: routes)
        do throws(SocketError) {
            let http = try HTTPService(on: listener, routes: routes, access: access, logger: logger)
            logger.notice("HTTP on \(http.address)\(tokens.write == nil ? "" : ", with a token")")
            return http
        } catch {
            logger.error("no HTTP on \(socket.address): \(error.reason)")
            return nil
        }
    }

    private static func token(_ path: String, _ key: String) throws -> [UInt8]? {
        if path.isEmpty { return nil }
        guard let handle = FileHandle(forReadingAtPath: path),
            let data = try? handle.read(upToCount: tokenBytesMax + 1)
        else {
            complain("\(key): cannot read \(path)")
            throw ExitCode(2)
        }
        let token = Array(String(decoding: data, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines).utf8)
        guard !token.isEmpty, data.count <= tokenBytesMax, token.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            complain("\(key): \(path) must hold one token: printable ASCII, \(tokenBytesMax) bytes at most")
            throw ExitCode(2)
        }
        return token
    }

    private static func routes(_ server: ProxyServer, _ hooks: EventHooks) -> [HTTPRoute] {
        [
            .get("/healthz", .none) { HTTPAnswer(200, "ok") },
            .get("/readyz", .read) {
                let (isReady, json) = Readiness(await figures(server)).answer()
                return HTTPAnswer(isReady ? 200 : 503, "application/json", Array(json.utf8))
            },
            .get("/metrics", .read) {
                HTTPAnswer(
                    200, ExpositionWriter.contentType, ProxyMetrics(await figures(server)).text() + metrics(of: hooks))
            },
        ]
    }

    private static func figures(_ server: ProxyServer) async -> ProxyFigures {
        await withCheckedContinuation { continuation in
            server.collectFigures { continuation.resume(returning: $0) }
        }
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
