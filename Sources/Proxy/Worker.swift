import Capture
import Configuration
import Console
import Digests
import Logging
import PGWire
import Pooling
import Primitives
import Reactor
import Routing
import SQLAnalysis
import Sessions

/// One reactor thread: its event loop, clients, servers and pools. Everything in it is touched by this thread only;
/// other threads reach it through its mailbox.
final class Worker {
    /// What a registration stands for.
    enum Slot {
        case free(next: Int)
        case listener(Int)
        case mailbox
        /// `clients` and `servers`, and what was closed in this batch, hold on to them.
        case client(Unmanaged<ClientConnection>)
        case server(Unmanaged<ServerConnection>)
        case cancel(CancelConnection)
        case ping(SidePing)
    }

    enum TimerToken {
        case housekeeping
        case clientLogin(ClientID)
        case greeting(ClientID)
        /// A client may have taken nothing of its goodbye.
        case farewell(ClientID, left: Int)
        case serverLogin(ServerID)
        /// See `retire`.
        case retired(ServerID)
        /// Waiters may have waited too long, or a pause after failures may be over.
        case pool(PoolEntry)
        /// A read has waited for NEW as long as it may.
        case horizonWait(ClientID, wait: UInt64)
        /// A commit has waited for NEW as long as it may.
        case commitWait(ClientID, wait: UInt64)
        /// A unit has been held for as long as a client waits for a server.
        case held(ClientID, token: UInt64)
        /// Writes of a database wait until it is known again who takes them.
        case lease(String)
        /// Reads may have waited for the other side for too long.
        case readCheck
        /// By its registration: the timer must not keep a connection, and with it a socket, that has ended.
        case cancel(Registration)
        case ping(Registration)
        /// The authority is asked once more whether it answers.
        case pingAgain(String)
        case abandoned(ServerID)
    }

    /// Bytes read at once. One buffer per thread: a connection keeps bytes only while a message is not whole.
    static let receiveBufferSize = 64 * 1024
    private static let housekeepingSeconds = 1.0

    let index: Int
    let logger: Logger
    let loop = EventLoop()
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: receiveBufferSize, alignment: 16)
    /// For what is sent under other names than it came with.
    let renamed = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 16)
    /// What the TLS connections of this thread share.
    let scratch = TLSScratch(plaintextBytes: receiveBufferSize)
    let peers: [Mailbox<WorkerMessage>]
    let control: Mailbox<ControlMessage>
    let lookUps: [Mailbox<LookUpRequest>]
    private(set) var snapshot: ProxySnapshot

    private var slots: [Slot] = []
    private var generations: [UInt32] = []
    private var freeSlot = -1
    private var timers: TimerWheel<TimerToken>
    /// Batches of events, by which statements are analysed.
    private let turns = AnalysisTurns()
    /// The time when the present batch of events was taken.
    private(set) var now = MonotonicInstant.now()

    var clients: [ClientID: ClientConnection] = [:]
    /// By the process number in the client's cancel key.
    var clientsByKey: [Int32: ClientConnection] = [:]
    var servers: [ServerID: ServerConnection] = [:]
    var databases = NameTable<DatabaseState>()
    var pools: [PoolKey: PoolEntry] = [:]
    /// When other threads are asked for servers: sooner than the timers' tick.
    var sharesAt: MonotonicInstant?
    /// Pools in which a server may have become free for a waiting client since the batch began.
    private var poolsToServe: [PoolEntry] = []
    /// Clients whose kept bytes can go on since the batch began.
    private var clientsToResume: [ClientConnection] = []
    /// Its memory, while those are resumed that were in it.
    private var clientsResumed: [ClientConnection] = []
    /// Connections that were closed in this batch: freed at its end, when nobody above them on the stack uses them.
    private var closedClients: [ClientConnection] = []
    private var closedServers: [ServerConnection] = []
    var consoleRequests = ConsoleRequests()
    /// What operators hold, and what they wait for.
    var gate = TrafficGate()
    /// When it last ended that nothing is read.
    var resumedAt = MonotonicInstant(nanoseconds: 0)
    var watches: [UInt64: GateCondition] = [:]
    /// What auth_query has answered.
    var secrets: SecretCache
    /// What of the traffic is written down.
    var captures = WorkerCaptures()
    var spareBuffers = SpareBuffers(), spareUnits = SpareUnits(), randomBytes = RandomBytes()
    var startups = StartupMemory()
    /// Memory for a pipeline's statements, no more than `LoneStatement.countMax` of them; empty.
    var spareStatements: [LoneStatement] = []
    /// Of the text that is looked at next, where that was done already: see `ClientConnection.processLone`.
    var analysedAhead: (AnalysedStatement, StatementKey?)?
    /// A look at the reads that wait for the other side is scheduled.
    var isWatchingReads = false
    var horizonWaiters: [HorizonWaiter] = []
    var commitWaiters: [HorizonWaiter] = []

    struct HorizonWaiter {
        let client: ClientConnection
        let batch: UInt64
        let horizon: Horizon
        /// The client may have given this wait up, and be at another one.
        let wait: UInt64
    }

    private var lastID: UInt64 = 0
    private var lastCancelKey: Int32 = 0
    private var lastToken: UInt64 = 0
    /// Worker 0 listens and gives clients to all in turn.
    var listeners: [ListenerBox] = []
    var nextAdopter = 0
    var listening = Listening()
    private(set) var isDraining = false
    private var isStopped = false
    private let sharedClientCount: ClientCount
    /// What counts over all threads.
    let ledger: ConnectionLedger
    let autoDatabases: AutoDatabases
    let predecessor: Predecessor
    let events: EventLog
    /// Bytes of a message that the configuration lets through.
    private(set) var packetMax: Int
    private(set) var tcpOptions: TCPOptions

    init(
        index: Int, peers: [Mailbox<WorkerMessage>], control: Mailbox<ControlMessage>,
        lookUps: [Mailbox<LookUpRequest>], snapshot: ProxySnapshot, clientCount: ClientCount,
        ledger: ConnectionLedger, autoDatabases: AutoDatabases, predecessor: Predecessor, events: EventLog,
        logger: Logger
    ) {
        self.index = index
        self.peers = peers
        self.control = control
        self.lookUps = lookUps
        self.snapshot = snapshot
        secrets = SecretCache(lifeNanos: snapshot.settings.auth.cacheNanos)
        self.logger = logger
        sharedClientCount = clientCount
        self.ledger = ledger
        self.autoDatabases = autoDatabases
        self.predecessor = predecessor
        self.events = events
        packetMax = snapshot.settings.listen.packetSizeMax
        tcpOptions = TCPOptions(snapshot.settings.listen.tcp)
        timers = TimerWheel(now: now)
        for route in snapshot.databases.values { _ = add(route) }
        let registration = makeRegistration(.mailbox)
        loop.register(peers[index].descriptor, .read, as: registration)
        schedule(.housekeeping, at: now.advanced(bySeconds: Self.housekeepingSeconds))
    }

    deinit {
        buffer.deallocate()
        renamed.deallocate()
    }

    // MARK: the loop

    /// Runs until it is told to stop, or has drained.
    func run() {
        while !isStopped {
            loop.wait(timeoutMillis: timeoutMillis(), begin: beginBatch) { registration, readable, writable in
                dispatch(registration, readable: readable, writable: writable)
            }
            for token in timers.expire(now: now) { fire(token) }
            if let sharesAt, sharesAt <= now { askOthers() }
            finishBatch()
            if !watches.isEmpty { checkWatches() }
        }
        for client in clients.values {
            if client.isConsole { client.sayGoodbye() }
            client.close()
        }
        for server in servers.values { server.closeSocket() }
        captures.endAll()
        control.post(.workerEnded(index))
    }

    private func timeoutMillis() -> Int32 {
        let now = MonotonicInstant.now()
        let timeout = timers.timeoutMillis(now: now)
        guard let sharesAt else { return timeout }
        let pause = sharesAt <= now ? 0 : Int32((sharesAt.nanoseconds - now.nanoseconds) / 1_000_000) + 1
        return timeout < 0 ? pause : min(timeout, pause)
    }

    private func beginBatch() {
        now = MonotonicInstant.now()
        turns.begin()
    }

    /// Servers are handed on and clients go on once per batch: fewer wake-ups, and no recursion between connections.
    private func finishBatch() {
        var rounds = 0
        while !poolsToServe.isEmpty || !clientsToResume.isEmpty {
            while let entry = poolsToServe.popLast() {
                entry.isToBeServed = false
                serve(entry)
            }
            swap(&clientsToResume, &clientsResumed)
            // A console is no database's, and goes on while all others stand still.
            for client in clientsResumed where !gate.isSuspended || client.database == nil { client.resume() }
            clientsResumed.removeAll(keepingCapacity: true)
            rounds += 1
            // Clients that never run dry must not keep the thread from its sockets.
            if rounds >= 8 && !clientsToResume.isEmpty {
                signal(eventDescriptor: peers[index].descriptor)
                break
            }
        }
        closedClients.removeAll(keepingCapacity: true)
        closedServers.removeAll(keepingCapacity: true)
    }

    @inline(__always)
    private func dispatch(_ registration: Registration, readable: Bool, writable: Bool) {
        let place = Int(registration.slot)
        guard generations[place] == registration.generation else { return }
        switch slots[place] {
        // unsafe: see Slot. A strong reference would be counted up and down for each event.
        case .client(let client):
            client._withUnsafeGuaranteedRef {
                if writable { $0.onWritable() }
                if readable { $0.onReadable() }
            }
        case .server(let server):
            server._withUnsafeGuaranteedRef {
                if writable { $0.onWritable() }
                if readable { $0.onReadable() }
            }
        case .cancel(let cancel):
            cancel.onReady(readable: readable, writable: writable)
        case .ping(let ping):
            ping.onReady()
        case .listener(let index):
            accept(listeners[index].listener)
        case .mailbox:
            for message in peers[index].take() { handle(message) }
            checkHorizons()
            checkCommits()
        case .free:
            break
        }
    }

    // MARK: registrations, identities, timers

    /// - Parameter comesFirst: servers do: a query that comes together with the end of an idle one is another's then.
    func makeRegistration(_ slot: Slot, comesFirst: Bool = false) -> Registration {
        if freeSlot < 0 {
            slots.append(slot)
            generations.append(0)
            return Registration(slot: UInt32(slots.count - 1), generation: 0, comesFirst: comesFirst)
        }
        let place = freeSlot
        guard case .free(let next) = slots[place] else { preconditionFailure("a used slot in the free list") }
        freeSlot = next
        slots[place] = slot
        return Registration(slot: UInt32(place), generation: generations[place], comesFirst: comesFirst)
    }

    /// Puts its connection into a slot that was made before the connection existed.
    func fill(_ registration: Registration, _ slot: Slot) { slots[Int(registration.slot)] = slot }

    /// Events that are still queued for it meet another generation.
    func dropRegistration(_ registration: Registration) {
        let place = Int(registration.slot)
        precondition(generations[place] == registration.generation, "a registration dropped twice")
        generations[place] &+= 1
        slots[place] = .free(next: freeSlot)
        freeSlot = place
    }

    func nextID() -> UInt64 {
        lastID += 1
        return lastID
    }

    /// Tells one unnamed statement from the next.
    func nextToken() -> UInt64 {
        lastToken += 1
        return lastToken
    }

    /// A process number that tells which worker has the client: number mod workers.
    func nextCancelKey() -> Int32 {
        let count = Int32(peers.count)
        repeat {
            lastCancelKey = lastCancelKey >= Int32.max / count - 1 ? 1 : lastCancelKey + 1
        } while clientsByKey[lastCancelKey * count + Int32(index)] != nil
        return lastCancelKey * count + Int32(index)
    }

    func schedule(_ token: TimerToken, at deadline: MonotonicInstant) { timers.schedule(token, at: deadline) }

    func serveLater(_ entry: PoolEntry) {
        if entry.isToBeServed { return }
        entry.isToBeServed = true
        poolsToServe.append(entry)
    }

    func resumeLater(_ client: ClientConnection) { clientsToResume.append(client) }

    func keepUntilBatchEnds(_ client: ClientConnection) { closedClients.append(client) }
    func keepUntilBatchEnds(_ server: ServerConnection) { closedServers.append(server) }

    private func fire(_ token: TimerToken) {
        switch token {
        case .housekeeping:
            keepHouse()
            listenAgain()
            schedule(.housekeeping, at: now.advanced(bySeconds: Self.housekeepingSeconds))
        case .clientLogin(let id):
            clients[id]?.loginTimedOut()
        case .greeting(let id):
            clients[id]?.greetingTimedOut()
        case .farewell(let id, let left):
            clients[id]?.farewellGoesOn(left: left)
        case .serverLogin(let id):
            servers[id]?.loginTimedOut()
        case .retired(let id):
            servers[id]?.close()
        case .pool(let entry):
            entry.timerAt = nil
            if !gate.isSuspended { expireWaiters(entry) }
            serveLater(entry)
        case .horizonWait(let id, let wait):
            if let client = clients[id], client.horizonWait == wait { client.horizonReached(nil) }
        case .cancel(let registration):
            if case .cancel(let cancel) = slots[Int(registration.slot)],
                generations[Int(registration.slot)] == registration.generation
            {
                cancel.timedOut()
            }
        case .ping(let registration):
            if case .ping(let ping) = slots[Int(registration.slot)],
                generations[Int(registration.slot)] == registration.generation
            {
                ping.timedOut()
            }
        case .pingAgain(let name):
            if let database = databases[name] { pingAgain(database) }
        case .abandoned(let id):
            servers[id]?.cancelAbandoned()
        case .commitWait(let id, let wait):
            if let client = clients[id], client.commitWait == wait { client.commitReached(inTime: false) }
        case .held(let id, let token):
            if let client = clients[id], client.holdToken == token { client.holdTimedOut() }
        case .lease(let name):
            if let database = databases[name] { lookAtLease(database) }
        case .readCheck:
            checkReads()
        }
    }

    private func keepHouse() {
        expireServers()
        keepPools()
        forgetAutoDatabases()
        // What stands still by order does not run out of time.
        if !gate.isSuspended { for client in clients.values { client.checkTime() } }
        watchPins()
        keepCaptures()
        watchHealth()
        for database in databases.values { database.turnPeriod(now: now) }
    }

    // MARK: messages

    private func handle(_ message: WorkerMessage) {
        switch message {
        case .adopt(let descriptor, let address):
            adopt(SocketDescriptor(owning: descriptor), address)
        case .apply(let next):
            apply(next)
        case .cancel(let processID, let secret, let canceller):
            cancel(processID: processID, secret: secret, by: canceller)
        case .cancelEnded(let client):
            clients[client]?.close()
        case .collect(let request, let from):
            peers[from].post(.collected(request: request, makeReport()))
        case .collected(let request, let report):
            consoleRequests.collected(request, report, on: self)
        case .report(let collection):
            collection.add(makeFigures(), of: index)
        case .controlDone(let client, let outcome):
            clients[client]?.controlDone(outcome)
        case .lookedUp(let number, let answer):
            lookedUp(number, answer)
        case .slotsFreed:
            for entry in pools.values where entry.pool.waitingCount > 0 { serveLater(entry) }
        case .evict(let database, let user, let side):
            _ = evictIdle(database: database, user: user, side: side, but: nil)
        case .serverWanted(let key, let thread):
            serverWanted(key, by: thread)
        case .serverMoved(let moved):
            serverMoved(moved)
        case .placesFreed(let key):
            if let entry = pools[key] { serveLater(entry) }
        case .gate(let action):
            perform(action)
        case .killClient(let client, let from, let console):
            killClient(client, from: from, console: console)
        case .sideTripped(let database, let side):
            sideTripped(database, side)
        case .spelled(let database, let values):
            databases[database]?.note(values)
        case .shapeDemoted(let database, let shape, let cause):
            databases[database]?.shapes.demote(shape, because: cause, now: now)
        case .compared(let name, let statement, let differs):
            if let database = databases[name] { noteCompared(database, statement, differs: differs) }
        case .capture(let session):
            captures.start(session, thread: index)
        case .captureEnds(let session):
            endCapture(session)
        case .endFollowed(let client, let change, let error):
            clients[client]?.endFollowed(change, error)
        case .pauseListening(let isPaused):
            pauseListening(isPaused)
        case .shareListeners(let deliver):
            // Those who accept are asked; after the end of listening there is nothing to share.
            if index == 0 { deliver(listeners.compactMap { $0.listener.duplicate() }) }
        }
    }

    private func apply(_ next: ProxySnapshot) {
        let routes = databases.mapValues(\.route)
        let generations = databases.mapValues(\.statements.generation)
        snapshot = next
        packetMax = next.settings.listen.packetSizeMax
        tcpOptions = TCPOptions(next.settings.listen.tcp)
        secrets.forget(lifeNanos: next.settings.auth.cacheNanos)
        for (name, state) in databases.pairs {
            if let route = next.databases[name] {
                if state.isAuto { autoDatabases.leave(name) }
                state.isAuto = false
                state.apply(route)
                // Behind a switch it is another mirror's, and knows nobody yet.
                if route.horizon !== routes[name]?.horizon {
                    route.horizon.wakeAfterBatches(peers[index].descriptor)
                }
            } else if state.isAuto, let template = next.wildcard, let route = autoDatabases.route(name, template) {
                state.apply(route)
            } else {
                databases[name] = nil
                if state.isAuto { autoDatabases.leave(name) }
                for client in clients.values where client.database === state { client.databaseWasRemoved() }
            }
        }
        for route in next.databases.values where databases[route.name] == nil { _ = add(route) }
        for client in clients.values {
            client.keySourcesChanged()
            client.limitsChanged()
            if let state = client.database, generations[state.name] != state.statements.generation {
                client.analysisOutdated()
            }
        }
        retireServers(previous: routes)
        for client in clients.values {
            guard let state = client.database, let before = routes[state.name] else { continue }
            if before.authority != state.authority { client.authorityChanged() }
        }
    }

    func add(_ route: DatabaseRoute) -> DatabaseState {
        let state = DatabaseState(route, turns)
        state.onSchemaChange = { [control] name in control.post(.schemaChanged(database: name)) }
        databases[route.name] = state
        state.hold = gate.hold(of: route.name)
        route.horizon.wakeAfterBatches(peers[index].descriptor)
        return state
    }

    func stop() { isStopped = true }

    func drain() {
        if isDraining { return }
        isDraining = true
        stopListening()
        for client in clients.values { client.drain() }
    }

    // MARK: clients come in

    func adopt(_ descriptor: consuming SocketDescriptor, _ address: SocketAddress) {
        descriptor.apply(tcpOptions, for: address)
        let client = ClientConnection(ClientID(nextID()), descriptor, address, worker: self)
        clients[client.id] = client
        client.start(sharedClientCount.enter(max: snapshot.settings.listen.clientsMax))
        if isDraining { client.drain() }
    }

    func clientClosed(_ client: ClientConnection) {
        // First, for nobody else may hold on to it.
        keepUntilBatchEnds(client)
        clients[client.id] = nil
        if let key = client.cancelKey { clientsByKey[key] = nil }
        sharedClientCount.leave()
    }

    // MARK: cancel requests

    /// A cancel request came in on a connection of its own; the client that it is for may be another thread's.
    func cancelRequested(processID: Int32, secret: [UInt8], by requester: ClientConnection) {
        let canceller = Canceller(worker: index, client: requester.id)
        guard processID > 0 else { return requester.close() }
        let owner = Int(processID) % peers.count
        if owner == index {
            cancel(processID: processID, secret: secret, by: canceller)
        } else {
            peers[owner].post(.cancel(processID: processID, secret: secret, by: canceller))
        }
    }

    private func cancel(processID: Int32, secret: [UInt8], by canceller: Canceller) {
        if let client = clientsByKey[processID], Digest.equal(client.cancelSecret.bytes, secret),
            client.cancelRunning(for: canceller)
        {
            return
        }
        if predecessor.mayHaveClients {
            return control.post(.strayCancel(processID: processID, secret: secret, by: canceller))
        }
        cancelEnded(for: canceller)
    }

    func cancelEnded(for canceller: Canceller) {
        if let number = canceller.passedOn {
            control.post(.canceled(number: number))
        } else if canceller.worker == index {
            clients[canceller.client]?.close()
        } else {
            peers[canceller.worker].post(.cancelEnded(canceller.client))
        }
    }
}
