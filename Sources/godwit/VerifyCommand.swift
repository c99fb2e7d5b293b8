import ArgumentParser
import Foundation
import LibPQ
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
    @Flag(name: .long, help: "Let the mirror bring differing keys again, then compare again.") var repair = false

    func run() throws {
        let code = ExitCode(VerifyReport.Outcome.couldNotTell.rawValue)
        let targets = try ControlTargets(configuration: config, database: database, failure: code)
        let isJSON = json
        let verifier = Verifier(old: targets.old, new: targets.new) { line in
            if isJSON { complain(line) } else { say(line) }
        }
        let outcome: VerifyReport.Outcome
        do throws(VerifyFailure) {
            var report = try verifier.run()
            if repair, report.tables.contains(where: { !$0.keys.isEmpty }) {
                report = try mend(report, verifier)
            }
            if json { printJSON(report) } else { printTable(report) }
            outcome = report.outcome
        } catch {
            complain("\(database): \(error)")
            throw code
        }
        if outcome != .equal { throw ExitCode(outcome.rawValue) }
    }

    private func mend(_ report: VerifyReport, _ verifier: Verifier) throws(VerifyFailure) -> VerifyReport {
        guard case .batch = report.pairing else {
            complain("--repair needs the running mirror; nothing was marked")
            return report
        }
        let marked = try verifier.repair(report)
        complain("\(marked) keys marked, comparing again")
        return try verifier.run()
    }

    // MARK: output

    private func printTable(_ report: VerifyReport) {
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
            }
            if table.differing > 20 { say("\(table.name): and \(table.differing - 20) more, see --json") }
        }
        say(Self.verdict(report.outcome))
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
    }

    private func printJSON(_ report: VerifyReport) {
        let pairing = switch report.pairing {
        case .batch(let snapshot): "batch \(snapshot)"
        case .quiet(let waiting): "no mirror runs, \(waiting) keys waiting"
        case .unprepared: "not prepared, plain snapshots"
        }
        let output = Output(
            database: database, equal: report.outcome == .equal, outcome: Self.verdict(report.outcome).lowercased(),
            pairing: pairing,
            tables: report.tables.map { table in
                Output.Table(
                    name: "\(table.name)", rows: table.rows, ranges: table.ranges, differing: table.differing,
                    keys: table.keys.map { Output.Key(key: $0.key, difference: $0.difference.rawValue) },
                    problem: table.problem)
            })
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        guard let data = try? encoder.encode(output) else { preconditionFailure("a report is always JSON") }
        say(String(decoding: data, as: UTF8.self))
    }
}
