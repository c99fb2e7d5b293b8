import Primitives

/// What operators have closed: whose units are held, who takes no new clients, whether sockets are read at all. It is
/// swapped whole, so that a thread has either all of a change or nothing of it. Immutable, any thread.
package struct TrafficGate: Equatable, Sendable, Codable {
    /// Which units wait; each includes those before it.
    package enum Hold: Int, Comparable, Sendable, Codable, CaseIterable {
        /// What is not surely a read, and so may write on the authority.
        case writes
        /// Every unit, and no server is opened.
        case all

        package static func < (left: Hold, right: Hold) -> Bool { left.rawValue < right.rawValue }
    }

    /// Of every database; nil: only those named are held.
    package var everything: Hold?
    package var databases: [ExactName: Hold] = [:]
    /// They take no new clients.
    package var disabled: Set<ExactName> = []
    /// Nothing is read from clients or servers but consoles.
    package var isSuspended = false

    package init() {}

    package var isHolding: Bool { everything != nil || !databases.isEmpty }

    /// What either of them closes.
    package func union(_ other: TrafficGate) -> TrafficGate {
        var both = self
        if let hold = other.everything { both.everything = max(both.everything ?? hold, hold) }
        both.databases.merge(other.databases) { max($0, $1) }
        both.disabled.formUnion(other.disabled)
        both.isSuspended = isSuspended || other.isSuspended
        return both
    }

    package func hold(of database: String) -> Hold? {
        guard let own = databases[ExactName(database)] else { return everything }
        return everything.map { max($0, own) } ?? own
    }

    package func isDisabled(_ database: String) -> Bool { disabled.contains(ExactName(database)) }
}

/// What a command is about: one database, or all of them. Immutable, any thread.
package enum GateScope: Hashable, Sendable, Codable, CustomStringConvertible {
    case everything
    case database(ExactName)

    package init(_ database: String?) { self = database.map { .database(ExactName($0)) } ?? .everything }

    package func contains(_ database: String) -> Bool {
        switch self {
        case .everything: true
        case .database(let name): name.text.hasSameBytes(as: database)
        }
    }

    package var description: String {
        switch self {
        case .everything: "all databases"
        case .database(let name): "database \"\(name)\""
        }
    }
}

/// What must have come true on every thread before a command is answered. All but `applied` stay true once they are,
/// as long as the gate is not opened. Immutable, any thread.
package enum GateCondition: Equatable, Sendable, Codable {
    /// What was posted before has been taken.
    case applied
    /// No connection to a server of these databases is open.
    case noServers(GateScope)
    /// Nothing runs on the authority that may write. For a client's DDL: but what that client of this process has open,
    /// transactions that have done nothing and wait for their own DDL's turn, and those that rest and have changed
    /// nothing.
    case noWrites(GateScope, but: GateAsker? = nil)
    /// The same, and no client of them is bound to its server of the authority.
    case movable(GateScope)
    /// No server waits to be closed because of a reload or RECONNECT.
    case noneOutdated(GateScope)
    /// Everything that was to be sent has been sent.
    case flushed
    /// Nobody is connected but consoles.
    case noClients
    /// No server that was to be there before a switch is still being opened.
    case warmed(GateScope)
}

/// The client whose own open transaction is what the writes are held for. Immutable, any thread.
package struct GateAsker: Equatable, Sendable, Codable {
    package var worker: Int
    package var client: UInt64

    package init(worker: Int, client: UInt64) {
        self.worker = worker
        self.client = client
    }
}

/// What one thread still waits for. Immutable, any thread.
package struct GateBlockers: Equatable, Sendable, Codable {
    /// Named one by one; the others are counted.
    package static let namedMax = 20

    package private(set) var count = 0
    package private(set) var names: [String] = []

    package init() {}

    package init(_ names: [String]) { for name in names { add(name) } }

    package var isEmpty: Bool { count == 0 }

    /// - Parameter name: made only when it is kept.
    package mutating func add(_ name: @autoclosure () -> String) {
        count += 1
        if names.count < Self.namedMax { names.append(name()) }
    }

    package mutating func add(_ other: GateBlockers) {
        count += other.count
        names += other.names.prefix(Self.namedMax - names.count)
    }
}

/// What an operator orders of the traffic. Times in seconds. Immutable, any thread.
package enum GateCommand: Equatable, Sendable {
    package enum Shutdown: Int, Sendable {
        /// When the last client has gone by itself.
        case waitForClients
        /// When the last transaction has ended; who has none is told to go.
        case waitForServers
        case now
    }

    package struct Pause: Equatable, Sendable {
        package var scope: GateScope
        package var hold: TrafficGate.Hold
        /// Not reached by then, everything goes on as before; nil: it may take as long as it takes.
        package var limit: Double?
        /// Not reached in time, or left by its console, it is held nevertheless.
        package var isKept: Bool
        /// It ends by itself so long after the command.
        package var lifetime: Double?

        package init(
            _ scope: GateScope, _ hold: TrafficGate.Hold = .all, limit: Double? = nil, isKept: Bool = false,
            lifetime: Double? = nil
        ) {
            self.scope = scope
            self.hold = hold
            self.limit = limit
            self.isKept = isKept
            self.lifetime = lifetime
        }
    }

    case pause(Pause)
    case resume(GateScope)
    case disable(String)
    case enable(String)
    case reconnect(GateScope)
    case kill(GateScope)
    case suspend(limit: Double?)
    case waitClose(GateScope, limit: Double?)
    case shutdown(Shutdown)
    /// Answered when all threads have taken what was posted to them before.
    case barrier
    /// A switch of the authority: units that may write are held, whatever operators resume, until `letGo`. Not reached
    /// within so many seconds, everything goes on as before.
    case holdForSwitch(ExactName, limit: Double, endsPinned: Bool)
    /// The same for a moment in which the authority stays who it is: sessions that keep their servers may.
    case holdForChange(ExactName, limit: Double, asker: GateAsker? = nil)
    case letGo(ExactName)
    /// A switch is near: servers of the side that takes the writes next are opened. Those that are not there within so
    /// many seconds are not waited for.
    case warm(ExactName, limit: Double)
}

extension GateCommand {
    /// The database whose writes a switch or a change holds.
    var holdsWritesOf: ExactName? {
        switch self {
        case .holdForSwitch(let name, _, _), .holdForChange(let name, _, _): name
        case .pause, .resume, .disable, .enable, .reconnect, .kill, .suspend, .waitClose, .shutdown, .barrier, .letGo,
            .warm:
            nil
        }
    }
}
