import Primitives
import Routing
import SQLAnalysis
import Sessions

/// What is known of the unit that a client is sending or waiting for.
struct Unit: ~Copyable {
    // What every unit has comes first: see ClientConnection.
    /// Bytes of the unit at the front of the client's input; 0 once they are with a server.
    var byteCount = 0
    var startedAt = MonotonicInstant(nanoseconds: 0)
    var statementCount = 0
    /// It is longer than we gather: it goes to the authority as it comes.
    var isStreamed = false
    /// Something runs: a batch that only prepares or describes does not.
    var executes = false
    /// Every statement seen is surely a read.
    var isAllReads = true
    /// It ends with ReadyForQuery: a refused one can be answered, and the client goes on.
    var endsWithReady = true
    var isReplay = false
    /// It has waited for NEW to catch up.
    var hasWaited = false
    /// A server did not take the session's settings, and was given back.
    var hasRetriedSetup = false
    var isProbe = false
    var mayWrite = false
    /// The same, and not only that it takes locks.
    var mayChange = false
    var hasFailed = false
    /// It has a portal, or had one.
    var binds = false
    var parsesUnnamed = false
    var parsesUnnamedAgain = false
    /// Kind and options of the first statement: they decide when it is the only one.
    var kind: StatementKind = .empty
    /// See LoneRead.
    var lone: LoneStatement.Form?
    var isLoneDescribed = false
    /// The named statement that it binds.
    var loneStatement: StatementID?
    /// Of the first source that any of its statements has one from.
    var key: StatementKey?
    /// For rules, keys in Bind and statistics.
    var notes = UnitNotes()
    /// What it leaves in the session and does to the transaction.
    var session = UnitSession()
    /// Of all its statements.
    var borders = TransactionBorders()

    // What few have.
    /// Batch that it has waited for, and that NEW has got meanwhile.
    var batchReached: UInt64?
    /// Of its statements that are other users'.
    private(set) var otherKeys: [KeyIdentity] = []
    /// It has more of them than are kept.
    private(set) var hasMoreKeys = false
    /// A statement has none of its own: it is the session's user's.
    var hasKeyless = false
    /// A statement may have a key that was not found, by the bounds of what is looked at.
    var hidesKey = false
    /// The same of its columns alone, for want of time.
    var hidesColumns = false
    var parsesNamed = false
    /// Names that had a statement and that the batch itself gives to another one, behind a Close.
    var renamed: Set<[UInt8]> = []
    /// SQL's PREPARE is in it.
    var prepares = false
    /// SET, RESET or SHOW of a setting that is a routing key is in it.
    var namesKeySetting = false
    var options = TransactionOptions()
    /// COMMIT or ROLLBACK AND CHAIN.
    var chains = false
    /// The text of BEGIN, where it is the first statement.
    var beginSQL: String?
    /// Every statement but the first is surely a read.
    var isRestReads = true
    /// Execute messages, statements seen before the first of them, and where that one ends.
    var executeCount = 0
    var statementsAtFirstExecute = 0
    var firstExecuteEnd = 0
    /// Behind the first Execute since a statement was seen that ends a transaction; 0: there is none.
    var cutOffset = 0
    /// It is to be cut before it runs: see UnitCut.
    var isCutDue = false
    /// It begins with a BEGIN that we can answer in a server's place.
    var isBeginAnswerable = false
    /// The batch holds its own BEGIN, which has been answered if it runs on NEW.
    var carriesBegin = false
    var seesTransactionTime = false
    /// It asks for what nextval has left in the session.
    var readsSequence = false
    /// It asks before anything in it may have called nextval.
    var readsEarlierSequence = false
    /// It reads what NEW has not, or not as OLD has it.
    var readsUnmirrored = false
    /// Of its statements, those that show nothing of what a database holds.
    var blindCount = 0
    /// It shows what is there by now, and not only what cursors have that were opened before.
    var looksAnew = false
    /// A portal may be left that a later unit goes on with.
    var leavesPortal = false
    /// Of a batch whose DDL runs on both sides: what is answered before its end.
    var changeAnswer: [UInt8] = []
    /// Bytes at the front of the input that it is made of.
    var changeBytes = 0
    /// It may make a READ ONLY transaction or session READ WRITE.
    var mayLiftReadOnly = false
    /// It may end a transaction, and what that wrote becomes visible.
    var mayCommit = false
    /// An error of the server's own that the client got.
    var serverError: String?
    /// Of the last Parse of the unnamed statement.
    var unnamed: (analysis: AnalysedStatement, key: StatementKey?)?

    mutating func add(_ analysis: AnalysedStatement, _ key: StatementKey?) {
        let classification = analysis.classification
        statementCount += 1
        if statementCount == 1 {
            kind = classification.kind
            options = classification.transaction
            chains = classification.chains
        } else if classification.kind != .read {
            isRestReads = false
        }
        if classification.seesTransactionTime { seesTransactionTime = true }
        if classification.readsUnmirrored { readsUnmirrored = true }
        if classification.kind.showsNothing {
            blindCount += 1
        } else if classification.kind != .cursor || classification.declaresCursor {
            looksAnew = true
        }
        if classification.readsSequence {
            readsSequence = true
            if !mayWrite && !classification.drawsSequenceFirst { readsEarlierSequence = true }
        }
        if classification.kind != .read {
            isAllReads = false
            if !classification.statementNames.isEmpty && classification.preparesInSQL { prepares = true }
        }
        if classification.kind == .begin && classification.transaction.readOnly == false { mayLiftReadOnly = true }
        borders.append(classification.borders, isRead: classification.kind == .read)
        if let key { note(key) }
        if analysis.hidesKey && key == nil { hidesKey = true }
        if classification.reason == .parseBudgetSpent { hidesColumns = true }
        if classification.mayLiftReadOnly { mayLiftReadOnly = true }
        if classification.mayWrite && classification.reason != .takesLocks { mayChange = true }
        note(classification.kind, mayWrite: classification.mayWrite)
    }

    /// Users of one unit whose keys are kept, besides the first.
    private static let otherKeysMax = 64

    /// A statement's own key. One unit for two users can only be answered where both are up to date.
    mutating func note(_ key: StatementKey) {
        guard let own = self.key else { return self.key = key }
        let isFirst = key.source < own.source
        let other = (isFirst ? own : key).identity
        if isFirst { self.key = key }
        if own.identity == key.identity { return }
        isAllReads = false
        isRestReads = false
        if hasMoreKeys || otherKeys.contains(other) { return }
        if otherKeys.count < Self.otherKeysMax { otherKeys.append(other) } else { hasMoreKeys = true }
    }

    /// Of what has no key of its own, where others of its statements have one.
    mutating func noteSession(_ key: StatementKey?) {
        if let own = self.key, let key, key.source > own.source { note(key) }
    }

    /// What cannot be seen is taken for the worst: a write that may end a transaction.
    ///
    /// - Parameter endsNothing: PostgreSQL does not let it do that.
    mutating func addUnknown(endsNothing: Bool = false) {
        statementCount += 1
        kind = .unknown
        isAllReads = false
        isRestReads = false
        mayLiftReadOnly = true
        looksAnew = true
        if !endsNothing { borders.append(.unknown, isRead: false) }
        session.noteUnknown()
        mayChange = true
        note(.unknown, mayWrite: true)
    }

    private mutating func note(_ kind: StatementKind, mayWrite: Bool) {
        if mayWrite { self.mayWrite = true }
        switch kind {
        case .commit, .multiple, .unknown, .preparedTransaction, .execute, .write: mayCommit = true
        case .empty, .read, .sideDependent, .begin, .rollback, .savepoint, .setTransaction, .set, .reset, .show,
            .prepare, .deallocate, .cursor, .listen, .unlisten, .discard: break
        }
    }

    /// Its statements, as they were read, tell of what the database holds. It has none where it only goes on with
    /// portals.
    var mayShow: Bool { executes && (statementCount == 0 || blindCount < statementCount) }

    /// It is a DECLARE and nothing else.
    var declaresCursor: Bool { statementCount == 1 && kind == .cursor && looksAnew }

    /// What the router is asked about.
    var routedKind: StatementKind {
        // A batch that ends with Flush goes on: what follows is not known yet.
        if isStreamed || !executes || !endsWithReady { return .unknown }
        if isAllReads && statementCount > 0 { return .read }
        if statementCount == 1 { return kind == .read ? .unknown : kind }
        return .multiple
    }
}

/// What the open transaction (or the run of pipelined units) of a client has done so far on the authority.
struct TransactionFacts {
    /// Keys whose users may have written; one entry per slot of the stamps at most.
    private(set) var writtenKeys: Set<UInt64> = []
    /// Anybody may have written or read in it: not all keys are known, or a reload has changed what they are found by.
    var isAnybodys = false
    /// A setting in it says whose the session is: what is read behind that is what this user has seen.
    var namesUsers = false
    /// COMMIT was the last that was answered, and what comes with that is done.
    var isCommitTold = false
    /// The batch that was being taken when so many keys were stamped last.
    var stamped: (taking: UInt64, keys: Int)?
    var hasWritten = false
    /// The same, and has not only taken locks.
    var hasChanged = false
    var startedAt = MonotonicInstant(nanoseconds: 0)
    var isOpen = false
    /// It cannot begin anew elsewhere unnoticed: it has read, or has done anything else than begin and set.
    var hasRead = false
    /// On NEW it has taken a snapshot for sure: PostgreSQL refuses to make it READ WRITE.
    var isSurelyReadOnly = false

    mutating func noteWritten(isChange: Bool) {
        hasWritten = true
        if isChange { hasChanged = true }
    }

    mutating func noteWriter(_ identity: KeyIdentity) { writtenKeys.insert(ReadStamps.slot(of: identity.hash)) }
}
