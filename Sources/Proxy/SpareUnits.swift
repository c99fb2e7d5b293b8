/// Room for the units of a thread's clients. A connection that is idle has none: a unit takes a fourth of what a
/// connection does, and most connections are idle.
struct SpareUnits {
    private static let placesMax = 1024
    /// Not an array, which would be asked whether it is shared with each unit. As long-lived as the thread.
    private let places = UnsafeMutablePointer<UnsafeMutablePointer<Unit>>.allocate(capacity: placesMax)
    private var count = 0
    /// What all have that have no room of their own: only to be read. As long-lived as the thread.
    let new: UnsafePointer<Unit>

    init() { new = UnsafePointer(Self.makePlace()) }

    private static func makePlace() -> UnsafeMutablePointer<Unit> {
        let place = UnsafeMutablePointer<Unit>.allocate(capacity: 1)
        place.initialize(to: Unit())
        return place
    }

    /// - Returns: a new unit; whoever takes it gives it back.
    @inline(__always)
    mutating func take() -> UnsafeMutablePointer<Unit> {
        if count == 0 { return Self.makePlace() }
        count -= 1
        return places[count]
    }

    /// - Parameter place: with a unit that is as new.
    @inline(__always)
    mutating func giveBack(_ place: UnsafeMutablePointer<Unit>) {
        if count < Self.placesMax {
            (places + count).initialize(to: place)
            count += 1
            return
        }
        place.deinitialize(count: 1)
        place.deallocate()
    }
}

extension ClientConnection {
    func takeUnit() -> UnsafeMutablePointer<Unit> {
        let place = worker.spareUnits.take()
        unitPlace = place
        return place
    }

    /// The unit is as new, and nothing of it is in use just now.
    func giveBackUnit() {
        guard let place = unitPlace else { return }
        unitPlace = nil
        worker.spareUnits.giveBack(place)
    }
}
