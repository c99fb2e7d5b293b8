/// The effects that one event asks for, in order. Owned by one machine's caller; reused from event to event.
///
/// The capacity is the machine's promise of how many effects one event can have: more is a bug of ours and traps.
package struct ActionList<Action> {
    private var actions: [Action] = []
    package let capacity: Int

    package init(capacity: Int) {
        precondition(capacity > 0, "an action list without room")
        self.capacity = capacity
        actions.reserveCapacity(capacity)
    }

    package var isEmpty: Bool { actions.isEmpty }

    package mutating func append(_ action: Action) {
        precondition(actions.count < capacity, "more actions than the machine promised")
        actions.append(action)
    }

    /// Gives the actions and empties the list.
    package mutating func drain() -> [Action] {
        var drained: [Action] = []
        swap(&drained, &actions)
        return drained
    }
}
