import Configuration
import Foundation
import GRDB
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
        let json = Self.json(migration.state)
        return try write { database in
            let known = try Bool.fetchOne(
                database, sql: "SELECT EXISTS (SELECT 1 FROM migration WHERE id = ?)", arguments: [migration.id])
            if known == true { return false }
            try database.execute(
                sql: "INSERT INTO migration (id, database, manifest, by, micros) VALUES (?, ?, ?, ?, ?)",
                arguments: [migration.id, migration.database, migration.manifest, migration.by, migration.micros])
            try database.execute(
                sql: "INSERT INTO state (migration, micros, json) VALUES (?, ?, ?)",
                arguments: [migration.id, migration.micros, json])
            return true
        }
    }

    package func add(_ state: MigrationState, of id: String, micros: Int64) throws(Failure) {
        let json = Self.json(state)
        try write { database in
            try database.execute(
                sql: "INSERT INTO state (migration, micros, json) VALUES (?, ?, ?)", arguments: [id, micros, json])
        }
    }

    package func add(_ decision: Decision, of id: String) throws(Failure) {
        try write { database in
            try database.execute(
                sql: """
                    INSERT INTO decision (migration, micros, by, verb, reason, taken, answer, gates)
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                    """,
                arguments: [
                    id, decision.micros, decision.by, decision.verb, decision.reason, decision.isTaken, decision.answer,
                    decision.gates,
                ])
        }
    }

    package func add(_ gates: [Gate], phase: MigrationPhase, of id: String, micros: Int64) throws(Failure) {
        try write { database in
            for gate in gates {
                try database.execute(
                    sql: """
                        INSERT INTO reading (migration, micros, phase, gate, value, threshold, holds)
                        VALUES (?, ?, ?, ?, ?, ?, ?)
                        """,
                    arguments: [id, micros, phase.rawValue, gate.name, gate.value, gate.threshold, gate.holds])
            }
        }
    }

    // MARK: reading

    /// In the order in which they began, each with its present state.
    package func migrations() throws(Failure) -> [StoredMigration] {
        let rows = try read { database in
            try Row.fetchAll(
                database, sql: """
                    SELECT m.id, m.database, m.manifest, m.by, m.micros,
                           (SELECT json FROM state s WHERE s.migration = m.id ORDER BY s.number DESC LIMIT 1) AS json
                      FROM migration m ORDER BY m.number
                    """
            ).map { row in
                let text: (String, String, String, String, Int64, String) = (
                    row["id"], row["database"], row["manifest"], row["by"], row["micros"], row["json"]
                )
                return text
            }
        }
        var all: [StoredMigration] = []
        for (id, database, manifest, by, micros, json) in rows {
            guard let state = Self.state(json) else {
                throw Failure(path: path, what: "holds a state of \"\(id)\" that this version cannot read")
            }
            all.append(StoredMigration(
                id: id, database: database, manifest: manifest, by: by, micros: micros, state: state))
        }
        return all
    }

    /// Oldest first.
    package func steps(of id: String) throws(Failure) -> [Step] {
        try read { database in
            try Row.fetchAll(
                database, sql: "SELECT micros, json FROM state WHERE migration = ? ORDER BY number", arguments: [id]
            ).compactMap { row in
                Self.state(row["json"]).map { Step(micros: row["micros"], state: $0) }
            }
        }
    }

    package func decisions(of id: String) throws(Failure) -> [Decision] {
        try read { database in
            try Row.fetchAll(
                database, sql: "SELECT * FROM decision WHERE migration = ? ORDER BY number", arguments: [id]
            ).map { row in
                Decision(
                    micros: row["micros"], by: row["by"], verb: row["verb"], reason: row["reason"],
                    isTaken: row["taken"], answer: row["answer"], gates: row["gates"])
            }
        }
    }

    /// The last of each gate in each phase.
    package func lastReadings(of id: String) throws(Failure) -> [Reading] {
        try read { database in
            try Row.fetchAll(
                database, sql: """
                    SELECT * FROM reading WHERE number IN
                        (SELECT max(number) FROM reading WHERE migration = ? GROUP BY phase, gate) ORDER BY number
                    """, arguments: [id]
            ).map { row in
                Reading(
                    micros: row["micros"], phase: row["phase"], gate: row["gate"], value: row["value"],
                    threshold: row["threshold"], holds: row["holds"])
            }
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
    package func remember(_ traffic: TrafficPlan.Record, of name: String) {
        guard let data = try? JSONEncoder().encode(traffic) else { preconditionFailure("a record is always JSON") }
        let json = String(decoding: data, as: UTF8.self)
        writeLater { database in
            try database.execute(
                sql: "INSERT INTO traffic (micros, database, json) VALUES (?, ?, ?)",
                arguments: [Self.now(), name, json])
        }
    }

    package func traffic() throws(Failure) -> [String: TrafficPlan.Record] {
        try read { database in
            var all: [String: TrafficPlan.Record] = [:]
            let rows = try Row.fetchAll(
                database, sql: """
                    SELECT database, json FROM traffic WHERE number IN
                        (SELECT max(number) FROM traffic GROUP BY database)
                    """)
            for row in rows {
                let json: String = row["json"]
                all[row["database"]] = try JSONDecoder().decode(TrafficPlan.Record.self, from: Data(json.utf8))
            }
            return all
        }
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
        try read { database in
            try Row.fetchOne(
                database, sql: "SELECT request, status, body FROM answer WHERE key = ? AND micros > ?",
                arguments: [key, Self.now() - Self.answerSeconds * 1_000_000]
            ).map { StoredAnswer(request: $0["request"], status: $0["status"], body: $0["body"]) }
        }
    }

    package func keep(_ answer: StoredAnswer, key: String) throws(Failure) {
        try write { database in
            let now = Self.now()
            try database.execute(
                sql: "DELETE FROM answer WHERE micros <= ?", arguments: [now - Self.answerSeconds * 1_000_000])
            try database.execute(
                sql: "INSERT OR REPLACE INTO answer (key, micros, request, status, body) VALUES (?, ?, ?, ?, ?)",
                arguments: [key, now, answer.request, answer.status, answer.body])
        }
    }
}
