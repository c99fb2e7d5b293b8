/// Since when each gate holds. A value, one owner; times are microseconds since 1970.
struct GateMemory: Sendable {
    private var holding: [String: Int64] = [:]
    /// Since when none stands in the way; nil: one does.
    private(set) var allHoldSince: Int64?

    func since(_ name: String) -> Int64? { holding[name] }

    mutating func take(_ gates: [Gate], now: Int64) {
        var next: [String: Int64] = [:]
        for gate in gates where gate.holds == true { next[gate.name] = holding[gate.name] ?? now }
        holding = next
        allHoldSince = gates.contains(where: \.blocks) ? nil : allHoldSince ?? now
    }
}
