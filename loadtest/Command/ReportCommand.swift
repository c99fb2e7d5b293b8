import ArgumentParser
import Foundation
import Replay

/// Makes a page out of reports.
struct ReportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "report", abstract: "Make one HTML page of one report or two side by side.",
        discussion: "The page needs nothing else: no network, no other files.")

    @Argument(help: "Reports as --output or --json has written them; one, or two to be put side by side.")
    var files: [String]
    @Option(name: .long, help: "The page.") var html: String

    func run() throws {
        guard (1...2).contains(files.count) else { throw ValidationError("one report, or two") }
        var reports: [RunReport] = []
        for file in files {
            do {
                reports.append(try RunReport.decode(try Data(contentsOf: URL(filePath: file))))
            } catch {
                complain("\(file) is no report: \(error.localizedDescription)")
                throw ExitCode(2)
            }
        }
        try Output.write(try ReportPage.page(reports), to: html)
    }
}
