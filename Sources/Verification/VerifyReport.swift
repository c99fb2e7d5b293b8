import LibPQ
import Primitives

/// What a comparison of both sides found. Immutable, any thread.
package struct VerifyReport: Sendable {
    /// What makes both snapshots show the same moment.
    package enum Pairing: Sendable, Equatable {
        /// The running mirror held a batch: both sides at that batch's snapshot, exactly.
        case batch(snapshot: String)
        /// No mirror runs; `keysWaiting` keys of OLD's journal are not on NEW yet.
        case quiet(keysWaiting: Int64)
        /// Not prepared: two snapshots taken one after the other, right only when nobody writes.
        case unprepared

        /// Of two pairs after each other, what both bear out.
        func followed(by next: Pairing) -> Pairing {
            switch (self, next) {
            case (.quiet(let before), .quiet(let after)): .quiet(keysWaiting: max(before, after))
            case (.quiet(let waiting), .batch) where waiting > 0: self
            case (.unprepared, _), (_, .unprepared): .unprepared
            case (.batch, _), (.quiet, .batch): next
            }
        }
    }

    package enum Difference: String, Sendable { case onlyOnOld = "missing on NEW", onlyOnNew = "extra on NEW", changed }

    package struct Key: Sendable, Equatable {
        package var key: [String]
        package var difference: Difference
        /// The start of the row's text on each side; nil: it has none.
        package var old: String?
        package var new: String?
    }

    package struct Table: Sendable {
        package var name: TableName
        package var oid: UInt32
        /// Rows of OLD that were compared.
        package var rows: Int64 = 0
        package var ranges = 0
        /// All differing keys, of which `keys` holds the first `Verifier.Options.keysMax`.
        package var differing = 0
        package var keys: [Key] = []
        /// Why this table could not be compared; nil: it was.
        package var problem: String?

        package init(name: TableName, oid: UInt32) {
            self.name = name
            self.oid = oid
        }
    }

    package enum Outcome: Int32, Sendable { case equal = 0, different = 1, couldNotTell = 2 }

    package var pairing: Pairing
    /// By name.
    package var tables: [Table]
    /// Which side had the writes; the tables' numbers are its own.
    package var authority = Side.old

    /// Differences count as found only where the pairing was exact.
    package var outcome: Outcome {
        let differing = tables.contains { $0.differing > 0 }
        if differing {
            switch pairing {
            case .batch, .quiet(keysWaiting: 0), .unprepared: return .different
            case .quiet: return .couldNotTell
            }
        }
        return tables.isEmpty || tables.contains { $0.problem != nil } ? .couldNotTell : .equal
    }
}

extension VerifyReport {
    /// What was compared with the sides swapped, as it is.
    var swapped: VerifyReport {
        var report = self
        report.authority = authority.other
        report.tables = tables.map { table in
            var table = table
            table.problem = table.problem.map { swappingSides($0) }
            table.keys = table.keys.map { key in
                let difference: Difference =
                    switch key.difference {
                    case .onlyOnOld: .onlyOnNew
                    case .onlyOnNew: .onlyOnOld
                    case .changed: .changed
                    }
                return Key(key: key.key, difference: difference, old: key.new, new: key.old)
            }
            return table
        }
        return report
    }
}

extension VerifyFailure {
    var swapped: VerifyFailure {
        switch self {
        case .side(let side, let failure): .side(swappingSides(side), failure)
        case .backfilling, .mirrorSilent, .pairingLost, .tableTaken, .occupied, .writesMoved, .ledger, .notPrepared,
            .schema: self
        }
    }
}

/// OLD for NEW and NEW for OLD in words of ours.
private func swappingSides(_ words: String) -> String {
    words.replacing("OLD", with: "\u{0}").replacing("NEW", with: "OLD").replacing("\u{0}", with: "NEW")
}

/// Why nothing could be compared.
package enum VerifyFailure: Error, CustomStringConvertible {
    case side(String, PostgresFailure)
    case backfilling([String])
    case mirrorSilent(seconds: Int)
    case pairingLost(tries: Int)
    case tableTaken(seconds: Int)
    /// The writes are being moved, DDL runs on both sides, or others have had the mirror hold.
    case occupied(seconds: Int)
    /// A cutover or a rollback came in between.
    case writesMoved
    /// The file in which its progress is kept.
    case ledger(VerifyLedger.Failure)
    /// Nothing that could be paired: `godwit prepare` has not been here.
    case notPrepared
    /// The rows were compared, the schemas not.
    case schema(String)

    package var description: String {
        switch self {
        case .side(let side, let failure): "\(side): \(failure)"
        case .backfilling(let tables):
            "the backfill is not complete yet (\(tables.joined(separator: ", "))): try again when SHOW MIRROR says so"
        case .mirrorSilent(let seconds):
            "a mirror is at work but did not answer for \(seconds) s: look at its state with SHOW MIRROR"
        case .pairingLost(let tries):
            "the mirror went on before all readers were attached, \(tries) times: is this machine overloaded?"
        case .tableTaken(let seconds):
            "for \(seconds) s somebody had, or wanted, a table for himself (pg_locks says who): try again later"
        case .occupied(let seconds):
            "for \(seconds) s a switch, DDL on both sides, godwit prepare or another comparison was at work: try again"
        case .writesMoved: "the writes have moved to the other side meanwhile: compare again"
        case .ledger(let failure): "\(failure)"
        case .schema(let reason): "the schemas cannot be compared: \(reason)"
        case .notPrepared: "there is no mirror that could hold both sides at one moment: run godwit prepare"
        }
    }
}
