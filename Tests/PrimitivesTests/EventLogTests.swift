import Foundation
import Synchronization
import Testing

@testable import Primitives

@Suite struct EventLogTests {
    private final class Collecting: EventSink {
        let events = Mutex<[EventRecord]>([])
        func append(_ event: EventRecord) { events.withLock { $0.append(event) } }
    }

    @Test func `events are numbered, kept up to the bound, counted by kind, and given to sinks`() {
        let log = EventLog()
        let sink = Collecting()
        log.add(sink)
        let all = EventLog.eventsMax + 1
        for number in 1...all {
            log.append(EventRecord(number == all ? .trip : .reload, cause: "number \(number)"))
        }
        let kept = log.events
        #expect(kept.count == EventLog.eventsMax)
        #expect(kept.first?.number == 2 && kept.last?.number == UInt64(all))
        #expect(kept.last?.cause == "number \(all)")
        #expect(log.counts == [.trip: 1, .reload: UInt64(all - 1)])
        #expect(sink.events.withLock { $0.count } == all)
    }

    @Test func `an event is one JSON object, whatever its cause holds`() throws {
        let log = EventLog()
        let cause = "a \"quoted\"\\ line\nand \u{1}, ü"
        log.append(EventRecord(
            .trip, database: "sh\"op", side: .new, cause: cause,
            figures: [.init("percent", 1.25), .init("calls", 200), .init("none", .infinity)]))
        let event = try #require(log.events.first)
        #expect(!event.json.contains("\n"))
        let parsed = try #require(
            try JSONSerialization.jsonObject(with: Data(event.json.utf8)) as? [String: Any])
        #expect(parsed["cause"] as? String == cause)
        #expect(parsed["database"] as? String == "sh\"op")
        #expect(parsed["side"] as? String == "new")
        #expect(parsed["kind"] as? String == "trip")
        let figures = try #require(parsed["figures"] as? [String: Any])
        #expect(figures["percent"] as? Double == 1.25 && figures["calls"] as? Int == 200)
        #expect(figures["none"] is NSNull)
        #expect((parsed["time"] as? String)?.wholeMatch(of: /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/) != nil)
        #expect(event.figuresText.hasPrefix("percent=1.25 calls=200"))
    }

    @Test func `a cause is cut at its bound, and at no other place`() {
        let most = EventRecord.causeBytesMax
        #expect(EventRecord(.trip, cause: String(repeating: "x", count: most)).cause.utf8.count == most)
        #expect(EventRecord(.trip, cause: String(repeating: "x", count: most + 1)).cause.utf8.count == most)
    }
}
