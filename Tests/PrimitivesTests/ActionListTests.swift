import Primitives
import Testing

@Suite struct ActionListTests {
    @Test func `actions come out once and in order`() {
        var actions = ActionList<Int>(capacity: 3)
        #expect(actions.isEmpty)
        for action in [3, 1, 2] { actions.append(action) }
        #expect(!actions.isEmpty)
        #expect(actions.drain() == [3, 1, 2])
        #expect(actions.isEmpty)
        #expect(actions.drain() == [])
        for action in 0..<3 { actions.append(action) }
        #expect(actions.drain() == [0, 1, 2])
    }

    @Test func `more actions than promised are a bug`() async {
        await #expect(processExitsWith: .failure) {
            var actions = ActionList<Int>(capacity: 1)
            actions.append(1)
            actions.append(2)
        }
    }

    @Test func `an action list without room is a bug`() async {
        await #expect(processExitsWith: .failure) { _ = ActionList<Int>(capacity: 0) }
    }
}
