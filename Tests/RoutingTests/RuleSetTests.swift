import Configuration
import Primitives
import SQLAnalysis
import Testing

@testable import Routing

@Suite struct RuleSetTests {
    private func rule(
        _ name: String, _ action: RuleSettings.Action, _ change: (inout RuleSettings) -> Void = { _ in }
    ) -> RuleSettings {
        var rule = RuleSettings(name: name, action: action)
        change(&rule)
        return rule
    }

    private func match(_ rules: [RuleSettings], _ text: String, user: String = "app") -> RuleSet.Match? {
        let cache = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([]), seed: 1)
        return Array(text.utf8).withUnsafeBytes { RuleSet(rules).match(cache.analyse($0).statement, $0, user: user) }
    }

    @Test(arguments: [
        ("select * from orders", true), ("select * from public.orders", true), ("SELECT * FROM Orders", true),
        ("select * from \"Orders\"", false), ("select * from x join orders o on true", true), ("delete from orders", true),
        ("with a as (select * from orders) select * from a", true), ("select * from t where orders = 1", false),
        ("select 'orders'", false), ("insert into t select * from orders", true), ("truncate orders", true),
        ("copy orders to stdout", true), ("select (select max(a) from orders)", true), ("update t set a = 1 from orders", true),
    ])
    func `a table is matched wherever a statement names it`(text: String, isMatch: Bool) {
        let rules = [rule("r", .old) { $0.table = TableName("orders") }]
        #expect((match(rules, text) != nil) == isMatch)
    }

    @Test func `a schema in the rule must not be another one in the statement`() {
        let rules = [rule("r", .old) { $0.table = TableName("sales.orders") }]
        #expect(match(rules, "select * from sales.orders") != nil)
        #expect(match(rules, "select * from orders") != nil)
        #expect(match(rules, "select * from public.orders") == nil)
        let schemas = [rule("r", .deny) { $0.schema = "sales" }]
        #expect(match(schemas, "select * from sales.x")?.outcome == .deny)
        #expect(match(schemas, "select * from x") == nil)
    }

    @Test func `a shape is matched whatever its literals`() {
        let rules = [rule("r", .new) { $0.shape = "select * from t where a = 1 and b in (1, 2)" }]
        #expect(match(rules, "SELECT * FROM t WHERE a = 77 AND b IN (5)")?.outcome == .new)
        #expect(match(rules, "select * from t where a = 'x' and b in (5)") == nil)
        #expect(match(rules, "select * from u where a = 77 and b in (5)") == nil)
    }

    @Test func `all that a rule names must match, and the first rule decides`() {
        let rules = [
            rule("guests", .deny) { $0.user = "guest"; $0.table = TableName("t") },
            rule("old", .old) { $0.table = TableName("t") },
            rule("new", .new) { $0.user = "guest" },
        ]
        #expect(match(rules, "select * from t", user: "guest") == RuleSet.Match(rule: 0, outcome: .deny))
        #expect(match(rules, "select * from t", user: "app") == RuleSet.Match(rule: 1, outcome: .old))
        #expect(match(rules, "select * from u", user: "guest") == RuleSet.Match(rule: 2, outcome: .new))
        #expect(match(rules, "select * from u", user: "app") == nil)
    }

    @Test func `a regular expression looks at the text, also of what was not analysed`() throws {
        let regex = try LinearPattern(regex: "(?i)^copy ")
        let rules = [rule("r", .deny) { $0.regex = regex }]
        #expect(match(rules, "COPY t TO STDOUT")?.outcome == .deny)
        #expect(match(rules, "copy broken (((")?.outcome == .deny)
        #expect(match(rules, "select 'copy '") == nil)
    }

    private func rewritten(_ text: String, _ rules: [RuleSettings]? = nil, user: String = "app") -> String? {
        let set = RuleSet(rules ?? [rule("r", .rewrite(table: TableName(name: "a"), to: TableName(schema: "s", name: "B")))])
        let cache = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([]), seed: 1)
        return Array(text.utf8).withUnsafeBytes { bytes in
            set.rewritten(bytes, cache.analyse(bytes).statement, user: user).map { String(decoding: $0.text, as: UTF8.self) }
        }
    }

    @Test(arguments: [
        ("select * from a", "select * from \"s\".\"B\" AS \"a\""),
        ("select a.x from a where a.y = 'a' -- a", "select a.x from \"s\".\"B\" AS \"a\" where a.y = 'a' -- a"),
        ("select * from a x", "select * from \"s\".\"B\" x"), ("select * from a as x", "select * from \"s\".\"B\" as x"),
        ("select * from public . a, t", "select * from \"s\".\"B\" AS \"a\", t"),
        ("select a from t join a using (a)", "select a from t join \"s\".\"B\" AS \"a\" using (a)"),
        ("insert into a (a) values (1)", "insert into \"s\".\"B\" AS \"a\" (a) values (1)"),
        ("update a set a = 1 where a.a = 2", "update \"s\".\"B\" AS \"a\" set a = 1 where a.a = 2"),
        ("delete from a where a = 1", "delete from \"s\".\"B\" AS \"a\" where a = 1"),
        ("copy a (a) to stdout", "copy \"s\".\"B\" (a) to stdout"), ("truncate a", "truncate \"s\".\"B\""),
        ("table a", "table \"s\".\"B\""), ("select * from only (a)", "select * from only (\"s\".\"B\")"),
        ("select * from only a", "select * from only \"s\".\"B\" AS \"a\""), ("select * from a *", "select * from \"s\".\"B\" *"),
        ("select * from a for update of a", "select * from \"s\".\"B\" AS \"a\" for update of a"),
        ("select /* a */ 'a', $$a$$, \"a\" from a", "select /* a */ 'a', $$a$$, \"a\" from \"s\".\"B\" AS \"a\""),
        ("select * from a, (select * from \"a\") y", "select * from \"s\".\"B\" AS \"a\", (select * from \"s\".\"B\" AS \"a\") y"),
    ])
    func `a table's name is replaced and nothing else`(text: String, expected: String) {
        #expect(rewritten(text) == expected)
    }

    @Test(arguments: [
        "select 1", "select a from t", "select * from \"A\"", "with a as (select 1) select * from a", "select 'from a'",
        "select * from t a", "not sql from a",
    ])
    func `what is no such table stays`(text: String) {
        #expect(rewritten(text) == nil)
    }

    @Test func `a rewrite may be for one user or table only`() {
        let rules = [rule("r", .rewrite(table: TableName(name: "a"), to: TableName(name: "b"))) { $0.user = "guest" }]
        #expect(rewritten("select * from a", rules, user: "app") == nil)
        #expect(rewritten("select * from a", rules, user: "guest") == "select * from \"b\" AS \"a\"")
    }

    @Test func `each text of a shape is rewritten at its own places`() {
        let cache = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([]), seed: 1)
        let set = RuleSet([rule("r", .rewrite(table: TableName(name: "a"), to: TableName(name: "b")))])
        for list in ["1", "1, 2, 3", "'a', 'from a'"] {
            let text = Array("select x /* a */ from t where k in (\(list)) and exists (select 1 from a)".utf8)
            let other = text.withUnsafeBytes { set.rewritten($0, cache.analyse($0).statement, user: "")?.text }
            #expect(other.map { String(decoding: $0, as: UTF8.self) }
                == "select x /* a */ from t where k in (\(list)) and exists (select 1 from \"b\" AS \"a\")")
        }
    }
}

@Suite struct CohortsTests {
    private func table(_ cohorts: [ReadSettings.Cohort]) -> KeyResolver {
        KeyResolver(table: RoutingTable(keyPlan: KeyPlan([.sessionUser]), hundredths: 0, cohorts: cohorts))
    }

    @Test func `the first cohort that has a key wins, whatever its kind`() throws {
        let resolver = table([
            .init(name: "glob", members: .pattern(try LinearPattern(glob: "eu-*")), hundredths: 1),
            .init(name: "list", members: .keys(["eu-1", "7", "x"]), hundredths: 2),
            .init(name: "range", members: .range(5...9), hundredths: 3),
            .init(name: "regex", members: .pattern(try LinearPattern(regex: "^[a-z]$")), hundredths: 4),
        ])
        let expected: [(String, UInt16?)] = [
            ("eu-1", 0), ("7", 1), ("5", 2), ("9", 2), ("10", nil), ("4", nil), ("x", 1), ("y", 3), ("yy", nil), ("05", 2),
            ("5.0", nil), ("-5", nil),
        ]
        for (key, cohort) in expected { #expect(resolver.identity(of: key)?.cohort == cohort, "\(key)") }
    }

    @Test(arguments: [("-9223372036854775808", Int64.min), ("9223372036854775807", .max), ("0", 0), ("-7", -7)])
    func `whole numbers of 64 bits are numbers`(text: String, number: Int64) {
        #expect(Cohorts.number(Array(text.utf8)) == number)
    }

    @Test(arguments: ["", "-", "+5", "9223372036854775808", "1e3", " 1", "99999999999999999999999"])
    func `what is no such number is none`(text: String) {
        #expect(Cohorts.number(Array(text.utf8)) == nil)
    }

    @Test func `a cohort's percentage holds within sampling error, and raising it never moves a user back`() throws {
        let members = CohortMembers.pattern(try LinearPattern(glob: "u*"))
        let half = RoutingTable(
            keyPlan: KeyPlan([]), hundredths: 0, cohorts: [.init(name: "c", members: members, hundredths: 3000)])
        let resolver = KeyResolver(table: half)
        let identities = (0..<100_000).compactMap { resolver.identity(of: "u\($0)") }
        let within = identities.count { $0.bucket.isWithin(share: half.share(of: $0)) }
        #expect(abs(within - 30_000) <= 600)
        for identity in identities.prefix(5000) where identity.bucket.isWithin(share: 3000) {
            #expect(identity.bucket.isWithin(share: 3001) && identity.bucket.isWithin(share: 10_000))
        }
    }
}

@Suite struct RuleDecisionTests {
    private func request(_ kind: StatementKind, _ rule: RuleSet.Outcome?, key: Bool = true) -> RouteRequest {
        var request = RouteRequest(kind: kind, horizon: HorizonFacts(isReadable: true, applied: 10))
        if key { request.identity = KeyIdentity(hash: 1, bucket: UserBucket(hundredths: 100), cohort: nil) }
        request.rule = rule
        return request
    }

    private let none = RoutingTable(keyPlan: KeyPlan([]), hundredths: 0)
    private let all = RoutingTable(keyPlan: KeyPlan([]), hundredths: 10_000)

    @Test(arguments: StatementKind.allCases) func `a rule for NEW moves nothing but reads`(kind: StatementKind) {
        #expect((Router.decide(request(kind, .new), by: none).side == .new) == (kind == .read))
    }

    @Test func `a rule wins over shares and keys, not over what NEW cannot answer rightly`() {
        #expect(Router.decide(request(.read, .old), by: all) == RouteDecision(.old, .rule))
        #expect(Router.decide(request(.read, .new, key: false), by: none) == RouteDecision(.new, .rule))
        var late = request(.read, .new)
        late.batchNeeded = 11
        #expect(Router.decide(late, by: none).reason == .ownWrite)
        var unreadable = request(.read, .new)
        unreadable.horizon.isReadable = false
        #expect(Router.decide(unreadable, by: none).reason == .notReadable)
        var pinned = request(.read, .new)
        pinned.isPinned = true
        #expect(Router.decide(pinned, by: none).side == .old)
    }

    @Test func `an unproven or degraded shape stays on OLD, with its reason`() {
        for (answer, reason) in [
            (ShapeStatistics.Answer.unproven, RouteDecision.Reason.unprovenShape), (.degraded, .degradedShape),
            (.trial, .share), (.allow, .share),
        ] {
            var read = request(.read, nil)
            read.shape = answer
            #expect(Router.decide(read, by: all).reason == reason)
        }
    }
}
