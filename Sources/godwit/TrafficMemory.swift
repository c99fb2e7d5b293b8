import ControlPlane
import Migration
import Primitives
import Synchronization

/// What is in force about traffic, so that a restart forgets nothing of it, and other Godwits with the same state
/// follow. Any thread; nothing here waits.
final class TrafficMemory: Sendable {
    private struct Place {
        var record = TrafficPlan.Record()
        /// Of the latest record that the store is known to have, ours or another's.
        var number: Int64 = 0
        /// Words of ours that the store has not got yet: it will have them behind all that it has.
        var unwritten = 0
        /// The store could not take it when it was given.
        var isLost = false
        /// Another Godwit's word, which the control thread has not taken yet.
        var offer: StateStore.StoredTraffic?
    }

    private let store: StateStore?
    private let places: Mutex<[String: Place]>
    /// Something of the store's was passed over, and may count yet.
    private let isBehind = Atomic<Bool>(false)
    /// What the store has is known.
    private let informed: Atomic<Bool>
    /// Another process has our place, and what it writes counts.
    private let hasLeft = Atomic<Bool>(false)

    /// - Parameter store: nil: it lasts as long as the process.
    init(_ store: StateStore?) throws(StateStore.Failure) {
        self.store = store
        let isAway = store?.absence != nil
        informed = Atomic(!isAway)
        let known = try isAway ? [:] : store?.traffic() ?? [:]
        places = Mutex(known.mapValues { Place(record: $0.record, number: $0.number) })
    }

    /// False while the store has been away since this process began.
    var isInformed: Bool { informed.load(ordering: .acquiring) }

    func becomeInformed() { informed.store(true, ordering: .releasing) }

    var all: [String: TrafficPlan.Record] { places.withLock { $0.mapValues(\.record) } }

    func record(of database: String) -> TrafficPlan.Record { places.withLock { $0[database]?.record } ?? .init() }

    func note(_ record: TrafficPlan.Record, of database: String) {
        if hasLeft.load(ordering: .acquiring) { return }
        let isNew = places.withLock { places in
            var place = places[database] ?? Place()
            if place.record == record { return false }
            place.record = record
            if store != nil { place.unwritten += 1 }
            places[database] = place
            return true
        }
        if isNew { write(record, of: database) }
    }

    private func write(_ record: TrafficPlan.Record, of database: String) {
        guard let store else { return }
        // What a migration has ordered counts as long as we run it.
        store.remember(record, of: database, term: record.isManaged ? store.held : nil) { [weak self] number in
            self?.places.withLock { places in
                places[database]?.unwritten -= 1
                if let number { places[database]?.number = number } else { places[database]?.isLost = true }
            }
            if number == nil { self?.isBehind.store(true, ordering: .releasing) }
        }
    }

    /// From time to time: what a file could not take (its disk was full) is written when it can. Where several Godwits
    /// share a store it is what that has by now that counts.
    func writeAgain() {
        guard let store, !store.isShared, !hasLeft.load(ordering: .acquiring) else { return }
        let lost = places.withLock { places in
            let names = places.filter(\.value.isLost).keys
            for name in names {
                places[name]?.isLost = false
                places[name]?.unwritten += 1
            }
            return names.compactMap { name in places[name].map { (name, $0.record) } }
        }
        for (name, record) in lost { write(record, of: name) }
    }

    func leave() { hasLeft.store(true, ordering: .releasing) }

    // MARK: what other Godwits say

    /// The store is to be read although nothing in it is new.
    func takeBehind() -> Bool { isBehind.exchange(false, ordering: .acquiringAndReleasing) }

    /// What the store has now.
    ///
    /// - Returns: of which databases there is a word that is to be taken.
    func learn(_ stored: [String: StateStore.StoredTraffic]) -> [String] {
        places.withLock { places in
            stored.compactMap { name, found in
                var place = places[name] ?? Place()
                defer { places[name] = place }
                if place.unwritten > 0 { isBehind.store(true, ordering: .releasing) }
                guard place.unwritten == 0, found.number > place.number else { return nil }
                if found.record == place.record {
                    place.number = found.number
                    return nil
                }
                place.offer = found
                return name
            }
        }
    }

    /// The control thread's: what is in force from now on. nil: it has another word of its own by now.
    func takeOffer(of database: String) -> TrafficPlan.Record? {
        places.withLock { places in
            guard var place = places[database], let offer = place.offer else { return nil }
            place.offer = nil
            defer { places[database] = place }
            if place.unwritten > 0 { isBehind.store(true, ordering: .releasing) }
            guard place.unwritten == 0, offer.number > place.number else { return nil }
            (place.record, place.number) = (offer.record, offer.number)
            return offer.record
        }
    }
}
