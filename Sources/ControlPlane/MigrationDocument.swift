import Configuration
import Foundation
import Migration

/// A migration as HTTP shows it and `godwit migrate` reads it. Immutable, any thread.
package struct MigrationDocument: Codable, Sendable, Equatable {
    package struct GateDocument: Codable, Sendable, Equatable {
        package var name: String
        package var value: String
        package var threshold: String
        /// nil: not measured.
        package var holds: Bool?
        package var required: Bool
        /// Since when it holds.
        package var since: String?
        package var advice: String

        package init(_ gate: Gate) {
            name = gate.name
            value = gate.value
            threshold = gate.threshold
            holds = gate.holds
            required = gate.isRequired
            since = gate.since.map(Instant.text)
            advice = gate.advice
        }
    }

    /// The limit that has taken it back.
    package struct AbortDocument: Codable, Sendable, Equatable {
        package var limit: String
        package var figure: Double
        package var threshold: Double
        /// Since when it was passed without a break.
        package var since: String
        package var at: String

        package init(_ cause: AbortCause) {
            limit = cause.limit.rawValue
            figure = (cause.figure * 1000).rounded() / 1000
            threshold = (cause.threshold * 1000).rounded() / 1000
            since = Instant.text(cause.since)
            at = Instant.text(cause.at)
        }
    }

    /// What has come of the last drill.
    package struct DrillDocument: Codable, Sendable, Equatable {
        package var whole: Bool
        package var passed: Bool
        package var words: String
        package var began: String
        package var ended: String
        /// Milliseconds.
        package var cutoverHeld: Double?
        package var rollbackHeld: Double?
        package var verify: String?
        package var rowsCompared: Int64?
        package var writes: Int?

        package init(_ result: DrillResult) {
            whole = result.order.isWhole
            passed = result.hasPassed
            words = result.words
            began = Instant.text(result.began)
            ended = Instant.text(result.ended)
            cutoverHeld = result.cutoverHeldMillis.map { ($0 * 10).rounded() / 10 }
            rollbackHeld = result.rollbackHeldMillis.map { ($0 * 10).rounded() / 10 }
            verify = result.verify
            rowsCompared = result.rowsCompared
            writes = result.writes
        }
    }

    package struct Progress: Codable, Sendable, Equatable {
        /// Of the phases, 0...100.
        package var phasesPercent: Double
        /// Of the rows of the first copy.
        package var copiedPercent: Double?
        package var tablesLeft: Int?
        /// Of the users, whose reads go to NEW.
        package var readsPercent: Double
        package var lagSeconds: Double?

        package init(
            phasesPercent: Double, copiedPercent: Double?, tablesLeft: Int?, readsPercent: Double, lagSeconds: Double?
        ) {
            self.phasesPercent = phasesPercent
            self.copiedPercent = copiedPercent
            self.tablesLeft = tablesLeft
            self.readsPercent = readsPercent
            self.lagSeconds = lagSeconds
        }
    }

    package var id: String
    package var database: String
    package var phase: String
    /// In words.
    package var place: String
    package var standing: String
    /// What an order may name as the place that it is for. nil: an earlier version has told of it.
    package var position: String?
    package var work: String?
    /// `old` or `new`.
    package var writes: String
    package var started: String
    /// Of the phase or step.
    package var since: String
    package var by: String
    package var cause: String
    /// What `advance` would do.
    package var next: String
    /// No gate stands in its way.
    package var go: Bool
    package var approvals: [String]
    package var progress: Progress
    package var gates: [GateDocument]
    /// nil: no limit has taken it back.
    package var abort: AbortDocument?
    /// nil: there was none.
    package var drill: DrillDocument?

    /// - Parameter now: microseconds since 1970.
    package init(_ machine: MigrationMachine, started: Int64, now: Int64) {
        let state = machine.state
        let gates = machine.gates(now: now)
        id = machine.manifest.id
        database = machine.manifest.database
        phase = state.phase.rawValue
        place = machine.place
        standing = state.standing.rawValue
        position = machine.position
        work = state.work?.rawValue
        writes = state.isSwitched ? "new" : "old"
        self.started = Instant.text(started)
        since = Instant.text(state.since)
        by = state.by
        cause = state.cause
        next = machine.nextStep
        let mayAdvance = state.standing == .running && !gates.contains(where: \.blocks)
        go = state.work == nil && (state.standing == .aborted || mayAdvance)
        approvals = state.approvals
        let phases = Double(MigrationPhase.allCases.count)
        progress = Progress(
            phasesPercent: state.standing == .finished ? 100 : (Double(state.phase.position) * 100 / phases).rounded(),
            copiedPercent: machine.readings.copiedPercent.map { ($0 * 10).rounded() / 10 },
            tablesLeft: machine.readings.tablesLeft, readsPercent: machine.readsPercent,
            lagSeconds: machine.readings.lagSeconds.map { ($0 * 1000).rounded() / 1000 })
        self.gates = gates.map(GateDocument.init)
        abort = state.abortCause.map(AbortDocument.init)
        drill = state.drilled.map(DrillDocument.init)
    }
}

/// What a command has come to. Immutable, any thread.
package struct MigrationAnswer: Codable, Sendable, Equatable {
    package var answer: String
    package var migration: MigrationDocument

    package init(answer: String, migration: MigrationDocument) {
        self.answer = answer
        self.migration = migration
    }
}

/// All migrations, as `GET /migrations` answers.
package struct MigrationList: Codable, Sendable, Equatable {
    package var migrations: [MigrationDocument]

    package init(_ migrations: [MigrationDocument]) { self.migrations = migrations }

    /// As the state store has them. One of a later version that this one cannot read is left out.
    package init(shown: [String]) {
        migrations = shown.compactMap { try? Document.read(MigrationDocument.self, Array($0.utf8)) }
    }
}

/// Points in time as text. No state, any thread.
package enum Instant {
    /// `2026-11-21T09:42:01.123Z`
    package static func text(_ micros: Int64) -> String {
        let style = Date.ISO8601FormatStyle(includingFractionalSeconds: true)
        return Date(timeIntervalSince1970: Double(micros) / 1e6).formatted(style)
    }
}

/// JSON as all answers have it. No state, any thread.
package enum Document {
    package static func bytes(_ value: some Encodable) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        guard let data = try? encoder.encode(value) else { preconditionFailure("a document is always JSON") }
        return Array(data)
    }

    package static func read<Value: Decodable>(_ type: Value.Type, _ bytes: [UInt8]) throws -> Value {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(type, from: Data(bytes))
    }
}
