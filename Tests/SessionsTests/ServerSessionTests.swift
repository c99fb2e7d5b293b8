import PGWire
import Sessions
import Testing

/// One thing that happens to a session, and what has to come of it.
enum Step: Sendable {
    case sent(ExpectedReply, isTaken: Bool = true)
    /// Messages by their type bytes, each with its verdict; `Z` is followed by its status: `ZI`, `ZT`, `ZE`.
    case got(String, [ServerSession.Verdict])
    case answer(UInt8?)
    case copyEnds
    case dropped([ExpectedReply])
}

struct Script: Sendable, CustomTestStringConvertible {
    var testDescription: String
    var steps: [Step]
    var isFree: Bool

    init(_ name: String, isFree: Bool = true, _ steps: [Step]) {
        testDescription = name
        self.steps = steps
        self.isFree = isFree
    }

    func run() {
        var session = ServerSession()
        for (index, step) in steps.enumerated() {
            let place: Comment = "\(testDescription), step \(index)"
            switch step {
            case .sent(let reply, let isTaken):
                #expect(session.sent(reply) == isTaken, place)
            case .got(let tags, let verdicts):
                #expect(Self.feed(tags, &session) == verdicts, place)
            case .answer(let tag):
                #expect(session.nextAnswer() == tag, place)
            case .copyEnds:
                session.copyInEnded()
            case .dropped(let replies):
                #expect(session.takeDropped() == replies, place)
            }
        }
        #expect(session.isFree == isFree, "\(testDescription), at the end")
    }

    static func feed(_ tags: String, _ session: inout ServerSession) -> [ServerSession.Verdict] {
        var verdicts: [ServerSession.Verdict] = []
        var rest = Array(tags.utf8)[...]
        while let tag = rest.popFirst() {
            var body: [UInt8] = []
            if tag == BackendTag.readyForQuery, let status = rest.popFirst() { body = [status] }
            verdicts.append(body.withUnsafeBytes { session.received(tag: tag, body: $0) })
        }
        return verdicts
    }
}

private let ready = ServerSession.Verdict.ready(.idle, isForwarded: true)
private let quietReady = ServerSession.Verdict.ready(.idle, isForwarded: false)
private let parse = ExpectedReply.parse(nil, definition: 0)

@Suite struct ServerSessionTests {
    @Test func `a server that has refused what has no answer is not free before a Sync`() {
        var session = ServerSession()
        #expect(Script.feed("E", &session) == [.forwardError])
        session.goesOnAfterError()
        #expect((!session.isFree && session.skipsNext) == true)
        let isTaken = session.sent(.query)
        #expect(!isTaken)
        session.sent(.sync)
        #expect(Script.feed("ZI", &session) == [ready])
        #expect(session.isFree == true)
    }

    @Test(arguments: [
        Script(
            "a query with a result",
            [
                .sent(.query),
                .got("TDDCZI", [.forwardHeader, .forwardResult, .forwardResult, .forwardResult, ready]),
            ]),
        Script(
            "several statements in one query",
            [
                .sent(.query),
                .got(
                    "CTDCIZI",
                    [
                        .forwardResult, .forwardHeader, .forwardResult, .forwardResult, .forwardResult, ready,
                    ]),
            ]),
        Script(
            "a query that fails",
            [.sent(.query), .got("TDEZI", [.forwardHeader, .forwardResult, .forwardError, ready])]),
        Script(
            "a query that opens a transaction", isFree: false,
            [
                .sent(.query), .got("CZT", [.forwardResult, .ready(.inTransaction, isForwarded: true)]),
            ]),
        Script(
            "a query in a failed transaction", isFree: false,
            [
                .sent(.query), .got("EZE", [.forwardError, .ready(.failed, isForwarded: true)]),
            ]),
        Script("a function call", [.sent(.functionCall), .got("VZI", [.forwardResult, ready])]),
        Script(
            "notices, settings and notifications between messages",
            [
                .got("NSA", [.forwardHeader, .forwardHeader, .forwardHeader]),
                .sent(.query),
                .got(
                    "NSACNZI",
                    [
                        .forwardHeader, .forwardHeader, .forwardHeader, .forwardResult, .forwardHeader, ready,
                    ]),
            ]),
        Script(
            "a notification that comes while the server is at something of ours",
            [
                .sent(.quietQuery), .got("TDCNAZI", [.swallow, .swallow, .swallow, .swallow, .forwardHeader, quietReady]),
            ]),
        Script(
            "queries one behind the other",
            [
                .sent(.query), .sent(.query), .got("CZI", [.forwardResult, ready]),
                .got("EZI", [.forwardError, ready]),
            ]),
        Script(
            "COPY to the client",
            [
                .sent(.query),
                .got(
                    "HddcCZI",
                    [
                        .forwardResult, .forwardResult, .forwardResult, .forwardResult, .forwardResult, ready,
                    ]),
            ]),
        Script("an error between units says goodbye", [.got("E", [.forwardError])]),
    ])
    func `simple queries are answered up to ReadyForQuery`(script: Script) { script.run() }

    @Test(arguments: [
        Script(
            "a whole batch",
            [
                .sent(parse), .sent(.bind), .sent(.describe), .sent(.execute), .sent(.close), .sent(.sync),
                .got(
                    "12TDDC3ZI",
                    [
                        .forwardHeader, .forwardHeader, .forwardHeader, .forwardResult, .forwardResult,
                        .forwardResult,
                        .forwardHeader, ready,
                    ]),
            ]),
        Script(
            "a statement described",
            [
                .sent(.describe), .sent(.describe), .sent(.sync),
                .got("tTtnZI", [.forwardHeader, .forwardHeader, .forwardHeader, .forwardHeader, ready]),
            ]),
        Script(
            "portals suspended and empty queries",
            [
                .sent(.bind), .sent(.execute), .sent(.execute), .sent(.bind), .sent(.execute), .sent(.sync),
                .got(
                    "2DsDC2IZI",
                    [
                        .forwardHeader, .forwardResult, .forwardResult, .forwardResult, .forwardResult,
                        .forwardHeader,
                        .forwardResult, ready,
                    ]),
            ]),
        Script("a Sync alone", [.sent(.sync), .got("ZI", [ready])]),
        Script("a Sync that fails to commit", [.sent(.sync), .got("EZI", [.forwardError, ready])]),
        Script(
            "our own messages among the client's",
            [
                .sent(.quietClose), .sent(.quietParse(StatementID(7))), .sent(.bind), .sent(.execute),
                .sent(.sync),
                .got("312CZI", [.swallow, .swallow, .forwardHeader, .forwardResult, ready]),
            ]),
        Script(
            "answers of ours in their turn",
            [
                .sent(.answer(BackendTag.closeComplete)), .sent(parse), .sent(.answerParse(definition: 3)),
                .sent(.answer(BackendTag.closeComplete)), .sent(.sync),
                .answer(BackendTag.closeComplete), .answer(nil), .got("1", [.forwardHeader]),
                .answer(BackendTag.parseComplete), .answer(BackendTag.closeComplete), .answer(nil),
                .got("ZI", [ready]),
                .dropped([]),
            ]),
    ])
    func `extended messages are answered one by one`(script: Script) { script.run() }

    @Test(arguments: [
        Script(
            "the rest of the batch is skipped",
            [
                .sent(parse), .sent(.bind), .sent(.describe), .sent(.execute), .sent(.sync),
                .got("EZI", [.forwardError, ready]), .dropped([parse]),
            ]),
        Script(
            "what comes before the Sync is skipped as it is sent",
            [
                .sent(.bind), .got("E", [.forwardError]),
                .sent(.execute, isTaken: false), .sent(.parse(StatementID(1), definition: 5), isTaken: false),
                .sent(.answer(BackendTag.closeComplete), isTaken: false),
                .sent(.quietParse(nil), isTaken: false),
                .sent(.answerParse(definition: 6), isTaken: false), .sent(.sync), .got("ZI", [ready]),
                .dropped([
                    .parse(StatementID(1), definition: 5), .quietParse(nil), .answerParse(definition: 6),
                ]), .dropped([]),
            ]),
        Script(
            "definitions that the server skipped are told",
            [
                .sent(.parse(StatementID(1), definition: 1)), .sent(.parse(StatementID(2), definition: 2)),
                .sent(.answerParse(definition: 3)), .sent(.quietParse(StatementID(4))), .sent(.bind),
                .sent(.sync),
                .got("1E", [.forwardHeader, .forwardError]),
                .dropped([
                    .parse(StatementID(2), definition: 2), .answerParse(definition: 3),
                    .quietParse(StatementID(4)),
                ]),
                .got("ZI", [ready]),
            ]),
        Script(
            "a statement of ours fails in the client's batch",
            [
                .sent(.quietParse(StatementID(9))), .sent(.bind), .sent(.execute), .sent(.sync),
                .got("EZI", [.forwardError, ready]), .dropped([.quietParse(StatementID(9))]),
            ]),
        Script(
            "only to the first Sync",
            [
                .sent(.bind), .sent(.sync), .sent(.bind), .sent(.execute), .sent(.sync), .sent(.sync),
                .sent(.bind),
                .sent(.sync),
                .got(
                    "EZI2CZIZIEZI",
                    [
                        .forwardError, ready, .forwardHeader, .forwardResult, ready, ready, .forwardError,
                        ready,
                    ]),
            ]),
        Script(
            "an error before a Sync that was not sent yet", isFree: false,
            [
                .sent(.execute), .got("E", [.forwardError]),
            ]),
        Script(
            "a query behind a failed batch is skipped as well",
            [
                .sent(.bind), .got("E", [.forwardError]), .sent(.query, isTaken: false), .sent(.sync),
                .got("ZI", [ready]),
            ]),
    ])
    func `after an error everything is skipped up to the Sync`(script: Script) { script.run() }

    @Test(arguments: [
        Script(
            "by a query",
            [
                .sent(.query), .got("G", [.forwardResult]), .sent(.sync, isTaken: false), .copyEnds,
                .got("CZI", [.forwardResult, ready]),
            ]),
        Script(
            "by a query, refused in the middle",
            [
                .sent(.query), .got("GE", [.forwardResult, .forwardError]), .copyEnds, .got("ZI", [ready]),
            ]),
        Script(
            "by a batch whose Sync came with it",
            [
                .sent(parse), .sent(.bind), .sent(.execute), .sent(.sync),
                .got("12G", [.forwardHeader, .forwardHeader, .forwardResult]),
                .sent(.sync, isTaken: false), .copyEnds, .sent(.sync), .got("CZI", [.forwardResult, ready]),
            ]),
        Script(
            "by a batch, refused in the middle, and the client ends it late",
            [
                .sent(.bind), .sent(.execute), .got("2GE", [.forwardHeader, .forwardResult, .forwardError]),
                .copyEnds, .sent(.sync), .got("ZI", [ready]),
            ]),
        Script(
            "by a batch, refused after the client's end",
            [
                .sent(.bind), .sent(.execute), .got("2G", [.forwardHeader, .forwardResult]), .copyEnds,
                .sent(.sync),
                .got("EZI", [.forwardError, ready]),
            ]),
        Script(
            "by a query whose Sync came with it",
            [
                .sent(.query), .sent(.sync), .got("G", [.forwardResult]), .copyEnds,
                .got("CZI", [.forwardResult, ready]),
            ]),
        Script(
            "by a query, and Syncs with what we answer between come with it",
            [
                .sent(.query), .sent(.sync), .sent(.answerClose(change: 1)), .sent(.sync), .copyEnds, .sent(.sync),
                .sent(.answerClose(change: 2)), .sent(.sync),
                .got("GCZI", [.forwardResult, .forwardResult, ready]), .answer(BackendTag.closeComplete), .answer(nil),
                .got("ZI", [ready]), .answer(BackendTag.closeComplete), .answer(nil), .got("ZI", [ready]),
            ]),
        Script(
            "by a query, and a Sync behind what we answer, which has none then", isFree: false,
            [
                .sent(.query), .got("G", [.forwardResult]), .sent(.answerClose(change: 1)),
                .sent(.sync, isTaken: false), .copyEnds, .got("CZI", [.forwardResult, ready]),
                .answer(BackendTag.closeComplete),
            ]),
        Script(
            "by a batch whose client waits for nothing",
            [
                .sent(parse), .sent(.bind), .sent(.execute), .copyEnds, .sent(.sync),
                .got("12GCZI", [.forwardHeader, .forwardHeader, .forwardResult, .forwardResult, ready]),
            ]),
        Script(
            "twice by a client that waits for nothing, with a Sync inside",
            [
                .sent(.bind), .sent(.execute), .sent(.sync), .copyEnds, .sent(.sync),
                .sent(.bind), .sent(.execute), .sent(.sync), .copyEnds, .sent(.sync),
                .got("2GCZI", [.forwardHeader, .forwardResult, .forwardResult, ready]),
                .got("2GCZI", [.forwardHeader, .forwardResult, .forwardResult, ready]),
            ]),
        Script(
            "by a query whose client waits for nothing and goes on",
            [
                .sent(.query), .copyEnds, .got("G", [.forwardResult]), .sent(.bind), .sent(.execute),
                .sent(.sync),
                .got("CZI2CZI", [.forwardResult, ready, .forwardHeader, .forwardResult, ready]),
            ]),
        Script(
            "refused before it began, by a client that waits for nothing",
            [
                .sent(.bind), .sent(.execute), .copyEnds, .sent(.sync),
                .got("2EZI", [.forwardHeader, .forwardError, ready]),
                .sent(.bind), .sent(.execute), .got("2G", [.forwardHeader, .forwardResult]),
                .sent(.sync, isTaken: false), .copyEnds, .sent(.sync), .got("CZI", [.forwardResult, ready]),
            ]),
        Script(
            "broken off by another message, whose Sync counts",
            [
                .sent(.bind), .sent(.execute), .got("2G", [.forwardHeader, .forwardResult]),
                .sent(parse), .sent(.sync), .got("EZI", [.forwardError, ready]), .dropped([parse]),
            ]),
        Script(
            "broken off by messages that were sent with it, whose Sync counts",
            [
                .sent(.execute), .sent(.sync), .sent(.bind), .sent(.sync),
                .got("GEZI", [.forwardResult, .forwardError, ready]),
                .sent(.quietQuery), .got("IZI", [.swallow, quietReady]),
            ]),
        // What the server had made of the data when it read the Sync decides whether that counts.
        Script(
            "refused in mid-data by a batch, whose Sync counts",
            [
                .sent(.execute), .got("G", [.forwardResult]), .sent(.sync, isTaken: false),
                .got("EZI", [.forwardError, ready]), .sent(.quietQuery), .got("IZI", [.swallow, quietReady]),
            ]),
        Script(
            "refused in mid-data by a batch, whose first Sync counts and the second",
            [
                .sent(.execute), .got("G", [.forwardResult]), .sent(.sync, isTaken: false), .copyEnds, .sent(.sync),
                .got("EZIZI", [.forwardError, ready, .surplusReady]), .sent(.quietQuery),
                .got("IZI", [.swallow, quietReady]),
            ]),
        Script(
            "refused in mid-data by a batch, whose first Sync does not count",
            [
                .sent(.execute), .got("G", [.forwardResult]), .sent(.sync, isTaken: false), .copyEnds, .sent(.sync),
                .got("EZI", [.forwardError, ready]), .sent(.quietQuery), .got("IZI", [.swallow, quietReady]),
            ]),
        Script(
            "refused in mid-data by a batch whose client waits for nothing, and both Syncs count",
            [
                .sent(.execute), .sent(.sync), .copyEnds, .sent(.sync), .sent(.close), .sent(.sync),
                .got("GEZIZI3ZI", [.forwardResult, .forwardError, ready, .surplusReady, .forwardHeader, ready]),
                .sent(.quietQuery), .got("IZI", [.swallow, quietReady]),
            ]),
        Script(
            "refused in mid-data by a query, and Syncs behind it count",
            [
                .sent(.query), .got("G", [.forwardResult]), .sent(.sync, isTaken: false),
                .sent(.sync, isTaken: false), .got("EZI", [.forwardError, ready]), .sent(.quietQuery), .sent(.query),
                .got("ZIIZI", [.surplusReady, .swallow, quietReady]), .got("CZI", [.forwardResult, ready]),
            ]),
        Script(
            "refused in mid-data, and the next query was sent before that was known",
            [
                .sent(.query), .got("G", [.forwardResult]), .sent(.sync, isTaken: false), .copyEnds, .sent(.query),
                .got("EZIZICZI", [.forwardError, ready, .surplusReady, .forwardResult, ready]), .sent(.quietQuery),
                .got("IZI", [.swallow, quietReady]),
            ]),
        Script(
            "refused in mid-data, and a function call was sent before that was known",
            [
                .sent(.query), .sent(.sync), .copyEnds, .sent(.functionCall),
                .got("GEZIVZI", [.forwardResult, .forwardError, ready, .forwardResult, ready]), .sent(.quietQuery),
                .got("IZI", [.swallow, quietReady]),
            ]),
        Script(
            "refused in mid-data by a query: nobody else may have the server", isFree: false,
            [
                .sent(.query), .got("G", [.forwardResult]), .sent(.sync, isTaken: false),
                .got("EZI", [.forwardError, ready]),
            ]),
        Script(
            "not refused, with a Sync in mid-data",
            [
                .sent(.query), .got("G", [.forwardResult]), .sent(.sync, isTaken: false), .copyEnds,
                .got("CZI", [.forwardResult, ready]), .sent(.query), .got("EZI", [.forwardError, ready]),
            ]),
        Script(
            "ended without having begun", [.copyEnds, .sent(.query), .got("CZI", [.forwardResult, ready])]),
    ])
    func `COPY from the client ignores Syncs until its data ends`(script: Script) { script.run() }

    @Test(arguments: [
        Script(
            "a statement of ours and its notices",
            [
                .sent(.quietQuery),
                .got(
                    "CTDCSNZI",
                    [
                        .swallow, .swallow, .swallow, .swallow, .swallow, .swallow, quietReady,
                    ]),
            ]),
        Script(
            "a statement of ours that fails", [.sent(.quietQuery), .got("EZI", [.swallowError, quietReady])]),
        Script(
            "before the client's",
            [
                .sent(.quietQuery), .sent(.query),
                .got("CZICZI", [.swallow, quietReady, .forwardResult, ready]),
            ]),
        Script(
            "that leaves a transaction open", isFree: false,
            [
                .sent(.quietQuery), .got("CZT", [.swallow, .ready(.inTransaction, isForwarded: false)]),
            ]),
    ])
    func `the client sees nothing of our own queries`(script: Script) { script.run() }

    @Test(arguments: ["TDCI123snHGWVdctZ", "R", "K", "v", "\u{0}", "x"])
    func `what nobody asked for is a violation`(tags: String) {
        for tag in tags.utf8 {
            var session = ServerSession()
            #expect(
                session.received(tag: tag, body: UnsafeRawBufferPointer(start: nil, count: 0)) == .violation)
        }
    }

    @Test(
        arguments: [
            (.query, "1", true), (.query, "2", true), (.query, "3", true), (.query, "V", false),
            (.sync, "C", true),
            (.sync, "D", true), (.sync, "1", true), (.bind, "1", true), (.bind, "ZI", true),
            (.bind, "D", true),
            (.bind, "G", true), (.describe, "C", true), (.describe, "D", true), (.execute, "T", true),
            (.execute, "n", true), (.execute, "2", true), (.execute, "ZI", true), (.close, "2", true),
            (.close, "C", true), (.quietClose, "1", true), (.quietParse(nil), "2", true),
            (.quietParse(nil), "ZI", true),
            (.quietQuery, "1", true), (.quietQuery, "G", true), (.functionCall, "C", true),
            (.functionCall, "T", true),
            (.answer(0x33), "3", true), (.answerParse(definition: 1), "1", true), (.query, "Z?", true),
            (.query, "Zi", true),
        ] as [(ExpectedReply, String, Bool)])
    func `a reply to something else is a violation`(sent: ExpectedReply, tags: String, isViolation: Bool) {
        var session = ServerSession()
        session.sent(sent)
        #expect((Script.feed(tags, &session) == [.violation]) == isViolation)
    }

    @Test(arguments: [[], [0x49, 0x49]] as [[UInt8]])
    func `a ReadyForQuery of another size is a violation`(body: [UInt8]) {
        var session = ServerSession()
        session.sent(.sync)
        #expect(body.withUnsafeBytes { session.received(tag: 0x5A, body: $0) } == .violation)
    }

    @Test(
        arguments: [
            ([], false), ([.query], true), ([.functionCall], true), ([.sync], true),
            ([.bind, .execute, .sync], true),
            ([.bind], false), ([.query, .query], false), ([.sync, .sync], false), ([.sync, parse], false),
            ([.query, .bind], false), ([.quietQuery], false), ([.quietQuery, .query], true),
            ([.sync, .answer(0x33)], false), ([.answer(0x33), .sync], true),
            ([.answerParse(definition: 1)], false),
        ] as [([ExpectedReply], Bool)])
    func `one ReadyForQuery is owed when it is the only one and the last`(
        sent: [ExpectedReply], owesOne: Bool
    ) {
        var session = ServerSession()
        for reply in sent { session.sent(reply) }
        #expect(session.owesOneReady == owesOne)
    }

    @Test func `what is unanswered, and whether something of ours is, is told`() {
        var session = ServerSession()
        session.sent(.quietQuery)
        session.sent(.query)
        #expect(session.owesOurs && session.unanswered == [.quietQuery, .query])
        #expect(Script.feed("CZT", &session) == [.swallow, .ready(.inTransaction, isForwarded: false)])
        #expect(!session.owesOurs && session.unanswered == [.query])
        #expect(Script.feed("CZT", &session) == [.forwardResult, .ready(.inTransaction, isForwarded: true)])
        #expect(!session.owesOurs && session.unanswered.isEmpty)
    }

    @Test func `while skipping or copying in, more is owed than a ReadyForQuery`() {
        var session = ServerSession()
        session.sent(.query)
        #expect(Script.feed("G", &session) == [.forwardResult])
        #expect(session.owesOneReady == false)
        session.copyInEnded()
        #expect(session.owesOneReady == true)
        var skipping = ServerSession()
        skipping.sent(.bind)
        #expect(Script.feed("E", &skipping) == [.forwardError])
        #expect(skipping.owesOneReady == false)
        #expect(skipping.isQuiet == false)
    }

    @Test func `a COPY that begins ignores as many Syncs as a server may owe at once`() {
        var session = ServerSession()
        session.sent(.execute)
        session.sent(.answer(0x33))
        while !session.isFull { session.sent(.sync) }
        #expect(Script.feed("G", &session) == [.forwardResult])
        #expect(session.ignoredSyncs == ServerSession.expectedMax - 2)
        #expect(session.expectedCount == 2)
        #expect(session.awaitsCopyData == true)
    }

    @Test(arguments: [1_023, 1_024, 1_025, 5_000])
    func `pipelines of many Syncs are counted to the last`(count: Int) {
        var session = ServerSession()
        for _ in 0..<count {
            session.sent(.bind)
            session.sent(.sync)
        }
        #expect(session.expectedCount == 2 * count)
        for index in 0..<count {
            #expect(session.isFree == false)
            let verdicts = Script.feed(index % 3 == 0 ? "EZI" : "2ZI", &session)
            #expect(verdicts == [index % 3 == 0 ? .forwardError : .forwardHeader, ready])
        }
        #expect(session.isFree == true)
        #expect(Script.feed("ZI", &session) == [.violation])
    }

    @Test func `a session is full at its bound and not before`() {
        var session = ServerSession()
        for _ in 1..<ServerSession.expectedMax { session.sent(.bind) }
        #expect(session.isFull == false)
        session.sent(.bind)
        #expect(session.isFull == true)
        #expect(Script.feed("2", &session) == [.forwardHeader])
        #expect(session.isFull == false)
    }
}
