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

func complain(_ words: String) { Output.tell("loadtest: \(words)\n") }

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

/// Where output goes that may be a file. What cannot be written ends with status 2: 1 would be a difference.
enum Output {
    static func write(_ text: String, to path: String) throws {
        do {
            // `write(_:)` traps where nobody reads any more, or the disk is full.
            if path == "-" { return try FileHandle.standardOutput.write(contentsOf: Data(text.utf8)) }
            try Data(text.utf8).write(to: URL(filePath: path))
        } catch {
            complain("\(path) cannot be written: \(error.localizedDescription)")
            throw ExitCode(2)
        }
    }

    /// On standard error, whether anybody listens or not: a run goes on, and its report has other places to go to.
    static func tell(_ text: String) { try? FileHandle.standardError.write(contentsOf: Data(text.utf8)) }

    /// Makes the file if it is not there, and leaves what is in it.
    static func prepare(_ path: String) throws {
        if path == "-" { return }
        let descriptor = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else {
            complain("\(path) cannot be written: \(String(cString: strerror(errno)))")
            throw ExitCode(2)
        }
        close(descriptor)
    }
}
