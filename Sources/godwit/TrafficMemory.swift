import ControlPlane
import Migration
import Primitives
import Synchronization

/// What is in force about traffic, so that a restart forgets nothing of it. Any thread; nothing here waits.
final class TrafficMemory: Sendable {
    private let store: StateStore?
    private let records: Mutex<[String: TrafficPlan.Record]>

    /// - Parameter store: nil: it lasts as long as the process.
    init(_ store: StateStore?) throws(StateStore.Failure) {
        self.store = store
        records = Mutex(try store?.traffic() ?? [:])
    }

    var all: [String: TrafficPlan.Record] { records.withLock { $0 } }

    func record(of database: String) -> TrafficPlan.Record { records.withLock { $0[database] } ?? .init() }

    func note(_ record: TrafficPlan.Record, of database: String) {
        let isNew = records.withLock { records in
            if records[database] ?? .init() == record { return false }
            records[database] = record
            return true
        }
        if isNew { store?.remember(record, of: database) }
    }
}
