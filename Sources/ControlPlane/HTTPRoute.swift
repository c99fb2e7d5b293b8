import Configuration
import Digests
import Foundation
import HTTPTypes
import Hummingbird
import HummingbirdCore
import NIOCore
import Primitives

/// One address that is answered. Immutable, any thread.
package struct HTTPRoute: Sendable {
    /// What who asks must be allowed to.
    package enum Right: Sendable { case none, read, write }

    let method: HTTPRequest.Method
    /// `/migrations/{id}/status`
    let path: String
    let right: Right
    let answer: @Sendable (HTTPCall) async throws -> Response

    init(
        _ method: HTTPRequest.Method, _ path: String, _ right: Right,
        _ answer: @escaping @Sendable (HTTPCall) async throws -> Response
    ) {
        self.method = method
        self.path = path
        self.right = right
        self.answer = answer
    }

    /// For what is made elsewhere as bytes: `/metrics` and its like.
    package static func get(
        _ path: String, _ right: Right, _ answer: @escaping @Sendable () async -> HTTPAnswer
    ) -> HTTPRoute {
        HTTPRoute(.get, path, right) { _ in
            let made = await answer()
            return Response(made.status, made.contentType, made.body)
        }
    }

    func matches(_ asked: String) -> Bool {
        let (ours, theirs) = (path.split(separator: "/"), asked.split(separator: "/"))
        return ours.count == theirs.count && zip(ours, theirs).allSatisfy { $0.hasPrefix("{") || $0 == $1 }
    }
}

/// What is answered, without what HTTP adds. Immutable, any thread.
package struct HTTPAnswer: Sendable {
    package var status: Int
    package var contentType: String
    package var body: [UInt8]

    package init(_ status: Int, _ contentType: String, _ body: [UInt8]) {
        self.status = status
        self.contentType = contentType
        self.body = body
    }

    /// One sentence for a person.
    package init(_ status: Int, _ sentence: String) {
        self.init(status, "text/plain; charset=utf-8", Array("\(sentence)\n".utf8))
    }
}

/// A request, as far as answers need it. Stays with its task.
struct HTTPCall {
    private let request: Request
    private let context: BasicRequestContext

    init(_ request: Request, _ context: BasicRequestContext) {
        self.request = request
        self.context = context
    }

    /// A part of the path.
    func part(_ name: String) -> String { context.parameters.get(name) ?? "" }

    func query(_ name: String) -> String? { request.uri.queryParameters.get(name) }

    /// What stands behind the question mark, of a request that changes something: what is not known there may have been
    /// meant to keep it from that.
    ///
    /// - Parameter allowed: what each option may be.
    /// - Throws: a problem that says what there is.
    func options(_ allowed: [String: [String]] = [:]) throws -> [String: String] {
        var options: [String: String] = [:]
        for option in request.uri.queryParameters where !(option.key.isEmpty && option.value.isEmpty) {
            let (name, value) = (String(option.key), String(option.value))
            guard let values = allowed[name], values.isEmpty ? !value.isEmpty : values.contains(value),
                options[name] == nil
            else {
                let known = allowed.sorted { $0.key < $1.key }.map { name, values in
                    values.isEmpty ? "\(name) is a text" : "\(name) is one of \(values.joined(separator: ", "))"
                }
                throw HTTPProblem(
                    400, "\"\(name)=\(value)\" cannot be asked for here, and nothing was done",
                    known.isEmpty ? "leave out what stands behind the question mark" : known.joined(separator: "; "))
            }
            options[name] = value
        }
        return options
    }

    func header(_ name: String) -> String? { HTTPField.Name(name).flatMap { request.headers[$0] } }

    /// - Throws: a problem when it is longer than `bytesMax`, or not UTF-8.
    func body(bytesMax: Int) async throws -> String {
        let buffer: ByteBuffer
        do {
            buffer = try await request.body.collect(upTo: bytesMax)
        } catch is NIOTooManyBytesError {
            throw HTTPProblem(413, "the body is too long", "\(bytesMax) bytes at most")
        }
        guard let text = String(validating: buffer.readableBytesView, as: UTF8.self) else {
            throw HTTPProblem(400, "the body is not UTF-8", "send it as UTF-8")
        }
        return text
    }
}

/// What went wrong, and what to do (RFC 9457). Immutable, any thread.
package struct HTTPProblem: Error, Sendable, Equatable {
    package var status: Int
    package var title: String
    package var detail: String
    /// JSON of further members, as in `"gates":[]`; empty: none.
    package var members: String
    /// The same may be asked at this address, as in `https://godwit-2.example:9632`; empty: no.
    package var elsewhere: String

    package init(
        _ status: Int, _ title: String, _ detail: String, members: String = "", elsewhere: String = ""
    ) {
        self.elsewhere = elsewhere
        self.status = status
        self.title = title
        self.detail = detail
        self.members = members
    }

    var response: Response {
        let more = members.isEmpty ? "" : ",\(members)"
        let json = "{\"type\":\"about:blank\",\"status\":\(status),\"title\":\(JSONText.quoted(title)),"
            + "\"detail\":\(JSONText.quoted(detail))\(more)}"
        var response = Response(status, "application/problem+json", Array(json.utf8))
        if status == 401 { response.headers[.wwwAuthenticate] = "Bearer realm=\"godwit\"" }
        return response
    }
}

/// Every failure becomes a problem; a path that is there under another method says so. Immutable, any thread.
struct HTTPProblems: RouterMiddleware {
    typealias Context = BasicRequestContext

    let routes: [HTTPRoute]

    func handle(
        _ request: Request, context: Context, next: (Request, Context) async throws -> Response
    ) async throws -> Response {
        do {
            return try await next(request, context)
        } catch let problem as HTTPProblem where !problem.elsewhere.isEmpty {
            var response = problem.response
            let base = problem.elsewhere.hasSuffix("/") ? String(problem.elsewhere.dropLast()) : problem.elsewhere
            response.headers[.location] = "\(base)\(request.uri)"
            return response
        } catch let problem as HTTPProblem {
            return problem.response
        } catch let error as HTTPError where error.status == .notFound {
            let others = routes.filter { $0.matches(request.uri.path) }.map { $0.method.rawValue }
            if others.isEmpty {
                let all = Set(routes.map(\.path)).sorted().joined(separator: ", ")
                return HTTPProblem(404, "there is nothing at this address", "there are \(all)").response
            }
            let allowed = (others.contains("GET") ? others + ["HEAD"] : others).joined(separator: ", ")
            var response = HTTPProblem(405, "not by this method", "use \(allowed)").response
            response.headers[.allow] = allowed
            return response
        } catch let failure as StateStore.Failure {
            return HTTPProblem(503, "the state store does not answer", "\(failure)").response
        } catch let error as HTTPError {
            return HTTPProblem(error.status.code, error.status.reasonPhrase, error.body ?? "").response
        }
    }
}

/// Who may do what, by bearer tokens (RFC 6750). Immutable, any thread.
package struct HTTPAccess: RouterMiddleware {
    package typealias Context = BasicRequestContext

    /// nil: there is none.
    private let writeToken: [UInt8]?
    private let readToken: [UInt8]?
    private let routes: [HTTPRoute]

    package init(writeToken: [UInt8]?, readToken: [UInt8]?, routes: [HTTPRoute]) {
        self.writeToken = writeToken
        self.readToken = readToken
        self.routes = routes
    }

    package func handle(
        _ request: Request, context: Context, next: (Request, Context) async throws -> Response
    ) async throws -> Response {
        let isLook = request.method == .get || request.method == .head
        if isLook, let length = request.headers[.contentLength], length != "0" {
            throw HTTPProblem(413, "GET has no body here", "leave it out")
        }
        let isHead = request.method == .head
        let method: HTTPRequest.Method = isHead ? .get : request.method
        let right = routes.first { $0.method == method && $0.matches(request.uri.path) }?.right ?? .read
        let held = self.right(of: bearer(request))
        switch (right, held) {
        case (.none, _), (.read, .read), (.read, .write), (.write, .write): break
        case (.write, _) where writeToken == nil:
            throw HTTPProblem(
                403, "nobody may do this here", "name a file with a token in admin.http.token_file and start again")
        case (.write, .read):
            throw HTTPProblem(403, "this token may only look", "use the one of admin.http.token_file")
        case (.read, .none), (.write, .none):
            throw HTTPProblem(401, "a token is needed", "send Authorization: Bearer <token>")
        }
        return try await next(request, context)
    }

    private func right(of token: [UInt8]?) -> HTTPRoute.Right {
        if let token, let writeToken, Digest.equal(token, writeToken) { return .write }
        if let token, let readToken, Digest.equal(token, readToken) { return .read }
        // With no token at all whoever comes may look.
        return writeToken == nil && readToken == nil ? .read : .none
    }

    private func bearer(_ request: Request) -> [UInt8]? {
        guard let field = request.headers[.authorization] else { return nil }
        let parts = field.split(separator: " ", maxSplits: 1)
        guard parts.count == 2, parts[0].lowercased() == "bearer" else { return nil }
        return Array(parts[1].trimmingCharacters(in: .whitespaces).utf8)
    }
}

extension Response {
    init(_ status: Int, _ contentType: String, _ body: [UInt8]) {
        self.init(
            status: HTTPResponse.Status(code: status),
            headers: [
                .contentType: contentType, .cacheControl: "no-store", .xContentTypeOptions: "nosniff",
            ],
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: body)))
    }
}
