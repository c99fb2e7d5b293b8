import Foundation
import Primitives
import Testing

@Suite struct HorizonTests {
    @Test func `batches are numbered from one and applied when they are finished`() {
        let horizon = Horizon()
        #expect(horizon.taking == 0)
        #expect(horizon.applied == 0)
        #expect(!horizon.readable)
        #expect(horizon.beginBatch() == 1)
        #expect(horizon.taking == 1)
        #expect(horizon.applied == 0)
        horizon.finishBatch(1)
        #expect(horizon.applied == 1)
        #expect(horizon.beginBatch() == 2)
        #expect(horizon.applied == 1)
        horizon.setReadable(true)
        #expect(horizon.readable)
    }

    @Test func `finishing a batch that was never begun is a bug`() async {
        await #expect(processExitsWith: .failure) { Horizon().finishBatch(1) }
    }

    @Test func `kicks wake once until a batch begins`() {
        let horizon = Horizon()
        #expect(!isReadable(horizon.kickDescriptor))
        horizon.kick()
        horizon.kick()
        #expect(isReadable(horizon.kickDescriptor))
        _ = horizon.beginBatch()
        #expect(!isReadable(horizon.kickDescriptor))
        horizon.kick()
        #expect(isReadable(horizon.kickDescriptor))
    }

    @Test func `a kick after a batch began always wakes, however earlier kicks met the beginning`() {
        let horizon = Horizon()
        let rounds = 20_000
        let started = Round()
        let kicked = Round()
        // A thread of its own: the few that run tests may all be waiting for somebody.
        Thread {
            for round in 1...rounds {
                started.wait(for: round)
                horizon.kick()
                kicked.reach(round)
            }
        }.start()
        var lost = 0
        for round in 1...rounds {
            started.reach(round)
            // A little later each time, so that the kick meets every moment of the beginning.
            for _ in 0..<(round % 500) { _ = kicked.isAt(round) }
            _ = horizon.beginBatch()
            kicked.wait(for: round)
            horizon.kick()
            if !isReadable(horizon.kickDescriptor) { lost += 1 }
            _ = horizon.beginBatch()
        }
        #expect(lost == 0)
    }

    @Test func `whoever is to be woken no longer is not, and what has its descriptor now gets nothing`() {
        let horizon = Horizon()
        let bells = [Mailbox<Bool>(), Mailbox<Bool>()]
        for bell in bells { horizon.wakeAfterBatches(bell.descriptor) }
        horizon.wakeNoLonger(bells[0].descriptor)
        horizon.announceWaiter()
        horizon.finishBatch(horizon.beginBatch())
        #expect(bells.map { isReadable($0.descriptor) } == [false, true])
    }

    /// The rule itself: commits are numbers, a snapshot is what was committed when it was taken.
    @Test(arguments: [11, 12, 13, 14] as [UInt64])
    func `a user who may read NEW finds every commit that was acknowledged`(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let horizon = Horizon()
        var committed = 0
        var stamps: [(commit: Int, stamp: UInt64)] = []
        var snapshot: Int?
        var batch: UInt64?
        var shownOnNew = 0
        var readsAllowed = 0
        for step in 0..<20_000 {
            switch Int.random(in: 0..<6, using: &random) {
            case 0, 1:
                committed += 1
                stamps.append((committed, horizon.taking))
            case 2 where batch == nil:
                batch = horizon.beginBatch()
            case 3 where batch != nil && snapshot == nil:
                snapshot = committed
            case 4:
                guard let number = batch, let seen = snapshot else { continue }
                shownOnNew = seen
                horizon.finishBatch(number)
                batch = nil
                snapshot = nil
            default:
                guard let user = stamps.suffix(20).randomElement(using: &random) else { continue }
                if horizon.applied > user.stamp {
                    readsAllowed += 1
                    #expect(shownOnNew >= user.commit, "seed \(seed), step \(step)")
                }
            }
        }
        #expect(readsAllowed > 100, "seed \(seed)")
    }

    @Test func `the report is changed as a whole`() {
        let horizon = Horizon()
        #expect(horizon.report == MirrorReport())
        horizon.updateReport {
            $0.state = .waiting
            $0.reason = "NEW is down"
            $0.tables = [.init(name: "a")]
        }
        #expect(horizon.report.state == .waiting)
        #expect(horizon.report.tables.map(\.name) == ["a"])
    }
}
