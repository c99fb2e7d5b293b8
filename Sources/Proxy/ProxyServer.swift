import Capture
import Configuration
import Console
import Logging
import PGWire
import Primitives
import Reactor
import Shadowing
import Synchronization

/// The data plane as a whole: its reactor threads and how the control thread talks to them. Any thread.
package final class ProxyServer: Sendable {
    private let mailboxes: [Mailbox<WorkerMessage>]
    private let threads: [OwnThread]
    /// Requests of consoles, and word of workers that ended; taken by the control thread.
    package let control: Mailbox<ControlMessage>
    /// What reactors ask of threads that may wait, one mailbox for each of those.
    package let lookUps: [Mailbox<LookUpRequest>]
    private let current: Mutex<ProxySnapshot>
    /// What threads that have ended said last, by their numbers.
    private let lastFigures: LastFigures
    private let events: EventLog
    /// Where it listens: the ports are the kernel's choice where 0 was asked for.
    package let addresses: [SocketAddress]

    /// What `*` has made.
    package let autoDatabases: AutoDatabases
    private let predecessor: Predecessor

    /// Where clients are to connect. Resolves a name, which blocks.
    package static func addresses(_ listen: ListenSettings) -> [SocketAddress] {
        var wanted: [SocketAddress] = []
        if let address = SocketAddress.resolve(listening: listen.address, port: listen.port) { wanted.append(address) }
        if !listen.unixSocketDirectory.isEmpty {
            wanted.append(.unix(path: "\(listen.unixSocketDirectory)/.s.PGSQL.\(listen.port)"))
        }
        return wanted
    }

    /// Starts the threads, which accept clients from then on.
    ///
    /// - Parameters:
    ///   - gate: what is held from the first client on.
    ///   - hasPredecessor: another process, from which the sockets are, still has clients.
    package init(
        _ snapshot: ProxySnapshot, gate: TrafficGate = TrafficGate(), listeners: [ListenerHandle],
        hasPredecessor: Bool = false, events: EventLog, logger: Logger
    ) {
        let listen = snapshot.settings.listen
        addresses = listeners.map(\.address)
        let predecessor = Predecessor(isThere: hasPredecessor)
        self.predecessor = predecessor
        let control = Mailbox<ControlMessage>()
        let mailboxes = (0..<listen.threads).map { _ in Mailbox<WorkerMessage>() }
        // Taken before the first client's first word: a thread waits for both at once.
        if gate != TrafficGate() { for mailbox in mailboxes { mailbox.post(.gate(.apply(gate))) } }
        let clientCount = ClientCount()
        let lookUps = (0..<Worker.lookUpLanes).map { _ in Mailbox<LookUpRequest>() }
        self.control = control
        self.events = events
        self.lookUps = lookUps
        let ledger = ConnectionLedger(threads: listen.threads)
        let autoDatabases = AutoDatabases()
        self.autoDatabases = autoDatabases
        self.mailboxes = mailboxes
        let lastFigures = LastFigures()
        self.lastFigures = lastFigures
        current = Mutex(snapshot)
        threads = (0..<listen.threads).map { index in
            OwnThread(name: "godwit-\(index)") {
                let worker = Worker(
                    index: index, peers: mailboxes, control: control, lookUps: lookUps, snapshot: snapshot,
                    clientCount: clientCount, ledger: ledger, autoDatabases: autoDatabases,
                    predecessor: predecessor, events: events, logger: logger)
                if index == 0 {
                    for handle in listeners { if let listener = handle.take() { worker.listen(listener) } }
                }
                worker.run()
                // Said before the mailbox is looked at for the last time: who asks later finds the figures there.
                lastFigures.set(worker.makeFigures(), of: index)
                for case .report(let collection) in mailboxes[index].take() {
                    collection.add(worker.makeFigures(), of: index)
                }
            }
        }
    }

    package var threadCount: Int { threads.count }

    /// What was applied last.
    package var snapshot: ProxySnapshot { current.withLock { $0 } }

    package func apply(_ snapshot: ProxySnapshot) {
        current.withLock { $0 = snapshot }
        post(.apply(snapshot))
    }

    /// Gives what all threads say of themselves to `deliver`, on the thread of the last one that does.
    package func collectFigures(_ deliver: @escaping @Sendable (ProxyFigures) -> Void) {
        let snapshot = current.withLock { $0 }
        let collection = ReportCollection(threads: threads.count) { [events] figures in
            deliver(ProxyFigures(snapshot: snapshot, threads: figures, events: events.counts))
        }
        post(.report(collection))
        for (index, figures) in lastFigures.all { collection.add(figures, of: index) }
    }

    /// Answers a console's request.
    package func answer(worker: Int, client: ClientID, _ outcome: ControlOutcome) {
        mailboxes[worker].post(.controlDone(client: client, outcome))
    }

    /// A client whose open transaction's DDL was given up has to go.
    package func endFollowed(worker: Int, client: ClientID, change: UInt64, _ error: ErrorResponse) {
        mailboxes[worker].post(.endFollowed(client: client, change: change, error))
    }

    /// The answer to what a reactor asked.
    package func answer(_ request: LookUpRequest, _ answer: LookUpAnswer) {
        mailboxes[request.worker].post(.lookedUp(request.number, answer))
    }

    /// What an operator orders of all threads.
    package func order(_ action: GateControl.Action) { post(.gate(action)) }

    /// Traffic of its database is written down from now on.
    package func begin(_ session: CaptureSession) { post(.capture(session)) }

    package func end(_ session: CaptureSession) { post(.captureEnds(session)) }

    /// A sampled read of the database has run on both sides.
    package func noteCompared(_ sample: ShadowSample, in database: String, differs: Bool) {
        mailboxes[sample.worker].post(.compared(database: database, sample.statement, differs: differs))
    }

    // MARK: taking over, and being taken over

    package func pauseListening(_ isPaused: Bool) { mailboxes[0].post(.pauseListening(isPaused)) }

    /// Copies of the sockets on which clients are accepted, to be owned by `deliver`, which is called on a reactor's
    /// thread.
    package func shareListeners(_ deliver: @escaping @Sendable ([CInt]) -> Void) {
        mailboxes[0].post(.shareListeners(deliver))
    }

    /// A cancel request that another process has passed on: `ControlMessage.canceled` follows.
    package func cancel(processID: Int32, secret: [UInt8], by canceller: Canceller) {
        let owner = Int(max(processID, 0)) % mailboxes.count
        mailboxes[owner].post(.cancel(processID: processID, secret: secret, by: canceller))
    }

    /// A stray cancel request has been passed on, or there is nobody to pass it on to.
    package func cancelEnded(for canceller: Canceller) {
        if let number = canceller.passedOn { return control.post(.canceled(number: number)) }
        mailboxes[canceller.worker].post(.cancelEnded(canceller.client))
    }

    /// The process that we took over from has no clients any more.
    package func predecessorEnded() { predecessor.hasEnded() }

    /// Blocks until all threads have ended.
    package func join() { for thread in threads { thread.join() } }

    private func post(_ message: WorkerMessage) { for mailbox in mailboxes { mailbox.post(message) } }
}
