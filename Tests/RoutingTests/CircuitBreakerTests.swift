import Configuration
import Primitives
import Testing

@testable import Routing

@Suite struct CircuitBreakerTests {
    private let start = MonotonicInstant(nanoseconds: 1_000_000_000_000)

    static func settings(_ change: (inout BreakerSettings) -> Void = { _ in }) -> BreakerSettings {
        var settings = BreakerSettings()
        settings.failures = 3
        settings.heldSeconds = 10
        settings.probes = 2
        settings.memorySeconds = 0
        settings.patienceSeconds = 5
        change(&settings)
        return settings
    }

    private func breaker(
        _ role: CircuitBreaker.Role = .other, seed: UInt64 = 7, _ change: (inout BreakerSettings) -> Void = { _ in }
    ) -> CircuitBreaker {
        CircuitBreaker(Self.settings(change), role: role, seed: seed, now: start)
    }

    private func opened(_ change: (inout BreakerSettings) -> Void = { _ in }) -> CircuitBreaker {
        var breaker = breaker(.other, change)
        for _ in 0..<3 { _ = breaker.handle(.failure(isProbe: false), now: start) }
        return breaker
    }

    /// Half-open, with one probe on its way.
    private func probing(_ breaker: CircuitBreaker) throws -> (breaker: CircuitBreaker, at: MonotonicInstant) {
        var breaker = breaker
        let next = try #require(breaker.nextProbeAt)
        #expect(breaker.ask(now: next).verdict == .probe)
        return (breaker, next)
    }

    private func seconds(_ from: MonotonicInstant, _ to: MonotonicInstant) -> Double {
        Double(to.nanoseconds - from.nanoseconds) / 1e9
    }

    @Test func `only failures in a row open it`() {
        var breaker = breaker()
        #expect(breaker.handle(.failure(isProbe: false), now: start) == nil)
        #expect(breaker.handle(.failure(isProbe: false), now: start) == nil)
        #expect(breaker.awaitsSuccess)
        #expect(breaker.handle(.success(isProbe: false), now: start) == nil)
        #expect(!breaker.awaitsSuccess)
        #expect(breaker.handle(.failure(isProbe: false), now: start) == nil)
        #expect(breaker.handle(.failure(isProbe: false), now: start) == nil)
        #expect(breaker.ask(now: start).verdict == .allow)
        guard case .opened(.failures(count: 3), isLatched: false, _)? =
            breaker.handle(.failure(isProbe: false), now: start)
        else { Issue.record("not opened"); return }
        #expect(breaker.ask(now: start).verdict == .deny)
        #expect(breaker.phase == .open && breaker.trips == 1 && breaker.cause == .failures(count: 3))
    }

    @Test func `it is held to the nanosecond, then lets its probes through and no more`() throws {
        var breaker = opened()
        let end = try #require(breaker.nextProbeAt)
        #expect((8...12).contains(seconds(start, end)))
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

    @Test func `each failed probe doubles the time that it is held, up to its bound, a fifth more or less`() throws {
        var breaker = opened()
        for round in 1...8 {
            let at = try probing(breaker).at
            _ = breaker.ask(now: at)
            guard case .reopened(let held)? = breaker.handle(.failure(isProbe: true), now: at) else {
                Issue.record("not reopened")
                return
            }
            let factor = min(CircuitBreaker.holdFactorMax, Double(1 << round))
            #expect((8 * factor...12 * factor).contains(held), "round \(round): \(held)")
            let next = try #require(breaker.nextProbeAt)
            #expect(abs(seconds(at, next) - held) < 1e-6)
        }
        #expect(breaker.trips == 9)
        let others = Set((0..<20 as Range<UInt64>).map { seed in
            var other = self.breaker(seed: seed)
            for _ in 0..<3 { _ = other.handle(.failure(isProbe: false), now: start) }
            return other.nextProbeAt?.nanoseconds ?? 0
        })
        #expect(others.count == 20, "several Godwits would probe together")
    }

    @Test func `an abandoned probe gives its place back, and one that nobody reports does in time`() throws {
        var (breaker, end) = try probing(opened())
        #expect(breaker.ask(now: end).verdict == .probe)
        #expect(breaker.ask(now: end).verdict == .deny)
        #expect(breaker.handle(.probeAbandoned, now: end) == nil)
        #expect(breaker.ask(now: end).verdict == .probe)
        #expect(breaker.ask(now: end.advanced(bySeconds: 9.999)).verdict == .deny)
        #expect(breaker.ask(now: end.advanced(bySeconds: 10)).verdict == .probe)
    }

    @Test func `answers from before it opened change nothing`() throws {
        var breaker = opened()
        #expect(breaker.handle(.success(isProbe: false), now: start) == nil)
        #expect(breaker.handle(.failure(isProbe: false), now: start) == nil)
        #expect(breaker.handle(.judged(.lag(seconds: 99)), now: start) == nil)
        #expect(breaker.phase == .open)
        (breaker, _) = try probing(breaker)
        #expect(breaker.handle(.failure(isProbe: false), now: start) == nil)
        #expect(breaker.handle(.success(isProbe: false), now: start) == nil)
        #expect(breaker.phase == .halfOpen)
    }

    @Test func `one that opens again within its memory is latched until an operator says otherwise`() throws {
        func closedOnce(_ memory: Double) throws -> (CircuitBreaker, MonotonicInstant) {
            var (breaker, at) = try probing(opened { $0.memorySeconds = memory })
            _ = breaker.ask(now: at)
            _ = breaker.handle(.success(isProbe: true), now: at)
            #expect(breaker.handle(.success(isProbe: true), now: at) == .closed)
            return (breaker, at)
        }
        var (breaker, closedAt) = try closedOnce(100)
        let late = closedAt.advanced(bySeconds: 100)
        var other = breaker
        #expect(other.handle(.judged(.lag(seconds: 99)), now: late) != nil)
        #expect(!other.isLatched, "its memory was over")

        let early = closedAt.advanced(bySeconds: 99)
        #expect(breaker.handle(.judged(.lag(seconds: 99)), now: early)
            == .opened(.lag(seconds: 99), isLatched: true, heldSeconds: 0))
        #expect(breaker.isLatched && breaker.nextProbeAt == nil)
        #expect(breaker.ask(now: early.advanced(bySeconds: 1_000_000)).verdict == .deny)
        #expect(breaker.handle(.success(isProbe: true), now: early) == nil)
        #expect(breaker.handle(.forced(.auto), now: early) == .forced(.auto))
        #expect(breaker.ask(now: early).verdict == .probe, "it proves itself first")

        (breaker, closedAt) = try closedOnce(0)
        _ = breaker.handle(.judged(.lag(seconds: 99)), now: closedAt)
        #expect(!breaker.isLatched, "a memory of 0 forgets")
    }

    @Test func `an operator's word stands above failures and judgements`() {
        var breaker = breaker()
        #expect(breaker.handle(.forced(.auto), now: start) == nil)
        #expect(breaker.handle(.forced(.open), now: start) == .forced(.open))
        #expect(breaker.phase == .open && breaker.ask(now: start).verdict == .deny)
        #expect(breaker.handle(.success(isProbe: false), now: start) == nil)
        #expect(breaker.handle(.forced(.closed), now: start) == .forced(.closed))
        for _ in 0..<10 { #expect(breaker.handle(.failure(isProbe: false), now: start) == nil) }
        #expect(breaker.handle(.judged(.lag(seconds: 99)), now: start) == nil)
        #expect(breaker.phase == .closed && breaker.ask(now: start).verdict == .allow)
        #expect(breaker.handle(.forced(.auto), now: start) == .forced(.auto))
        #expect(breaker.handle(.failure(isProbe: false), now: start) != nil)
        #expect(breaker.phase == .open)
    }

    @Test func `the authority opens after its patience only, is never probed, and closes with the first answer`() {
        var breaker = breaker(.authority) { $0.memorySeconds = 1000 }
        for _ in 0..<10 { #expect(breaker.handle(.failure(isProbe: false), now: start) == nil) }
        #expect(breaker.handle(.judged(.lag(seconds: 99)), now: start) == nil)
        let end = start.advanced(bySeconds: 5)
        #expect(breaker.handle(
            .failure(isProbe: false), now: MonotonicInstant(nanoseconds: end.nanoseconds - 1)) == nil)
        for round in 0..<3 {
            guard case .opened(.failures, isLatched: false, _)? = breaker.handle(.failure(isProbe: false), now: end)
            else { Issue.record("round \(round): not opened, or latched"); return }
            #expect(breaker.ask(now: end.advanced(bySeconds: 1_000_000)).verdict == .deny)
            #expect(breaker.awaitsSuccess && breaker.nextProbeAt == nil)
            #expect(breaker.handle(.success(isProbe: false), now: end) == .closed)
            for _ in 0..<2 { _ = breaker.handle(.failure(isProbe: false), now: start) }
        }
    }

    @Test func `under random events it does what a model of a few lines does`() {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        var breaker = breaker(seed: generator.next()) { $0.memorySeconds = 30 }
        var now = start
        var inFlight = 0
        var failures = 0
        var closedAt: MonotonicInstant?
        for round in 0..<20_000 {
            now = now.advanced(byMillis: UInt64.random(in: 0...2000, using: &generator))
            let (before, wasLatched) = (breaker.phase, breaker.isLatched)
            switch Int.random(in: 0..<10, using: &generator) {
            case 0..<5:
                let (verdict, transition) = breaker.ask(now: now)
                if transition == .halfOpened { inFlight = 0 }
                if verdict == .probe { inFlight = min(inFlight + 1, 2) }
                #expect((verdict == .allow) == (before == .closed), "seed \(seed), round \(round)")
                #expect(!wasLatched || verdict == .deny, "seed \(seed), round \(round)")
            case 5..<9 where inFlight > 0:
                inFlight -= 1
                let isFine = Bool.random(using: &generator)
                let change = breaker.handle(isFine ? .success(isProbe: true) : .failure(isProbe: true), now: now)
                if change == .closed { closedAt = now }
                if breaker.phase != .halfOpen { inFlight = 0 }
                if breaker.phase == .closed { failures = 0 }
            case 5..<9:
                let isFine = Int.random(in: 0..<3, using: &generator) == 0
                let change = breaker.handle(isFine ? .success(isProbe: false) : .failure(isProbe: false), now: now)
                if before == .closed { failures = isFine ? 0 : failures + 1 }
                if before == .closed && failures == 3 {
                    let isRecent = closedAt.map { now < $0.advanced(bySeconds: 30) } ?? false
                    guard case .opened(.failures(count: 3), isRecent, _)? = change else {
                        Issue.record("seed \(seed), round \(round): \(String(describing: change))")
                        return
                    }
                } else {
                    #expect(change == nil, "seed \(seed), round \(round)")
                }
            default:
                if breaker.isLatched {
                    #expect(breaker.handle(.forced(.auto), now: now) == .forced(.auto))
                    closedAt = nil
                } else {
                    #expect(breaker.handle(.forced(.auto), now: now) == nil)
                }
            }
            if breaker.phase == .closed && before != .closed { failures = 0 }
        }
        #expect(breaker.trips > 100, "seed \(seed)")
    }
}
