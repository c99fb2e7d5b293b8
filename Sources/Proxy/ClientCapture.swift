import Capture
import Console
import PGWire
import Primitives
import SQLAnalysis
import Synchronization
import Sessions

/// What one reactor writes down of its clients' traffic. Used on that reactor's thread.
struct WorkerCaptures {
    private var lanes: [CaptureLane] = []
    /// The latest of each database, running or not, for SHOW CAPTURE.
    private(set) var known: [CaptureSession] = []
    /// The one branch that clients meet while nothing is captured.
    private(set) var isCapturing = false
    /// Grows with each capture: clients that were asked for an earlier one are asked again.
    private(set) var generation: UInt32 = 0

    mutating func start(_ session: CaptureSession, thread: Int) {
        lanes.append(CaptureLane(session, thread: thread))
        known.removeAll { $0.database == session.database }
        known.append(session)
        generation &+= 1
        isCapturing = true
    }

    func lane(of database: String) -> CaptureLane? {
        lanes.first { $0.session.isRunning && $0.session.database == database }
    }

    /// Those that are to end.
    var stopped: [CaptureSession] { lanes.lazy.map(\.session).filter { !$0.isRunning } }

    func flush() { for lane in lanes { lane.flush() } }

    mutating func end(_ session: CaptureSession) {
        for lane in lanes where lane.session === session { lane.end() }
        lanes.removeAll { $0.session === session }
        isCapturing = !lanes.isEmpty
    }

    mutating func endAll() { for lane in lanes { end(lane.session) } }
}

extension Worker {
    /// Once a second: what has gathered goes to the file, and captures that have come to their end are let go of.
    func keepCaptures() {
        if !captures.isCapturing { return }
        for session in captures.stopped { endCapture(session) }
        captures.flush()
    }

    func endCapture(_ session: CaptureSession) {
        for client in clients.values where client.tap?.lane.session === session { client.tap = nil }
        captures.end(session)
    }
}

extension ClientConnection {
    /// - Parameter isQuiet: nothing that came before is waiting to be looked at.
    func captureReceived(_ bytes: UnsafeRawBufferPointer, isQuiet: Bool) {
        if tap == nil && captureAsked != worker.captures.generation && isQuiet { joinCapture() }
        tap?.received(bytes, at: worker.now)
    }

    /// A capture takes a connection between two units and outside of transactions: only there what its session holds
    /// can be told.
    private func joinCapture() {
        guard let database, isBetweenTransactions else { return }
        captureAsked = worker.captures.generation
        guard let lane = worker.captures.lane(of: databaseName), lane.wants(id.value) else { return }
        var connection = CapturedConnection(
            user: user, database: databaseName, applicationName: applicationName,
            settings: settings.entries.map { .init(name: $0.name, statement: $0.statement) })
        for (name, value) in keyValues.current.sorted(by: { $0.key < $1.key }) where KeyValues.isOurs(name) {
            var setting = SessionSettings()
            setting.set(name: name, value: value)
            for entry in setting.entries {
                connection.settings.append(.init(name: entry.name, statement: entry.statement))
            }
        }
        // As its database or its role has it: a reader must know what a backslash is.
        let strings = "standard_conforming_strings"
        if !hasStandardStrings && !connection.settings.contains(where: { $0.name == strings }) {
            connection.settings.append(.init(name: strings, statement: "SET \(strings) TO off"))
        }
        connection.isJoined = connectedAt < lane.session.beganAt
        connection.hasUnknownState = pin != nil && pin != .poolMode
        var prepared = statements.named.map { $0.name + [0] + database.statements[$0.statement].parseBody }
        if let unnamed { prepared.append([0] + unnamed.parseBody) }
        tap = CaptureTap(lane, connection, prepared: prepared, at: worker.now)
    }

    private var isBetweenTransactions: Bool {
        switch phase {
        case .idle: lazy == nil
        // A batch that is answered up to its Flush has portals, and a transaction that no ReadyForQuery tells of.
        case .leased: server.map { $0.session.isFree && unit.byteCount == 0 && passToServer == 0 } ?? false
        case .login, .handshake, .cancelling, .greeting, .waiting, .held, .awaitingHorizon, .changing,
            .applyingSettings, .console, .consoleWaiting, .closed:
            false
        }
    }
}

extension ConsoleTables {
    /// One line per database that is or was captured.
    func captureTable() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("file"), .init("state"), .init("reason"), .init("since_s", .bigint),
            .init("sample_percent", .numeric), .init("connections", .bigint), .init("dropped", .bigint),
            .init("records", .bigint), .init("record_bytes", .bigint), .init("file_bytes", .bigint),
            .init("digest"), .init("redact"),
        ])
        let now = MonotonicInstant.now()
        for session in captures.sorted(by: { $0.database < $1.database }) {
            table.append([
                session.database, session.path, session.state.rawValue, session.reason,
                "\(now.nanoseconds(since: session.beganAt) / 1_000_000_000)",
                Self.percent(session.options.sampleHundredths),
                "\(session.connections.load(ordering: .relaxed))", "\(session.dropped.load(ordering: .relaxed))",
                "\(session.records.load(ordering: .relaxed))", "\(session.recordBytes.load(ordering: .relaxed))",
                "\(session.fileBytes.load(ordering: .relaxed))", session.options.withDigest ? "yes" : "no",
                session.options.isRedacted ? "yes" : "no",
            ])
        }
        return table
    }
}
