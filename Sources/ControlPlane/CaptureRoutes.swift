import Foundation
import Hummingbird
import Primitives

/// What is asked of who takes captures. Immutable, any thread.
package enum CaptureOrder: Sendable {
    case list
    case start(database: String, CaptureWish)
    /// Answered when the file is closed.
    case stop(database: String)
}

/// The body of `POST /captures/{database}`. Immutable, any thread.
package struct CaptureWish: Decodable, Sendable, Equatable {
    package var file: String
    package var samplePercent: Double?
    package var seconds: Double?
    package var bytesMax: Int?
    package var digest: Bool?
    package var redact: Bool?

    private enum CodingKeys: String, CodingKey, CaseIterable {
        case file, seconds, digest, redact
        case samplePercent = "sample_percent"
        case bytesMax = "bytes_max"
    }

    static let members = Set(CodingKeys.allCases.map(\.rawValue))
}

/// One capture, as SHOW CAPTURE has it. Immutable, any thread.
package struct CaptureDocument: Encodable, Sendable {
    package var database: String
    package var file: String
    package var state: String
    package var reason: String
    package var sinceSeconds: UInt64
    package var samplePercent: Double
    package var connections: UInt64
    package var dropped: UInt64
    package var records: UInt64
    package var recordBytes: UInt64
    package var fileBytes: UInt64
    package var digest: Bool
    package var redact: Bool

    private enum CodingKeys: String, CodingKey {
        case database, file, state, reason, connections, dropped, records, digest, redact
        case sinceSeconds = "since_s"
        case samplePercent = "sample_percent"
        case recordBytes = "record_bytes"
        case fileBytes = "file_bytes"
    }

    package init(database: String, file: String, state: String, reason: String, digest: Bool, redact: Bool) {
        self.database = database
        self.file = file
        self.state = state
        self.reason = reason
        self.digest = digest
        self.redact = redact
        (sinceSeconds, samplePercent, connections, dropped) = (0, 100, 0, 0)
        (records, recordBytes, fileBytes) = (0, 0, 0)
    }
}

/// What an order about captures came to.
package enum CaptureOutcome: Sendable {
    case captures([CaptureDocument])
    case refused(HTTPProblem)
}

/// Takes captures, wherever that is.
package typealias CaptureOffice = @Sendable (CaptureOrder) async -> CaptureOutcome

/// `/captures` and what is below it: what CAPTURE is in the console; docs/openapi.yaml says the same. Immutable, any
/// thread.
package struct CaptureRoutes: Sendable {
    private static let bodyBytesMax = 16 * 1024
    private static let secondsMax = 7 * 86_400.0
    private static let fileBytesMin = 4096

    private let office: CaptureOffice

    package init(office: @escaping CaptureOffice) { self.office = office }

    package var all: [HTTPRoute] {
        [
            HTTPRoute(.get, "/captures", .read) { _ in try await list() },
            HTTPRoute(.post, "/captures/{database}", .write) { try await start($0) },
            HTTPRoute(.post, "/captures/{database}/stop", .write) { try await stop($0) },
        ]
    }

    private struct List: Encodable {
        var captures: [CaptureDocument]
    }

    private func list() async throws -> Response {
        Response(200, "application/json", Document.bytes(List(captures: try await captures(.list))))
    }

    private func start(_ call: HTTPCall) async throws -> Response {
        _ = try call.options()
        let wish = try Self.wish(try await call.body(bytesMax: Self.bodyBytesMax))
        return try one(201, try await captures(.start(database: call.part("database"), wish)))
    }

    private func stop(_ call: HTTPCall) async throws -> Response {
        _ = try call.options()
        let body = try await call.body(bytesMax: Self.bodyBytesMax)
        guard body.allSatisfy(\.isWhitespace) else {
            throw HTTPProblem(400, "the body cannot be read", "send nothing: a capture is stopped, and that is all")
        }
        return try one(200, try await captures(.stop(database: call.part("database"))))
    }

    private func captures(_ order: CaptureOrder) async throws -> [CaptureDocument] {
        switch await office(order) {
        case .captures(let all): return all
        case .refused(let problem): throw problem
        }
    }

    private func one(_ status: Int, _ captures: [CaptureDocument]) throws -> Response {
        guard let capture = captures.first else {
            throw HTTPProblem(503, "the capture is not known", "see GET /captures")
        }
        return Response(status, "application/json", Document.bytes(capture))
    }

    /// - Throws: a problem that says which member is wrong.
    private static func wish(_ body: String) throws -> CaptureWish {
        guard let wish = JSONWish.read(CaptureWish.self, of: body, members: CaptureWish.members) else {
            throw HTTPProblem(400, "the body cannot be read", """
                send {"file": "monday.cap"}, and if you want sample_percent, seconds, bytes_max, digest, redact
                """)
        }
        if let percent = wish.samplePercent, !(percent >= 0.01 && percent <= 100) {
            throw HTTPProblem(422, "sample_percent cannot be \(percent)", "0.01 to 100")
        }
        if let seconds = wish.seconds, !(seconds > 0 && seconds <= secondsMax) {
            throw HTTPProblem(422, "seconds cannot be \(seconds)", "above 0, and \(Int(secondsMax)) at most")
        }
        if let bytes = wish.bytesMax, bytes < fileBytesMin {
            throw HTTPProblem(422, "bytes_max cannot be \(bytes)", "\(fileBytesMin) or more")
        }
        return wish
    }
}
