import Configuration
import Primitives
import Testing

@testable import Routing

@Suite struct CircuitBreakerTests {
    private let start = MonotonicInstant(nanoseconds: 1_000_000_000)

    private func breaker() -> CircuitBreaker {
        var settings = BreakerSettings()
        settings.failures = 3
        settings.heldSeconds = 10
        settings.probes = 2
        return CircuitBreaker(settings)
    }

    private func opened() -> CircuitBreaker {
        var breaker = breaker()
        for _ in 0..<3 { _ = breaker.handle(.failure(isProbe: false), now: start) }
        return breaker
    }

    @Test func `only failures in a row open it`() {
        var breaker = breaker()
        #expect(breaker.handle(.failure(isProbe: false), now: start) == nil)
        #expect(breaker.handle(.failure(isProbe: false), now: start) == nil)
        #expect(breaker.handle(.success(isProbe: false), now: start) == nil)
        #expect(breaker.handle(.failure(isProbe: false), now: start) == nil)
        #expect(breaker.handle(.failure(isProbe: false), now: start) == nil)
        #expect(breaker.ask(now: start).verdict == .allow)
        #expect(breaker.handle(.failure(isProbe: false), now: start) == .opened(failures: 3))
        #expect(breaker.ask(now: start).verdict == .deny)
        #expect(breaker.phase == .open && breaker.trips == 1)
    }

    @Test func `it is held to the nanosecond, then lets its probes through and no more`() {
        var breaker = opened()
        let end = start.advanced(bySeconds: 10)
        #expect(breaker.ask(now: MonotonicInstant(nanoseconds: end.nanoseconds - 1)).verdict == .deny)
        let first = breaker.ask(now: end)
        #expect(first.verdict == .probe && first.transition == .halfOpened)
        let second = breaker.ask(now: end)
        #expect(second.verdict == .probe && second.transition == nil)
        #expect(breaker.ask(now: end).verdict == .deny)
        #expect(breaker.handle(.success(isProbe: true), now: end) == nil)
        #expect(breaker.ask(now: end).verdict == .probe)
        #expect(breaker.handle(.success(isProbe: true), now: end) == .closed)
        #expect(breaker.ask(now: end).verdict == .allow)
    }

    @Test func `one failed probe opens it again for the whole time`() {
        var breaker = opened()
        let end = start.advanced(bySeconds: 10)
        _ = breaker.ask(now: end)
        #expect(breaker.handle(.failure(isProbe: true), now: end) == .reopened)
        #expect(breaker.ask(now: end.advanced(bySeconds: 9)).verdict == .deny)
        #expect(breaker.ask(now: end.advanced(bySeconds: 10)).verdict == .probe)
        #expect(breaker.trips == 2)
    }

    @Test func `an abandoned probe gives its place back`() {
        var breaker = opened()
        let end = start.advanced(bySeconds: 10)
        _ = breaker.ask(now: end)
        _ = breaker.ask(now: end)
        #expect(breaker.ask(now: end).verdict == .deny)
        #expect(breaker.handle(.probeAbandoned, now: end) == nil)
        #expect(breaker.ask(now: end).verdict == .probe)
    }

    @Test func `answers from before it opened change nothing`() {
        var breaker = opened()
        #expect(breaker.handle(.success(isProbe: false), now: start) == nil)
        #expect(breaker.handle(.failure(isProbe: false), now: start) == nil)
        #expect(breaker.phase == .open)
        _ = breaker.ask(now: start.advanced(bySeconds: 10))
        #expect(breaker.handle(.failure(isProbe: false), now: start) == nil)
        #expect(breaker.handle(.success(isProbe: false), now: start) == nil)
        #expect(breaker.phase == .halfOpen)
    }

    @Test func `under random events it never lets more than its probes through while half-open`() {
        let seed: UInt64 = 815
        var generator = SeededGenerator(seed: seed)
        var breaker = breaker()
        var now = start
        var inFlight = 0
        for round in 0..<20_000 {
            now = now.advanced(byMillis: UInt64.random(in: 0...2000, using: &generator))
            if Bool.random(using: &generator) {
                let wasClosed = breaker.phase == .closed
                let (verdict, transition) = breaker.ask(now: now)
                if transition == .halfOpened { inFlight = 0 }
                if verdict == .probe { inFlight += 1 }
                #expect(verdict != .allow || wasClosed, "seed \(seed), round \(round)")
                #expect(breaker.phase != .halfOpen || inFlight <= 2, "seed \(seed), round \(round)")
            } else if inFlight > 0 {
                inFlight -= 1
                _ = breaker.handle(Bool.random(using: &generator) ? .success(isProbe: true) : .failure(isProbe: true), now: now)
                if breaker.phase != .halfOpen { inFlight = 0 }
            } else {
                _ = breaker.handle(.failure(isProbe: false), now: now)
            }
        }
    }
}
