import Glibc
import Logging
import Primitives
import Reactor

/// A noncopyable listener in an array.
final class ListenerBox {
    let listener: Listener
    let registration: Registration

    init(_ listener: consuming Listener, _ registration: Registration) {
        self.listener = listener
        self.registration = registration
    }
}

/// Whether clients are accepted.
struct Listening {
    var isPaused = false
    /// There was no file descriptor for the last one, or no memory; or those that are left are kept for other things.
    var lacksRoom = false
    /// For good: Godwit ends, with the last client at the latest.
    var hasEnded = false

    var isOn: Bool { !isPaused && !lacksRoom }
}

/// How clients come in.
extension Worker {
    func listen(_ listener: consuming Listener) {
        let box = ListenerBox(listener, makeRegistration(.listener(listeners.count)))
        listeners.append(box)
        loop.register(box.listener.descriptor.raw, .read, as: box.registration)
    }

    func pauseListening(_ isPaused: Bool) {
        listening.isPaused = isPaused
        listeningChanged()
    }

    /// From time to time: somebody may have gone, and left room.
    func listenAgain() {
        if !listening.lacksRoom || lacksDescriptors { return }
        listening.lacksRoom = false
        listeningChanged()
    }

    /// The next one would be of the last, or there is none.
    private var lacksDescriptors: Bool {
        guard let box = listeners.first else { return false }
        guard let free = box.listener.duplicate() else { return true }
        let probe = SocketDescriptor(owning: free)
        return DescriptorReserve.has(probe.raw)
    }

    /// The kernel keeps those who connect meanwhile.
    private func listeningChanged() {
        for box in listeners {
            loop.modify(
                box.listener.descriptor.raw, Interest(reads: listening.isOn, writes: false), as: box.registration)
        }
    }

    func stopListening() {
        listening.hasEnded = true
        for box in listeners {
            loop.unregister(box.listener.descriptor.raw)
            // This batch may have an event for it still.
            dropRegistration(box.registration)
        }
        listeners = []
    }

    func accept(_ listener: borrowing Listener) {
        // Bounded: a storm of connections must not keep those that are there from being served.
        for _ in 0..<64 {
            switch listener.accept() {
            case .client(let descriptor, let address):
                let isLast = DescriptorReserve.has(descriptor.raw)
                if nextAdopter == index {
                    adopt(descriptor, address)
                } else {
                    peers[nextAdopter].post(.adopt(descriptor: descriptor.release(), address: address))
                }
                nextAdopter = (nextAdopter + 1) % peers.count
                if isLast {
                    return waitForRoom(
                        "no more clients for now: the last file descriptors are kept for servers and our own needs"
                            + Self.limitHint)
                }
            case .none:
                return
            case .failed(let code):
                let hint = code == EMFILE ? Self.limitHint : ""
                return waitForRoom(
                    "cannot accept a client: \(SocketError(operation: .accept, errno: code).reason)\(hint)")
            }
        }
    }

    private static let limitHint = " (LimitNOFILE= of the unit, ulimit -n)"

    /// The loop would be told of the same client again at once, and serve nobody else.
    private func waitForRoom(_ reason: String) {
        logger.warning("\(reason)")
        listening.lacksRoom = true
        listeningChanged()
    }
}
