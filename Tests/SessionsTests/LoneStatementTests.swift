import PGWire
import Primitives
import Sessions
import Testing

/// What a lone statement and its answer are, and that everything else is none.
@Suite struct LoneStatementTests {
    private static func message(_ tag: UInt8, _ body: [UInt8] = []) -> [UInt8] {
        var writer = MessageWriter()
        writer.message(tag) { $0.raw(body) }
        return writer.bytes
    }

    private static func text(_ text: String) -> [UInt8] { Array(text.utf8) + [0] }

    private static let query = message(FrontendTag.query, text("SELECT 1"))
    private static let parse = message(FrontendTag.parse, [0] + text("SELECT $1") + [0, 1, 0, 0, 0, 23])
    private static let bind = message(FrontendTag.bind, [0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x37, 0, 0])
    private static let bindNamed = message(FrontendTag.bind, [0] + text("s1") + [0, 0, 0, 0, 0, 0])
    private static let describe = message(FrontendTag.describe, [UInt8(ascii: "P"), 0])
    private static let execute = message(FrontendTag.execute, [0, 0, 0, 0, 0])
    private static let sync = message(FrontendTag.sync)

    private static let lone: [(bytes: [UInt8], form: LoneStatement.Form, isDescribed: Bool, count: Int)] = [
        (query, .query, false, 1),
        (parse + bind + describe + execute + sync, .parsed, true, 1),
        (parse + bind + execute + sync, .parsed, false, 1),
        (bind + describe + execute + sync, .bound, true, 1),
        (bindNamed + describe + execute + sync, .bound, true, 1),
        (bindNamed + execute + sync, .bound, false, 1),
        (parse + bind + execute + parse + bind + execute + sync, .parsed, false, 2),
        (bindNamed + describe + execute + bind + describe + execute + sync, .bound, true, 2),
    ]

    /// The statements of a unit; nil: it is none.
    private func statements(
        _ raw: UnsafeRawBufferPointer, packetMax: Int = WireLimits.messageMax
    ) -> [LoneStatement]? {
        var rest: [LoneStatement] = []
        guard let first = LoneStatement(raw, packetMax: packetMax, rest: &rest) else { return nil }
        return [first] + rest
    }

    @Test(arguments: lone.indices)
    func isFound(_ index: Int) throws {
        let (bytes, form, isDescribed, count) = Self.lone[index]
        try bytes.withUnsafeBytes { raw in
            let all = try #require(statements(raw))
            let found = all[0]
            #expect(found.form == form)
            #expect(found.isDescribed == isDescribed)
            #expect(all.count == count)
            if count > 1 { return try areFollowed(all, in: raw) }
            switch form {
            case .query: #expect(found.text.elementsEqual("SELECT 1".utf8))
            case .parsed:
                #expect(found.text.elementsEqual("SELECT $1".utf8))
                #expect(found.parseBody.elementsEqual(Self.text("SELECT $1") + [0, 1, 0, 0, 0, 23]))
            case .bound: #expect(found.text.isEmpty)
            }
            if form == .query { return }
            #expect(raw[found.executeEnd] == FrontendTag.sync)
            #expect(raw[found.bindEnd] == (isDescribed ? FrontendTag.describe : FrontendTag.execute))
            #expect(found.name.elementsEqual(raw.contains(UInt8(ascii: "s")) && form == .bound ? Array("s1".utf8) : []))
        }
    }

    /// Each statement of the unit is what it would be in one of its own.
    private func areFollowed(_ all: [LoneStatement], in raw: UnsafeRawBufferPointer) throws {
        var start = 0
        for lone in all {
            let own = Array(raw[start..<lone.executeEnd]) + Self.sync
            try own.withUnsafeBytes { alone in
                let its = try #require(statements(alone))
                let found = its[0]
                #expect(its.count == 1 && found.form == lone.form && found.isDescribed == lone.isDescribed)
                #expect(found.text.elementsEqual(lone.text) && found.parseBody.elementsEqual(lone.parseBody))
                #expect(found.name.elementsEqual(lone.name) && found.values.elementsEqual(lone.values))
                #expect(found.bindStart + start == lone.bindStart && found.bindEnd + start == lone.bindEnd)
            }
            start = lone.executeEnd
        }
        #expect(raw[start] == FrontendTag.sync)
    }

    @Test func statementsAreTheSameByTextAndTypesOrByName() throws {
        let other = Self.message(FrontendTag.parse, [0] + Self.text("SELECT $1 ") + [0, 0])
        let untyped = Self.message(FrontendTag.parse, [0] + Self.text("SELECT $1") + [0, 0])
        let parsed = [Self.parse, Self.parse, untyped, other, Self.parse].flatMap { $0 + Self.bind + Self.execute }
        let bound = [Self.bind, Self.bind, Self.bindNamed, Self.bindNamed, Self.bind].flatMap { $0 + Self.execute }
        for (bytes, areSame) in [(parsed, [true, false, false, false]), (bound, [true, false, true, false])] {
            try (bytes + Self.sync).withUnsafeBytes { raw in
                let all = try #require(statements(raw))
                #expect(zip(all, all.dropFirst()).map { $1.isOfSameStatement(as: $0) } == areSame)
            }
        }
    }

    @Test func aUnitHoldsSoManyStatementsAtMost() {
        let statement = Self.bind + Self.execute
        func unit(_ count: Int) -> [UInt8] { Array(repeatElement(statement, count: count).joined()) + Self.sync }
        unit(LoneStatement.countMax).withUnsafeBytes {
            #expect(statements($0)?.count == LoneStatement.countMax)
        }
        unit(LoneStatement.countMax + 1).withUnsafeBytes { #expect(statements($0) == nil) }
    }

    @Test(arguments: lone.indices)
    func isNoneWhileItIsNotWholeOrWithMoreBehindIt(_ index: Int) {
        let bytes = Self.lone[index].bytes
        for count in 0..<bytes.count {
            bytes[..<count].withUnsafeBytes { #expect(statements($0) == nil, "the first \(count) bytes") }
        }
        for more in [[0], Self.sync, Self.query, Self.parse] {
            (bytes + more).withUnsafeBytes { #expect(statements($0) == nil) }
        }
    }

    /// Whatever byte changes, what is found still lies within the bytes.
    @Test func readsWithinItsBytes() {
        let seed = UInt64.random(in: .min ... .max)
        print("lone statements: seed \(seed)")
        var random = Splitmix(state: seed)
        for (bytes, _, _, _) in Self.lone {
            for _ in 0..<2000 {
                var changed = bytes
                for _ in 0..<Int.random(in: 1...3, using: &random) {
                    changed[Int.random(in: changed.indices, using: &random)] = UInt8.random(in: 0...255, using: &random)
                }
                changed.withUnsafeBytes { raw in
                    for found in statements(raw) ?? [] {
                        for part in [found.text, found.parseBody, found.name, found.values] where !part.isEmpty {
                            #expect(part.baseAddress! >= raw.baseAddress!, "seed \(seed)")
                            #expect(part.baseAddress! + part.count <= raw.baseAddress! + raw.count, "seed \(seed)")
                        }
                    }
                }
            }
        }
    }

    @Test func whatGoesOnOrHasNamesIsNone() {
        let named = Self.message(FrontendTag.parse, Self.text("s1") + Self.text("SELECT 1") + [0, 0])
        let portal = Self.message(FrontendTag.bind, Self.text("p") + [0, 0, 0, 0, 0, 0, 0])
        let partly = Self.message(FrontendTag.execute, [0, 0, 0, 0, 5])
        let flush = Self.message(FrontendTag.flush)
        let others: [[UInt8]] = [
            named + Self.bind + Self.execute + Self.sync,
            Self.parse + Self.bindNamed + Self.execute + Self.sync,
            Self.parse + portal + Self.execute + Self.sync,
            Self.parse + Self.bind + partly + Self.sync,
            Self.parse + Self.bind + Self.execute + Self.execute + Self.sync,
            Self.parse + Self.bind + Self.execute + Self.bind + Self.execute + Self.sync,
            Self.parse + Self.bind + Self.execute + Self.parse + Self.bind + Self.describe + Self.execute + Self.sync,
            Self.bind + Self.execute + Self.query,
            Self.bind + Self.execute + Self.sync + Self.bind + Self.execute + Self.sync,
            Self.parse + Self.bind + Self.execute + flush,
            Self.parse + Self.describe + Self.bind + Self.execute + Self.sync,
            Self.parse + Self.sync, Self.sync, Self.bind + Self.sync,
            Self.message(FrontendTag.query, Self.text("SELECT 1") + Self.text("SELECT 2")),
            Self.message(FrontendTag.query, Array("SELECT 1".utf8)),
        ]
        for bytes in others { bytes.withUnsafeBytes { #expect(statements($0) == nil) } }
        Self.query.withUnsafeBytes { #expect(statements($0, packetMax: 8) == nil) }
    }

    private struct Splitmix: RandomNumberGenerator {
        var state: UInt64

        mutating func next() -> UInt64 {
            state &+= 0x9E37_79B9_7F4A_7C15
            var mixed = (state ^ (state >> 30)) &* 0xBF58_476D_1CE4_E5B9
            mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
            return mixed ^ (mixed >> 31)
        }
    }

    // MARK: answers

    private static let parsed = message(BackendTag.parseComplete)
    private static let bound = message(BackendTag.bindComplete)
    private static let rows = message(BackendTag.rowDescription, [0, 0])
    private static let row = message(BackendTag.dataRow, [0, 0])
    private static let complete = message(BackendTag.commandComplete, text("SELECT 2"))
    private static let ready = message(BackendTag.readyForQuery, [UInt8(ascii: "I")])

    private static let answers: [(bytes: [UInt8], form: LoneStatement.Form, isDescribed: Bool, count: Int)] = [
        (rows + row + row + complete + ready, .query, false, 1),
        (rows + complete + ready, .query, false, 1),
        (parsed + bound + rows + row + complete + ready, .parsed, true, 1),
        (parsed + bound + row + complete + ready, .parsed, false, 1),
        (bound + rows + row + complete + ready, .bound, true, 1),
        (bound + complete + ready, .bound, false, 1),
        (parsed + bound + row + complete + parsed + bound + complete + ready, .parsed, false, 2),
        (bound + rows + complete + bound + rows + row + complete + bound + rows + complete + ready, .bound, true, 3),
    ]

    @Test func `what is answered is not awaited again, however many units there were`() {
        var session = ServerSession()
        for turn in 0..<500 {
            let form: LoneStatement.Form = turn % 3 == 0 ? .query : .parsed
            let count = LoneStatement.replyCount(form, isDescribed: true)
            session.sentLone(form, isDescribed: true, definition: 1)
            let (owed, owesReady) = (session.expectedCount, session.owesReady)
            #expect(owed == count)
            #expect(owesReady)
            // What is not as it should be is looked at one message after the other.
            let isTaken = [session.receivedLone(count - 1), turn % 5 > 0 && session.receivedLone(count)]
            #expect(isTaken == [false, turn % 5 > 0])
            if turn % 5 == 0 {
                let error = Array("SERROR\0C42P01\0Mno\0\0".utf8)
                _ = error.withUnsafeBytes { session.received(tag: BackendTag.errorResponse, body: $0) }
                _ = [TransactionStatus.idle.rawValue].withUnsafeBytes {
                    session.received(tag: BackendTag.readyForQuery, body: $0)
                }
            }
            let (isFree, left) = (session.isFree, session.unanswered)
            #expect(isFree)
            #expect(left.isEmpty)
        }
    }

    @Test(arguments: answers.indices)
    func anAnswerIsKnownWhenItIsWhole(_ index: Int) {
        let (bytes, form, isDescribed, statements) = Self.answers[index]
        func found(_ bytes: [UInt8], _ count: Int) -> Bool {
            bytes.withUnsafeBytes {
                LoneAnswer($0, to: form, isDescribed: isDescribed, count: count)?
                    .tag.elementsEqual(Self.text("SELECT 2")) == true
            }
        }
        for count in 0..<bytes.count { #expect(!found(Array(bytes[..<count]), statements)) }
        #expect(found(bytes, statements))
        #expect(!found(bytes + Self.ready, statements) && !found(bytes, statements + 1))
        #expect(statements == 1 || !found(bytes, statements - 1))
        // The session notes the same as for each message by itself.
        var whole = ServerSession()
        var single = ServerSession()
        let count = LoneStatement.replyCount(form, isDescribed: isDescribed, count: statements)
        whole.sentLone(form, isDescribed: isDescribed, count: statements, definition: 7)
        if form == .query { single.sent(.query) }
        for number in 0..<UInt32(statements) where form != .query {
            if form == .parsed { single.sent(.parse(nil, definition: 7 + number)) }
            single.sent(.bind)
            if isDescribed { single.sent(.describe) }
            single.sent(.execute)
        }
        if form != .query { single.sent(.sync) }
        let expected = [whole.expectedCount, single.expectedCount]
        #expect(expected == [count, count])
        let isTaken = [whole.receivedLone(count + 1), whole.receivedLone(count)]
        #expect(isTaken == [false, true])
        var offset = 0
        bytes.withUnsafeBytes { raw in
            while let header = FrameHeader.parse(raw, at: offset) {
                let body = UnsafeRawBufferPointer(rebasing: raw[offset + 5..<offset + header.frameSize])
                let verdict = single.received(tag: header.tag, body: body)
                #expect(verdict != .violation)
                offset += header.frameSize
            }
        }
        for session in 0..<2 {
            let (isFree, sent, answered, isStart) = session == 0
                ? (whole.isFree, whole.batchesSent, whole.batchesAnswered, whole.isAtBatchStart)
                : (single.isFree, single.batchesSent, single.batchesAnswered, single.isAtBatchStart)
            #expect(isFree)
            #expect(sent == 1)
            #expect(answered == 1)
            #expect(isStart)
        }
    }

    @Test func whatElseAnAnswerHoldsMakesItNone() {
        let error = Self.message(BackendTag.errorResponse, [0])
        let notice = Self.message(BackendTag.noticeResponse, [0])
        let setting = Self.message(BackendTag.parameterStatus, Self.text("TimeZone") + Self.text("UTC"))
        let failed = Self.message(BackendTag.readyForQuery, [UInt8(ascii: "E")])
        let open = Self.message(BackendTag.readyForQuery, [UInt8(ascii: "T")])
        let others: [[UInt8]] = [
            error + Self.ready, Self.rows + notice + Self.complete + Self.ready,
            Self.rows + Self.complete + setting + Self.ready, Self.rows + Self.complete + failed,
            Self.rows + Self.complete + open, Self.rows + Self.complete + Self.rows + Self.complete + Self.ready,
            Self.row + Self.complete + Self.ready, Self.rows + Self.rows + Self.complete + Self.ready,
            Self.parsed + Self.rows + Self.complete + Self.ready,
            Self.message(BackendTag.emptyQueryResponse) + Self.ready,
            Self.message(BackendTag.copyOutResponse, [0, 0, 0]) + Self.ready,
        ]
        for bytes in others {
            bytes.withUnsafeBytes { #expect(LoneAnswer($0, to: .query, isDescribed: false) == nil) }
        }
    }
}
