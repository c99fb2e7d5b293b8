import Primitives

/// One answer of a side, as the windows count it. A value.
@usableFromInline @frozen package struct HealthSample: Sendable, Equatable {
    @usableFromInline package var micros: UInt32
    /// An error of the server's own (`SQLState.isServersOwn`), or no answer in time.
    @usableFromInline package var isError: Bool
    /// `ShapeID.value` of its statement; 0: it has none.
    @usableFromInline package var shape: UInt64

    @inlinable package init(micros: UInt64, isError: Bool, shape: UInt64) {
        self.micros = UInt32(clamping: micros)
        self.isError = isError
        self.shape = shape
    }
}

/// What one side has answered within the last seconds: counts that are exact, and a sample of the times that tells
/// whose they are. Bounded in size whatever the traffic. A value, one owner, no clock inside.
struct HealthWindow: Sendable {
    struct Time: Sendable {
        var micros: UInt32
        var shape: UInt64
    }

    /// Sums over the window.
    struct Sums: Sendable {
        var calls = 0
        var errors = 0
        var compared = 0
        var differed = 0
        /// By shape; 0 holds what there was no place for.
        var errorShapes: [UInt64: Int] = [:]
        var differingShapes: [UInt64: Int] = [:]
    }

    static let slotCount = 10
    /// Times kept of each slot: each answer has the same chance (Vitter's algorithm R).
    static let timesMax = 128
    /// Shapes told apart among a slot's errors.
    static let shapesMax = 32

    private struct Slot: Sendable {
        var number: UInt64 = 0
        var sums = Sums()
        var times: [Time] = []

        mutating func add(_ samples: ContiguousArray<HealthSample>, using generator: inout SeededGenerator) {
            for sample in samples { add(sample, using: &generator) }
        }

        private mutating func add(_ sample: HealthSample, using generator: inout SeededGenerator) {
            sums.calls += 1
            if sample.isError {
                sums.errors += 1
                HealthWindow.count(sample.shape, in: &sums.errorShapes)
            }
            let time = Time(micros: sample.micros, shape: sample.shape)
            if times.count < HealthWindow.timesMax {
                times.append(time)
            } else {
                let lot = Int(generator.next() % UInt64(sums.calls))
                if lot < HealthWindow.timesMax { times[lot] = time }
            }
        }
    }

    private var slots = Array(repeating: Slot(), count: slotCount)
    private let slotNanos: UInt64

    init(seconds: Double) { slotNanos = max(1, UInt64(seconds * 1e9) / UInt64(HealthWindow.slotCount)) }

    /// Answers that are told together count as of one moment.
    mutating func add(
        _ samples: ContiguousArray<HealthSample>, now: MonotonicInstant, using generator: inout SeededGenerator
    ) {
        slots[slot(now)].add(samples, using: &generator)
    }

    mutating func addCompared(_ shape: UInt64, differs: Bool, now: MonotonicInstant) {
        let place = slot(now)
        slots[place].sums.compared += 1
        if differs {
            slots[place].sums.differed += 1
            HealthWindow.count(shape, in: &slots[place].sums.differingShapes)
        }
    }

    func sums(now: MonotonicInstant) -> Sums {
        var sums = Sums()
        for slot in live(now) {
            sums.calls += slot.sums.calls
            sums.errors += slot.sums.errors
            sums.compared += slot.sums.compared
            sums.differed += slot.sums.differed
            sums.errorShapes.merge(slot.sums.errorShapes, uniquingKeysWith: +)
            sums.differingShapes.merge(slot.sums.differingShapes, uniquingKeysWith: +)
        }
        return sums
    }

    /// Shortest first.
    func times(now: MonotonicInstant) -> [Time] {
        live(now).flatMap(\.times).sorted { $0.micros < $1.micros }
    }

    /// - Parameter times: shortest first.
    static func percentile(_ share: Double, of times: [Time]) -> UInt64? {
        if times.isEmpty { return nil }
        let place = Int((Double(times.count) * share).rounded(.up)) - 1
        return UInt64(times[min(max(0, place), times.count - 1)].micros)
    }

    /// Slots from the oldest with an answer to the present one.
    func span(now: MonotonicInstant) -> Int {
        let number = now.nanoseconds / slotNanos
        return live(now).map { Int(number - $0.number) + 1 }.max() ?? 0
    }

    mutating func removeAll() { slots = Array(repeating: Slot(), count: HealthWindow.slotCount) }

    private static func count(_ shape: UInt64, in shapes: inout [UInt64: Int]) {
        if shapes[shape] != nil || shapes.count < shapesMax {
            shapes[shape, default: 0] += 1
        } else {
            shapes[0, default: 0] += 1
        }
    }

    private func live(_ now: MonotonicInstant) -> [Slot] {
        let number = now.nanoseconds / slotNanos
        return slots.filter { slot in
            slot.number + UInt64(HealthWindow.slotCount) > number && slot.sums.calls + slot.sums.compared > 0
        }
    }

    /// The present slot's place; it is emptied when its time has come anew.
    private mutating func slot(_ now: MonotonicInstant) -> Int {
        let number = now.nanoseconds / slotNanos
        let place = Int(number % UInt64(HealthWindow.slotCount))
        if slots[place].number != number {
            slots[place].number = number
            slots[place].sums = Sums()
            slots[place].times.removeAll(keepingCapacity: true)
        }
        return place
    }
}
