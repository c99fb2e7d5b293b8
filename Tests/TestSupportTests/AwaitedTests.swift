import TestSupport
import Testing

@Suite struct AwaitedTests {
    @Test func `a wait is told of once a minute, with its place, until it ends`() {
        var register = AwaitedRegister()
        let start = ContinuousClock.Instant.now
        let place = Place("EndToEndTests/SomeTests.swift", 12)
        let ticket = register.begin("a row", place, at: start)
        let other = register.begin("a log line", Place("other.swift", 3), at: start + .seconds(30))

        #expect(register.overdue(at: start + .seconds(59)) == [])
        let line = "still awaited after 61 s at EndToEndTests/SomeTests.swift:12: a row"
        #expect(register.overdue(at: start + .seconds(61)) == [line])
        #expect(register.overdue(at: start + .seconds(66)) == [])
        #expect(register.overdue(at: start + .seconds(121)).count == 2)
        register.end(ticket)
        register.end(other)
        #expect(register.overdue(at: start + .seconds(1_000)) == [])
    }

    @Test func `what runs in a wait gives its result and its error`() throws {
        #expect(Awaited.wait(for: "nothing", Place("here.swift", 1)) { 7 } == 7)
        #expect(throws: TestFailure.self) {
            try Awaited.wait(for: "nothing", Place("here.swift", 1)) { throw TestFailure("no") }
        }
    }
}
