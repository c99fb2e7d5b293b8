import ArgumentParser
import Dispatch
import Foundation
import FoundationNetworking
import Synchronization

/// Talks to a running Godwit over HTTP. Blocks; one thread.
struct MigrateClient {
    struct Failure: Error, CustomStringConvertible {
        /// Of HTTP; 0: there was no answer.
        let status: Int
        let description: String
    }

    private static let timeoutSeconds = 60.0
    /// A stream that says nothing says that more often.
    private static let silenceSeconds = 60.0

    private let base: URL
    private let token: String

    /// - Parameter url: `http://127.0.0.1:9632`
    init(url: String, token: String) throws {
        guard let base = URL(string: url), ["http", "https"].contains(base.scheme ?? ""), base.host != nil else {
            throw ValidationError("--url must be like http://127.0.0.1:9632")
        }
        self.base = base
        self.token = token
    }

    private func request(_ path: String) throws -> URLRequest {
        guard let url = URL(string: path, relativeTo: base) else { throw ValidationError("\(path) is no address") }
        var request = URLRequest(url: url, timeoutInterval: Self.timeoutSeconds)
        if !token.isEmpty { request.setValue("Bearer \(token)", forHTTPHeaderField: "Authorization") }
        return request
    }

    func get(_ path: String) throws -> [UInt8] { try answer(to: try request(path)) }

    func post(_ path: String, _ body: String, by: String, contentType: String = "application/json") throws -> [UInt8] {
        var request = try request(path)
        request.httpMethod = "POST"
        request.httpBody = Data(body.utf8)
        request.setValue(contentType, forHTTPHeaderField: "Content-Type")
        request.setValue(UUID().uuidString, forHTTPHeaderField: "Idempotency-Key")
        if !by.isEmpty { request.setValue(by, forHTTPHeaderField: "Godwit-Operator") }
        return try answer(to: request)
    }

    private func answer(to request: URLRequest) throws -> [UInt8] {
        let box = Mutex<Result<(Int, [UInt8]), Failure>>(.failure(Failure(status: 0, description: "no answer")))
        let shared = Shared(box)
        let task = URLSession.shared.dataTask(with: request) { data, response, error in
            if let response = response as? HTTPURLResponse {
                shared.set(.success((response.statusCode, Array(data ?? Data()))))
            } else {
                shared.set(.failure(Failure(status: 0, description: error?.localizedDescription ?? "no answer")))
            }
        }
        task.resume()
        switch shared.wait() {
        case .success(let (status, body)):
            if (200..<300).contains(status) { return body }
            throw Self.failure(status, body)
        case .failure(let failure):
            throw Failure(
                status: 0, description: "no Godwit answers at \(base.absoluteString) (\(failure.description)): "
                    + "is one served there, with admin.http?")
        }
    }

    private final class Shared: Sendable {
        private let result: Mutex<Result<(Int, [UInt8]), Failure>>
        private let isThere = DispatchSemaphore(value: 0)

        init(_ result: consuming Mutex<Result<(Int, [UInt8]), Failure>>) { self.result = result }

        func set(_ value: Result<(Int, [UInt8]), Failure>) {
            result.withLock { $0 = value }
            isThere.signal()
        }

        func wait() -> Result<(Int, [UInt8]), Failure> {
            isThere.wait()
            return result.withLock { $0 }
        }
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
    func follow(_ path: String, _ take: @escaping @Sendable (String) -> Void) throws {
        var request = try request(path)
        request.setValue("text/event-stream", forHTTPHeaderField: "Accept")
        request.timeoutInterval = Self.silenceSeconds
        let listener = StreamListener(take)
        let session = URLSession(configuration: .default, delegate: listener, delegateQueue: nil)
        defer { session.invalidateAndCancel() }
        session.dataTask(with: request).resume()
        if let failure = listener.wait() { throw failure }
    }

    private final class StreamListener: NSObject, URLSessionDataDelegate, Sendable {
        private struct State {
            var rest = ""
            var status = 0
            var failure: Failure?
        }

        private let take: @Sendable (String) -> Void
        private let state = Mutex(State())
        private let isOver = DispatchSemaphore(value: 0)

        init(_ take: @escaping @Sendable (String) -> Void) { self.take = take }

        func wait() -> Failure? {
            isOver.wait()
            return state.withLock { $0.failure }
        }

        func urlSession(
            _ session: URLSession, dataTask: URLSessionDataTask, didReceive response: URLResponse,
            completionHandler: @escaping (URLSession.ResponseDisposition) -> Void
        ) {
            state.withLock { $0.status = (response as? HTTPURLResponse)?.statusCode ?? 0 }
            completionHandler(.allow)
        }

        func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
            let lines = state.withLock { state -> [Substring] in
                state.rest += String(decoding: data, as: UTF8.self)
                guard state.status == 200 else { return [] }
                var lines = state.rest.split(separator: "\n", omittingEmptySubsequences: false)
                state.rest = String(lines.popLast() ?? "")
                return lines
            }
            for line in lines where line.hasPrefix("data: ") { take(String(line.dropFirst("data: ".count))) }
        }

        func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
            state.withLock { state in
                if state.status != 200, state.status != 0 {
                    state.failure = MigrateClient.failure(state.status, Array(state.rest.utf8))
                } else if let error {
                    state.failure = Failure(status: 0, description: error.localizedDescription)
                }
            }
            isOver.signal()
        }
    }
}
