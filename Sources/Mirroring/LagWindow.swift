import Primitives

/// Lags of the batches of the last minute, at most `samplesMax` of them. Pure; used by the mirror's thread.
struct LagWindow {
    static let samplesMax = 16_384
    static let windowSeconds = 60.0

    private var samples: [(at: MonotonicInstant, micros: UInt64)] = []
    private var oldest = 0

    mutating func add(_ micros: UInt64, at instant: MonotonicInstant) {
        if samples.count < Self.samplesMax {
            samples.append((instant, micros))
        } else {
            samples[oldest] = (instant, micros)
            oldest = (oldest + 1) % Self.samplesMax
        }
    }

    /// 0 and 0 when nothing was applied in the window.
    func percentiles(at instant: MonotonicInstant) -> (p50: UInt64, p99: UInt64) {
        let recent = samples.filter { $0.at.advanced(bySeconds: Self.windowSeconds) >= instant }
            .map(\.micros).sorted()
        guard let last = recent.last else { return (0, 0) }
        let index99 = min(recent.count - 1, recent.count * 99 / 100)
        return (recent[recent.count / 2], recent.count > 1 ? recent[index99] : last)
    }
}
