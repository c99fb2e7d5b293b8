import Primitives
import Testing

@testable import Migration

@Suite struct TrafficPlanTests {
    private func at(_ seconds: Double) -> MonotonicInstant { MonotonicInstant(nanoseconds: UInt64(seconds * 1e9)) }

    /// The shares before and after.
    private func rollBack(_ plan: inout TrafficPlan) -> [Int] {
        plan.rollBack("shop").map { [$0.from, $0.to] } ?? []
    }

    /// Shares that an operator orders at their times, each put in force.
    private func plan(_ steps: [(hundredths: Int, at: Double)]) -> TrafficPlan {
        var plan = TrafficPlan()
        plan.runs(0, of: "shop", now: at(0), safeAfterSeconds: 600)
        for step in steps {
            plan.order(step.hundredths, for: "shop")
            plan.runs(plan.share(of: "shop", inFile: 0), of: "shop", now: at(step.at), safeAfterSeconds: 600)
        }
        return plan
    }

    @Test func `a roll-back goes to the share that went well for long enough`() {
        var plan = plan([(1000, 100), (5000, 700)])
        #expect(rollBack(&plan) == [5000, 1000])
        #expect(plan.share(of: "shop", inFile: 0) == 1000 && plan.ceiling(of: "shop") == 1000)
        plan.runs(1000, of: "shop", now: at(701), safeAfterSeconds: 600)
        #expect(rollBack(&plan) == [1000, 0], "what trips again was not safe")
        plan.runs(0, of: "shop", now: at(702), safeAfterSeconds: 600)
        #expect(rollBack(&plan) == [])
    }

    @Test func `where a finished pair is outlives the texts that an earlier version has stored`() {
        var plan = TrafficPlan()
        plan.finish("shop", pair: "texts")
        plan.locateFinished("shop", at: "places")
        #expect(plan.record(of: "shop").finishedPair == "texts", "that version still knows it")
        #expect(plan.record(of: "shop").finishedPlaces == "places")
        plan.locateFinished("other", at: "places")
        #expect(plan.record(of: "other") == TrafficPlan.Record())
    }

    @Test func `a roll-back lowers the shares of cohorts as well`() {
        var plan = TrafficPlan()
        // Half of all users, then a cohort as a whole: the greatest share is what runs.
        for (hundredths, second) in [(0, 0), (5000, 1), (10_000, 700)] as [(Int, Double)] {
            plan.runs(hundredths, of: "shop", now: at(second), safeAfterSeconds: 600)
        }
        #expect(rollBack(&plan) == [10_000, 5000])
        #expect(plan.share(ofCohort: "staff", of: "shop", inFile: 10_000) == 5000)
        #expect(plan.share(ofCohort: "free", of: "shop", inFile: 100) == 100)
        #expect(plan.share(of: "shop", inFile: 5000) == 5000)
        plan.order(5000, for: "shop")
        #expect(plan.share(ofCohort: "staff", of: "shop", inFile: 10_000) == 10_000)
    }

    @Test func `a share that was left too soon is not safe`() {
        var plan = plan([(1000, 100), (5000, 699)])
        #expect(rollBack(&plan) == [5000, 0])
        #expect(plan.ceiling(of: "shop") == 0)
    }

    @Test func `a roll-back outlives reloads and ends with an operator's word`() {
        var plan = plan([])
        plan.runs(5000, of: "shop", now: at(1), safeAfterSeconds: 600)
        #expect(rollBack(&plan) == [5000, 0])
        plan.fileWasRead()
        #expect(plan.share(of: "shop", inFile: 5000) == 0)
        plan.order(2500, for: "shop")
        #expect(plan.share(of: "shop", inFile: 5000) == 2500 && plan.ceiling(of: "shop") == nil)
        plan.fileWasRead()
        #expect(plan.share(of: "shop", inFile: 5000) == 5000)
    }

    @Test func `what an operator lowers is not taken for safe above that`() {
        var plan = plan([(1000, 1), (5000, 700), (500, 1400), (2000, 1500)])
        #expect(rollBack(&plan) == [2000, 500])
    }

    @Test func `a migration's shares outlive reloads, an operator's do not`() {
        var plan = TrafficPlan()
        plan.manage(2500, cohorts: ["staff": 10_000], for: "shop")
        plan.order(500, for: "other")
        plan.fileWasRead()
        #expect(plan.share(of: "shop", inFile: 0) == 2500)
        #expect(plan.share(ofCohort: "staff", of: "shop", inFile: 0) == 10_000)
        #expect(plan.share(ofCohort: "free", of: "shop", inFile: 7) == 7)
        #expect(plan.share(of: "other", inFile: 0) == 0)
        plan.order(100, for: "shop")
        #expect(!plan.record(of: "shop").isManaged)
    }

    @Test func `what is held reads nothing on the other side, until the next word`() {
        var plan = TrafficPlan()
        plan.manage(2500, cohorts: ["staff": 10_000], for: "shop")
        plan.hold("shop")
        plan.fileWasRead()
        #expect(plan.share(of: "shop", inFile: 9000) == 0)
        #expect(plan.share(ofCohort: "staff", of: "shop", inFile: 9000) == 0)
        var other = TrafficPlan()
        other.restore(plan.record(of: "shop"), for: "shop")
        #expect(other.share(of: "shop", inFile: 9000) == 0)
        other.manage(1000, cohorts: [:], for: "shop")
        #expect(other.share(of: "shop", inFile: 9000) == 1000)
    }

    @Test func `that a migration is over is not taken back by who has not heard of it`() {
        var plan = TrafficPlan()
        plan.finish("shop", pair: "places")
        var other = TrafficPlan()
        other.order(500, for: "shop")
        plan.restore(other.record(of: "shop"), for: "shop")
        #expect(plan.record(of: "shop").finishedPair == "places")
        #expect(plan.share(of: "shop", inFile: 0) == 500)
        // Another one that is over is the last word.
        other.finish("shop", pair: "others")
        plan.restore(other.record(of: "shop"), for: "shop")
        #expect(plan.record(of: "shop").finishedPair == "others")
    }
}
