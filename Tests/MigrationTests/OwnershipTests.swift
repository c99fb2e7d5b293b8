import Migration
import Primitives
import Testing

@Suite struct OwnershipTests {
    @Test(arguments: [
        // Nothing was ever switched.
        (SideClaim(), SideClaim(), Ownership(authority: .old, epoch: 0, standing: .settled)),
        // A first switch: fenced, then claimed.
        (SideClaim(fencedFor: 1), SideClaim(), Ownership(authority: .old, epoch: 0, standing: .underWay(1))),
        (SideClaim(fencedFor: 1), SideClaim(epoch: 1), Ownership(authority: .new, epoch: 1, standing: .settled)),
        // And back.
        (
            SideClaim(fencedFor: 1), SideClaim(epoch: 1, fencedFor: 2),
            Ownership(authority: .new, epoch: 1, standing: .underWay(2))
        ),
        (
            SideClaim(epoch: 2), SideClaim(epoch: 1, fencedFor: 2),
            Ownership(authority: .old, epoch: 2, standing: .settled)
        ),
        // A switch that was given up: its number is used up.
        (SideClaim(), SideClaim(voidEpoch: 1), Ownership(authority: .old, epoch: 0, standing: .settled)),
        // A database that was restored, or from which Godwit was removed: the greatest claim counts.
        (SideClaim(), SideClaim(epoch: 1), Ownership(authority: .new, epoch: 1, standing: .settled)),
    ])
    func `both sides answer`(old: SideClaim, new: SideClaim, expected: Ownership) {
        #expect(Ownership.resolve(old: old, new: new) == expected)
    }

    @Test(arguments: [
        (SideClaim?.some(SideClaim()), SideClaim?.none, Side.old, true),
        (SideClaim(fencedFor: 1), nil, .new, false),
        (SideClaim(epoch: 2), nil, .old, true),
        (SideClaim(epoch: 2, fencedFor: 3), nil, .new, false),
        (nil, SideClaim(), .old, false),
        (nil, SideClaim(epoch: 1), .new, true),
        (nil, SideClaim(epoch: 1, fencedFor: 2), .old, false),
        (nil, nil, .old, false),
    ] as [(SideClaim?, SideClaim?, Side, Bool)])
    func `one side is silent`(old: SideClaim?, new: SideClaim?, authority: Side, isSettled: Bool) {
        let found = Ownership.resolve(old: old, new: new)
        #expect(found.authority == authority)
        #expect((found.standing == .settled) == isSettled)
    }

    @Test func `a number is never used twice`() {
        #expect(Ownership.nextEpoch(old: SideClaim(), new: SideClaim()) == 1)
        #expect(Ownership.nextEpoch(old: SideClaim(fencedFor: 4), new: SideClaim(epoch: 2, voidEpoch: 3)) == 5)
    }

    /// Two sides and any number of coordinators that die anywhere: writes are open on one side at most, and on the side
    /// that the two words name.
    @Test func `whoever dies where, no two sides take writes, and what is settled is so for everybody`() {
        let seed = UInt64.random(in: 0 ... .max)
        print("ownership: seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<500 {
            var sides: [Side: SideClaim] = [.old: SideClaim(), .new: SideClaim()]
            func claim(_ side: Side) -> SideClaim { sides[side] ?? SideClaim() }
            for _ in 0..<40 {
                let now = Ownership.resolve(old: claim(.old), new: claim(.new))
                let (authority, other) = (now.authority, now.authority.other)
                switch (now.standing, Int.random(in: 0..<3, using: &generator)) {
                case (.settled, _):
                    let epoch = Ownership.nextEpoch(old: claim(.old), new: claim(.new))
                    sides[authority]?.fencedFor = epoch
                case (.underWay(let epoch), 0):
                    // The claim, in one transaction: refused when it was given up.
                    if claim(other).voidEpoch < epoch, claim(other).epoch < epoch {
                        sides[other]?.epoch = epoch
                        sides[other]?.fencedFor = nil
                    }
                case (.underWay(let epoch), 1):
                    let voidEpoch = max(claim(other).voidEpoch, epoch)
                    sides[other]?.voidEpoch = voidEpoch
                case (.underWay(let epoch), _):
                    if claim(other).voidEpoch >= epoch { sides[authority]?.fencedFor = nil }
                case (.unknown, _):
                    Issue.record("both sides answer, seed \(seed)")
                }
                // NEW is open before the first switch, and nobody is sent there.
                let open = Side.allCases.filter { side in
                    claim(side).fencedFor == nil && (side == .old || claim(.new).epoch > 0)
                }
                #expect(open.count <= 1, "\(sides), seed \(seed)")
                let found = Ownership.resolve(old: claim(.old), new: claim(.new))
                if found.standing == .settled { #expect(open == [found.authority], "\(sides), seed \(seed)") }
                // Each side's word alone, where it suffices, says the same.
                for side in Side.allCases {
                    let alone = Ownership.resolve(
                        old: side == .old ? claim(.old) : nil, new: side == .new ? claim(.new) : nil)
                    if alone.standing == .settled {
                        #expect(alone.authority == found.authority, "\(sides), seed \(seed)")
                    }
                }
            }
        }
    }
}
