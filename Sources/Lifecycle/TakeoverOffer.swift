import Digests
import Glibc
import Primitives
import Reactor

/// Where a running Godwit is asked to let another one take its place. Any thread; the conversation has a thread of its
/// own, and what is to be done about it is the control thread's, which is told by `TakeoverStep` and answers.
///
///     new to old                      old to new
///     takeover 1
///                                     sockets, a label a line, and the descriptors; or: refused <why>
///     ready      all is checked
///                                     order <...>, any number: what operators have ordered of it
///                                     go         it accepts no client any more, but could again
///     serving    clients are accepted
///     cancel <n> <process> <secret>   cancelled <n>
///     gate <...>                      standing <...>
///
/// Until `serving` the end of the connection, or a minute of silence, leaves the old one as it was.
package final class TakeoverOffer: Sendable {
    package enum Answer: Sendable {
        /// Copies of these are passed on; they are closed then.
        case granted([(label: InheritedSockets.Label, descriptor: CInt)], isActivated: Bool)
        case refused(String)
        /// The orders that are in force at this moment, and that the other one takes over.
        case go(orders: [String])
        case canceled(number: UInt64)
        /// How far an order has come true here.
        case standing(String)
    }

    /// Milliseconds for the next word of the other end.
    static let patienceMillis: CInt = 60_000
    /// Milliseconds in which who connects must have said what it wants.
    static let helloMillis: CInt = 5000
    /// Milliseconds after which it is tried again to get a file descriptor.
    static let noRoomMillis: CInt = 200
    static let hello = "takeover 1"
    /// What words of more than one part begin with.
    static let order = "order "
    static let gate = "gate "
    static let standing = "standing "

    private let answers = Mailbox<Answer>()
    private let deliver: @Sendable (TakeoverStep) -> Void
    private let listener: CInt

    /// The name under which the Godwit of a configuration file is asked.
    package static func address(configuration path: String) -> SocketAddress {
        let whole = realpath(path, nil)
        defer { free(whole) }
        let name = whole.map { String(cString: $0) } ?? path
        let digits = Digest.md5(Array(name.utf8)).prefix(8).hex
        return .unix(path: "@godwit-takeover-\(geteuid())-\(digits)")
    }

    /// - Parameters:
    ///   - inherited: a descriptor that listens there already; it is owned from here on.
    ///   - deliver: called on the thread of the conversation.
    /// - Throws: `SocketError` when another process listens there.
    package init(
        at address: SocketAddress, inherited: CInt?, _ deliver: @escaping @Sendable (TakeoverStep) -> Void
    ) throws(SocketError) {
        self.deliver = deliver
        if let inherited { listener = inherited } else { listener = try HandOverChannel.listen(address) }
    }

    deinit { close(listener) }

    /// Takes requests from now on, until one has taken over.
    package func start() {
        let (listener, answers, deliver) = (listener, answers, deliver)
        _ = OwnThread(name: "godwit-takeover") { [self] in
            while true {
                let raw = accept(listener, nil, nil)
                if raw < 0 {
                    switch errno {
                    case EINTR, ECONNABORTED: continue
                    // Some client's end makes room; who asks waits in the kernel meanwhile.
                    case EMFILE, ENFILE, ENOBUFS, ENOMEM: _ = poll(nil, 0, Self.noRoomMillis)
                    default: return
                    }
                    continue
                }
                _ = fcntl(raw, F_SETFD, FD_CLOEXEC)
                let conversation = Conversation(HandOverChannel(owning: raw), listener, answers, deliver)
                if conversation.run() { break }
            }
            withExtendedLifetime(self) {}
        }
    }

    /// A word longer than this does not reach the other end.
    package static let wordBytesMax = HandOverChannel.messageBytesMax - 16

    /// The control thread's word.
    package func answer(_ answer: Answer) { answers.post(answer) }
}

/// One that wants to take over. Used on the offer's thread.
private final class Conversation {
    private let channel: HandOverChannel
    private let listener: CInt
    private let answers: Mailbox<TakeoverOffer.Answer>
    private let deliver: @Sendable (TakeoverStep) -> Void

    init(
        _ channel: consuming HandOverChannel, _ listener: CInt, _ answers: Mailbox<TakeoverOffer.Answer>,
        _ deliver: @escaping @Sendable (TakeoverStep) -> Void
    ) {
        self.channel = channel
        self.listener = listener
        self.answers = answers
        self.deliver = deliver
    }

    /// - Returns: whether it has taken over.
    func run() -> Bool {
        guard channel.isTrusted else { return false }
        let process = channel.peerProcess
        guard case .message(let hello, _) = channel.receive(millis: TakeoverOffer.helloMillis) else { return false }
        guard hello == TakeoverOffer.hello else {
            channel.send("refused this Godwit speaks another version of the hand-over: restart it")
            return false
        }
        deliver(.asked(process: process))
        switch nextAnswer() {
        case .refused(let why):
            channel.send("refused \(why)")
            return false
        case .granted(let sockets, let isActivated):
            let all = sockets + [(label: .takeover, descriptor: listener)]
            let lines = ["sockets"] + all.map { "socket \($0.label.rawValue)" } + (isActivated ? ["activated"] : [])
            let isSent = channel.send(lines.joined(separator: "\n"), descriptors: all.map(\.descriptor))
            for socket in sockets { close(socket.descriptor) }
            guard isSent else { return isLost() }
        case .go, .canceled, .standing:
            preconditionFailure("an answer to nothing")
        }
        guard hears("ready") else { return isLost() }
        deliver(.ready)
        guard case .go(let orders) = nextAnswer(), orders.allSatisfy({ channel.send(TakeoverOffer.order + $0) }),
            channel.send("go"), hears("serving")
        else { return isLost() }
        deliver(.serving(process: process))
        passWords()
        return true
    }

    private func isLost() -> Bool {
        deliver(.lost("it ended, or said nothing for \(TakeoverOffer.patienceMillis / 1000) s"))
        return false
    }

    private func hears(_ word: String) -> Bool {
        guard case .message(let text, _) = channel.receiveOrClose(millis: TakeoverOffer.patienceMillis) else {
            return false
        }
        return text == word
    }

    private func nextAnswer() -> TakeoverOffer.Answer {
        while true {
            var ready = pollfd(fd: answers.descriptor, events: Int16(POLLIN), revents: 0)
            _ = poll(&ready, 1, -1)
            if let answer = answers.take().first { return answer }
        }
    }

    /// Until the other end is gone; ours ends with the process.
    private func passWords() {
        while true {
            var ready = [
                pollfd(fd: channel.socket.raw, events: Int16(POLLIN), revents: 0),
                pollfd(fd: answers.descriptor, events: Int16(POLLIN), revents: 0),
            ]
            _ = poll(&ready, nfds_t(ready.count), -1)
            for answer in answers.take() {
                switch answer {
                case .canceled(let number): channel.send("cancelled \(number)")
                case .standing(let text): channel.send(TakeoverOffer.standing + text)
                case .granted, .refused, .go: preconditionFailure("an answer to nothing")
                }
            }
            guard ready[0].revents != 0 else { continue }
            guard case .message(let text, _) = channel.receive(millis: 0) else {
                return deliver(.lost("it has ended, and nobody listens for clients"))
            }
            if let (number, processID, secret) = CancelWord.parse(text) {
                deliver(.cancel(number: number, processID: processID, secret: secret))
            } else if text.hasPrefix(TakeoverOffer.gate) {
                deliver(.gate(String(text.dropFirst(TakeoverOffer.gate.count))))
            }
        }
    }
}

/// `cancel <number> <process> <secret in hex>`
enum CancelWord {
    static func text(_ number: UInt64, _ processID: Int32, _ secret: [UInt8]) -> String {
        "cancel \(number) \(processID) \(secret.hex)"
    }

    static func parse(_ text: String) -> (number: UInt64, processID: Int32, secret: [UInt8])? {
        let words = text.split(separator: " ")
        guard words.count == 4, words[0] == "cancel", let number = UInt64(words[1]), let processID = Int32(words[2])
        else { return nil }
        let digits = Array(words[3].utf8)
        guard digits.count % 2 == 0 else { return nil }
        var secret: [UInt8] = []
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard let byte = UInt8(String(decoding: digits[index...index + 1], as: UTF8.self), radix: 16) else {
                return nil
            }
            secret.append(byte)
        }
        return (number, processID, secret)
    }
}
