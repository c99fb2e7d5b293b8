import ArgumentParser
import ControlPlane
import Foundation
import Glibc
import Migration

extension MigrateCommand {
    struct Drill: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Rehearse the way to NEW and back.",
            discussion: """
                Without --whole a table of Godwit's moves, in databases of its own on both servers, which go in the \
                end. With it all writes do, for some seconds, where the gates of the cutover hold. Exit status: 0 \
                passed, 1 failed or refused, 2 no answer.
                """)

        /// Microseconds from one look to the next.
        private static let turnMicros: UInt32 = 250_000

        @OptionGroup var place: Place
        @OptionGroup var which: Which
        @Flag(name: .long, help: "With all tables and writers: NEW has the writes for a while.") var whole = false
        @Option(name: .long, help: "With --whole: seconds for which NEW has them (default 30).") var watch: Double?

        private struct Wish: Encodable {
            var whole: Bool
            var seconds: Double?
        }

        func run() throws {
            if watch != nil && !whole { throw ValidationError("--watch is for --whole") }
            try place.run { client in
                let path = try which.path(client)
                let body = String(decoding: Document.bytes(Wish(whole: whole, seconds: watch)), as: UTF8.self)
                let begun = try Document.read(
                    MigrationAnswer.self, try client.post("\(path)/drill", body, by: place.name))
                if !place.json { say(begun.answer) }
                while true {
                    let bytes = try client.get("\(path)/status")
                    let now = try Document.read(MigrationDocument.self, bytes)
                    if let drill = now.drill, now.drill != begun.migration.drill {
                        if place.json { place.show(bytes) } else { MigrateView.print(drill) }
                        if !drill.passed { throw ExitCode(1) }
                        return
                    }
                    usleep(Self.turnMicros)
                }
            }
        }
    }
}
