/// Where transactions begin and end in a text, or in a unit of several texts. A value, any thread.
package struct TransactionBorders: Sendable, Equatable {
    /// BEGIN or START TRANSACTION is in it.
    package private(set) var begins = false
    /// COMMIT, ROLLBACK or PREPARE TRANSACTION is.
    package private(set) var ends = false
    /// COMMIT or ROLLBACK AND CHAIN is.
    package private(set) var chains = false
    /// The first statement ends the transaction.
    package private(set) var endsFirst = false
    /// Behind an end comes more than reads and further ends.
    package private(set) var goesOn = false
    private var isEmpty = true

    package static let none = TransactionBorders()

    /// Of what could not be looked at: anything may be in it.
    package static let unknown: TransactionBorders = {
        var borders = TransactionBorders()
        borders.begins = true
        borders.ends = true
        borders.chains = true
        borders.goesOn = true
        borders.isEmpty = false
        return borders
    }()

    package init() {}

    /// Of one statement.
    init(_ kind: StatementKind, chains: Bool) {
        isEmpty = kind == .empty
        self.chains = chains
        switch kind {
        case .begin: begins = true
        case .commit, .rollback, .preparedTransaction:
            ends = true
            endsFirst = true
        case .empty, .read, .sideDependent, .write, .unknown, .multiple, .savepoint, .setTransaction, .set, .reset,
            .show, .prepare, .execute, .deallocate, .cursor, .listen, .unlisten, .discard:
            break
        }
    }

    /// A read comes behind all that was added before.
    package mutating func appendRead() {
        if isEmpty { endsFirst = false }
        isEmpty = false
    }

    /// What comes behind all that was added before.
    ///
    /// - Parameter isRead: it is surely a read.
    package mutating func append(_ next: TransactionBorders, isRead: Bool) {
        if next.isEmpty { return }
        let onlyEnds = next.ends && !next.begins && !next.goesOn && next.endsFirst
        if next.goesOn || ends && !isRead && !onlyEnds { goesOn = true }
        if isEmpty { endsFirst = next.endsFirst }
        isEmpty = false
        begins = begins || next.begins
        ends = ends || next.ends
        chains = chains || next.chains
    }
}
