import Configuration
import PGWire
import Primitives
import Routing
import SQLAnalysis
import Sessions

/// A transaction whose BEGIN we have answered, and that is not on the authority yet.
///
/// At READ COMMITTED every statement has a snapshot of its own, so reads may run on their user's side, in a READ ONLY
/// block there, until the first statement that is not surely a read: then the block is ended, and the transaction
/// begins on the authority with the client's own words. What would notice the change of side goes there at once.
struct LazyTransaction {
    /// The client's own BEGIN.
    let beginSQL: String
    /// Its READ ONLY block is open on the server that the client has.
    var isOnNew = false
    /// The client itself declared it READ ONLY, and began it on NEW: it has its snapshot there and cannot move.
    var isFixed = false
    /// With `isFixed`: it has one snapshot for all its reads, or what it has done on NEW would be missed elsewhere.
    var keepsSide = false
    /// With `isFixed`: all that it reads is of one snapshot, that of its first read.
    var hasOneSnapshot = false
    /// It has failed on NEW, and fails on the authority in the same way when it begins there.
    var hasFailed = false
    /// It is not the one that BEGIN began, but followed on it by AND CHAIN: PostgreSQL keeps that one's READ ONLY when
    /// it fails and chains again, and forgets the other's.
    var isChained = false

    static let readOnlyBegin = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"

    /// `START TRANSACTION` is answered with its own words, all others with BEGIN.
    var tag: String {
        var text = beginSQL[...]
        while true {
            text = text.drop { $0.isWhitespace || $0 == ";" }
            if text.hasPrefix("--") {
                text = text.drop { !$0.isNewline }
            } else if text.hasPrefix("/*") {
                text = Self.behindComment(text)
            } else {
                return text.prefix(5).lowercased() == "start" ? "START TRANSACTION" : "BEGIN"
            }
        }
    }

    /// Comments nest in PostgreSQL.
    private static func behindComment(_ comment: Substring) -> Substring {
        var text = comment.dropFirst(2)
        var depth = 1
        while depth > 0, !text.isEmpty {
            if text.hasPrefix("*/") {
                depth -= 1
                text = text.dropFirst(2)
            } else if text.hasPrefix("/*") {
                depth += 1
                text = text.dropFirst(2)
            } else {
                text = text.dropFirst()
            }
        }
        return text
    }
}

extension ClientConnection {
    /// What ReadyForQuery says to this client now.
    var status: TransactionStatus {
        if let server { return server.session.status == .idle && lazy != nil ? .inTransaction : server.session.status }
        return lazy == nil ? .idle : .inTransaction
    }

    /// Whether BEGIN with these options may be answered before any server has it.
    func mayBeLazy(_ options: TransactionOptions) -> Bool {
        guard let database, lazy == nil, server == nil, pin == nil, isTextTrusted, !isForcedToAuthority,
            database.route.settings.reads.transactions == .lazy, !database.route.table.sendsNothingToNew,
            database.route.facts.isReadCommittedDefault
        else { return false }
        return options.deferrable != true && !options.isForSession && readsCommitted(options)
    }

    // MARK: answered without a server

    /// BEGIN, and COMMIT or ROLLBACK of a transaction that no server has seen.
    ///
    /// - Returns: the tag to answer with; nil when a server is needed.
    func lazyTag() -> String? {
        guard unit.statementCount == 1 else { return nil }
        switch unit.kind {
        case .begin:
            guard mayBeLazy(unit.options), let text = unit.beginSQL else { return nil }
            let begun = LazyTransaction(beginSQL: text)
            lazy = begun
            return begun.tag
        case .commit, .rollback:
            guard lazy != nil, server == nil, !unit.chains else { return nil }
            lazy = nil
            keysSettled(isRolledBack: unit.kind == .rollback)
            return unit.kind == .commit ? "COMMIT" : "ROLLBACK"
        default:
            return nil
        }
    }

    /// A batch up to Sync that holds nothing but one such statement.
    func answerLazily(batch bytes: UnsafeRawBufferPointer, end: Int) -> Bool {
        guard unit.statementCount == 1, unit.executes, unit.endsWithReady, unit.executeCount == 1,
            isAnswerable(bytes, from: 0, to: end), let tag = lazyTag()
        else { return false }
        answerFrames(bytes, from: 0, to: end, tag: tag)
        var writer = MessageWriter()
        writer.readyForQuery(status)
        send(writer.bytes)
        return true
    }

    /// BEGIN and the first reads in one batch, as some drivers send them.
    func splitsBegin() -> Bool {
        unit.kind == .begin && unit.statementCount > 1 && unit.isRestReads && unit.notes.deniedBy == nil
            && unit.executes && !unit.isStreamed && unit.endsWithReady && unit.statementsAtFirstExecute == 1
            && !unit.leavesPortal && unit.isBeginAnswerable && mayBeLazy(unit.options)
    }

    /// Whether we can answer each of these messages in a server's place.
    func isAnswerable(_ bytes: UnsafeRawBufferPointer, from start: Int, to end: Int) -> Bool {
        var offset = start
        var isBound = false
        var parsed: UnsafeRawBufferPointer?
        while offset < end, let header = FrameHeader.parse(bytes, at: offset) {
            var reader = BodyReader(UnsafeRawBufferPointer(
                rebasing: bytes[(offset + FrameHeader.size)..<(offset + header.frameSize)]))
            switch header.tag {
            case FrontendTag.parse:
                guard let name = reader.cString(), name.isEmpty || statements.find(name) == nil else { return false }
                parsed = name
            case FrontendTag.bind:
                // Parameters and formats would be an error of the client's: PostgreSQL has the words for it.
                guard let portal = reader.cString(), portal.isEmpty, let name = reader.cString(),
                    parsed.map({ $0.elementsEqual(name) }) ?? true, reader.int16() != nil, reader.int16() == 0
                else { return false }
                isBound = true
            case FrontendTag.describe:
                guard isBound, reader.byte() == UInt8(ascii: "P"), reader.cString()?.isEmpty == true
                else { return false }
            case FrontendTag.execute: if !isBound { return false }
            case FrontendTag.sync, FrontendTag.flush: break
            default: return false
            }
            offset += header.frameSize
        }
        return true
    }

    /// Whether the unnamed portal, which an Execute is behind, is executed once more.
    func executesAgain(_ bytes: UnsafeRawBufferPointer, from start: Int, to end: Int) -> Bool {
        var offset = start
        while offset < end, let header = FrameHeader.parse(bytes, at: offset) {
            if header.tag == FrontendTag.execute { return true }
            if header.tag == FrontendTag.bind { return false }
            offset += header.frameSize
        }
        return false
    }

    /// Queues what a server would have answered, but for ReadyForQuery.
    func answerFrames(_ bytes: UnsafeRawBufferPointer, from start: Int, to end: Int, tag: String) {
        var offset = start
        while offset < end, let header = FrameHeader.parse(bytes, at: offset) {
            let body = UnsafeRawBufferPointer(
                rebasing: bytes[(offset + FrameHeader.size)..<(offset + header.frameSize)])
            switch header.tag {
            case FrontendTag.parse:
                define(body)
                queueAnswer(BackendTag.parseComplete)
            case FrontendTag.bind: queueAnswer(BackendTag.bindComplete)
            case FrontendTag.describe: queueAnswer(BackendTag.noData)
            case FrontendTag.execute:
                var writer = MessageWriter()
                writer.commandComplete(tag)
                writer.bytes.withUnsafeBytes { queueFromServer($0) }
            default: break
            }
            offset += header.frameSize
        }
    }

    /// The client knows the statement from now on; a server learns of it when it is used there.
    private func define(_ body: UnsafeRawBufferPointer) {
        var reader = BodyReader(body)
        guard let database, let name = reader.cString() else { return }
        let parseBody = reader.rest()
        var text = BodyReader(parseBody)
        guard let sql = text.cString() else { return }
        if name.isEmpty { return keepUnnamed(parseBody, sql, database) }
        let id = database.statements.intern(parseBody, database.analyse(sql))
        guard let definition = statements.define(name, as: id) else { return database.statements.release(id) }
        // Where NEW fails, the client has not heard of it, and the authority gets this Parse as well.
        if isHolding { changes.note(definition, name, previous: nil) }
    }

    // MARK: on its way

    /// Whether the present unit may run in a READ ONLY block on NEW without anybody noticing.
    var isMovable: Bool { !unit.seesTransactionTime && !unit.leavesPortal }

    /// The client has its server on NEW from an earlier read of this transaction: use it, or leave it.
    ///
    /// - Returns: false when the unit has to wait for a server of the authority.
    func goesOnOnNew(_ side: Side) -> Bool {
        guard let server, lazy?.isOnNew == true else { return false }
        let isEnd = unit.statementCount == 1 && (unit.kind == .commit || unit.kind == .rollback) && !unit.chains
        let hasFailed = server.session.status == .failed
        let isFixed = lazy?.isFixed == true
        // What comes behind the block's end would run here. So would, behind a failure, the next transaction of AND
        // CHAIN, for PostgreSQL then forgets that the block was READ ONLY.
        let mayBeginAnew = unit.borders.goesOn || unit.borders.chains && hasFailed
        // Before its first read nobody can tell where it is: what could make it write begins on the authority instead,
        // unless the transaction has set what would be lost.
        let mayMove = !transaction.hasRead && ledger.isEmpty
        let mayLift = isFixed && mayMove && unit.mayLiftReadOnly
        // What pins its client must not do so here, and what is not mirrored cannot be read here.
        let mustLeave = mayBeginAnew
            || !hasFailed && (mayLift || unit.session.pins || unit.readsUnmirrored || readsWhatMayBeGone)
        let mayMoveOn = mayMove || ledger.isEmpty && lazy?.keepsSide == false && !unit.isStreamed && unit.endsWithReady
            && !mayBeginAnew && !unit.session.pins
        let isBarred = isFixed && !hasFailed && mayMoveOn && side == authority && isBarredFromNew
        let staysAway = hasFailed || isFixed ? mustLeave || isBarred : side == authority
        if isEnd || !staysAway {
            phase = .leased
            if isFixed && !hasFailed { keepReadOnly(on: server) }
            if unit.borders.chains {
                lazy?.isChained = true
                transaction.isSurelyReadOnly = false
            }
            isHolding = !hasFailed && !isFixed && unit.endsWithReady && !unit.isStreamed
            resumeSoon()
            return true
        }
        // What it has read is of no more use to a unit that begins with its end.
        if isFixed && !hasFailed && !mayMoveOn && !(unit.borders.endsFirst && ledger.isEmpty) {
            if unit.borders.goesOn && isCuttable {
                // Its bytes may be the ones that are being processed.
                unit.isCutDue = true
                phase = .idle
                worker.resumeLater(self)
            } else if unit.isStreamed {
                refuseOnNew()
            } else {
                denyOnNew()
                phase = .leased
                resumeSoon()
            }
            return true
        }
        lazy?.isFixed = false
        lazy?.hasFailed = hasFailed
        lazy?.isOnNew = false
        self.server = nil
        server.settle(with: "ROLLBACK")
        return false
    }

    /// Tables are emptied where NEW is copied to anew. Of what has its snapshot from before, as cursors and portals,
    /// nothing is gone.
    private var readsWhatMayBeGone: Bool {
        guard let lazy, lazy.isFixed, database?.route.horizon.readable == false else { return false }
        return unit.executes && unit.looksAnew && !(lazy.hasOneSnapshot && transaction.isSurelyReadOnly)
    }

    /// NEW lacks something that a user of the unit must see, or is not to answer him: BEGIN was another's, or went
    /// there before he wrote, or before NEW was copied to anew.
    private var isBarredFromNew: Bool {
        guard let database else { return false }
        let (route, table) = (database.route, database.route.table)
        // Or there are more users than anybody can be asked about.
        if !route.horizon.readable || unit.hasMoreKeys { return true }
        // Each of its reads sees what others have committed before, and none of them waits.
        if database.isGloballyConsistent && lazy?.keepsSide == false { return true }
        var identities = unit.otherKeys
        if let key = unitKey ?? sessionKey { identities.append(key.identity) }
        return identities.contains {
            !$0.bucket.isWithin(share: table.share(of: $0))
                || route.horizon.applied < route.stamps.needed(by: $0.hash)
        }
    }

    /// PostgreSQL makes a transaction READ WRITE only before that has a snapshot, which not all statements take
    /// (SAVEPOINT, SET, LOCK). Before one that may do it, or that is not known whole, it gets one.
    private func keepReadOnly(on server: ServerConnection) {
        guard !transaction.isSurelyReadOnly, unit.mayLiftReadOnly || unit.isStreamed || !unit.endsWithReady
        else { return }
        server.queueQuietly("SELECT")
        transaction.isSurelyReadOnly = true
    }

    /// What was noted of the unit.
    func mustNotRunOnNew(_ server: ServerConnection) -> Bool {
        unit.borders.goesOn || unit.session.pins || unit.readsUnmirrored && server.session.status != .failed
    }

    /// The same of a message that goes on before it is whole.
    ///
    /// - Returns: whether it must not run there; the connection is closed then.
    func refusesOnNew(_ server: ServerConnection) -> Bool {
        guard server.isReadOnly, !server.session.skipsNext, mustNotRunOnNew(server) else { return false }
        refuseOnNew()
        return true
    }

    /// A transaction that was declared READ ONLY has its snapshot on NEW; what follows it must not run there.
    func refuseOnNew() { close(with: refusalOnNew(.fatal)) }

    func refusalOnNew(_ severity: ErrorResponse.Severity) -> ErrorResponse {
        ErrorResponse(
            severity, .featureNotSupported,
            "a READ ONLY transaction that has read on NEW cannot do this through Godwit",
            detail: "It reads what NEW does not hold as OLD does (sequences, materialized views, tables that are not "
                + "mirrored, any table while NEW may not be read); or does what must stay on one server, as session "
                + "locks and LISTEN do; or it may end, and more than reads follow.",
            hint: "Write BEGIN without READ ONLY, or a rule with \"action: old\" for its first statement.")
    }

    /// Begins the transaction on the server that was just granted, ahead of its first unit there.
    func beginLazily(on server: ServerConnection) {
        guard let begun = lazy, !begun.isOnNew else { return }
        if server.isReadOnly {
            lazy?.isOnNew = true
            ledger.note(.inTransaction)
            server.queueQuietly(LazyTransaction.readOnlyBegin)
        } else {
            lazy = nil
            if !unit.carriesBegin { ledger.note(begun.hasFailed ? .failed : .inTransaction) }
            if !unit.carriesBegin {
                server.queueQuietly(begun.isChained ? begun.beginSQL + "\n;COMMIT AND CHAIN" : begun.beginSQL)
            }
            // What it has read elsewhere counts: SET TRANSACTION ISOLATION LEVEL is refused behind it.
            if transaction.hasRead && !begun.hasFailed { server.queueQuietly("SELECT") }
            if begun.hasFailed { server.queueQuietly("SELECT godwit_this_transaction_has_failed") }
        }
    }

    /// The server did not begin the transaction: what was sent behind must not count.
    func beginFailed(on server: ServerConnection, _ failure: ErrorResponse) {
        if failure.state == SQLState("42703") { return }  // see `hasFailed`: it was to fail
        if canRetry { return retryOnAuthority(because: failure) }
        self.server = nil
        server.close()
        close(with: ErrorResponse(.fatal, failure.state, "cannot begin the transaction: \(failure.message)"))
    }

    /// A read of the transaction has been answered on NEW: the next unit is gathered and routed anew.
    var mayPark: Bool { lazy?.isOnNew == true && phase == .leased && passToServer == 0 && unit.byteCount == 0 }

    /// A transaction that the client declared READ ONLY has begun on NEW with its own BEGIN.
    func fixOnNew() {
        if lazy == nil {
            lazy = LazyTransaction(beginSQL: unit.beginSQL ?? "BEGIN", isOnNew: true, isFixed: true)
            let isOne = unit.kind != .begin || unit.options.deferrable == true || !readsCommitted(unit.options)
            lazy?.hasOneSnapshot = isOne
            lazy?.keepsSide = isOne
        }
        // Savepoints, cursors and settings are not there on another side, and its transaction began at another time.
        let isBegin = unit.kind == .begin && unit.isRestReads
        if !(unit.isAllReads || isBegin) || !isMovable { lazy?.keepsSide = true }
    }

    /// Each statement of a transaction with these options sees what was committed before it.
    func readsCommitted(_ options: TransactionOptions) -> Bool {
        switch options.isolation {
        case .repeatableRead, .serializable: return false
        case nil, .readCommitted, .readUncommitted: break
        }
        if options.usesSnapshot || database?.route.facts.isReadCommittedDefault != true { return false }
        return !settings.entries.contains {
            $0.name.hasPrefix("default_transaction_") || $0.name == "transaction_isolation"
        }
    }

    func parkOnNew() {
        phase = .idle
        startNextUnit()
        if hasParkedBytes { resumeSoon() }
    }
}
