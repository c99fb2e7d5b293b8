import Primitives
import Testing

@Suite struct MonotonicInstantTests {
    @Test func `the time since a later instant is nothing`() {
        let early = MonotonicInstant(nanoseconds: 5_000)
        let late = early.advanced(byMillis: 2)
        #expect(late.nanoseconds(since: early) == 2_000_000)
        #expect(late.microseconds(since: early) == 2_000)
        #expect(early.nanoseconds(since: late) == 0)
        #expect(early.nanoseconds(since: early) == 0)
        #expect(early < late)
    }

    @Test(arguments: [(0, 0), (-1, 0), (0.5, 500_000_000), (30, 30_000_000_000)] as [(Double, UInt64)])
    func `seconds advance by whole nanoseconds and never backwards`(seconds: Double, nanoseconds: UInt64) {
        let start = MonotonicInstant(nanoseconds: 7)
        #expect(start.advanced(bySeconds: seconds).nanoseconds == 7 + nanoseconds)
    }

    @Test func `the clock does not go back`() {
        var last = MonotonicInstant.now()
        for _ in 0..<1_000 {
            let now = MonotonicInstant.now()
            #expect(now >= last)
            last = now
        }
    }

    @Test func `each side has the other`() {
        #expect(Side.allCases == [.old, .new])
        for side in Side.allCases { #expect(side.other != side && side.other.other == side) }
    }
}
