import LibPQ

/// How a run goes. Immutable, any thread.
package struct ReplayOptions: Sendable {
    package enum Pace: Equatable, Sendable {
        /// So many times as fast as it was captured.
        case timed(Double)
        /// As fast as the sides answer.
        case max
    }

    package enum Order: String, Sendable, CaseIterable {
        /// Each connection by itself.
        case connection
        /// What had been answered before a unit was sent comes before it, over all connections.
        case causal
    }

    package var pace = Pace.timed(1)
    package var order: Order?
    /// Connections at once; nil: as captured.
    package var clientsMax: Int?
    package var loops = false
    /// The capture is still being written.
    package var follows = false
    package var onlyReads = false
    /// Seconds; nil: to the capture's end.
    package var seconds: Double?
    /// Rows are kept and compared, both sides step by step.
    package var compares = false
    package var withDigests = false
    package var floatTolerance = 0.0
    package var progress = true

    package init() {}

    package var effectiveOrder: Order { order ?? (compares || pace == .max ? .causal : .connection) }
}

/// A database that is played on. Immutable, any thread.
package struct ReplayTarget: Sendable {
    package var name: String
    package var conninfo: ConnectionString

    package init(name: String, conninfo: ConnectionString) {
        self.name = name
        self.conninfo = conninfo
    }

    /// What the conninfo does not say is as it was captured.
    func conninfo(user: String, database: String) -> ConnectionString {
        var overrides = ["keepalives": "1", "keepalives_idle": "10"]
        if conninfo.user == nil { overrides["user"] = user }
        if conninfo.dbname == nil { overrides["dbname"] = database }
        if conninfo["connect_timeout"] == nil { overrides["connect_timeout"] = "10" }
        return conninfo.overriding(overrides)
    }
}
