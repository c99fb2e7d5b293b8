import ArgumentParser
import Configuration
import Console
import ControlPlane
import Foundation
import Logging
import Proxy
import Reactor

/// What operators and their tools are told over HTTP: /healthz, /readyz and /metrics.
enum AdminService {
    /// Bytes of `admin.http.token_file`.
    private static let tokenBytesMax = 4096

    /// Connections that the kernel keeps to be accepted.
    static let backlog = HTTPServer.backlog

    /// - Returns: nil when there is no thread or descriptor left for it, which is logged.
    static func start(
        on socket: ListenerHandle, token: [UInt8]?, _ server: ProxyServer, hooks: EventHooks, logger: Logger
    ) -> HTTPServer? {
        guard let listener = socket.take() else { return nil }
        do throws(SocketError) {
            let http = try HTTPServer(on: listener, token: token) { request, answer in
                respond(to: request, server, hooks, answer)
            }
            logger.notice("HTTP on \(http.address)\(token == nil ? "" : ", with a token")")
            return http
        } catch {
            logger.error("no HTTP on \(socket.address): \(error.reason)")
            return nil
        }
    }

    /// - Throws: ExitCode after having said why.
    static func token(_ path: String) throws -> [UInt8]? {
        if path.isEmpty { return nil }
        guard let handle = FileHandle(forReadingAtPath: path),
            let data = try? handle.read(upToCount: tokenBytesMax + 1)
        else {
            complain("admin.http.token_file: cannot read \(path)")
            throw ExitCode(2)
        }
        let token = Array(String(decoding: data, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines).utf8)
        guard !token.isEmpty, data.count <= tokenBytesMax, token.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            complain(
                "admin.http.token_file: \(path) must hold one token: printable ASCII, \(tokenBytesMax) bytes at most")
            throw ExitCode(2)
        }
        return token
    }

    private static func respond(
        to request: HTTPRequest, _ server: ProxyServer, _ hooks: EventHooks,
        _ answer: @escaping @Sendable (@escaping HTTPServer.Making) -> Void
    ) {
        switch request.path {
        case "/healthz":
            answer { HTTPResponse(200, "ok") }
        case "/readyz":
            server.collectFigures { figures in
                answer {
                    let (isReady, json) = Readiness(figures).answer()
                    return HTTPResponse(isReady ? 200 : 503, "application/json", Array(json.utf8))
                }
            }
        case "/metrics":
            server.collectFigures { figures in
                answer {
                    HTTPResponse(
                        200, ExpositionWriter.contentType, ProxyMetrics(figures).text() + metrics(of: hooks))
                }
            }
        default:
            answer { HTTPResponse(404, "there are /healthz, /readyz and /metrics") }
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
