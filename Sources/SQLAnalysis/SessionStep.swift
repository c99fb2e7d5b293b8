/// Where a transaction, or a part of one that can be undone, begins or ends.
package enum TransactionMark: Sendable, Equatable {
    case begin
    /// COMMIT (which may be answered by ROLLBACK) and PREPARE TRANSACTION.
    case commit(chains: Bool)
    case rollback(chains: Bool)
    /// Names as PostgreSQL's grammar gives them.
    case savepoint(String)
    case release(String)
    case rollbackTo(String)
}

/// One thing that a statement leaves in its session or does to its transaction.
package struct SessionStep: Sendable, Equatable {
    package enum Action: Sendable, Equatable {
        case effect(SessionEffect)
        case mark(TransactionMark)
    }

    /// Which statement, counted from 0.
    package var statement: Int
    package var action: Action

    package init(statement: Int, _ action: Action) {
        self.statement = statement
        self.action = action
    }
}
