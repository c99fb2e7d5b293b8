import Glibc
import Primitives
import Reactor
import Synchronization

/// Why another Godwit's place could not be taken.
package enum TakeoverFailure: Error, Equatable, Sendable, CustomStringConvertible {
    /// Nobody serves that configuration file here.
    case nobody
    /// Who listens there is another user's.
    case stranger
    case refused(String)
    case lost

    package var description: String {
        switch self {
        case .nobody:
            "no Godwit of this user serves this configuration file on this machine: start without --takeover"
        case .stranger: "the socket of the hand-over belongs to a process of another user: nothing was done"
        case .refused(let why): "the running Godwit keeps its place: \(why)"
        case .lost: "the running Godwit ended, or did not answer, during the hand-over"
        }
    }
}

/// Takes the place of a running Godwit: the other end of `TakeoverOffer`. Made and led by the thread that starts the
/// process; cancel requests may come from the control thread.
package final class TakeoverClaim: Sendable {
    private let channel: SharedChannel
    /// Monotonic nanoseconds; the other one's patience began later.
    private let readyAt = Atomic<UInt64>(0)

    /// Its sockets are a service manager's: they count, whatever the file says of addresses.
    package let isActivated: Bool

    /// Any thread sends, one receives: the kernel keeps messages whole.
    private final class SharedChannel: Sendable {
        let raw: CInt
        init(_ raw: CInt) { self.raw = raw }
        deinit { close(raw) }
    }

    private init(_ raw: CInt, isActivated: Bool) {
        channel = SharedChannel(raw)
        self.isActivated = isActivated
    }

    /// Asks for the sockets. From here on the running one waits for us, and goes on as before if we end.
    ///
    /// - Returns: the claim, and the sockets by what they serve.
    package static func begin(
        at address: SocketAddress
    ) throws(TakeoverFailure) -> (claim: TakeoverClaim, sockets: [(InheritedSockets.Label, CInt)]) {
        let channel: HandOverChannel
        do throws(SocketError) { channel = try HandOverChannel.connect(to: address) } catch { throw .nobody }
        guard channel.isTrusted else { throw .stranger }
        guard channel.send(TakeoverOffer.hello),
            case .message(let text, let descriptors) = channel.receive(millis: TakeoverOffer.patienceMillis)
        else { throw .lost }
        if text.hasPrefix("refused ") {
            for descriptor in descriptors { close(descriptor) }
            throw .refused(String(text.dropFirst("refused ".count)))
        }
        let lines = text.split(separator: "\n").map(String.init)
        let labels = values("socket", lines).map { InheritedSockets.Label(rawValue: $0) }
        guard lines.first == "sockets", labels.count == descriptors.count else {
            for descriptor in descriptors { close(descriptor) }
            throw .lost
        }
        var sockets: [(InheritedSockets.Label, CInt)] = []
        for (label, descriptor) in zip(labels, descriptors) {
            // What a later version serves besides is not ours.
            if let label { sockets.append((label, descriptor)) } else { close(descriptor) }
        }
        let kept = dup(channel.socket.raw)
        guard kept >= 0 else {
            for (_, descriptor) in sockets { close(descriptor) }
            throw .lost
        }
        _ = fcntl(kept, F_SETFD, FD_CLOEXEC)
        return (TakeoverClaim(kept, isActivated: lines.contains("activated")), sockets)
    }

    private static func values(_ word: String, _ lines: [String]) -> [String] {
        lines.filter { $0.hasPrefix(word + " ") }.map { String($0.dropFirst(word.utf8.count + 1)) }
    }

    /// All is checked and open: the running one stops accepting. Clients that connect meanwhile wait in the kernel.
    ///
    /// - Returns: what operators have ordered of it and its file does not have.
    package func ready() throws(TakeoverFailure) -> [String] {
        readyAt.store(MonotonicInstant.now().nanoseconds, ordering: .relaxed)
        guard send("ready") else { throw .lost }
        var orders: [String] = []
        while let text = receive(millis: TakeoverOffer.patienceMillis) {
            if text == "go" { return orders }
            guard text.hasPrefix(TakeoverOffer.order) else { throw .lost }
            orders.append(String(text.dropFirst(TakeoverOffer.order.count)))
        }
        throw .lost
    }

    /// Clients are accepted here. From now on the other one lets its clients go.
    ///
    /// - Parameter deliver: told, on a thread of its own, what becomes of cancel requests, and of the other one's end.
    /// - Throws: `.lost` when it waits no more: then it has gone on as before, and we must not serve beside it.
    package func serving(_ deliver: @escaping @Sendable (TakeoverStep) -> Void) throws(TakeoverFailure) {
        try serving(patienceMillis: TakeoverOffer.patienceMillis, deliver)
    }

    /// - Parameter patienceMillis: for which the other one waits at least, if it lives.
    func serving(
        patienceMillis: CInt, _ deliver: @escaping @Sendable (TakeoverStep) -> Void
    ) throws(TakeoverFailure) {
        if !send("serving") {
            let began = MonotonicInstant(nanoseconds: readyAt.load(ordering: .relaxed))
            // Who does not listen so soon was killed meanwhile: without us nobody would serve.
            if MonotonicInstant.now() >= began.advanced(byMillis: UInt64(patienceMillis)) { throw .lost }
        }
        _ = OwnThread(name: "godwit-before") { [self] in
            while let text = receive(millis: -1) {
                let words = text.split(separator: " ")
                if words.count == 2, words[0] == "cancelled", let number = UInt64(words[1]) {
                    deliver(.canceled(number: number))
                } else if text.hasPrefix(TakeoverOffer.standing) {
                    deliver(.gateStanding(String(text.dropFirst(TakeoverOffer.standing.count))))
                }
            }
            deliver(.predecessorEnded)
        }
    }

    /// Passes a cancel request on: its client may be the other one's.
    package func cancel(number: UInt64, processID: Int32, secret: [UInt8]) {
        send(CancelWord.text(number, processID, secret))
    }

    /// Has the other one's traffic follow what operators order here.
    ///
    /// - Returns: false when it has ended.
    @discardableResult
    package func order(_ text: String) -> Bool { send(TakeoverOffer.gate + text) }

    @discardableResult
    private func send(_ text: String) -> Bool { withChannel { $0.send(text) } }

    private func receive(millis: CInt) -> String? {
        withChannel { channel in
            guard case .message(let text, let descriptors) = channel.receive(millis: millis) else { return nil }
            for descriptor in descriptors { close(descriptor) }
            return text
        }
    }

    private func withChannel<Result>(_ body: (borrowing HandOverChannel) -> Result) -> Result {
        let borrowed = HandOverChannel(owning: channel.raw)
        let result = body(borrowed)
        _ = borrowed.release()
        return result
    }
}
