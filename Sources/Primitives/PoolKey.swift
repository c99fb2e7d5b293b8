/// Which servers may stand in for each other: one side of one database, logged in as one user. Immutable, any thread.
package struct PoolKey: Hashable, Sendable {
    package let database: String
    package let user: String
    package let side: Side

    package init(database: String, user: String, side: Side) {
        self.database = database
        self.user = user
        self.side = side
    }

    /// By bytes: names that only look alike must not share servers.
    package static func == (left: PoolKey, right: PoolKey) -> Bool {
        left.side == right.side && left.user.hasSameBytes(as: right.user)
            && left.database.hasSameBytes(as: right.database)
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(ExactName(database))
        hasher.combine(ExactName(user))
        hasher.combine(side)
    }
}
