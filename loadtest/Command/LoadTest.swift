import ArgumentParser
import Foundation
import Synchronization

/// Plays captured traffic, compares databases by it, and makes traffic of its own.
@main
struct LoadTest: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "loadtest", abstract: "Plays captured traffic again, compares two databases by it, and measures.",
        discussion: """
            Captures come from Godwit's console (CAPTURE), or from PostgreSQL's logs (import). Exit status: 0 equal, or \
            done; 1 different; 2 could not tell, or could not run.
            """,
        subcommands: [ShowCommand.self, ImportCommand.self, ReplayCommand.self, CompareCommand.self, BenchCommand.self,
            ReportCommand.self])
}

func complain(_ words: String) { FileHandle.standardError.write(Data("loadtest: \(words)\n".utf8)) }

/// Ctrl-C: the first ends a run with its report, a second one at once.
enum Interrupt {
    private static let count = Atomic<Int>(0)

    static var hasCome: Bool { count.load(ordering: .relaxed) > 0 }

    static func watch() {
        _ = signal(SIGPIPE, SIG_IGN)
        for number in [SIGINT, SIGTERM] {
            _ = signal(number) { number in
                if interrupted() > 1 { _exit(128 + number) }
            }
        }
    }

    fileprivate static func add() -> Int { count.add(1, ordering: .relaxed).newValue }
}

private func interrupted() -> Int { Interrupt.add() }

/// Where output goes that may be a file.
enum Output {
    static func write(_ text: String, to path: String) throws {
        if path == "-" {
            FileHandle.standardOutput.write(Data(text.utf8))
        } else {
            try Data(text.utf8).write(to: URL(filePath: path))
        }
    }
}
