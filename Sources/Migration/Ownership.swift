import Primitives

/// What one side says of who takes the writes. Immutable, any thread.
package struct SideClaim: Sendable, Equatable {
    /// The switch that made it the authority last; 0: none did.
    package var epoch: Int64
    /// No switch up to this one can make it the authority any more.
    package var voidEpoch: Int64
    /// It refuses writes, for the sake of this switch; nil: it takes them.
    package var fencedFor: Int64?

    package init(epoch: Int64 = 0, voidEpoch: Int64 = 0, fencedFor: Int64? = nil) {
        self.epoch = epoch
        self.voidEpoch = voidEpoch
        self.fencedFor = fencedFor
    }

    /// A database that knows of no switch.
    package static let untouched = SideClaim()
}

/// Who takes the writes, as far as the two sides' words tell. Pure.
///
/// A side is fenced, durably, before the other claims, and its fence goes only in the transaction in which it claims
/// itself, or when the other one can claim no more. So a side that has once been the authority (OLD, or one with an
/// epoch) and is not fenced is the authority, whatever the other one may say; and no two are.
package struct Ownership: Sendable, Equatable {
    package enum Standing: Sendable, Equatable {
        /// It takes the writes.
        case settled
        /// A switch has fenced it, and has not been decided: it is under way, or was cut off.
        case underWay(Int64)
        /// It cannot be told yet: the other side does not answer.
        case unknown
    }

    /// The authority, or the likelier one: the fences see to it that a wrong guess harms nothing.
    package var authority: Side
    package var epoch: Int64
    package var standing: Standing

    package init(authority: Side, epoch: Int64, standing: Standing) {
        self.authority = authority
        self.epoch = epoch
        self.standing = standing
    }

    /// Where nothing was ever switched.
    package static let initial = Ownership(authority: .old, epoch: 0, standing: .settled)

    /// - Parameter old: nil: it does not answer.
    package static func resolve(old: SideClaim?, new: SideClaim?) -> Ownership {
        // One that is not fenced needs nobody else's word.
        if let old, old.fencedFor == nil, (new?.epoch ?? 0) <= old.epoch {
            return Ownership(authority: .old, epoch: old.epoch, standing: .settled)
        }
        if let new, new.fencedFor == nil, new.epoch > 0 {
            return Ownership(authority: .new, epoch: new.epoch, standing: .settled)
        }
        guard let old, let new else {
            if let new { return alone(new, .new) }
            if let old { return alone(old, .old) }
            return Ownership(authority: .old, epoch: 0, standing: .unknown)
        }
        let authority: Side = new.epoch > old.epoch ? .new : .old
        let (its, others) = authority == .new ? (new, old) : (old, new)
        guard let fence = its.fencedFor else {
            return Ownership(authority: authority, epoch: its.epoch, standing: .settled)
        }
        precondition(others.epoch <= its.epoch, "the greatest epoch is another's")
        return Ownership(authority: authority, epoch: its.epoch, standing: .underWay(fence))
    }

    private static func alone(_ claim: SideClaim, _ side: Side) -> Ownership {
        // NEW that has never claimed: OLD has the writes, or is fenced for a switch that has not come to its end.
        if side == .new && claim.epoch == 0 { return Ownership(authority: .old, epoch: 0, standing: .unknown) }
        let isFenced = claim.fencedFor != nil
        return Ownership(
            authority: isFenced ? side.other : side, epoch: claim.epoch, standing: isFenced ? .unknown : .settled)
    }

    /// The number for a next switch: greater than all that were ever used.
    package static func nextEpoch(old: SideClaim, new: SideClaim) -> Int64 {
        var greatest: Int64 = 0
        for claim in [old, new] { greatest = max(greatest, claim.epoch, claim.voidEpoch, claim.fencedFor ?? 0) }
        return greatest + 1
    }
}
