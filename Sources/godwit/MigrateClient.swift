import ArgumentParser
import ControlPlane
import Foundation
import Reactor

/// Talks to a running Godwit over HTTP or HTTPS. Blocks; one thread.
struct MigrateClient {
    struct Failure: Error, CustomStringConvertible {
        /// Of HTTP; 0: there was no answer.
        let status: Int
        let description: String
    }

    /// Where it is, for people.
    private let url: String
    private let place: HTTPDial.Place
    /// What stands before each path.
    private let prefix: String
    /// nil: nothing is encrypted.
    private let tls: TLSContext?
    private let token: String
    private let authority: String
    /// Of Godwits that know of another one, from one to the next.
    private static let hopsMax = 3

    /// - Parameters:
    ///   - url: `https://godwit.example:9632`
    ///   - authority: a file with who has signed the server's certificate; empty: whom the system trusts.
    init(url: String, token: String, authority: String, allowsPlainToken: Bool) throws {
        guard let parsed = URL(string: url), let scheme = parsed.scheme, ["http", "https"].contains(scheme),
            let host = parsed.host, !host.isEmpty,
            let port = UInt16(exactly: parsed.port ?? (scheme == "https" ? 443 : 80))
        else { throw ValidationError("--url must be like http://127.0.0.1:9632 or https://godwit.example:9632") }
        if scheme == "http" && !authority.isEmpty {
            throw ValidationError("an authority is for https://, and \(url) is not encrypted")
        }
        self.url = url
        // An address of IPv6 stands in brackets there.
        place = .init(
            host: host.trimmingCharacters(in: .init(charactersIn: "[]")), port: port,
            allowsPlainTokens: allowsPlainToken)
        prefix = parsed.path.hasSuffix("/") ? String(parsed.path.dropLast()) : parsed.path
        self.token = token
        self.authority = authority
        if scheme == "http" {
            tls = nil
            return
        }
        var options = TLSOptions()
        options.authorities = authority.isEmpty ? .system : .file(authority)
        do { tls = try TLSContext(.client, options) } catch { throw ValidationError("--ca: \(error)") }
    }

    /// As HTTPExchange's `request` wants it.
    private struct Request {
        var method: String
        var path: String
        var fields: [(String, String)]
        var body = ""
    }

    func get(_ path: String) throws -> [UInt8] { try answer("GET", path) }

    func post(_ path: String, _ body: String, by: String, contentType: String = "application/json") throws -> [UInt8] {
        var fields = [("Content-Type", contentType), ("Idempotency-Key", UUID().uuidString)]
        if !by.isEmpty { fields.append(("Godwit-Operator", by)) }
        return try answer("POST", path, fields, body)
    }

    private func request(
        _ method: String, _ path: String, _ fields: [(String, String)] = [], _ body: String = ""
    ) -> Request {
        let host = place.host.contains(":") ? "[\(place.host)]" : place.host
        var all = [("Host", "\(host):\(place.port)"), ("Connection", "close")] + fields
        if method == "POST" { all.append(("Content-Length", "\(body.utf8.count)")) }
        if !token.isEmpty { all.append(("Authorization", "Bearer \(token)")) }
        return Request(method: method, path: "\(prefix)\(path)", fields: all, body: body)
    }

    /// From whichever Godwit it is that runs the migrations.
    private func answer(
        _ method: String, _ path: String, _ fields: [(String, String)] = [], _ body: String = "", hops: Int = 0
    ) throws -> [UInt8] {
        var answered: [UInt8] = []
        let (status, location) = try exchange(request(method, path, fields, body)) { _, part in answered += part }
        if status == 307, hops < Self.hopsMax, let there = URL(string: location) {
            return try client(at: there).answer(method, path, fields, body, hops: hops + 1)
        }
        if !(200..<300).contains(status) { throw Self.failure(status, answered) }
        return answered
    }

    private func client(at location: URL) throws -> MigrateClient {
        let scheme = location.scheme ?? "http"
        let port = location.port.map { ":\($0)" } ?? ""
        let host = location.host ?? ""
        return try MigrateClient(
            url: "\(scheme)://\(host.contains(":") && !host.hasPrefix("[") ? "[\(host)]" : host)\(port)", token: token,
            authority: scheme == "https" ? authority : "", allowsPlainToken: place.allowsPlainTokens)
    }

    /// - Parameter take: is given the status and each part of the body.
    private func exchange(
        _ request: Request, _ take: (Int, [UInt8]) -> Void
    ) throws -> (status: Int, location: String) {
        var exchange = try HTTPExchange()
        do {
            let bytes = try exchange.request(request.method, request.path, request.fields, request.body)
            var dial = try HTTPDial.open(place, tls: tls, hasToken: !token.isEmpty)
            try dial.send(bytes)
            while !exchange.isDone {
                let bytes = try dial.receive()
                if bytes.isEmpty {
                    try exchange.end()
                    break
                }
                let part = try exchange.take(bytes)
                if !part.isEmpty { take(exchange.status, part) }
            }
            return (exchange.status, exchange.location)
        } catch let failure as HTTPDial.Failure {
            throw Failure(
                status: 0, description: "no Godwit answers at \(url) (\(failure)): is one served there, with "
                    + "admin.http?" + advice(failure))
        } catch HTTPExchange.Failure.badRequest {
            throw ValidationError("the token and the name of who asks cannot have control characters in them")
        } catch HTTPExchange.Failure.cutOff where exchange.status == 0 && tls == nil {
            throw Failure(status: 0, description: "\(url) has ended the connection: does it want https://?")
        } catch HTTPExchange.Failure.cutOff {
            throw Failure(status: 0, description: "\(url) has ended the connection in the midst of its answer")
        } catch is HTTPExchange.Failure {
            throw Failure(status: 0, description: "what answers at \(url) does not speak HTTP as Godwit does")
        }
    }

    private func advice(_ failure: HTTPDial.Failure) -> String {
        let isUnknown = failure.description.contains("certificate verify failed")
        return isUnknown ? " Name the authority that has signed its certificate: --ca FILE, or GODWIT_CA_FILE." : ""
    }

    /// What the server says is wrong.
    private static func failure(_ status: Int, _ body: [UInt8]) -> Failure {
        let problem = try? JSONDecoder().decode(Problem.self, from: Data(body))
        return Failure(status: status, description: problem.map { "\($0.title): \($0.detail)" } ?? "status \(status)")
    }

    private struct Problem: Decodable {
        var title: String
        var detail: String
    }

    // MARK: a stream of events

    /// Gives what stands behind `data:` of each event to `take`, until the server ends it.
    func follow(_ path: String, _ take: (String) -> Void) throws {
        var rest: [UInt8] = []
        let request = request("GET", path, [("Accept", "text/event-stream")])
        let (status, _) = try exchange(request) { status, part in
            rest += part
            guard status == 200, let end = rest.lastIndex(of: UInt8(ascii: "\n")) else { return }
            let lines = String(decoding: rest[..<end], as: UTF8.self).split(separator: "\n")
            rest.removeFirst(end + 1)
            for line in lines where line.hasPrefix("data: ") { take(String(line.dropFirst("data: ".count))) }
        }
        if status != 200 { throw Self.failure(status, rest) }
    }
}
