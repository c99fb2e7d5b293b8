import Glibc
import LibPQ
import Primitives

/// DDL of a transaction that is a client's own on the source: this is the target's half, which goes ahead of it, one
/// statement after the other, and commits behind it. Confined to the thread that performs it.
///
/// Nothing of the source's half is ours, but for one thing: it is not committed before `mayCommit` has written down, on
/// the source, what the target is to have by then, with the numbers of both transactions. See `SchemaChange`.
package final class FollowedChange {
    private let change: SchemaChange
    private let client: SchemaChange.Client
    private let keys: [String: Set<ExactName>]
    private var record: SchemaChange.Record
    private var hasBegun = false
    /// What the transaction has set, as the target has it.
    private var localSettings = ""

    private struct Piece {
        /// A savepoint was set before it: the source may go back to one that it had there.
        var hasSavepoint: Bool
        var settingsBefore: String
        /// What the transaction has set, if that has changed, and the statement.
        var texts: [String]
        /// The commands' tags.
        var tags: [String] = []
    }

    /// What runs on the target, and stands on the source, in its order.
    private var pieces: [Piece] = []

    /// Alone among all that change or switch this database, and before anybody is held.
    ///
    /// - Parameter bulk: see `SchemaChange`.
    /// - Parameter order: its settings are those that the session had before the transaction.
    package static func open(
        _ direction: MirrorDirection, old: String, new: String, bulk: Set<TableName>, order: SchemaChange.Order,
        login: SchemaChange.Login
    ) throws(SchemaChange.Failure) -> FollowedChange {
        try FollowedChange(
            try SchemaChange.open(direction, old: old, new: new, bulk: bulk, login: login), order, login)
    }

    private init(
        _ change: SchemaChange, _ order: SchemaChange.Order, _ login: SchemaChange.Login
    ) throws(SchemaChange.Failure) {
        self.change = change
        // The client's own server is not asked: a session like it is.
        let order = try change.meant(order, login).order
        client = try change.client(change.direction.target, order, login)
        // What the source's transaction has made of the keys nobody else can see. The target's are the same.
        keys = try change.mirroredKeys(on: change.direction.target)
        record = SchemaChange.Record(order: order, known: try change.known(), takesAll: try change.takesAll())
    }

    /// Nobody else writes through this Godwit, and the target has all that is committed on the source.
    ///
    /// Whatever it throws, `goBack` can take back the statement alone, if it may be.
    ///
    /// - Parameter localSettings: SQL for what the transaction has set so far.
    /// - Parameter mayGoBack: `goBack` may be asked for what was before it.
    package func run(
        _ statement: String, localSettings: String, mayGoBack: Bool, until deadline: Deadline
    ) throws(SchemaChange.Failure) {
        var next = pieces.count
        let settings = localSettings == self.localSettings ? [] : [localSettings]
        pieces.append(Piece(
            hasSavepoint: mayGoBack, settingsBefore: self.localSettings, texts: settings + [statement]))
        self.localSettings = localSettings
        if try change.isAway(for: statement) {
            // Our own locks would be in its way: what ran before runs again, behind it.
            if hasBegun { client.rollBack() }
            hasBegun = false
            next = 0
            try change.putBack(for: statement, until: deadline)
        }
        for index in next..<pieces.count {
            pieces[index].tags = try onSide(client.side) { () throws(PostgresFailure) in
                try perform(index, until: deadline)
            }
        }
    }

    private func perform(_ index: Int, until deadline: Deadline) throws(PostgresFailure) -> [String] {
        if !hasBegun { try client.begin(locked: deadline, until: deadline, isOnTarget: true) }
        hasBegun = true
        if pieces[index].hasSavepoint { _ = try client.run("SAVEPOINT \(Self.savepoint(index))", until: deadline) }
        var tags: [String] = []
        for text in pieces[index].texts {
            try client.limit(locked: deadline, until: deadline)
            tags = try client.run(text, until: deadline)
        }
        return tags
    }

    private static func savepoint(_ index: Int) -> String { "godwit_\(index)" }

    /// The source has gone back to a savepoint: of its statements only the first so many stand.
    package func goBack(to count: Int, until deadline: Deadline) throws(SchemaChange.Failure) {
        if count == pieces.count { return }
        if count == 0 {
            rollBack()
            hasBegun = false
            localSettings = ""
            return pieces = []
        }
        guard count < pieces.count, pieces[count].hasSavepoint else {
            throw .blocked("\(change.direction.target.title) has no savepoint behind statement \(count) of it")
        }
        let name = Self.savepoint(count)
        _ = try onSide(client.side) { () throws(PostgresFailure) in
            try client.run("ROLLBACK TO SAVEPOINT \(name); RELEASE SAVEPOINT \(name)", until: deadline)
        }
        localSettings = pieces[count].settingsBefore
        pieces.removeSubrange(count...)
    }

    /// From now on the source may commit, and whatever happens then the target gets what it has.
    ///
    /// - Parameter transaction: the source's.
    package func mayCommit(
        _ transaction: String, before: (SchemaChange.Step) -> Void
    ) throws(SchemaChange.Failure) {
        try change.expect(keys, client)
        record.sourceTransaction = transaction
        guard try status() == .open else {
            throw .blocked("\(change.direction.source.title) has no such transaction open")
        }
        record.targetTransaction = try change.targetTransaction(client)
        record.order.statement = pieces.flatMap(\.texts).joined(separator: "\n;\n")
        before(.record)
        record.id = try change.write(record)
        before(.commitSource)
    }

    /// What has become of the source's transaction.
    package func status() throws(SchemaChange.Failure) -> SchemaChange.TransactionFate {
        try change.status(of: record.sourceTransaction, on: change.direction.source)
    }

    /// It goes on, or is rolled back: nothing is to be made good.
    package func takeBack() throws(SchemaChange.Failure) {
        if record.id == 0 { return }
        try change.forget(record)
        record.id = 0
    }

    /// The source has committed.
    ///
    /// - Parameter onCommitted: the target has it too, if it can be reached: writes may go on.
    package func commit(
        until deadline: Deadline, before: (SchemaChange.Step) -> Void, onCommitted: () -> Void
    ) -> SchemaChange.Outcome {
        before(.commitTarget)
        let tags = pieces.flatMap(\.tags)
        do throws(SchemaChange.Failure) {
            // The client may not wait for its commits to reach the disk. One of ours, which is behind it, does.
            try change.onSource("UPDATE godwit.change SET made_at = made_at WHERE id = \(record.id)")
        } catch {
            rollBack()
            return .halfDone(tags, reason: "\(error)")
        }
        return change.commitTarget(record, client, tags, until: deadline, before: before, onCommitted: onCommitted)
    }

    /// The target keeps nothing of it.
    package func rollBack() { if client.connection.isAtRest { client.rollBack() } }
}
