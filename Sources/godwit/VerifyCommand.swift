import ArgumentParser
import Configuration
import Foundation
import Glibc
import LibPQ
import Logging
import Migration
import Mirroring
import Primitives
import Verification

/// Compares OLD and NEW, every row, at one moment.
struct VerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Compare every row of OLD and NEW at one moment, also under writes while the mirror runs.",
        discussion: "Exit status: 0 equal, 1 different, 2 could not tell.")

    @Option(name: .long, help: "Configuration file.") var config: String
    @Argument(help: "Name of the database in the file.") var database: String
    @Flag(name: .long, help: "The result as JSON on standard output, progress on standard error.") var json = false
    @Flag(name: .long, help: "Bring differing keys again, by the running mirror or one of our own; compare again.")
    var repair = false
    @Flag(name: .long, help: "Compare the schemas too: columns, constraints, indexes, triggers, sequences, extensions.")
    var schema = false
    @Option(name: .long, help: "File that keeps what was compared: after a crash the same command goes on from there.")
    var resume: String?
    @Option(name: .long, help: "Rows a second that each of two readers compares at most; 0: any.") var rate = 0

    func run() throws {
        let code = ExitCode(VerifyReport.Outcome.couldNotTell.rawValue)
        let targets = try ControlTargets(configuration: config, database: database, failure: code)
        let isJSON = json
        var options = Verifier.Options()
        options.rowsPerSecond = rate
        options.ledgerPath = resume
        let mappings = TableMappings(targets.database.mirror)
        let tell: @Sendable (String) -> Void = { line in
            if isJSON { complain(line) } else { say(line) }
        }
        let verifier = Verifier(
            old: targets.old, new: targets.new, options: options, mappings: mappings, progress: tell)
        let mender = repair ? startMirror(targets.database) : nil
        defer { mender?.stop() }
        let outcome: VerifyReport.Outcome
        do throws(VerifyFailure) {
            // First: what keeps us from it is to be known before the rows, which may take hours.
            let (differences, notes) = schema ? try compareSchemas(targets, mappings) : ([], [])
            var report = try verifier.run()
            if repair, report.tables.contains(where: { !$0.keys.isEmpty }) {
                options.ledgerPath = nil
                let again = Verifier(
                    old: targets.old, new: targets.new, options: options, mappings: mappings, progress: tell)
                report = try mend(report, again)
            }
            outcome = report.outcome == .equal && !differences.isEmpty ? .different : report.outcome
            if json { printJSON(report, outcome, differences, notes) } else { printTable(report, differences, notes) }
        } catch {
            complain("\(database): \(error)")
            throw code
        }
        if outcome != .equal { throw ExitCode(outcome.rawValue) }
    }

    private func compareSchemas(
        _ targets: ControlTargets, _ mappings: TableMappings
    ) throws(VerifyFailure) -> ([SchemaComparison.Difference], notes: [String]) {
        let mapped: MappedSchemaComparison
        do {
            mapped = try MappedSchemaComparison(
                mappings, try Connection.open(targets.old, purpose: "verify"),
                try Connection.open(targets.new, purpose: "verify"))
        } catch {
            throw .schema("\(error)")
        }
        let others = try SchemaComparison.run(
            old: targets.old, new: targets.new, mappings: mapped.mappings, except: mapped.compared)
        return (others + mapped.differences, mapped.notes)
    }

    /// Brings the marked keys where no other Godwit does. Beside one it would take that one's place as soon as it is
    /// away for a moment, and keep it until all is compared: nobody would read from that side so long.
    ///
    /// - Returns: nil: another one does.
    private func startMirror(_ settings: DatabaseSettings) -> Mirror? {
        let horizon = Horizon()
        let (old, new) = (settings.controlOrOwn(.old), settings.controlOrOwn(.new))
        let claims = AuthorityReader.claims(old: old, new: new, timeoutSeconds: 5)
        let authority = Ownership.resolve(old: claims.old, new: claims.new).authority
        if isMirrored(settings, to: authority.other) { return nil }
        let mirror = Mirror(
            database: database, MirrorDirection(from: authority), oldConninfo: old, newConninfo: new,
            settings: MirrorOptions(settings.mirror), horizon: horizon,
            logger: Logger(label: "godwit") { _ in SwiftLogNoOpLogHandler() })
        mirror.start()
        while [.off, .starting].contains(horizon.report.state) { usleep(1000) }
        return mirror
    }

    private func isMirrored(_ settings: DatabaseSettings, to side: Side) -> Bool {
        do {
            let connection = try Connection.open(try settings.controlTarget(side), purpose: "verify")
            return try !connection.query("SELECT pg_try_advisory_xact_lock(\(AdvisoryLock.applier))").flag(0, 0)
        } catch {
            return false
        }
    }

    private func mend(_ report: VerifyReport, _ verifier: Verifier) throws(VerifyFailure) -> VerifyReport {
        guard case .batch = report.pairing else {
            complain("--repair needs a mirror, and none runs or could be started; nothing was marked")
            return report
        }
        let marked = try verifier.repair(report)
        complain("\(marked) keys marked, comparing again")
        return try verifier.run()
    }

    // MARK: output

    private func printTable(
        _ report: VerifyReport, _ schema: [SchemaComparison.Difference], _ notes: [String]
    ) {
        let width = max(5, report.tables.map { "\($0.name)".count }.max() ?? 5)
        func line(_ name: String, _ rows: String, _ ranges: String, _ differing: String) {
            let padded = name.padding(toLength: width, withPad: " ", startingAt: 0)
            let cells = [rows, ranges, differing].map { cell in
                String(repeating: " ", count: max(0, 16 - cell.count)) + cell
            }
            say(padded + cells.joined())
        }
        line("table", "rows compared", "ranges", "differing keys")
        for table in report.tables {
            line("\(table.name)", "\(table.rows)", "\(table.ranges)", table.problem == nil ? "\(table.differing)" : "?")
        }
        for table in report.tables {
            if let problem = table.problem { say("\(table.name): not compared: \(problem)") }
            for key in table.keys.prefix(20) {
                say("\(table.name) (\(key.key.joined(separator: ", "))): \(key.difference.rawValue)")
                if let old = key.old { say("    OLD \(old)") }
                if let new = key.new { say("    NEW \(new)") }
            }
            if table.differing > 20 { say("\(table.name): and \(table.differing - 20) more, see --json") }
        }
        for note in notes { say("schema, not compared: \(note)") }
        for difference in schema { say("schema: \(difference)") }
        say(Self.verdict(report.outcome) + (schema.isEmpty ? "" : ", \(schema.count) differences of the schemas"))
    }

    private static func verdict(_ outcome: VerifyReport.Outcome) -> String {
        switch outcome {
        case .equal: "equal"
        case .different: "DIFFERENT"
        case .couldNotTell: "could not tell"
        }
    }

    private struct Output: Encodable {
        struct Key: Encodable {
            var key: [String]
            var difference: String
            var old: String?
            var new: String?
        }

        struct Property: Encodable {
            var object: String
            var property: String
            var old: String?
            var new: String?
        }

        struct Table: Encodable {
            var name: String
            var rows: Int64
            var ranges: Int
            var differing: Int
            var keys: [Key]
            var problem: String?
        }

        var database: String
        var equal: Bool
        var outcome: String
        var pairing: String
        var tables: [Table]
        var schema: [Property]
        /// Of the schema, and why.
        var notCompared: [String]

        enum CodingKeys: String, CodingKey {
            case database, equal, outcome, pairing, tables, schema, notCompared = "not_compared"
        }
    }

    /// - Parameter outcome: of the rows and the schema, as the exit status says it.
    private func printJSON(
        _ report: VerifyReport, _ outcome: VerifyReport.Outcome, _ schema: [SchemaComparison.Difference],
        _ notes: [String]
    ) {
        let pairing = switch report.pairing {
        case .batch(let snapshot): "batch \(snapshot)"
        case .quiet(let waiting): "no mirror runs, \(waiting) keys waiting"
        case .unprepared: "not prepared, plain snapshots"
        }
        let output = Output(
            database: database, equal: outcome == .equal, outcome: Self.verdict(outcome).lowercased(),
            pairing: pairing,
            tables: report.tables.map { table in
                Output.Table(
                    name: "\(table.name)", rows: table.rows, ranges: table.ranges, differing: table.differing,
                    keys: table.keys.map {
                        Output.Key(key: $0.key, difference: $0.difference.rawValue, old: $0.old, new: $0.new)
                    },
                    problem: table.problem)
            },
            schema: schema.map { Output.Property(object: $0.object, property: $0.property, old: $0.old, new: $0.new) },
            notCompared: notes)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        guard let data = try? encoder.encode(output) else { preconditionFailure("a report is always JSON") }
        say(String(decoding: data, as: UTF8.self))
    }
}
