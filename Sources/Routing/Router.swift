import Primitives
import SQLAnalysis

/// Everything that decides where one unit goes, as values. The same request always has the same answer.
package struct RouteRequest: Sendable {
    /// Where the client stands when the unit arrives.
    package enum Scope: Sendable, Equatable {
        /// Not in a transaction block.
        case outside
        /// In a block that lives on this side already.
        case inside(Side)
    }

    package var kind: StatementKind
    /// BEGIN's options; matter for `kind == .begin` only.
    package var transaction = TransactionOptions()
    package var scope: Scope = .outside
    /// The client keeps its server (see `SessionEffect.pins`).
    package var isPinned = false
    /// False when the session lexes text differently from our analysis: standard_conforming_strings is off, or
    /// client_encoding is neither UTF8 nor a single-byte one.
    package var isTextTrusted = true
    /// nil: the unit carries no routing key.
    package var identity: KeyIdentity?
    package var horizon: HorizonFacts
    /// `ReadStamps.needed(by:)` of the key; 0 when it never wrote.
    package var batchNeeded: UInt64 = 0
    /// What NEW's breaker says.
    package var breaker: CircuitBreaker.Verdict = .allow
    package var authority: Side = .old
    /// What the database's rules say; `deny` never comes here.
    package var rule: RuleSet.Outcome?
    /// What is known of the statement's shape on NEW; ask only when NEW is wanted, for it counts trials.
    package var shape: ShapeStatistics.Answer = .allow

    package init(kind: StatementKind, horizon: HorizonFacts) {
        self.kind = kind
        self.horizon = horizon
    }

    package init(_ classification: Classification, horizon: HorizonFacts) {
        self.init(kind: classification.kind, horizon: horizon)
        transaction = classification.transaction
    }
}

/// What `Horizon` says at the moment of the decision.
package struct HorizonFacts: Sendable, Equatable {
    /// NEW equals OLD at some snapshot, and the mirror is not too far behind.
    package var isReadable: Bool
    package var applied: UInt64

    package init(isReadable: Bool, applied: UInt64) {
        self.isReadable = isReadable
        self.applied = applied
    }

    package init(_ horizon: Horizon) {
        self.init(isReadable: horizon.readable, applied: horizon.applied)
    }
}

/// Where one unit goes and why. A value, any thread.
package struct RouteDecision: Sendable, Equatable {
    package enum Reason: UInt8, Sendable, CaseIterable, CustomStringConvertible {
        case share, cohort, probe, transaction, pinned, notRead,
            untrustedText, noKey, aboveShare, aboveCohortShare, notReadable, ownWrite,
            breakerOpen, newFailed, rule, unprovenShape, degradedShape

        package var description: String {
            switch self {
            case .share: "bucket below the share of reads on NEW"
            case .cohort: "bucket below the share of its cohort"
            case .probe: "probe of NEW after an open breaker"
            case .transaction: "in a transaction block"
            case .pinned: "session holds state in its server"
            case .notRead: "not surely a read"
            case .untrustedText: "session reads strings in another way"
            case .noKey: "no routing key"
            case .aboveShare: "bucket not below the share of reads on NEW"
            case .aboveCohortShare: "bucket not below the share of its cohort"
            case .notReadable: "NEW cannot be read yet"
            case .ownWrite: "NEW lacks a write of this user"
            case .breakerOpen: "breaker of NEW is open"
            case .newFailed: "NEW failed this read, it runs again here"
            case .rule: "a rule says so"
            case .unprovenShape: "statement shape has not proven itself on NEW"
            case .degradedShape: "statement shape does worse on NEW"
            }
        }
    }

    package var side: Side
    package var reason: Reason

    package init(_ side: Side, _ reason: Reason) {
        self.side = side
        self.reason = reason
    }

    /// The unit is one of the breaker's probes: report its outcome to the breaker, also when it is abandoned.
    package var isProbe: Bool { reason == .probe }
}

/// Statement, key, horizon and health to one decision. No state: any thread.
///
/// Fail safe: each line below either sends the unit to the authority or has ruled out one way in which NEW could
/// answer wrongly; NEW is the last line, not the first.
package enum Router {
    /// Also answers whether it is worth asking the shapes, which count trials, and the breaker, which counts probes:
    /// only when it names the other side while both allow it.
    package static func decide(_ request: RouteRequest, by table: RoutingTable) -> RouteDecision {
        if case .inside(let side) = request.scope { return RouteDecision(side, .transaction) }
        let authority = request.authority
        if request.isPinned { return RouteDecision(authority, .pinned) }
        if request.rule == .old { return RouteDecision(authority, .rule) }
        if !isRead(request) || request.kind == .begin && table.hasUnlikeTables {
            return RouteDecision(authority, .notRead)
        }
        if !request.isTextTrusted { return RouteDecision(authority, .untrustedText) }
        // Behind the cutover NEW is the authority, and nobody reads elsewhere by a rule for NEW.
        let isForced = request.rule == .new && authority == .old
        if !isForced, request.identity == nil { return RouteDecision(authority, .noKey) }
        let isInCohort = request.identity?.cohort != nil
        if !isForced, let identity = request.identity, !identity.bucket.isWithin(share: table.share(of: identity)) {
            return RouteDecision(authority, isInCohort ? .aboveCohortShare : .aboveShare)
        }
        switch request.shape {
        case .allow, .trial: break
        case .unproven: if !isForced { return RouteDecision(authority, .unprovenShape) }
        case .degraded: if !isForced { return RouteDecision(authority, .degradedShape) }
        }
        if !request.horizon.isReadable { return RouteDecision(authority, .notReadable) }
        if request.horizon.applied < request.batchNeeded { return RouteDecision(authority, .ownWrite) }
        switch request.breaker {
        case .deny: return RouteDecision(authority, .breakerOpen)
        case .probe: return RouteDecision(authority.other, .probe)
        case .allow: return RouteDecision(authority.other, isForced ? .rule : isInCohort ? .cohort : .share)
        }
    }

    /// The same for a read that no rule meets, outside of transactions, whose text can be trusted.
    ///
    /// - Returns: nil when it may go to the other side, which takes more to decide on.
    package static func decide(
        plainRead identity: KeyIdentity?, _ authority: Side, _ table: RoutingTable
    ) -> RouteDecision? {
        guard let identity else { return RouteDecision(authority, .noKey) }
        if identity.bucket.isWithin(share: table.share(of: identity)) { return nil }
        return RouteDecision(authority, identity.cohort == nil ? .aboveShare : .aboveCohortShare)
    }

    /// A transaction that declares itself READ ONLY is one read. SERIALIZABLE would need the other transactions of
    /// the authority to be checked against it, and DEFERRABLE waits for them: both stay there.
    private static func isRead(_ request: RouteRequest) -> Bool {
        switch request.kind {
        case .read: true
        case .begin:
            request.transaction.readOnly == true && request.transaction.isolation != .serializable
                && request.transaction.deferrable != true && !request.transaction.usesSnapshot
        case .empty, .sideDependent, .write, .unknown, .multiple, .commit, .rollback, .savepoint,
            .preparedTransaction, .setTransaction, .set, .reset, .show, .prepare, .execute, .deallocate, .cursor,
            .listen, .unlisten, .discard:
            false
        }
    }
}
