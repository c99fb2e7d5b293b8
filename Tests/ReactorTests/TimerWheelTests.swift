import Primitives
import Reactor
import Testing

@Suite struct TimerWheelTests {
    private static let tick = TimerWheel<Int>.tickMillis * 1_000_000

    private func at(_ nanoseconds: UInt64) -> MonotonicInstant { MonotonicInstant(nanoseconds: nanoseconds) }

    /// A deadline may fire no later than this: one tick behind itself,
    /// or behind its scheduling when it was past.
    private struct Pending {
        var deadline: UInt64
        var latest: UInt64
    }

    @Test(arguments: [1, 2, 3, 4, 5, 6] as [UInt64])
    func `a deadline fires once, never early and at most one tick late`(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var now = UInt64.random(in: 0..<1_000 * Self.tick, using: &random)
        var wheel = TimerWheel<Int>(now: at(now))
        var model: [Int: Pending] = [:]
        for step in 0..<20_000 {
            if Bool.random(using: &random) {
                let range: UInt64 = [1, 3, 100, 511, 512, 513, 2_000].randomElement(using: &random) ?? 1
                let distance = UInt64.random(in: 0...range * Self.tick, using: &random)
                let isPast = Int.random(in: 0..<20, using: &random) == 0
                let deadline = isPast ? now - min(now, distance) : now + distance
                wheel.schedule(step, at: at(deadline))
                model[step] = Pending(deadline: deadline, latest: max(deadline, now) + Self.tick)
            }
            let gap: UInt64 = [0, 0, 0, 1, 2, 4].randomElement(using: &random) ?? 0
            let leap: UInt64 = Int.random(in: 0..<200, using: &random) == 0 ? 700 : 0
            now += UInt64.random(in: 0...(gap + leap) * Self.tick, using: &random)
            for token in wheel.expire(now: at(now)) {
                guard let pending = model.removeValue(forKey: token) else {
                    Issue.record("fired twice: seed \(seed), step \(step)")
                    continue
                }
                #expect(pending.deadline <= now, "early: seed \(seed), step \(step)")
            }
            #expect(!model.values.contains { $0.latest <= now }, "late: seed \(seed), step \(step)")
            #expect(wheel.count == model.count, "seed \(seed), step \(step)")
        }
        let last = wheel.expire(now: at(now + 4_000 * Self.tick))
        #expect(Set(last) == Set(model.keys), "seed \(seed)")
        #expect(wheel.count == 0)
    }

    @Test func `a deadline beyond one turn of the wheel waits for its own turn`() {
        var wheel = TimerWheel<String>(now: at(0))
        wheel.schedule("far", at: at(1_500 * Self.tick))
        wheel.schedule("near", at: at(476 * Self.tick))
        var fired: [(String, UInt64)] = []
        for tick in 1...1_600 as ClosedRange<UInt64> {
            for token in wheel.expire(now: at(tick * Self.tick)) { fired.append((token, tick)) }
        }
        #expect(fired.map(\.0) == ["near", "far"])
        #expect(fired.map(\.1) == [477, 1_501])
    }

    @Test
    func `the time to wait is nothing when a tick is due, one tick at most, and endless without deadlines`() {
        var wheel = TimerWheel<Int>(now: at(10 * Self.tick + 5))
        #expect(wheel.timeoutMillis(now: at(10 * Self.tick + 5)) == -1)
        wheel.schedule(1, at: at(5_000 * Self.tick))
        #expect(wheel.timeoutMillis(now: at(10 * Self.tick)) == Int32(TimerWheel<Int>.tickMillis) + 1)
        #expect(wheel.timeoutMillis(now: at(11 * Self.tick - 1)) == 1)
        #expect(wheel.timeoutMillis(now: at(11 * Self.tick)) == 0)
        #expect(wheel.timeoutMillis(now: at(.max)) == 0)
    }

    @Test func `a wheel that nobody looked at for long fires at the first look`() {
        var wheel = TimerWheel<Int>(now: at(0))
        #expect(wheel.expire(now: at(100_000 * Self.tick)) == [])
        wheel.schedule(1, at: at(100_001 * Self.tick))
        #expect(wheel.expire(now: at(100_001 * Self.tick)) == [])
        #expect(wheel.expire(now: at(900_000 * Self.tick)) == [1])
        #expect(wheel.expire(now: at(900_000 * Self.tick)) == [])
    }
}
