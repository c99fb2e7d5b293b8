import PGWire

/// libpq's words for encryption towards one server (LIBPQ-SSL-PROTECTION). Pure; immutable, any thread.
package struct ServerEncryption: Equatable, Sendable {
    /// `sslmode`; what is verified beyond `require` is the context's and the name's.
    package enum Mode: Sendable, CaseIterable { case disable, allow, prefer, require }

    /// `channel_binding`
    package enum ChannelBinding: Sendable, CaseIterable { case disable, prefer, require }

    /// One way to connect; when it fails there may be another.
    package enum Attempt: Equatable, Sendable {
        case plain
        /// SSLRequest first.
        case requested
        /// The handshake at once (`sslnegotiation=direct`).
        case direct
    }

    package enum Failure: Equatable, Sendable {
        /// TLS could not be agreed on, or the server's certificate is not what it should be.
        case handshake
        /// The server has refused the login.
        case login
        /// Anything else: another way would not help.
        case other
    }

    package var mode: Mode
    package var isDirect: Bool
    package var channelBinding: ChannelBinding
    /// Whom we say that we want (SNI); nil: nobody.
    package var serverName: String?
    /// The host that the certificate must name (`verify-full`); nil: any.
    package var verifiedName: String?

    package init(
        mode: Mode, isDirect: Bool = false, channelBinding: ChannelBinding = .prefer, serverName: String? = nil,
        verifiedName: String? = nil
    ) {
        self.mode = mode
        self.isDirect = isDirect
        self.channelBinding = channelBinding
        self.serverName = serverName
        self.verifiedName = verifiedName
    }

    private var encrypted: Attempt { isDirect ? .direct : .requested }

    package var firstAttempt: Attempt {
        switch mode {
        case .disable, .allow: .plain
        case .prefer, .require: encrypted
        }
    }

    /// How to connect anew after a failure; nil: it is final.
    package func attempt(after failed: Attempt, _ failure: Failure) -> Attempt? {
        switch (mode, failed, failure) {
        case (.allow, .plain, .login): encrypted
        case (.prefer, .requested, .login), (.prefer, .requested, .handshake),
            (.prefer, .direct, .login), (.prefer, .direct, .handshake): .plain
        case (.disable, _, _), (.require, _, _), (.allow, _, _), (.prefer, _, _): nil
        }
    }

    /// What the server's answer to SSLRequest means.
    package enum Answer: Equatable, Sendable {
        case startTLS
        /// Go on without.
        case goOnPlain
        case failed(String)
    }

    /// - Parameter bytes: all that has come; at least one.
    package func answer(to bytes: UnsafeRawBufferPointer) -> Answer {
        switch bytes.first {
        case UInt8(ascii: "S"):
            // Sent before the handshake, maybe not by the server (CVE-2021-23222).
            bytes.count == 1 ? .startTLS : .failed("received unencrypted data after SSL response")
        case UInt8(ascii: "N"):
            if bytes.count > 1 {
                .failed("received data that was not asked for after SSL response")
            } else {
                mode == .require ? .failed("server does not support SSL, but SSL was required") : .goOnPlain
            }
        case UInt8(ascii: "E"):
            // Its words are not repeated: nobody knows yet who says them (CVE-2024-10977).
            .failed("server sent an error response during SSL exchange")
        default:
            .failed("received invalid response to SSL negotiation")
        }
    }
}
