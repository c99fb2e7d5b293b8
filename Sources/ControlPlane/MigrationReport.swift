import Configuration
import Foundation
import Migration

/// What a migration has done, from its first record to the last: for the archive. Immutable, any thread.
package struct MigrationReport: Codable, Sendable {
    package struct Stay: Codable, Sendable, Equatable {
        package var phase: String
        package var reads: String?
        package var standing: String
        package var from: String
        package var to: String?
        package var seconds: Double
        package var by: String
        package var cause: String
    }

    package struct Decided: Codable, Sendable, Equatable {
        package var time: String
        package var by: String
        package var verb: String
        package var reason: String
        package var taken: Bool
        package var answer: String
        package var gates: [Gate]
    }

    package struct Figure: Codable, Sendable, Equatable {
        package var time: String
        package var phase: String
        package var gate: String
        package var value: String
        package var threshold: String
        package var holds: Bool?
    }

    package var id: String
    package var database: String
    package var manifest: String
    package var started: String
    package var startedBy: String
    /// nil: it goes on.
    package var ended: String?
    package var standing: String
    /// `old` or `new`.
    package var writes: String
    package var stays: [Stay]
    package var decisions: [Decided]
    /// The last of each gate in each phase.
    package var figures: [Figure]
    package var events: Int

    /// Events that a report counts at most.
    private static let eventsMax = 1_000_000

    package static func make(of id: String, from store: StateStore) throws(StateStore.Failure) -> MigrationReport? {
        guard let migration = try store.migrations().first(where: { $0.id == id }) else { return nil }
        let steps = try store.steps(of: id)
        let manifest = try? ManifestReader.parse(migration.manifest)
        let state = migration.state
        let ended = state.isOver ? steps.last?.micros : nil
        let events = try store.events(
            database: migration.database, from: migration.micros, to: ended, after: 0, limit: eventsMax)
        return MigrationReport(
            id: id, database: migration.database, manifest: migration.manifest,
            started: Instant.text(migration.micros), startedBy: migration.by, ended: ended.map(Instant.text),
            standing: state.standing.rawValue, writes: state.isSwitched ? "new" : "old",
            stays: stays(steps, manifest),
            decisions: try store.decisions(of: id).map { decision in
                Decided(
                    time: Instant.text(decision.micros), by: decision.by, verb: decision.verb, reason: decision.reason,
                    taken: decision.isTaken, answer: decision.answer,
                    gates: (try? JSONDecoder().decode([Gate].self, from: Data(decision.gates.utf8))) ?? [])
            },
            figures: try store.lastReadings(of: id).map { reading in
                Figure(
                    time: Instant.text(reading.micros), phase: reading.phase, gate: reading.gate, value: reading.value,
                    threshold: reading.threshold, holds: reading.holds)
            },
            events: events.count)
    }

    private static func stays(_ steps: [StateStore.Step], _ manifest: MigrationManifest?) -> [Stay] {
        steps.enumerated().map { index, step in
            let end = index + 1 < steps.count ? steps[index + 1].micros : nil
            let state = step.state
            let read = state.phase == .shift ? manifest.flatMap { manifest in
                manifest.steps.indices.contains(state.step) ? MigrationMachine.words(manifest.steps[state.step]) : nil
            } : nil
            return Stay(
                phase: state.phase.rawValue, reads: read, standing: state.standing.rawValue,
                from: Instant.text(step.micros), to: end.map(Instant.text),
                seconds: end.map { Double($0 - step.micros) / 1e6 } ?? 0, by: state.by, cause: state.cause)
        }
    }
}
