import PGWire
import Primitives
import Reactor

/// A cancel request on its way to a server: a connection of its own, as the protocol wants it
/// (PROTOCOL-FLOW-CANCELING-REQUESTS). The server it is meant for is not handed on before this one is closed, so it
/// never hits the next client's query. Used on its reactor's thread.
final class CancelConnection {
    private let socket: SocketDescriptor
    private let registration: Registration
    private let worker: Worker
    private let target: ServerConnection
    private var out = SendQueue()
    private var hasSent = false

    /// Starts it; it owns itself through its registration until it is done.
    static func start(to target: ServerConnection, on worker: Worker) {
        guard let address = target.endpoint.address,
            let socket = try? SocketDescriptor.connect(to: address)
        else { return }
        _ = CancelConnection(socket, target, worker)
    }

    private init(_ socket: consuming SocketDescriptor, _ target: ServerConnection, _ worker: Worker) {
        self.target = target
        self.worker = worker
        let raw = socket.raw
        self.socket = socket
        registration = worker.makeRegistration(.mailbox)
        var writer = MessageWriter()
        writer.cancelRequest(processID: target.processID, secret: target.cancelSecret)
        out.append(writer.bytes)
        target.cancelStarted()
        worker.fill(registration, .cancel(self))
        worker.loop.register(raw, .write, as: registration)
    }

    func onReady(readable: Bool, writable: Bool) {
        if !hasSent {
            guard writable else { return }
            switch out.flush(to: socket) {
            case .bytes:
                hasSent = true
                worker.loop.modify(socket.raw, .read, as: registration)
            case .wouldBlock:
                return
            case .closed, .failed:
                end()
            }
            return
        }
        // The server closes when it has passed the request on.
        var ignored: UInt64 = 0
        let outcome = withUnsafeMutableBytes(of: &ignored) { socket.receive(into: $0) }
        switch outcome {
        case .bytes, .wouldBlock: return
        case .closed, .failed: end()
        }
    }

    private func end() {
        worker.loop.unregister(socket.raw)
        worker.dropRegistration(registration)
        target.cancelEnded()
    }
}
