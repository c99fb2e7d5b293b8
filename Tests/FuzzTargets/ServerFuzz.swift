import Digests
import PGWire
import Sessions

enum ServerFuzz {
    private static let replies: [ExpectedReply] = [
        .query, .functionCall, .sync, .parse(nil, definition: 1), .parse(StatementID(3), definition: 2), .bind,
        .describe, .execute, .close, .quietQuery, .quietParse(nil), .quietParse(StatementID(4)), .quietClose,
        .answer(BackendTag.parseComplete), .answerParse(definition: 5), .answerClose(change: 6), .closeUnnamed(change: 7),
        .queryInBatch(change: 8),
    ]

    /// A server may answer what it likes, to whatever was sent: it is understood, or it is a breach of protocol.
    static func session(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        var session = ServerSession()
        var sent = 0
        while !input.isAtEnd {
            let choice = input.byte()
            if choice < 128 {
                if choice == 127 {
                    session.copyInEnded()
                } else {
                    session.sent(replies[Int(choice) % replies.count])
                    sent += 1
                }
            } else {
                let tag = input.byte()
                let body = input.take(Int(choice & 7))
                if body.withUnsafeBytes({ session.received(tag: tag, body: $0) }) == .violation { return }
            }
            while session.nextAnswer() != nil {}
            precondition(session.expectedCount >= 0 && session.expectedCount <= sent, "owed and never asked for")
            precondition(!session.isFree || session.isQuiet && session.expectedCount == 0, "free and not quiet")
            precondition(!session.isQuiet || !session.owesReady && !session.owesOneReady, "quiet, and owes")
            precondition(session.takeDropped().count <= sent, "more dropped than sent")
        }
    }

    private static let credentials = [
        ServerLogin.Credentials(user: "app", password: nil, md5Secret: nil),
        ServerLogin.Credentials(
            user: "app", password: nil, md5Secret: "md5" + String(repeating: "0", count: 32), scramKeys: ProofFuzz.keys),
    ]

    /// A server that may be anybody: nothing is kept without bound, and nothing happens behind the end.
    static func login(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let choice = input.byte()
        var login = ServerLogin(
            credentials: credentials[Int(choice & 1)], randomBytes: Array(0..<18), minor: choice & 2 == 0 ? 0 : 2,
            channelBinding: choice & 4 == 0 ? .prefer : .require)
        if choice & 8 != 0 { login.secured(endpointDigest: Array(repeating: 1, count: 32)) }
        var hasEnded = false
        var isProven = false
        while !input.isAtEnd {
            let tag = input.byte()
            let body = input.take(Int(input.byte()))
            var actions: [ServerLogin.Action] = []
            let isIn = login.isAuthenticated
            body.withUnsafeBytes { login.receive(tag: tag, body: $0, &actions) }
            precondition(!hasEnded || actions.isEmpty, "something comes behind the end")
            precondition(actions.count <= 1, "more than one answer to a message")
            precondition(login.parameters.count <= ServerLogin.parametersMax, "parameters without end")
            precondition(login.cancelSecret.count <= StartupPacket.cancelSecretMax, "a cancel key without end")
            for action in actions {
                switch action {
                case .send(let answer): precondition(answer.first == FrontendTag.password, "an answer of another type")
                case .ready:
                    precondition(isIn, "ready before it has let us in")
                    isProven = true
                    hasEnded = true
                case .failed: hasEnded = true
                }
            }
        }
        precondition(!isProven || choice & 4 == 0, "let in without the channel binding that is required")
    }

    /// What is read of an error and written again reads the same.
    static func errorResponse(_ bytes: [UInt8]) {
        let error = bytes.withUnsafeBytes { ErrorResponse.parse(body: $0) }
        precondition(error.state.code.utf8.count == 5, "a state of another length")
        let encoded = error.encoded
        let again = encoded.withUnsafeBytes { raw in
            guard let header = FrameHeader.parse(raw, at: 0), header.frameSize == raw.count else {
                preconditionFailure("a frame of another length")
            }
            return ErrorResponse.parse(body: UnsafeRawBufferPointer(rebasing: raw[FrameHeader.size...]))
        }
        precondition(again == error, "an error that changes on its way")
    }
}
