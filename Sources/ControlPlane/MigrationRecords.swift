import Configuration
import Foundation
import Migration

/// What the state store keeps of migrations. All of it is added to, nothing is changed.
extension StateStore {
    package struct StoredMigration: Sendable, Equatable {
        package var id: String
        package var database: String
        /// As it was given.
        package var manifest: String
        package var by: String
        package var micros: Int64
        package var state: MigrationState

        package init(
            id: String, database: String, manifest: String, by: String, micros: Int64, state: MigrationState
        ) {
            self.id = id
            self.database = database
            self.manifest = manifest
            self.by = by
            self.micros = micros
            self.state = state
        }
    }

    package struct Step: Sendable, Equatable {
        package var micros: Int64
        package var state: MigrationState
    }

    package struct Decision: Sendable, Equatable {
        package var micros: Int64
        package var by: String
        package var verb: String
        package var reason: String
        package var isTaken: Bool
        package var answer: String
        /// JSON: the gates as they were shown then.
        package var gates: String

        package init(
            micros: Int64, by: String, verb: String, reason: String, isTaken: Bool, answer: String, gates: String
        ) {
            self.micros = micros
            self.by = by
            self.verb = verb
            self.reason = reason
            self.isTaken = isTaken
            self.answer = answer
            self.gates = gates
        }
    }

    package struct Reading: Sendable, Equatable {
        package var micros: Int64
        package var phase: String
        package var gate: String
        package var value: String
        package var threshold: String
        package var holds: Bool?
    }

    // MARK: writing

    /// - Returns: false when there is one of this id.
    package func add(_ migration: StoredMigration) throws(Failure) -> Bool {
        let id = StateValue.text(migration.id), micros = StateValue.integer(migration.micros)
        return try !write(
            StateStatement(
                """
                INSERT INTO migration (id, database, manifest, by, micros) VALUES (?, ?, ?, ?, ?)
                    ON CONFLICT (id) DO NOTHING
                """, id, .text(migration.database), .text(migration.manifest), .text(migration.by), micros),
            // One that was there before has a state already.
            StateStatement(
                """
                INSERT INTO state (migration, micros, json) SELECT id, ?, ? FROM migration
                    WHERE id = ? AND NOT EXISTS (SELECT 1 FROM state WHERE migration = ?) RETURNING number
                """, micros, .text(Self.json(migration.state)), id, id),
            asRunner: true
        ).isEmpty
    }

    package func add(_ state: MigrationState, of id: String, micros: Int64) throws(Failure) {
        try write(
            StateStatement(
                "INSERT INTO state (migration, micros, json) VALUES (?, ?, ?)", .text(id), .integer(micros),
                .text(Self.json(state))),
            asRunner: true)
    }

    package func add(_ decision: Decision, of id: String) throws(Failure) {
        try write(
            StateStatement(
                """
                INSERT INTO decision (migration, micros, by, verb, reason, taken, answer, gates)
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                """, .text(id), .integer(decision.micros), .text(decision.by), .text(decision.verb),
                .text(decision.reason), .flag(decision.isTaken), .text(decision.answer), .text(decision.gates)),
            asRunner: true)
    }

    package func add(_ gates: [Gate], phase: MigrationPhase, of id: String, micros: Int64) throws(Failure) {
        if gates.isEmpty { return }
        let row = "(?, ?, ?, ?, ?, ?, ?)"
        var statement = StateStatement(
            "INSERT INTO reading (migration, micros, phase, gate, value, threshold, holds) VALUES "
                + gates.map { _ in row }.joined(separator: ", "))
        statement.values = gates.flatMap { gate in
            [
                .text(id), .integer(micros), .text(phase.rawValue), .text(gate.name), .text(gate.value),
                .text(gate.threshold), StateValue(gate.holds),
            ]
        }
        try write(statement, asRunner: true)
    }

    // MARK: reading

    /// In the order in which they began, each with its present state.
    package func migrations() throws(Failure) -> [StoredMigration] {
        let rows = try read(StateStatement("""
            SELECT m.id, m.database, m.manifest, m.by, m.micros,
                   (SELECT s.json FROM state s WHERE s.migration = m.id ORDER BY s.number DESC LIMIT 1) AS present
              FROM migration m ORDER BY m.number
            """))
        var all: [StoredMigration] = []
        for row in rows {
            guard let state = Self.state(row.text(5)) else {
                throw Failure(path: path, what: "holds a state of \"\(row.text(0))\" that this version cannot read")
            }
            all.append(StoredMigration(
                id: row.text(0), database: row.text(1), manifest: row.text(2), by: row.text(3), micros: row.integer(4),
                state: state))
        }
        return all
    }

    /// Oldest first.
    package func steps(of id: String) throws(Failure) -> [Step] {
        try read(StateStatement("SELECT micros, json FROM state WHERE migration = ? ORDER BY number", .text(id)))
            .compactMap { row in Self.state(row.text(1)).map { Step(micros: row.integer(0), state: $0) } }
    }

    package func decisions(of id: String) throws(Failure) -> [Decision] {
        try read(StateStatement(
            """
            SELECT micros, by, verb, reason, taken, answer, gates FROM decision WHERE migration = ? ORDER BY number
            """, .text(id)
        )).map { row in
            Decision(
                micros: row.integer(0), by: row.text(1), verb: row.text(2), reason: row.text(3),
                isTaken: row.flag(4) ?? false, answer: row.text(5), gates: row.text(6))
        }
    }

    /// The last of each gate in each phase.
    package func lastReadings(of id: String) throws(Failure) -> [Reading] {
        try read(StateStatement(
            """
            SELECT micros, phase, gate, value, threshold, holds FROM reading WHERE number IN
                (SELECT max(number) FROM reading WHERE migration = ? GROUP BY phase, gate) ORDER BY number
            """, .text(id)
        )).map { row in
            Reading(
                micros: row.integer(0), phase: row.text(1), gate: row.text(2), value: row.text(3),
                threshold: row.text(4), holds: row.flag(5))
        }
    }

    private static func json(_ state: MigrationState) -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        guard let data = try? encoder.encode(state) else { preconditionFailure("a state is always JSON") }
        return String(decoding: data, as: UTF8.self)
    }

    private static func state(_ json: String) -> MigrationState? {
        try? JSONDecoder().decode(MigrationState.self, from: Data(json.utf8))
    }

    // MARK: orders about traffic

    /// What is in force for a database, as the control thread has decided it. Does not wait.
    ///
    /// - Parameters:
    ///   - term: of the migration that has ordered it; nil: nobody who runs migrations has.
    ///   - then: the record's number; nil: it was not kept.
    package func remember(
        _ traffic: TrafficPlan.Record, of name: String, term: Int64? = nil,
        then: @escaping @Sendable (Int64?) -> Void = { _ in }
    ) {
        guard let data = try? JSONEncoder().encode(traffic) else { preconditionFailure("a record is always JSON") }
        let statement = StateStatement(
            "INSERT INTO traffic (micros, database, json) VALUES (?, ?, ?) RETURNING number", .integer(Self.now()),
            .text(name), .text(String(decoding: data, as: UTF8.self)))
        writeLater(statement, term: term) { rows in then(rows?.first?.integer(0)) }
    }

    package struct StoredTraffic: Sendable, Equatable {
        /// A later record of any database has a greater one.
        package var number: Int64
        package var record: TrafficPlan.Record
    }

    /// The last of each database.
    package func traffic() throws(Failure) -> [String: StoredTraffic] {
        let rows = try read(StateStatement("""
            SELECT database, json, number FROM traffic WHERE number IN
                (SELECT max(number) FROM traffic GROUP BY database)
            """))
        var all: [String: StoredTraffic] = [:]
        for row in rows {
            guard let record = try? JSONDecoder().decode(TrafficPlan.Record.self, from: Data(row.text(1).utf8)) else {
                throw Failure(path: path, what: "holds orders about \"\(row.text(0))\" that this version cannot read")
            }
            all[row.text(0)] = StoredTraffic(number: row.integer(2), record: record)
        }
        return all
    }

    /// Both differ from what they were when what the others say is another.
    package struct Marks: Sendable, Equatable {
        package var traffic: Int64
        package var shown: String
    }

    /// Of a shared store: cheaper than all that they stand for. To be read before that.
    package func marks() throws(Failure) -> Marks {
        let rows = try read(StateStatement("""
            SELECT (SELECT coalesce(max(number), 0) FROM traffic),
                   (SELECT string_agg(xmin::text, ',' ORDER BY migration) FROM shown)
            """))
        return rows.first.map { Marks(traffic: $0.integer(0), shown: $0.text(1)) } ?? Marks(traffic: 0, shown: "")
    }

    // MARK: what other Godwits show

    /// A migration's document as JSON, for Godwits that do not run it. Replaces the one before.
    package func show(_ json: String, of id: String) throws(Failure) {
        try write(
            StateStatement(
                """
                INSERT INTO shown (migration, json) VALUES (?, ?)
                    ON CONFLICT (migration) DO UPDATE SET json = excluded.json
                """, .text(id), .text(json)),
            asRunner: true)
    }

    /// In the order in which they began.
    package func shown() throws(Failure) -> [String] {
        try read(StateStatement(
            "SELECT s.json FROM shown s JOIN migration m ON m.id = s.migration ORDER BY m.number"
        )).map { $0.text(0) }
    }

    // MARK: answers that are given again

    package struct StoredAnswer: Sendable, Equatable {
        /// What was asked: the same key for something else is a mistake.
        package var request: String
        package var status: Int
        package var body: String

        package init(request: String, status: Int, body: String) {
            self.request = request
            self.status = status
            self.body = body
        }
    }

    /// Seconds for which an answer is given again.
    package static let answerSeconds: Int64 = 86_400

    package func answer(key: String) throws(Failure) -> StoredAnswer? {
        try read(StateStatement(
            "SELECT request, status, body FROM answer WHERE key = ? AND micros > ?", .text(key),
            .integer(Self.now() - Self.answerSeconds * 1_000_000)
        )).first.map { StoredAnswer(request: $0.text(0), status: Int($0.integer(1)), body: $0.text(2)) }
    }

    package func keep(_ answer: StoredAnswer, key: String) throws(Failure) {
        let now = Self.now()
        try write(
            StateStatement(
                "DELETE FROM answer WHERE micros <= ?", .integer(now - Self.answerSeconds * 1_000_000)),
            StateStatement(
                """
                INSERT INTO answer (key, micros, request, status, body) VALUES (?, ?, ?, ?, ?)
                    ON CONFLICT (key) DO UPDATE SET micros = excluded.micros, request = excluded.request,
                    status = excluded.status, body = excluded.body
                """, .text(key), .integer(now), .text(answer.request), .integer(Int64(answer.status)),
                .text(answer.body)))
    }

    /// The key may be used again.
    package func forget(key: String) throws(Failure) {
        try write(StateStatement("DELETE FROM answer WHERE key = ?", .text(key)))
    }
}
