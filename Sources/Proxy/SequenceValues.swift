import PGWire
import Primitives
import SQLAnalysis
import Sessions
import Synchronization

/// Whose values `currval` and `lastval` may tell on a server. Used on its reactor's thread.
enum SequenceHolder {
    /// None was drawn since the login, or since they were discarded.
    case nobody
    /// Only this client may have drawn some.
    case client(ClientID)
    case several

    mutating func mayBeDrawn(by client: ClientID) {
        switch self {
        case .nobody: self = .client(client)
        case .client(client), .several: break
        case .client: self = .several
        }
    }

    /// Others' values may be among them.
    func isForeign(to client: ClientID) -> Bool {
        switch self {
        case .nobody, .client(client): false
        case .client, .several: true
        }
    }
}

/// Values of sequences belong to the session that drew them.
extension ClientConnection {
    /// What the unit writes may draw values.
    func noteDraws() {
        guard let server else { return }
        server.sequences.mayBeDrawn(by: id)
        sequenceServer = server.id
    }

    /// Before the unit: values of the server's other clients are not this one's to see, nor older ones of its own than
    /// it has drawn elsewhere. PostgreSQL says then that there is none yet.
    func discardsSequences(on server: ServerConnection) -> Bool {
        guard let database,
            unit.readsSequence || unit.mayWrite && database.sequenceReaders.areAsking || keepsServer
        else { return false }
        if unit.readsSequence { database.sequenceReaders.noteAsking() }
        if unit.readsEarlierSequence { database.sequenceReaders.note(user) }
        let isOwn = sequenceServer == server.id && !server.sequences.isForeign(to: id)
        if case .nobody = server.sequences { return false }
        if isOwn { return false }
        server.sequences = .nobody
        return true
    }

    /// From now on nobody else's values come to the server: what the client will have drawn there, it may ask for.
    private var keepsServer: Bool { !pins.isEmpty || unit.session.pins }

    /// - Returns: whether the message has to wait: others' values are there, and are discarded first.
    func waitsForValues(
        _ frame: FrontendFrame, _ bytes: UnsafeRawBufferPointer, _ run: inout ForwardRun, _ server: ServerConnection
    ) -> Bool {
        guard asksForOthersSequences(frame, bytes, server) else { return false }
        return waitsForAnswers(server) || discardSequences(&run, server)
    }

    /// The message asks for a value within a transaction that has drawn none, or may be the first to draw one, while
    /// the server has others' values.
    private func asksForOthersSequences(
        _ frame: FrontendFrame, _ bytes: UnsafeRawBufferPointer, _ server: ServerConnection
    ) -> Bool {
        // Behind an error the server runs nothing up to the Sync, and would not answer what we ask in between.
        guard server.sequences.isForeign(to: id), !transaction.hasWritten, server.session.status != .failed,
            !server.session.skipsNext, let database
        else { return false }
        if keepsServer && server.session.isQuiet { return true }
        var reader = BodyReader(UnsafeRawBufferPointer(rebasing: bytes[frame.bodyStart..<frame.end]))
        switch frame.tag {
        case FrontendTag.query: break
        case FrontendTag.parse: _ = reader.cString()
        case FrontendTag.bind:
            _ = reader.cString()
            guard let name = reader.cString() else { return false }
            if name.isEmpty { renewUnnamed(database) }
            let named = statements.find(name).map { database.analysis(of: $0).0 }
            return (name.isEmpty ? unnamed?.analysis : named).map { needsOwnValues($0, database) } ?? false
        case FrontendTag.functionCall: return database.sequenceReaders.areAsking
        default: return false
        }
        guard let text = reader.cString() else { return false }
        return needsOwnValues(database.analyse(text).0, database)
    }

    private func needsOwnValues(_ statement: AnalysedStatement, _ database: DatabaseState) -> Bool {
        let classification = statement.classification
        if classification.readsSequence { database.sequenceReaders.noteAsking() }
        return classification.readsSequence || classification.mayWrite && database.sequenceReaders.areAsking
    }

    /// Everything before it is answered, and what follows waits for its answer.
    ///
    /// - Returns: false when it cannot be done now.
    private func discardSequences(_ run: inout ForwardRun, _ server: ServerConnection) -> Bool {
        // A query would end a batch outside of transactions.
        guard server.session.isBetweenUnits || server.session.status == .inTransaction else { return false }
        var writer = MessageWriter()
        writer.query("DISCARD SEQUENCES")
        server.session.sent(.quietQuery)
        server.unnamedToken = 0
        server.sequences = .nobody
        run.insert(writer.bytes, server)
        repliesAwaited = 0
        return true
    }
}

/// Users whose sessions ask for values of sequences outside of the transaction that drew them: from then on, who may
/// have drawn one keeps its server. Shared by all threads: what one has learnt counts for all.
package final class SequenceReaders: Sendable {
    /// Users more than this are not noted.
    private static let usersMax = 1024

    /// Stands for all users where it is remembered; nobody has no name.
    private static let anybody = ""

    private let users: Mutex<Set<String>>
    /// Whether there are any.
    private let hasSome: Atomic<Bool>
    private let isAsked: Atomic<Bool>
    private let remember: @Sendable (String) -> Void

    /// - Parameters:
    ///   - known: from an earlier run.
    ///   - remember: called with each further one, on any thread; it must not wait.
    package init(known: [String] = [], remember: @escaping @Sendable (String) -> Void = { _ in }) {
        let named = known.filter { $0 != Self.anybody }
        users = Mutex(Set(named.prefix(Self.usersMax)))
        hasSome = Atomic(!named.isEmpty)
        isAsked = Atomic(!known.isEmpty)
        self.remember = remember
    }

    /// He has asked; on any thread.
    func note(_ user: String) {
        let isNew = users.withLock { $0.count < Self.usersMax && $0.insert(user).inserted }
        hasSome.store(true, ordering: .relaxed)
        if isNew { remember(user) }
    }

    /// Somebody asks for values of sequences, be it in the transaction that has drawn them. From then on others' values
    /// are discarded before a client writes, for then it may ask for one: what it has not drawn it is not to be told.
    var areAsking: Bool { isAsked.load(ordering: .relaxed) }

    func noteAsking() {
        if !areAsking && !isAsked.exchange(true, ordering: .relaxed) { remember(Self.anybody) }
    }

    func contains(_ user: String) -> Bool {
        hasSome.load(ordering: .relaxed) && users.withLock { $0.contains(user) }
    }
}
