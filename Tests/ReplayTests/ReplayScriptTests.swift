import Capture
import PGWire
import SQLAnalysis
import Testing

@testable import Replay

@Suite struct ReplayScriptTests {
    /// Records of one connection, a microsecond apart unless told otherwise.
    private func events(
        _ contents: [CaptureRecord.Content], onlyReads: Bool = false, apart: UInt64 = 1
    ) -> [ScriptEvent] {
        var builder = ScriptBuilder(book: StatementBook(), onlyReads: onlyReads)
        var events: [ScriptEvent] = []
        let connection = CapturedConnection(user: "u", database: "d", applicationName: "", settings: [])
        for (index, content) in ([.connect(connection)] + contents + [.disconnect]).enumerated() {
            builder.add(CaptureRecord(connection: 1, micros: UInt64(index) * apart, content: content)) {
                events.append($0)
            }
        }
        builder.finish { events.append($0) }
        return events
    }

    private func steps(_ events: [ScriptEvent]) -> [ScriptStep] {
        events.compactMap { if case .step(_, let step) = $0 { step } else { nil } }
    }

    private func query(_ text: String) -> CaptureRecord.Content {
        .message(tag: FrontendTag.query, answers: 0, body: Array(text.utf8) + [0])
    }

    private func message(_ tag: UInt8, _ body: [UInt8] = [], answers: UInt64 = 0) -> CaptureRecord.Content {
        .message(tag: tag, answers: answers, body: body)
    }

    @Test func `a unit ends with its answer, and later ones know what was answered before`() {
        var answer = CapturedAnswer(.complete)
        answer.tag = "SELECT 1"
        let steps = steps(events([
            query("SELECT 1"), .answer(answer), .ready(.idle), query("UPDATE t SET a = 1"), query("SELECT 2"), .ready(.idle),
            .error(state: "22012", isFatal: false, message: ""), .ready(.idle),
        ]))
        #expect(steps.map(\.readies) == [0, 1, 1])
        #expect(steps.map(\.unitsBefore) == [0, 1, 1])
        #expect(steps.map { $0.unit.answerOrdinal } == [0, 1, 2])
        #expect(steps.map(\.unit.isRead) == [true, false, true])
        #expect(steps[0].unit.expected.first?.tag == "SELECT 1" && steps[2].unit.expected.first?.state == "22012")
    }

    @Test func `a Sync that comes before COPY data does not end the unit`() {
        let parse: [UInt8] = [0] + Array("COPY t FROM STDIN".utf8) + [0, 0, 0]
        let head = [
            message(FrontendTag.parse, parse), message(FrontendTag.bind, [0, 0, 0, 0, 0, 0, 0, 0]),
            message(FrontendTag.execute, [0, 0, 0, 0, 0]), message(FrontendTag.sync),
        ]
        let data = [message(FrontendTag.copyData, [1], answers: 3), message(FrontendTag.copyDone, answers: 3)]
        let copyIn = CaptureRecord.Content.answer(CapturedAnswer(.copyIn))
        let orders = [
            head + [copyIn] + data + [message(FrontendTag.sync)],
            head + data + [message(FrontendTag.sync), copyIn],
        ]
        for order in orders {
            let steps = steps(events(
                order + [.answer(CapturedAnswer(.complete)), .ready(.idle), query("SELECT 1"), .ready(.idle)]))
            #expect(steps.last?.readies == 1 && steps.last?.unit.answerOrdinal == 1)
            #expect(steps.first?.unit.answerOrdinal == 0 && steps.first?.unit.expected.count == 2)
            #expect(steps.allSatisfy { $0.unit.answerOrdinal != nil })
        }
    }

    @Test func `a COPY whose data were cut is counted once, and not where it is left out`() {
        for onlyReads in [false, true] {
            var builder = ScriptBuilder(book: StatementBook(), onlyReads: onlyReads)
            let contents = [
                query("COPY t FROM STDIN"), .answer(CapturedAnswer(.copyIn)), .omitted(bytes: 10), .omitted(bytes: 90),
                message(FrontendTag.copyDone, answers: 1), .ready(.idle), query("SELECT 1"), .ready(.idle),
            ]
            for content in contents { builder.add(CaptureRecord(connection: 1, micros: 0, content: content)) { _ in } }
            #expect(builder.cutCopies == (onlyReads ? 0 : 1))
        }
    }

    @Test func `what may write is left out, but for what it prepares`() {
        let parse: [UInt8] = [0x73, 0] + Array("INSERT INTO t VALUES (1)".utf8) + [0, 0, 0]
        let steps = steps(events([
            query("BEGIN"), .ready(.inTransaction), message(FrontendTag.parse, parse),
            message(FrontendTag.bind, [0, 0x73, 0, 0, 0, 0, 0, 0, 0]), message(FrontendTag.execute, [0, 0, 0, 0, 0]),
            message(FrontendTag.sync), .ready(.inTransaction), query("DELETE FROM t"), .ready(.inTransaction),
            query("SELECT * FROM t"), .ready(.inTransaction),
        ], onlyReads: true))
        #expect(steps.map(\.unit.isSkipped) == [false, true, true, false])
        #expect(steps[1].bytes.first == FrontendTag.parse && steps[1].bytes.suffix(5) == [FrontendTag.sync, 0, 0, 0, 4])
        #expect(steps[2].bytes.isEmpty)
    }

    /// COPY FROM STDIN in the extended protocol, and a query.
    private func copyAndQuery() -> [CaptureRecord.Content] {
        [
            message(FrontendTag.parse, [0] + Array("COPY t FROM STDIN".utf8) + [0, 0, 0]),
            message(FrontendTag.bind, [0, 0, 0, 0, 0, 0, 0, 0]),
            message(FrontendTag.execute, [0, 0, 0, 0, 0]), message(FrontendTag.sync),
            .answer(CapturedAnswer(.copyIn)), message(FrontendTag.copyData, [1], answers: 3),
            message(FrontendTag.copyDone, answers: 3), message(FrontendTag.sync, answers: 3),
            .answer(CapturedAnswer(.complete)), .ready(.idle), query("SELECT 1"), .ready(.idle),
        ]
    }

    @Test(arguments: [0, 1] as [UInt64])
    func `a COPY that is left out is left out with both of its Syncs`(apart: UInt64) {
        let steps = steps(events(copyAndQuery(), onlyReads: true, apart: apart))
        #expect(steps.map(\.unit.isSkipped) == [true, false])
        #expect(steps[0].bytes.isEmpty && steps[0].endsUnit && steps[1].readies == 1)
    }

    @Test func `a portal that has a name, or was open before, is not asked again`() {
        func batch(_ portal: String, opens: Bool) -> [CaptureRecord.Content] {
            let name = Array(portal.utf8) + [0]
            let bind = message(FrontendTag.bind, name + [0x73, 0, 0, 0, 0, 0, 0, 0])
            let execute = message(FrontendTag.execute, name + [0, 0, 0, 50])
            return (opens ? [bind] : []) + [execute, message(FrontendTag.sync), .ready(.inTransaction)]
        }
        let steps = steps(events(
            batch("", opens: true) + batch("", opens: false) + batch("C_1", opens: true) + batch("C_1", opens: false),
            apart: 0))
        #expect(steps.map { $0.unit.repeatable == nil } == [false, true, true, true])
    }

    @Test func `what is closed behind its own Execute is not asked again`() {
        func batch(_ closed: String, isLast: Bool) -> [CaptureRecord.Content] {
            let close = [message(FrontendTag.close, Array("S\(closed)".utf8) + [0])]
            let run = [
                message(FrontendTag.parse, [0x73, 0] + Array("SELECT 1".utf8) + [0, 0, 0]),
                message(FrontendTag.bind, [0, 0x73, 0, 0, 0, 0, 0, 0, 0]),
                message(FrontendTag.execute, [0, 0, 0, 0, 0]),
            ]
            return (isLast ? run + close : close + run) + [message(FrontendTag.sync), .ready(.idle)]
        }
        let steps = steps(events(
            batch("old", isLast: false) + batch("s", isLast: true) + batch("", isLast: true), apart: 0))
        #expect(steps.map { $0.unit.repeatable == nil } == [false, true, false])
    }

    @Test func `Flush behind a Sync begins nothing`() {
        let steps = steps(events([
            message(FrontendTag.parse, [0, 0, 0, 0]), message(FrontendTag.sync), message(FrontendTag.flush), .ready(.idle),
            query("SELECT 1"), .ready(.idle),
        ]))
        #expect(Set(steps.map(\.unit.number)).count == 2)
        #expect(steps.allSatisfy { $0.unit.answerOrdinal != nil })
    }

    @Test func `COPY data that comes with the next query does not hide it`() {
        let steps = steps(events([
            query("COPY t FROM STDIN"), .answer(CapturedAnswer(.copyIn)),
            .error(state: "22P02", isFatal: false, message: ""), .ready(.idle),
        ] + [message(FrontendTag.copyDone), query("SELECT 1"), .ready(.idle)], apart: 0))
        #expect(steps.count == 2 && steps[1].endsUnit && !steps[1].isCopyData)
        let player = SessionPlayer(connection: 1)
        for step in steps { player.add(step) }
        _ = player.send(dueNanos: 0, sentNanos: 0)
        _ = player.handle(.ready(.idle))
        #expect(player.mayGoOn && player.isIdle)
        _ = player.send(dueNanos: 0, sentNanos: 0)
        #expect(!player.isIdle)
    }

    @Test func `a session has ended though its last unit was left half sent`() {
        let parse = message(FrontendTag.parse, [0, 0, 0, 0])
        let copyIn = StatementOutcome(CapturedAnswer(.copyIn))
        for (contents, answers, hasEnded) in [
            ([query("SELECT 1")], [], false), ([parse, message(FrontendTag.flush)], [], true),
            ([query("COPY t FROM STDIN")], [ResultReader.Event.outcome(copyIn)], true),
            ([query("COPY t FROM STDIN"), message(FrontendTag.copyDone)], [.outcome(copyIn)], false),
        ] {
            let player = SessionPlayer(connection: 1)
            for step in steps(events(contents)) { player.add(step) }
            while player.next != nil { _ = player.send(dueNanos: 0, sentNanos: 0) }
            for answer in answers { _ = player.handle(answer) }
            #expect(!player.hasEnded)
            player.isClosing = true
            #expect(player.hasEnded == hasEnded, "\(contents)")
        }
    }

    @Test func `a COPY that had failed in the capture and begins here is ended, and the next unit may go`() {
        let failed = CaptureRecord.Content.error(state: "42P01", isFatal: false, message: "")
        let parse: [UInt8] = [0] + Array("COPY t FROM STDIN".utf8) + [0, 0, 0]
        let batch = [
            message(FrontendTag.parse, parse), message(FrontendTag.bind, [0, 0, 0, 0, 0, 0, 0, 0]),
            message(FrontendTag.execute, [0, 0, 0, 0, 0]),
        ]
        let copyIn = ResultReader.Event.outcome(StatementOutcome(CapturedAnswer(.copyIn)))
        let select = [query("SELECT 1"), .ready(.idle)]
        let accepted = CaptureRecord.Content.answer(CapturedAnswer(.copyIn))
        for (contents, tags) in [
            ([query("COPY t FROM STDIN"), failed, .ready(.idle)] + select, [FrontendTag.copyFail]),
            ([query("COPY t FROM STDIN"), failed, .ready(.idle)], [FrontendTag.copyFail]),
            // It had begun, and failed before its end.
            ([query("COPY t FROM STDIN"), accepted, failed, .ready(.idle)] + select, [FrontendTag.copyFail]),
            // The end of its data came with the next query.
            ([query("COPY t FROM STDIN"), accepted, failed, .ready(.idle), message(FrontendTag.copyDone)] + select,
                [FrontendTag.copyFail]),
            // The server takes the Sync for a part of the data.
            (batch + [message(FrontendTag.sync), failed, .ready(.idle)] + select, [FrontendTag.copyFail, FrontendTag.sync]),
        ] as [([CaptureRecord.Content], [UInt8])] {
            let player = SessionPlayer(connection: 1)
            for step in steps(events(contents, apart: 0)) { player.add(step) }
            let hasNext = player.waitingCount > 1
            #expect(player.endOfCopy() == nil)
            _ = player.send(dueNanos: 0, sentNanos: 0)
            #expect(player.endOfCopy() == nil)
            _ = player.handle(copyIn)
            #expect(!player.mayGoOn)
            let bytes = player.endOfCopy() ?? []
            #expect(bytes.first == tags[0] && (tags.count == 1 || bytes.suffix(5) == [FrontendTag.sync, 0, 0, 0, 4]))
            #expect(player.endOfCopy() == nil, "once")
            _ = player.handle(.outcome(StatementOutcome(state: "57014", message: "")))
            guard case .finished(let unit)? = player.handle(.ready(.idle)) else {
                Issue.record("\(contents) is not finished")
                continue
            }
            #expect(unit.outcomes.count == 2 && player.isIdle && player.mayGoOn == hasNext)
        }
    }

    @Test func `a large message that was sent and answered is not kept`() {
        let player = SessionPlayer(connection: 1)
        weak var kept: ScriptUnit?
        do {
            let unit = ScriptUnit(connection: 1, number: 1)
            kept = unit
            player.add(ScriptStep(
                micros: 0, bytes: [UInt8](repeating: 0, count: 2 << 20), readies: 0, answers: 0, unit: unit,
                endsUnit: true, isCopyData: false, unitsBefore: 0))
        }
        #expect(kept != nil)
        _ = player.send(dueNanos: 0, sentNanos: 0)
        _ = player.handle(.ready(.idle))
        #expect(kept == nil && player.next == nil && player.bytesWaiting == 0)
    }

    @Test func `COPY data that is still to come is waited for`() {
        let data = [message(FrontendTag.copyData, [1], answers: 1), message(FrontendTag.copyDone, answers: 1)]
        let accepted = CaptureRecord.Content.answer(CapturedAnswer(.copyIn))
        let contents = [query("COPY t FROM STDIN"), accepted] + data + [.answer(CapturedAnswer(.complete)), .ready(.idle)]
        let all = steps(events(contents + [query("SELECT 1"), .ready(.idle)]))
        for known in 1...all.count {
            let player = SessionPlayer(connection: 1)
            for step in all.prefix(known) { player.add(step) }
            _ = player.send(dueNanos: 0, sentNanos: 0)
            _ = player.handle(.outcome(StatementOutcome(CapturedAnswer(.copyIn))))
            #expect(player.endOfCopy() == nil && player.mayGoOn == (known > 1), "\(known) steps")
        }
    }

    @Test func `of a COPY that fails here before its data nothing more is sent, and it has one answer`() {
        let steps = steps(events(copyAndQuery(), apart: 0))
        let player = SessionPlayer(connection: 1)
        for step in steps { player.add(step) }
        #expect(!player.send(dueNanos: 0, sentNanos: 0).bytes.isEmpty)
        _ = player.handle(.outcome(StatementOutcome(state: "42P01", message: "")))
        _ = player.handle(.ready(.idle))
        while let step = player.next, step.unit === steps[0].unit {
            #expect(player.mayGoOn && player.send(dueNanos: 0, sentNanos: 0).bytes.isEmpty && player.isIdle)
        }
        #expect(player.bytesWaiting == player.next?.bytes.count && player.finished == 1)
        #expect(!player.send(dueNanos: 0, sentNanos: 0).bytes.isEmpty && player.running.count == 1)
    }

    @Test func `what is due and has no answer is known, sent or not`() {
        let player = SessionPlayer(connection: 1)
        for step in steps(events([query("SELECT 1"), query("SELECT 2"), query("SELECT 3")])) { player.add(step) }
        func due(_ step: ScriptStep) -> UInt64? { step.micros <= 2 ? step.micros : nil }
        #expect(player.unanswered(due) == [1, 2])
        _ = player.send(dueNanos: 1, sentNanos: 7)
        #expect(player.unanswered(due) == [1, 2])
        _ = player.handle(.ready(.idle))
        #expect(player.unanswered(due) == [2])
    }

    @Test func `where nothing is under way no further answer is waited for`() {
        // The captured server had answered twice what this one answers once.
        let player = SessionPlayer(connection: 1)
        for step in steps(events([query("SELECT 1"), .ready(.idle), .ready(.idle), query("SELECT 2"), .ready(.idle),
            query("SELECT 3")])) { player.add(step) }
        for _ in 1...3 {
            #expect(player.mayGoOn)
            _ = player.send(dueNanos: 0, sentNanos: 0)
            #expect(!player.mayGoOn)
            _ = player.handle(.ready(.idle))
        }
        #expect(player.isIdle && player.next == nil)
    }

    @Test func `a cancel request follows what it cancels, and is nothing where nothing runs`() {
        let steps = steps(events([.cancel, query("SELECT 1"), .cancel, .ready(.idle), .cancel]))
        #expect(steps.map(\.isCancel) == [false, true])
        let player = SessionPlayer(connection: 1)
        for step in steps { player.add(step) }
        #expect(player.cancelNanos(steps[1], speed: 1) == nil)
        _ = player.send(dueNanos: 0, sentNanos: 5000)
        #expect(player.mayGoOn && player.cancelNanos(steps[1], speed: 1) == 6000)
        // However slow, it is a time.
        #expect(player.cancelNanos(steps[1], speed: 1e-300) ?? 0 > UInt64(1e18))
        _ = player.handle(.ready(.idle))
        #expect(player.mayGoOn && player.cancelNanos(steps[1], speed: 1) == nil)
    }

    @Test func `records of threads are put into the order of their numbers`() {
        var merger = RecordMerger()
        func records(_ times: [UInt64]) -> [CaptureRecord] {
            times.map { CaptureRecord(connection: 0, micros: $0, number: $0, content: .disconnect) }
        }
        merger.add(records([10, 5_000_000, 9_000_000]), of: 0)
        merger.add(records([7, 20, 4_000_000, 8_900_000]), of: 1)
        var taken: [UInt64] = []
        merger.take(isAll: false) { taken.append($0.micros) }
        #expect(taken == [7, 10, 20, 4_000_000, 5_000_000])
        merger.take(isAll: true) { taken.append($0.micros) }
        #expect(taken == [7, 10, 20, 4_000_000, 5_000_000, 8_900_000, 9_000_000] && merger.count == 0)
        // Their clocks say otherwise.
        merger.add([3, 4].map { CaptureRecord(connection: 0, micros: 50, number: $0, content: .disconnect) }, of: 0)
        merger.add([1, 5].map { CaptureRecord(connection: 1, micros: 60, number: $0, content: .disconnect) }, of: 1)
        var numbers: [UInt64] = []
        merger.take(isAll: true) { numbers.append($0.number) }
        #expect(numbers == [1, 3, 4, 5])
    }

    @Test func `writers take their turn as they were answered, and one that is stuck is overtaken`() {
        let units = (0..<3).map { ScriptUnit(connection: UInt64($0), number: UInt64($0)) }
        for (index, unit) in units.enumerated() { unit.answerOrdinal = UInt64(index) }
        func step(_ unit: ScriptUnit) -> ScriptStep {
            ScriptStep(
                micros: 0, bytes: [], readies: 0, answers: 0, unit: unit, endsUnit: true, isCopyData: false, unitsBefore: 0)
        }
        var order = CausalOrder()
        for unit in units { order.learned(unit) }
        func turn(_ number: Int) -> CausalOrder.Turn {
            order.turn(of: step(units[number]), running: [], isStrict: false, isAllKnown: true)
        }
        #expect(turn(0) == .now && turn(1) == .later(1) && turn(2) == .later(2))
        order.letOneOvertake()
        #expect(turn(1) == .now && turn(2) == .later(2))
        order.finished(units[1])
        order.finished(units[0])
        #expect(turn(2) == .now && order.prefix == 2 && order.slack == 0)
    }

    @Test(arguments: [
        ("SELECT a FROM t ORDER BY a", true), ("SELECT a FROM (SELECT a FROM t ORDER BY a) s", false),
        ("SELECT count(*) OVER (ORDER BY a) FROM t", false), ("SELECT 'order by'", false),
        ("SELECT a FROM t -- x\n order /* y */ by a", true),
    ])
    func `the order of rows counts where ORDER BY ends the statement`(text: String, isOrdered: Bool) {
        #expect(StatementBook.hasOrder(Array(text.utf8)[...]) == isOrdered)
    }

    @Test(arguments: [
        ("SELECT a FROM t; SELECT a FROM t ORDER BY a", [false, true]),
        ("SELECT a FROM t ORDER BY a;; SELECT ';' -- order by\n; ", [true, false]),
        ("SELECT a FROM t ORDER BY a;", [true]), ("", [false]),
        ("SELECT (SELECT 1 ORDER BY 1); SELECT 2; order by", [false, false, true]),
    ])
    func `each statement of a text has an order of its own`(text: String, orders: [Bool]) {
        let statements = steps(events([query(text), .ready(.idle)])).flatMap(\.unit.statements)
        #expect(statements.map(\.hasOrder) == orders)
        #expect(Set(statements.map(\.kind)).count == 1 && Set(statements.map(\.shape)).count == 1)
    }
}
