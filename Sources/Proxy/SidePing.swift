import Configuration
import Logging
import PGWire
import Pooling
import Primitives
import Reactor
import Routing

/// Asks whether a side still answers anything, while all of our servers there are at work and none has answered for a
/// while: long statements look the same as a server that hangs. It connects, asks for TLS, and goes with the one byte
/// that even a server without a free place answers; nothing is logged there. Used on its reactor's thread.
final class SidePing {
    private let socket: SocketDescriptor
    private let registration: Registration
    private let worker: Worker
    private let database: DatabaseState
    private let endpoint: ServerEndpoint
    private var hasAsked = false
    private var isDone = false

    /// Starts it; it owns itself through its registration until it is done.
    ///
    /// - Parameter seconds: without an answer after that it counts as a failure.
    static func start(_ database: DatabaseState, seconds: Double, on worker: Worker) {
        let endpoint = database.route.endpoint(database.authority)
        guard let address = endpoint.address else { return }
        do throws(SocketError) {
            let socket = try SocketDescriptor.connect(to: address)
            let ping = SidePing(socket, database, endpoint, worker)
            database.ping = ping
            worker.fill(ping.registration, .ping(ping))
            worker.loop.register(ping.socket.raw, .write, as: ping.registration)
            worker.schedule(.ping(ping.registration), at: worker.now.advanced(bySeconds: seconds))
        } catch {
            worker.pingFailed(database, endpoint, error.reason, isLate: false)
        }
    }

    private init(
        _ socket: consuming SocketDescriptor, _ database: DatabaseState, _ endpoint: ServerEndpoint, _ worker: Worker
    ) {
        self.socket = socket
        self.database = database
        self.endpoint = endpoint
        self.worker = worker
        registration = worker.makeRegistration(.mailbox)
    }

    func onReady() {
        if !hasAsked {
            let code = socket.connectError()
            if code != 0 { return fail(SocketError(operation: .connect, errno: code).reason) }
            // Eight bytes: the kernel takes them whole.
            guard case .bytes = StartupPacket.sslRequestBytes.withUnsafeBytes({ socket.send($0) }) else {
                return fail("it takes no request")
            }
            hasAsked = true
            return worker.loop.modify(socket.raw, .read, as: registration)
        }
        switch socket.receive(into: worker.buffer) {
        case .bytes:
            end()
            worker.pingAnswered(database)
        case .wouldBlock: break
        case .closed: fail("it closed the connection")
        case .failed(let code): fail(SocketError(operation: .connect, errno: code).reason)
        }
    }

    func timedOut() {
        if !isDone { fail("no answer, and none from \(endpoint.side) to anything else", isLate: true) }
    }

    private func fail(_ reason: String, isLate: Bool = false) {
        end()
        worker.pingFailed(database, endpoint, reason, isLate: isLate)
    }

    private func end() {
        if isDone { return }
        isDone = true
        if database.ping === self { database.ping = nil }
        worker.loop.unregister(socket.raw)
        worker.dropRegistration(registration)
    }
}

extension Worker {
    /// Without an answer of the authority for so long, while somebody waits for a server, it is asked.
    private static let silenceSeconds = 1.0
    private static let pingSecondsMin = 0.2

    /// Once a second, and after each ping that failed.
    func watchSilence() {
        // One pass over the pools, however many databases there are.
        var silent: [ObjectIdentifier: DatabaseState] = [:]
        for entry in pools.values where isSilent(entry) { silent[ObjectIdentifier(entry.database)] = entry.database }
        for database in silent.values where database.ping == nil && !database.isPingDue { ping(database) }
    }

    /// Somebody waits, all servers are at work, and nothing comes.
    private func isSilent(_ entry: PoolEntry) -> Bool {
        let (database, limit) = (entry.database, Self.silenceSeconds)
        guard entry.key.side == database.authority, entry.pool.idleCount == 0,
            entry.pool.leasedCount == entry.pool.serverCount, hasServersAtWork(entry),
            now >= database.authorityAnsweredAt.advanced(bySeconds: limit)
        else { return false }
        if database.health.isAuthorityDown { return true }
        return entry.pool.oldestWaiter().map { now >= $0.advanced(bySeconds: limit) } ?? false
    }

    private func ping(_ database: DatabaseState) {
        SidePing.start(database, seconds: pingSeconds(database), on: self)
    }

    /// So many in a row as the breaker wants to see, within the patience that clients are to have.
    private func pingSeconds(_ database: DatabaseState) -> Double {
        let settings = database.route.settings.breaker
        let share = settings.patienceSeconds / Double(settings.failures)
        return max(Self.pingSecondsMin, min(Self.silenceSeconds, share))
    }

    /// A ping that failed at once is not long ago: see `pingFailed`.
    func pingAgain(_ database: DatabaseState) {
        database.isPingDue = false
        guard database.ping == nil, !database.health.isAuthorityDown else { return }
        if pools.values.contains(where: { $0.database === database && isSilent($0) }) { ping(database) }
    }

    /// - Parameter isLate: it has taken all its time. One that failed sooner, maybe within `start` (there is no route,
    ///   or no descriptor), is followed by the next one only when that time is over: at once it would fail again, and
    ///   the patience that ends this never would, for the time of a turn stands still.
    func pingFailed(_ database: DatabaseState, _ endpoint: ServerEndpoint, _ reason: String, isLate: Bool) {
        let failure = connectFailure(endpoint, reason)
        tell(
            database, endpoint.side, .failure(isProbe: false),
            because: "all of its servers are silent: \(failure.message)")
        if database.health.isAuthorityDown || databases[database.name] !== database { return }
        if isLate { return pingAgain(database) }
        database.isPingDue = true
        schedule(.pingAgain(database.name), at: now.advanced(bySeconds: pingSeconds(database)))
    }

    func pingAnswered(_ database: DatabaseState) {
        // It is busy, and lives.
        database.authorityAnsweredAt = now
        answered(database, database.authority, isProbe: false)
    }
}
