import Migration
import Primitives

/// Who moves the writes, as a migration needs it. Any thread; each call blocks.
struct SwitchEngine: Sendable {
    /// What must hold, and whether it does.
    var guardRails: @Sendable (_ database: String, _ to: Side) -> [MigrationReadings.GuardRail]
    /// - Returns: nil: that side has the writes now; else why it has not.
    var perform: @Sendable (_ database: String, _ to: Side, _ deadlineMillis: Int) -> String?
    /// Who has the writes; nil: it cannot be told.
    var authority: @Sendable (_ database: String) -> Side?

    /// In the place of one that there is not.
    static let missing = SwitchEngine(
        guardRails: { _, _ in
            [.init(
                name: "engine", value: "none", threshold: "one", holds: false,
                advice: "this version moves reads only: abort takes them back")]
        },
        perform: { _, _, _ in "this version cannot move writes" }, authority: { _ in .old })
}
