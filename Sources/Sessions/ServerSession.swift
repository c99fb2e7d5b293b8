import PGWire
import Primitives

/// A statement text that servers know under our own name; the Worker's registry gives the numbers.
@usableFromInline @frozen package struct StatementID: CheaplyHashed {
    /// It never comes again: 32 bits would be used up within weeks by clients that prepare for each query.
    @usableFromInline package let value: UInt64
    @inlinable package init(_ value: UInt64) { self.value = value }
}

/// What the server still owes, in the order in which we sent it.
@usableFromInline package enum ExpectedReply: Equatable, Sendable {
    /// Everything up to ReadyForQuery.
    case query, functionCall, sync
    /// A client's Parse; nil is the unnamed statement. `definition` numbers the client's naming of it.
    case parse(StatementID?, definition: UInt32)
    case bind, describe, execute, close
    /// Ours: the client does not see the answer.
    case quietQuery, quietParse(StatementID?), quietClose
    /// Not sent at all: we answer with a message of this type when its turn comes.
    case answer(UInt8)
    /// A client's Parse of a statement that the server has already: answered by us with ParseComplete.
    case answerParse(definition: UInt32)
    /// A client's Close of a named statement, answered by us with CloseComplete. `change` numbers its change.
    case answerClose(change: UInt32)
    /// What drops the client's unnamed statement behind other messages of its batch.
    case closeUnnamed(change: UInt32), queryInBatch(change: UInt32)
    /// An Execute of DEALLOCATE: the client loses a name with it.
    case executeDropping(change: UInt32)
    /// Ours: a statement under the client's own name, and the Sync that ends its batch. An error is nobody's.
    case ownParse, quietSync
    /// The same within the client's batch, which an error of it fails.
    case ownParseInBatch(change: UInt32)

    /// The server gets nothing of it.
    fileprivate var isAnsweredByUs: Bool {
        switch self {
        case .answer, .answerParse, .answerClose: true
        case .query, .functionCall, .sync, .parse, .bind, .describe, .execute, .close, .quietQuery, .quietParse,
            .quietClose, .closeUnnamed, .queryInBatch, .executeDropping, .ownParse, .quietSync, .ownParseInBatch:
            false
        }
    }
}

/// The protocol state of one logged-in server: which reply belongs to what, and whether the client sees it
/// (protocol-flow, PROTOCOL-FLOW-EXT-QUERY). Pure; used on its reactor's thread.
@usableFromInline package struct ServerSession: ~Copyable {
    /// What to do with one message from the server.
    package enum Verdict: Equatable {
        /// The client gets it; it announces or completes something but carries no result.
        case forwardHeader
        /// The client gets it, and it is part of a result: the unit cannot be run elsewhere any more.
        case forwardResult
        case forwardError
        /// An answer to something of ours.
        case swallow
        /// Something of ours failed.
        case swallowError
        case ready(TransactionStatus, isForwarded: Bool)
        /// The client gets one more ReadyForQuery than could be foreseen: see `needsBarrier`.
        case surplusReady
        /// Not expected now: the server is broken and must be closed.
        case violation
    }

    /// Messages in flight at most: beyond it the client's input waits.
    @inlinable package static var expectedMax: Int { 100_000 }
    /// Answered ones that are kept, for to empty an array takes more than to append to it.
    @inlinable static var answeredMax: Int { 48 }

    // What is asked for every message is inlined into its caller: called, it would copy the whole session first.
    @usableFromInline var expected: [ExpectedReply] = []
    @usableFromInline var head = 0
    /// The server skips messages up to the next Sync, and none was sent yet.
    @usableFromInline var isSkipping = false
    /// Behind a message of the extended protocol, whose error may skip all up to a Sync that was not sent yet.
    private var isWithinBatch = false
    /// In COPY FROM STDIN, until the client's CopyDone or CopyFail.
    @usableFromInline var isCopyingIn = false
    /// Replies owed when a CopyDone or CopyFail was sent before the server announced the COPY, counted from the first
    /// reply ever.
    @usableFromInline var copyEnds: [Int] = []
    /// Replies that are not in `expected` any more.
    @usableFromInline var poppedCount = 0
    /// Syncs sent between the data of a COPY that has not succeeded yet.
    private var syncsInCopy = 0
    /// That COPY has failed: the server has answered those Syncs that it read behind its error.
    @usableFromInline var isUncertain = false
    @usableFromInline var hasHeadCompleted = false

    /// Batches whose ReadyForQuery was asked for, and came, since the login; they wrap around.
    @usableFromInline package internal(set) var batchesSent: UInt32 = 0
    @usableFromInline package internal(set) var batchesAnswered: UInt32 = 0
    /// Nothing was sent since the last ReadyForQuery.
    @usableFromInline package internal(set) var isBetweenUnits = true
    @usableFromInline package internal(set) var status: TransactionStatus = .idle
    /// Parses that the server skipped or refused since the last `takeDropped`.
    private var dropped: [ExpectedReply] = []
    /// The Parse of the unnamed statement that the server refused last: it has none any more.
    package private(set) var refusedDefinition: UInt32 = 0

    /// Syncs that the last COPY FROM STDIN has swallowed, which were sent before it was known to begin.
    package private(set) var ignoredSyncs = 0

    /// Messages of the client that would have had a ReadyForQuery of their own, and were skipped with their batch since
    /// the last `takeSkippedEnds`.
    private var skippedEnds = 0

    package init() {}

    @inlinable package var isQuiet: Bool { head == expected.count && !isSkipping }
    @inlinable package var expectedCount: Int { expected.count - head }
    @inlinable package var isFull: Bool { expectedCount >= Self.expectedMax }
    /// Nothing is owed and no transaction is open: another client may have it. A batch without its Sync is a
    /// transaction that the server has not ended (PROTOCOL-FLOW-EXT-QUERY), of which no ReadyForQuery has told.
    @inlinable package var isFree: Bool { isQuiet && status == .idle && isBetweenUnits && !isUncertain }
    /// Everything is answered but for the Sync of a batch that began outside of transactions.
    @inlinable package var lacksOnlySync: Bool { isQuiet && status == .idle && !isBetweenUnits }

    /// Exactly one ReadyForQuery is still to come, as the last thing.
    package var owesOneReady: Bool {
        var readies = 0
        var isReadyLast = false
        for index in head..<expected.count {
            switch expected[index] {
            case .query, .functionCall, .sync, .queryInBatch:
                readies += 1
                isReadyLast = true
            case .parse, .bind, .describe, .execute, .close, .quietQuery, .quietParse, .quietClose, .answer,
                .answerParse, .answerClose, .closeUnnamed, .executeDropping, .ownParse, .ownParseInBatch,
                .quietSync:
                isReadyLast = false
            }
        }
        return readies == 1 && isReadyLast && !isSkipping && !isCopyingIn
    }

    /// A ReadyForQuery is still to come of what was sent.
    package var owesReady: Bool {
        expected[head...].contains { reply in
            switch reply {
            case .query, .queryInBatch, .functionCall, .sync: true
            case .parse, .bind, .describe, .execute, .close, .quietQuery, .quietParse, .quietClose, .answer,
                .answerParse, .answerClose, .closeUnnamed, .executeDropping, .ownParse, .ownParseInBatch,
                .quietSync:
                false
            }
        }
    }

    /// Something of ours, of which the client sees nothing, is still to be answered.
    package var owesOurs: Bool { expected[head...].contains { $0 == .quietQuery || $0 == .quietSync } }

    /// What was sent, and has not come, in order.
    package var unanswered: [ExpectedReply] { Array(expected[head...]) }

    /// The next message is the first of its batch: an error before it does not skip it.
    package var isAtBatchStart: Bool { !isSkipping && !isWithinBatch }

    /// The server is not in a failed transaction when it gets what is sent now, or skips that.
    package var isSurelyNotFailed: Bool { status != .failed && batchesSent == batchesAnswered }

    /// Whether the batch that began when `batchesSent` was this number has not been answered yet.
    package func isUnanswered(_ batch: UInt32) -> Bool {
        batchesSent &- batch <= batchesSent &- batchesAnswered
    }

    /// How many ReadyForQuery are still to come cannot be told: of a COPY that has failed the server ignored the Syncs
    /// that it read before its error, and answers those behind it. What an empty query answers comes after all of them.
    package var needsBarrier: Bool { isUncertain && isQuiet && isBetweenUnits }

    /// The server is in COPY FROM STDIN and the client has not sent the end of the data.
    package var awaitsCopyData: Bool { isCopyingIn }

    /// The server will not look at what is sent now, unless it is Sync.
    package var skipsNext: Bool { isSkipping }

    package mutating func takeSkippedEnds() -> Int {
        defer { skippedEnds = 0 }
        return skippedEnds
    }

    package mutating func takeDropped() -> [ExpectedReply] {
        if dropped.isEmpty { return [] }
        let taken = dropped
        dropped = []
        return taken
    }

    // MARK: what was sent

    /// - Returns: false when the server will skip the message: nothing will come of it.
    @discardableResult
    package mutating func sent(_ reply: ExpectedReply) -> Bool {
        isBetweenUnits = false
        let endsBatch = reply == .sync || reply == .quietSync
        if isSkipping {
            if endsBatch {
                isSkipping = false
            } else {
                switch reply {
                case .parse, .quietParse, .quietClose, .answerParse, .answerClose, .closeUnnamed, .queryInBatch,
                    .executeDropping, .ownParseInBatch:
                    dropped.append(reply)
                case .query, .functionCall, .sync, .bind, .describe, .execute, .close, .quietQuery, .answer, .ownParse,
                    .quietSync:
                    break
                }
                return false
            }
        }
        // A Sync that arrives during COPY FROM STDIN is ignored by the server (protocol-flow, PROTOCOL-COPY); any
        // other message ends the COPY with an error, and a Sync behind that one counts.
        if isCopyingIn && reply == .sync && expectedCount > 0 && expected[(head + 1)...].allSatisfy(\.isAnsweredByUs) {
            syncsInCopy += 1
            return false
        }
        expected.append(reply)
        switch reply {
        case .query, .queryInBatch, .functionCall, .sync, .quietQuery, .quietSync:
            batchesSent &+= 1
            if endsBatch { isWithinBatch = false }
        case .parse, .bind, .describe, .execute, .close, .quietParse, .quietClose, .answer, .answerParse, .answerClose,
            .closeUnnamed, .executeDropping, .ownParse, .ownParseInBatch:
            isWithinBatch = true
        }
        return true
    }

    /// A unit of lone statements was sent to a free server: the same as `sent` for each of its messages.
    ///
    /// - Parameter definition: of the first Parse; the others have those behind it.
    @inlinable @inline(__always) package mutating func sentLone(
        _ form: LoneStatement.Form, isDescribed: Bool, count: Int = 1, definition: UInt32
    ) {
        isBetweenUnits = false
        batchesSent &+= 1
        if form == .query { return expected.append(.query) }
        expectLone(form, isDescribed, count, definition)
    }

    @usableFromInline
    mutating func expectLone(_ form: LoneStatement.Form, _ isDescribed: Bool, _ count: Int, _ definition: UInt32) {
        for number in 0..<UInt32(count) {
            if form == .parsed { expected.append(.parse(nil, definition: definition &+ number)) }
            expected.append(.bind)
            if isDescribed { expected.append(.describe) }
            expected.append(.execute)
        }
        expected.append(.sync)
    }

    /// The client sent CopyDone or CopyFail.
    package mutating func copyInEnded() {
        if isCopyingIn {
            isCopyingIn = false
        } else if expectedCount > 0 && !isSkipping && copyEnds.count < Self.expectedMax {
            // The client did not wait for the server's CopyInResponse.
            copyEnds.append(poppedCount + expectedCount)
        }
    }

    /// The type of the reply that we owe the client now in the server's place.
    package mutating func nextAnswer() -> UInt8? {
        switch current {
        case .answer(let tag):
            pop()
            return tag
        case .answerParse:
            pop()
            return BackendTag.parseComplete
        case .answerClose:
            pop()
            return BackendTag.closeComplete
        case .query, .queryInBatch, .closeUnnamed, .functionCall, .sync, .parse, .bind, .describe, .execute, .close,
            .quietQuery, .quietParse, .quietClose, .executeDropping, .ownParse, .ownParseInBatch, .quietSync, nil:
            return nil
        }
    }

    // MARK: what came

    /// The error that came last does not end the connection. Where nothing was awaited the server has refused a
    /// message without an answer of its own (Flush), and ignores all up to the next Sync: nobody may have it before.
    package mutating func goesOnAfterError() {
        if current == nil { isSkipping = true }
    }

    package mutating func received(tag: UInt8, body: UnsafeRawBufferPointer) -> Verdict {
        switch tag {
        case BackendTag.dataRow, BackendTag.copyData, BackendTag.copyDone, BackendTag.copyOutResponse,
            BackendTag.functionCallResponse, BackendTag.copyBothResponse:
            return result()
        case BackendTag.readyForQuery:
            return ready(body)
        case BackendTag.errorResponse:
            return error()
        case BackendTag.commandComplete, BackendTag.emptyQueryResponse, BackendTag.portalSuspended:
            return completed()
        case BackendTag.rowDescription, BackendTag.noData:
            return described()
        case BackendTag.parameterDescription:
            return current == nil ? .violation : .forwardHeader
        case BackendTag.parseComplete:
            return parsed()
        case BackendTag.bindComplete:
            return popped(ifHead: .bind)
        case BackendTag.closeComplete:
            if current == .quietClose {
                pop()
                return .swallow
            }
            if case .closeUnnamed = current {
                pop()
                return .forwardHeader
            }
            return popped(ifHead: .close)
        case BackendTag.copyInResponse:
            return copyIn()
        case BackendTag.noticeResponse, BackendTag.parameterStatus:
            return isOurs ? .swallow : .forwardHeader
        case BackendTag.notificationResponse:
            // Sent when the server is about to be ready, whatever it was at: it is for the client that listens.
            return .forwardHeader
        default:
            return .violation
        }
    }

    /// A `LoneAnswer` has come: the same as `received` for each of its messages.
    ///
    /// - Parameter count: replies that were expected.
    /// - Returns: false when something else is awaited; nothing has changed then.
    @inlinable @inline(__always) package mutating func receivedLone(_ count: Int) -> Bool {
        guard expectedCount == count, copyEnds.isEmpty, !isSkipping, !isCopyingIn, !isUncertain else { return false }
        // They go together with those of some units to come.
        head = expected.count
        if head >= Self.answeredMax { emptyExpected() }
        poppedCount += count
        hasHeadCompleted = false
        batchesAnswered &+= 1
        status = .idle
        isBetweenUnits = true
        return true
    }

    private var current: ExpectedReply? { head < expected.count ? expected[head] : nil }

    /// What comes now is of something that the client has not sent.
    private var isOurs: Bool { current == .quietQuery || current == .ownParse || current == .quietSync }

    private mutating func pop() {
        head += 1
        poppedCount += 1
        hasHeadCompleted = false
        if !copyEnds.isEmpty { copyEnds.removeAll { $0 <= poppedCount } }
        if head == expected.count {
            // What a long pipeline took is given back, however few are left of it.
            if head >= Self.answeredMax || expected.capacity > 64 { emptyExpected() }
        } else if head >= 1024 {
            expected.removeSubrange(..<head)
            head = 0
        }
    }

    @usableFromInline mutating func emptyExpected() {
        if expected.capacity > 64 { expected = [] } else { expected.removeAll(keepingCapacity: true) }
        head = 0
    }

    private mutating func popped(ifHead wanted: ExpectedReply) -> Verdict {
        guard current == wanted else { return .violation }
        pop()
        return .forwardHeader
    }

    private mutating func result() -> Verdict {
        switch current {
        case .query, .queryInBatch, .execute, .executeDropping: return .forwardResult
        case .functionCall:
            hasHeadCompleted = true
            return .forwardResult
        case .quietQuery: return .swallow
        default: return .violation
        }
    }

    private mutating func completed() -> Verdict {
        switch current {
        case .query, .queryInBatch:
            copyInSucceeded()
            hasHeadCompleted = true
            return .forwardResult
        case .quietQuery:
            becameCertain()
            return .swallow
        case .execute, .executeDropping:
            copyInSucceeded()
            pop()
            return .forwardResult
        default:
            return .violation
        }
    }

    private mutating func becameCertain() {
        guard isUncertain else { return }
        isUncertain = false
        syncsInCopy = 0
    }

    private mutating func copyInSucceeded() {
        isCopyingIn = false
        if !isUncertain { syncsInCopy = 0 }
    }

    private mutating func described() -> Verdict {
        switch current {
        case .query, .queryInBatch: return .forwardHeader
        case .quietQuery: return .swallow
        case .describe:
            pop()
            return .forwardHeader
        default: return .violation
        }
    }

    private mutating func parsed() -> Verdict {
        switch current {
        case .parse:
            pop()
            return .forwardHeader
        case .quietParse, .ownParse, .ownParseInBatch:
            pop()
            return .swallow
        default:
            return .violation
        }
    }

    private mutating func copyIn() -> Verdict {
        switch current {
        case .query, .queryInBatch, .execute: break
        default: return .violation
        }
        // Syncs that were sent right behind, before the end of the data, are read and ignored while the server copies.
        // What we answer does not get there: PostgreSQL would end the connection for it.
        var end = head + 1, ignored = 0
        let dataEnd = copyEnds.first.map { head + ($0 - poppedCount) } ?? .max
        while end < min(expected.count, dataEnd), expected[end] == .sync || expected[end].isAnsweredByUs {
            if expected[end] == .sync { ignored += 1 }
            end += 1
        }
        // All at once: there may be as many as a server may owe.
        if ignored > 0 {
            expected.replaceSubrange((head + 1)..<end, with: expected[(head + 1)..<end].filter { $0 != .sync })
        }
        if ignored > 0 && current == .execute { isWithinBatch = true }
        // What came behind them was numbered with them.
        batchesAnswered &+= UInt32(ignored)
        ignoredSyncs = ignored
        syncsInCopy += ignored
        if copyEnds.isEmpty {
            isCopyingIn = true
        } else {
            copyEnds.removeFirst()
            for index in copyEnds.indices { copyEnds[index] -= ignored }
        }
        return .forwardResult
    }

    private mutating func error() -> Verdict {
        isCopyingIn = false
        if syncsInCopy > 0 { isUncertain = true }
        hasHeadCompleted = true
        refusedDefinition = 0
        switch current {
        case .query, .queryInBatch, .functionCall:
            return .forwardError
        case .quietQuery:
            becameCertain()
            return .swallowError
        case .ownParse:
            skipToSync()
            return .swallow
        case nil:
            // Between units a server says only that it closes the connection; see `goesOnAfterError` for others.
            return .forwardError
        case .parse, .bind, .describe, .execute, .close, .quietParse, .quietClose, .answer, .answerParse, .sync,
            .answerClose, .closeUnnamed, .executeDropping, .ownParseInBatch, .quietSync:
            if case .parse(nil, let definition) = current { refusedDefinition = definition }
            skipToSync()
            return .forwardError
        }
    }

    /// The server ignores everything up to the Sync: nothing will come of what was sent before it.
    private mutating func skipToSync() {
        while let reply = current, reply != .sync, reply != .quietSync {
            switch reply {
            case .parse, .quietParse, .quietClose, .answerParse, .answerClose, .closeUnnamed, .executeDropping,
                .ownParseInBatch:
                dropped.append(reply)
            case .queryInBatch:
                dropped.append(reply)
                batchesAnswered &+= 1
                skippedEnds += 1
            case .query, .functionCall:
                batchesAnswered &+= 1
                skippedEnds += 1
            case .quietQuery: batchesAnswered &+= 1
            case .sync, .bind, .describe, .execute, .close, .answer, .ownParse, .quietSync: break
            }
            pop()
        }
        isSkipping = current == nil
    }

    private mutating func ready(_ body: UnsafeRawBufferPointer) -> Verdict {
        guard body.count == 1, let status = TransactionStatus(rawValue: body[0]) else { return .violation }
        if isUncertain, syncsInCopy > 0, let verdict = uncertainReady(status) { return verdict }
        switch current {
        case .query, .queryInBatch, .functionCall, .sync:
            pop()
            batchesAnswered &+= 1
            self.status = status
            isBetweenUnits = head == expected.count
            if isBetweenUnits { isWithinBatch = false }
            return .ready(status, isForwarded: true)
        case .quietQuery, .quietSync:
            pop()
            batchesAnswered &+= 1
            self.status = status
            isBetweenUnits = head == expected.count
            if isBetweenUnits { isWithinBatch = false }
            return .ready(status, isForwarded: false)
        default:
            return .violation
        }
    }

    /// A ReadyForQuery while Syncs of a failed COPY may be answered: nil where it is what was awaited, or looks the
    /// same.
    private mutating func uncertainReady(_ status: TransactionStatus) -> Verdict? {
        switch current {
        case nil:
            syncsInCopy -= 1
            self.status = status
            isBetweenUnits = true
            isWithinBatch = false
            if !isSkipping { return .surplusReady }
            isSkipping = false
            return .ready(status, isForwarded: true)
        case .sync, .quietSync:
            return nil
        case .query, .queryInBatch, .functionCall, .quietQuery:
            // An answer of their own comes before theirs.
            if hasHeadCompleted { return nil }
        default:
            break
        }
        syncsInCopy -= 1
        return .surplusReady
    }
}
