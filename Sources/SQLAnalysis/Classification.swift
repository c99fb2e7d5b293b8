/// What one text of a client (a simple query, or the query of a Parse) is, as far as routing and pooling care.
/// Immutable, any thread.
package struct Classification: Sendable, Equatable {
    package var kind: StatementKind
    package var reason: ClassificationReason
    /// What is left in the server's session, in the order of the text. Mostly empty.
    package var effects: [SessionEffect] = []
    /// Calls of set_config whose value is a parameter; what they set is known with Bind.
    package var boundSettings: [BoundSetting] = []
    /// What it does to the transaction; nil for a text of several statements.
    package var mark: TransactionMark?
    /// Of several statements: their effects and marks in order. Empty when there are none.
    var stepsOfSeveral: [SessionStep] = []
    /// Of BEGIN, START TRANSACTION and SET TRANSACTION.
    package var transaction = TransactionOptions()
    /// COMMIT or ROLLBACK `AND CHAIN`.
    package var chains = false
    /// PREPARE TRANSACTION is in it.
    package var preparesTransaction = false
    /// The name in SHOW, PREPARE, EXECUTE, DEALLOCATE, DECLARE, FETCH, MOVE, CLOSE, LISTEN; lower case unless quoted.
    package var objectName: String?
    /// Names of prepared statements that PREPARE and EXECUTE use, also within EXPLAIN and CREATE TABLE AS, and that
    /// DEALLOCATE uses among several statements; as `objectName`.
    package var statementNames: [String] = []
    /// Statements in the text, empty ones not counted.
    package var statementCount = 1
    package var borders: TransactionBorders
    /// DDL: the catalog may look different afterwards.
    package var changesSchema = false
    /// DDL on what tables are made of, so that a mirror could lose touch with them; not on temporary ones.
    package var changesTables = false
    package var barrier: BarrierForm = .notNeeded
    /// The result comes as, or the statement waits for, a copy stream.
    package var copy: CopyDirection?
    /// It asks for the time at which the transaction began: now(), CURRENT_DATE and their kin.
    package var seesTransactionTime = false
    /// currval or lastval: it asks for what nextval has left in the session.
    package var readsSequence = false
    /// It reads a relation that NEW does not hold, or not as OLD does.
    package var readsUnmirrored = false
    /// DECLARE: it takes the snapshot that FETCH and MOVE go on with.
    package var declaresCursor = false
    /// Of several statements: one before that may have called nextval itself.
    package var drawsSequenceFirst = false
    /// Of several statements: none of them writes.
    package var isMixtureOfReads = false
    /// Its effects and mark by statement, in order.
    package var steps: [SessionStep] {
        if kind == .multiple { return stepsOfSeveral }
        return effects.map { SessionStep(statement: 0, .effect($0)) }
            + (mark.map { [SessionStep(statement: 0, .mark($0))] } ?? [])
    }
    /// It does nothing to its session or transaction.
    package var leavesNothing: Bool { effects.isEmpty && mark == nil && kind != .multiple && boundSettings.isEmpty }
    /// SQL's PREPARE is in it.
    package var preparesInSQL: Bool {
        effects.contains { if case .prepares = $0 { true } else { false } }
    }
    /// ROLLBACK TO SAVEPOINT is in it.
    package var rollsBackToSavepoint: Bool {
        steps.contains { if case .mark(.rollbackTo) = $0.action { true } else { false } }
    }
    /// DEALLOCATE ALL or DISCARD ALL is in it.
    package var dropsStatements: Bool {
        effects.contains { $0 == .deallocates(nil) || $0 == .discards(.all) }
    }
    /// COMMIT, ROLLBACK and prepared transactions aside: false only when it is sure that nothing was written.
    package var mayWrite: Bool { kind.mayWrite && !isMixtureOfReads }

    /// In a READ ONLY block that is not on the authority this must not run: it could make the block writable.
    package var mayLiftReadOnly: Bool {
        switch kind {
        case .setTransaction: transaction.readOnly != true
        case .set, .reset: objectName == nil || objectName == "transaction_read_only"
        case .discard, .unknown, .multiple: true
        case .empty, .read, .sideDependent, .write, .begin, .commit, .rollback, .savepoint, .preparedTransaction,
            .show, .prepare, .execute, .deallocate, .cursor, .listen, .unlisten:
            false
        }
    }

    package init(_ kind: StatementKind, _ reason: ClassificationReason) {
        self.kind = kind
        self.reason = reason
        borders = kind == .unknown ? .unknown : TransactionBorders(kind, chains: false)
    }
}

/// Which way the data of a COPY goes that is of the protocol, not of a file on the server.
package enum CopyDirection: UInt8, Sendable { case fromStdin, toStdout }

/// The verdict. Only `read` may be answered by the side that is not the authority.
@usableFromInline @frozen package enum StatementKind: UInt8, Sendable, CaseIterable {
    /// Nothing but blanks, comments and semicolons.
    case empty
    /// Surely a read, with the same answer on both sides when both hold the same data.
    case read
    /// Writes nothing, but its answer belongs to one server: catalogs, statistics, system columns, transaction ids.
    case sideDependent
    /// Anything that writes, locks or calls what is not known to be harmless.
    case write
    /// Refused by the grammar, too long, too deep, not text, or beyond the parsing budget.
    case unknown
    /// Several statements in one text: the authority's, whatever they are.
    case multiple
    case begin, commit, rollback
    /// SAVEPOINT, RELEASE, ROLLBACK TO.
    case savepoint
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
    case preparedTransaction
    /// SET TRANSACTION and SET SESSION CHARACTERISTICS.
    case setTransaction
    case set, reset, show
    /// PREPARE, EXECUTE and DEALLOCATE in SQL.
    case prepare, execute, deallocate
    /// DECLARE, FETCH, MOVE, CLOSE.
    case cursor
    case listen, unlisten, discard

    /// Spelled out: the one that comes with the raw type is generic, and called so from other modules.
    @inlinable package static func == (left: StatementKind, right: StatementKind) -> Bool {
        left.rawValue == right.rawValue
    }

    package var mayWrite: Bool {
        switch self {
        case .write, .unknown, .multiple, .execute, .cursor, .preparedTransaction, .prepare: true
        case .empty, .read, .sideDependent, .begin, .commit, .rollback, .savepoint, .setTransaction, .set, .reset,
            .show, .deallocate, .listen, .unlisten, .discard:
            false
        }
    }

    /// Its answer is the same whatever the database holds.
    package var showsNothing: Bool {
        switch self {
        case .empty, .begin, .commit, .rollback, .savepoint, .setTransaction, .set, .reset, .show, .deallocate, .listen,
            .unlisten, .discard:
            true
        case .read, .sideDependent, .write, .unknown, .multiple, .preparedTransaction, .prepare, .execute, .cursor:
            false
        }
    }
}

/// Why the verdict is what it is; `explain` prints the raw value.
package enum ClassificationReason: String, Sendable, CaseIterable {
    case surelyRead = "surely a read"
    case emptyText = "no statement"
    case dataModifying = "modifies data"
    case dataModifyingCTE = "a WITH query modifies data"
    case lockingClause = "locks rows"
    case selectInto = "SELECT INTO makes a table"
    case temporaryObject = "uses a temporary table"
    case unknownFunction = "calls a function that is not known to be harmless"
    case volatileFunction = "calls a volatile function"
    case harmfulFunction = "calls a function with effects"
    /// And does nothing besides that could be seen by anybody else.
    case takesLocks = "takes locks"
    case harmfulOperator = "uses an operator or cast backed by a volatile function"
    case unmirroredRelation = "reads a sequence, materialized view, foreign or unlogged table"
    case serverState = "reads the state of one server"
    case systemCatalog = "reads system catalogs"
    case systemColumn = "reads a system column"
    case parameterType = "names a parameter's type by a number that is one server's"
    case unknownNode = "has a form that is not known to be a read"
    case schemaChange = "changes the schema"
    case utility = "utility statement"
    case copyIn = "COPY FROM"
    case copyToServer = "COPY to a file or program"
    case explainAnalyze = "EXPLAIN ANALYZE of what is not a read"
    case sessionState = "session state"
    case transactionControl = "transaction control"
    case severalStatements = "several statements"
    case refusedByGrammar = "the grammar refuses it"
    case tooLong = "too long to analyse"
    case tooDeep = "nested too deeply to analyse"
    case notText = "NUL or invalid UTF-8"
    case unterminated = "unterminated quote or comment"
    case parseBudgetSpent = "parsing budget of this turn is spent"
}

/// What a statement leaves behind in its server's session.
package enum SessionEffect: Sendable, Equatable {
    /// SET; with `isLocal` it ends with the transaction. A plain SET in a transaction is undone by its rollback.
    case sets(SettingChange)
    case resets(String)
    case resetsAll
    /// The session must keep this server from now on.
    case pins(PinReason)
    /// SQL-level PREPARE.
    case prepares(String)
    /// DEALLOCATE; nil: ALL.
    case deallocates(String?)
    /// CLOSE; nil: ALL.
    case closesCursor(String?)
    case unlistens(String?)
    /// Session advisory locks may be given back.
    case unlocks
    case discards(DiscardTarget)
    /// DDL that the other side has as well (`mirror.ddl: barrier`), within an open transaction. Noted as it runs: no
    /// text tells.
    case changesBothSides
}

/// What a DISCARD throws away.
package enum DiscardTarget: UInt8, Sendable { case all, plans, sequences, temporary }

/// Why a client keeps its server between transactions: something lives in its session that no other has.
package enum PinReason: String, Sendable, CaseIterable {
    /// The configuration says that sessions keep their servers.
    case poolMode = "pool_mode session"
    case temporaryTable = "temporary table"
    case holdCursor = "cursor WITH HOLD"
    case listen = "LISTEN"
    case advisoryLock = "session advisory lock"
    case library = "LOAD"
    /// Whether it has left anything its server is asked.
    case function = "function that may leave something"
    /// Its statements have names in the server's session that SQL can use.
    case preparedInSQL = "PREPARE or EXECUTE in SQL"
    /// It may have called nextval, and its user's sessions have been seen to ask for that value later.
    case sequence = "currval or lastval"
    /// A setting was changed in a way we cannot repeat elsewhere.
    case untrackedSetting = "setting that cannot be tracked"
    /// Not analysed, and its words could leave state behind.
    case unknownStatement = "statement that was not analysed"
}

/// One SET. `name` is as PostgreSQL's grammar gives it (`TIME ZONE` is `timezone`, `ROLE` is `role`), lower case.
package struct SettingChange: Sendable, Equatable {
    package var name: String
    /// The value in the form that `set_config(name, value, false)` takes; nil: TO DEFAULT.
    package var value: String?
    package var isLocal: Bool

    package init(name: String, value: String?, isLocal: Bool) {
        self.name = name
        self.value = value
        self.isLocal = isLocal
    }
}

/// `set_config('name', $n, false)`.
package struct BoundSetting: Sendable, Equatable {
    /// Lower case.
    package var name: String
    /// From 1.
    package var parameter: Int
    package var isLocal: Bool

    package init(name: String, parameter: Int, isLocal: Bool) {
        self.name = name
        self.parameter = parameter
        self.isLocal = isLocal
    }
}

/// The options of BEGIN and SET TRANSACTION; nil: not said.
package struct TransactionOptions: Sendable, Equatable {
    package enum Isolation: String, Sendable, CaseIterable {
        case readUncommitted = "read uncommitted"
        case readCommitted = "read committed"
        case repeatableRead = "repeatable read"
        case serializable
    }

    package var isolation: Isolation?
    package var readOnly: Bool?
    package var deferrable: Bool?
    /// SET TRANSACTION SNAPSHOT.
    package var usesSnapshot = false
    /// SET SESSION CHARACTERISTICS: for all transactions to come.
    package var isForSession = false

    package init() {}
}
