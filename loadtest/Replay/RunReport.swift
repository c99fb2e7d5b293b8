import Foundation

/// What a run has found, as `--json` has it. Immutable, any thread.
package struct RunReport: Codable, Sendable {
    package enum Verdict: String, Codable, Sendable {
        case equal, different, unknown
    }

    package struct Latency: Codable, Sendable, Equatable {
        package var count: UInt64 = 0
        package var mean = 0.0
        /// Microseconds.
        package var p50: UInt64 = 0
        package var p90: UInt64 = 0
        package var p95: UInt64 = 0
        package var p99: UInt64 = 0
        package var p999: UInt64 = 0
        package var max: UInt64 = 0

        package init() {}
    }

    /// So many took at most so long.
    package struct Bucket: Codable, Sendable {
        package var micros: UInt64
        package var count: UInt64
    }

    package struct Second: Codable, Sendable {
        /// Seconds since the run began, and how many this covers.
        package var at: Double
        package var width: Double
        package var units: UInt64
        package var errors: UInt64
        package var p50: UInt64
        package var p99: UInt64
    }

    package struct Shape: Codable, Sendable {
        package var text: String
        package var latency: Latency
        package var errors: [String: UInt64]
        /// Outcomes other than the capture's, and some of them.
        package var differences: UInt64
        package var samples: [String]
    }

    package struct Side: Codable, Sendable {
        package var name: String
        package var units: UInt64 = 0
        package var statements: UInt64 = 0
        package var errors: [String: UInt64] = [:]
        package var connections: UInt64 = 0
        package var connectionsFailed: UInt64 = 0
        package var connectionsLost: UInt64 = 0
        /// Units that were never sent, or never answered, because their connection was gone.
        package var unitsLost: UInt64 = 0
        /// Units whose outcome was the capture's, and was not; whose rows were others by their digests.
        package var sameAsCaptured: UInt64 = 0
        package var otherThanCaptured: UInt64 = 0
        package var otherDigests: UInt64 = 0
        /// From when it was to be sent: a late start counts.
        package var response = Latency()
        /// From when it was sent.
        package var service = Latency()
        package var distribution: [Bucket] = []
        package var timeline: [Second] = []
        package var shapes: [Shape] = []
        package var findings: [String] = []

        /// Outcomes were held against captured ones: those of logs and workloads have none.
        package var isChecked: Bool { sameAsCaptured + otherThanCaptured + otherDigests > 0 }
    }

    package struct Mismatch: Codable, Sendable {
        package var text: String
        package var mismatches: UInt64
        package var noise: UInt64
        package var unproven: UInt64
        package var sideDependent: UInt64
        package var samples: [String]
    }

    package struct Comparison: Codable, Sendable {
        package var units: UInt64 = 0
        package var equal: UInt64 = 0
        /// Reads that gave the same twice on the first side, and something else on the second.
        package var mismatches: UInt64 = 0
        /// Reads that did not give the same twice.
        package var noise: UInt64 = 0
        /// What could not be run twice: writes.
        package var unproven: UInt64 = 0
        /// What belongs to one server, such as its version.
        package var sideDependent: UInt64 = 0
        package var shapes: [Mismatch] = []

        package init() {}
    }

    package var format = 1
    package var kind: String
    package var title: String
    package var startedAt: String
    package var seconds: Double
    package var options: [String: String]
    /// Latencies as they were captured; nil: there is no capture.
    package var captured: Latency?
    package var sides: [Side]
    package var comparison: Comparison?
    package var notes: [String]
    package var verdict: Verdict

    package init(
        kind: String, title: String, startedAt: String, seconds: Double, captured: Latency?, sides: [Side],
        comparison: Comparison?, notes: [String], verdict: Verdict
    ) {
        self.kind = kind
        self.title = title
        self.startedAt = startedAt
        self.seconds = seconds
        options = [:]
        self.captured = captured
        self.sides = sides
        self.comparison = comparison
        self.notes = notes
        self.verdict = verdict
    }

    /// Rows were others by their digests. That alone is no difference: now() and random() never give the same.
    package var hasOtherRows: Bool { sides.contains { $0.otherDigests > 0 } }
    package var isChecked: Bool { sides.contains(where: \.isChecked) }

    package static func decode(_ data: Data) throws -> RunReport {
        try JSONDecoder().decode(RunReport.self, from: data)
    }

    package func encoded(pretty: Bool = true) throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = pretty ? [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes] : [.sortedKeys]
        return try encoder.encode(self)
    }

    /// 0: as it should be; 1: different; 2: it could not be told.
    package var exitStatus: Int32 {
        switch verdict {
        case .equal: 0
        case .different: 1
        case .unknown: 2
        }
    }
}
