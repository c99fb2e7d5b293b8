import Configuration
import Primitives
import SQLAnalysis
import Testing

@testable import Routing

@Suite struct RouterTests {
    private let fresh = HorizonFacts(isReadable: true, applied: 10)
    private let half = RoutingTable(
        keyPlan: KeyPlan([.sessionUser]), hundredths: 5000,
        cohorts: [
            .init(name: "staff", keys: ["7", "9"], hundredths: 10_000), .init(name: "late", keys: ["9", "8"], hundredths: 0),
        ])

    private func request(_ kind: StatementKind = .read, bucket: UInt16 = 100, cohort: UInt16? = nil) -> RouteRequest {
        var request = RouteRequest(kind: kind, horizon: fresh)
        request.identity = KeyIdentity(hash: 1, bucket: UserBucket(hundredths: bucket), cohort: cohort)
        return request
    }

    @Test func `a read below the share goes to NEW, at the share it stays`() {
        #expect(Router.decide(request(bucket: 4999), by: half) == RouteDecision(.new, .share))
        #expect(Router.decide(request(bucket: 5000), by: half) == RouteDecision(.old, .aboveShare))
    }

    @Test func `who was in a cohort that is no more has everyone's share`() {
        #expect(half.share(of: KeyIdentity(hash: 1, bucket: UserBucket(hundredths: 1), cohort: 2)) == 5000)
        #expect(Router.decide(request(bucket: 4999, cohort: 2), by: half).side == .new)
        #expect(Router.decide(request(bucket: 5000, cohort: 2), by: half).side == .old)
    }

    @Test func `a cohort's share wins over everyone's`() {
        #expect(Router.decide(request(bucket: 9999, cohort: 0), by: half) == RouteDecision(.new, .cohort))
        #expect(Router.decide(request(bucket: 0, cohort: 1), by: half) == RouteDecision(.old, .aboveCohortShare))
        let resolver = KeyResolver(table: half)
        #expect(resolver.identity(of: "7")?.cohort == 0)
        #expect(resolver.identity(of: "9")?.cohort == 0)
        #expect(resolver.identity(of: "8")?.cohort == 1)
        #expect(resolver.identity(of: "6")?.cohort == nil)
    }

    @Test(arguments: StatementKind.allCases.filter { $0 != .read })
    func `nothing but a read goes to NEW`(kind: StatementKind) {
        #expect(Router.decide(request(kind), by: half) == RouteDecision(.old, .notRead))
    }

    @Test func `a transaction declared READ ONLY is one read, unless it asks for more`() {
        var begin = request(.begin)
        begin.transaction.readOnly = true
        #expect(Router.decide(begin, by: half).side == .new)
        begin.transaction.isolation = .repeatableRead
        #expect(Router.decide(begin, by: half).side == .new)
        begin.transaction.isolation = .serializable
        #expect(Router.decide(begin, by: half).side == .old)
        begin.transaction.isolation = nil
        begin.transaction.deferrable = true
        #expect(Router.decide(begin, by: half).side == .old)
    }

    @Test func `each doubt alone keeps a read on the authority`() {
        var pinned = request()
        pinned.isPinned = true
        #expect(Router.decide(pinned, by: half).reason == .pinned)
        var untrusted = request()
        untrusted.isTextTrusted = false
        #expect(Router.decide(untrusted, by: half).reason == .untrustedText)
        var keyless = request()
        keyless.identity = nil
        #expect(Router.decide(keyless, by: half).reason == .noKey)
        var unreadable = request()
        unreadable.horizon.isReadable = false
        #expect(Router.decide(unreadable, by: half).reason == .notReadable)
        var broken = request()
        broken.breaker = .deny
        #expect(Router.decide(broken, by: half) == RouteDecision(.old, .breakerOpen))
        broken.breaker = .probe
        #expect(Router.decide(broken, by: half) == RouteDecision(.new, .probe))
    }

    @Test func `a user's own write holds its reads back until its batch is applied`() {
        var read = request()
        read.batchNeeded = 11
        #expect(Router.decide(read, by: half) == RouteDecision(.old, .ownWrite))
        read.horizon.applied = 11
        #expect(Router.decide(read, by: half).side == .new)
    }

    @Test func `an open transaction stays where it is`() {
        var inside = request(.write)
        inside.scope = .inside(.new)
        #expect(Router.decide(inside, by: half) == RouteDecision(.new, .transaction))
    }

    @Test func `after the cutover everything is on NEW`() {
        for kind in StatementKind.allCases {
            var request = request(kind, bucket: 9999)
            request.authority = .new
            #expect(Router.decide(request, by: half).side == .new)
        }
    }

    @Test func `the first key source that has an answer wins`() {
        let table = RoutingTable(
            keyPlan: KeyPlan([.comment("a"), .setting("g.user"), .column("b"), .sessionUser]), hundredths: 0)
        let comment = KeyReference(source: 0, form: .text(offset: 0, length: 1))
        let column = KeyReference(source: 2, form: .parameter(1))
        #expect(table.keyChoice(text: comment, settingSource: 1) == .text(comment))
        #expect(table.keyChoice(text: column, settingSource: 1) == .setting(1))
        #expect(table.keyChoice(text: column, settingSource: nil) == .text(column))
        #expect(table.keyChoice(text: nil, settingSource: nil) == .sessionUser)
        #expect(RoutingTable(keyPlan: KeyPlan([]), hundredths: 0).keyChoice(text: nil, settingSource: nil) == .none)
        #expect(table.sendsNothingToNew && !half.sendsNothingToNew)
    }
}
