import Configuration
import Logging
import PGWire
import Primitives
import Reactor
import Sessions

/// A cancel request on its way to a server: a connection of its own, as the protocol wants it
/// (PROTOCOL-FLOW-CANCELING-REQUESTS), encrypted as the server's own connection is. The server it is meant for is not
/// handed on before this one is closed, so it never hits the next client's query. Used on its reactor's thread.
final class CancelConnection {
    private enum State {
        case connecting, negotiating
        /// The request is on its way; the server closes when it has passed it on.
        case sent
        case ended
    }

    private var stream: ByteStream
    private var negotiation: ServerNegotiation
    private let registration: Registration
    private let worker: Worker
    private let target: ServerConnection
    private let request: [UInt8]
    private let canceller: Canceller?
    /// Requests on their way to one server at once; more would do no more.
    private static let perServerMax = 8
    private var state: State = .connecting

    /// Starts it; it owns itself through its registration until it is done, and tells `canceller` then; nil: nobody.
    ///
    /// - Returns: false when no request could be sent.
    static func start(to target: ServerConnection, on worker: Worker, for canceller: Canceller?) -> Bool {
        guard let address = target.endpoint.address, target.cancelsInFlight < perServerMax else { return false }
        do {
            _ = CancelConnection(try SocketDescriptor.connect(to: address), target, worker, canceller)
            return true
        } catch {
            worker.logger.warning("\(worker.connectFailure(target.endpoint, error.reason).message) to cancel a query")
            return false
        }
    }

    private init(
        _ socket: consuming SocketDescriptor, _ target: ServerConnection, _ worker: Worker, _ canceller: Canceller?
    ) {
        self.canceller = canceller
        self.target = target
        self.worker = worker
        let raw = socket.raw
        stream = ByteStream(socket)
        negotiation = ServerNegotiation(target.endpoint.tls, attempt: target.attempt)
        registration = worker.makeRegistration(.mailbox)
        var writer = MessageWriter()
        writer.cancelRequest(processID: target.processID, secret: target.cancelSecret)
        request = writer.bytes
        target.cancelStarted()
        worker.fill(registration, .cancel(self))
        worker.loop.register(raw, .write, as: registration)
        let limit = target.entry.database.route.settings.pool.serverConnectTimeoutSeconds
        if limit > 0 { worker.schedule(.cancel(registration), at: worker.now.advanced(bySeconds: limit)) }
    }

    /// The server's client is not kept waiting for a request that goes nowhere.
    func timedOut() {
        if state == .ended { return }
        let failure = worker.connectFailure(target.endpoint, "no answer within server_connect_timeout")
        worker.logger.warning("\(failure.message) to cancel a query")
        breakOff()
    }

    /// What was sent may arrive yet, whenever that is: the server is nobody else's then.
    private func breakOff() {
        if state == .sent { target.isOutdated = true }
        end()
    }

    func onReady(readable: Bool, writable: Bool) {
        if state == .connecting {
            guard writable else { return }
            state = .negotiating
            return take(negotiation.begin(&stream, worker))
        }
        if writable && !isGoingOn(stream.flush()) { return breakOff() }
        if readable && state == .negotiating { return take(negotiation.advance(&stream, worker)) }
        if readable {
            let outcome = stream.receive(into: worker.buffer)
            if case .failed = outcome { return breakOff() }
            if !isGoingOn(outcome) { return end() }
        }
        updateInterest()
    }

    private func take(_ step: ServerNegotiation.Step) {
        switch step {
        case .wait:
            updateInterest()
        case .open:
            state = .sent
            stream.queue(request)
            if isGoingOn(stream.flush()) { updateInterest() } else { breakOff() }
        case .failed(let reason, _):
            worker.logger.warning("\(worker.connectFailure(target.endpoint, reason).message) to cancel a query")
            end()
        }
    }

    private func isGoingOn(_ outcome: SocketDescriptor.Outcome) -> Bool {
        switch outcome {
        case .bytes, .wouldBlock: !stream.isAtEnd
        case .closed, .failed: false
        }
    }

    private func updateInterest() {
        worker.loop.modify(stream.socket.raw, Interest(reads: true, writes: !stream.isEmpty), as: registration)
    }

    private func end() {
        if state == .ended { return }
        state = .ended
        worker.loop.unregister(stream.socket.raw)
        worker.dropRegistration(registration)
        stream.shutdown()
        target.cancelEnded()
        if let canceller { worker.cancelEnded(for: canceller) }
    }
}
