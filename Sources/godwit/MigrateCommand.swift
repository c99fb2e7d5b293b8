import ArgumentParser
import ControlPlane
import Foundation
import Glibc

/// Drives migrations of a running Godwit, over its HTTP.
struct MigrateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "migrate",
        abstract: "Start, watch and steer a migration of a running Godwit.",
        discussion: """
            The manifest (conf/migration.yaml shows every key) says what is wanted; docs/MIGRATION.md goes through \
            one. Exit status: 0 done, 1 refused or no-go, 2 no answer.
            """,
        subcommands: [
            Start.self, List.self, Status.self, Advance.self, Pause.self, Resume.self, Abort.self, Approve.self,
            Force.self, Drill.self, Events.self, Report.self,
        ])

    /// Where Godwit is, and who asks.
    struct Place: ParsableArguments {
        @Option(name: .long, help: "Where Godwit's HTTP is; else GODWIT_URL.") var url: String?
        @Option(name: .long, help: "A file with the token; else GODWIT_TOKEN_FILE.") var tokenFile: String?
        @Option(
            name: .long,
            help: "With https://: who has signed its certificate, PEM; else GODWIT_CA_FILE, else the system's.")
        var ca: String?
        @Flag(name: .long, help: "Send the token beyond this machine though http:// does not encrypt it.")
        var allowPlainToken = false
        @Option(name: .long, help: "Who you are, for the records; else your login name.") var by: String?
        @Flag(name: .long, help: "What HTTP answers, as it is.") var json = false

        private func environment(_ name: String) -> String? { ProcessInfo.processInfo.environment[name] }

        func client() throws -> MigrateClient {
            var token = ""
            if let path = tokenFile ?? environment("GODWIT_TOKEN_FILE") {
                guard let text = try? String(contentsOfFile: path, encoding: .utf8) else {
                    throw ValidationError("cannot read \(path)")
                }
                token = text.trimmingCharacters(in: .whitespacesAndNewlines)
            }
            let url = url ?? environment("GODWIT_URL") ?? "http://127.0.0.1:9632"
            // A variable that is there for other calls is no error where nothing is encrypted.
            let authority = ca ?? (url.hasPrefix("https:") ? environment("GODWIT_CA_FILE") : nil)
            return try MigrateClient(
                url: url, token: token, authority: authority ?? "", allowsPlainToken: allowPlainToken)
        }

        var name: String { by ?? NSUserName() }

        /// Runs it, and turns what goes wrong into words and a status.
        func run(_ body: (MigrateClient) throws -> Void) throws {
            do {
                try body(try client())
            } catch let failure as MigrateClient.Failure {
                complain(failure.description)
                throw ExitCode(failure.status == 0 ? 2 : 1)
            } catch let error as DecodingError {
                complain("the answer cannot be read; is that a Godwit of another version? \(error)")
                throw ExitCode(2)
            }
        }

        func show(_ bytes: [UInt8]) { say(String(decoding: bytes, as: UTF8.self)) }
    }

    /// One migration.
    struct Which: ParsableArguments {
        @Argument(help: "The migration's id; may be left out while there is only one.") var id: String?

        func path(_ client: MigrateClient) throws -> String { "/migrations/\(try name(client))" }

        private func name(_ client: MigrateClient) throws -> String {
            if let id {
                let plain = CharacterSet.alphanumerics.union(.init(charactersIn: "-_."))
                guard let quoted = id.addingPercentEncoding(withAllowedCharacters: plain) else {
                    throw ValidationError("\(id) is no id")
                }
                return quoted
            }
            let all = try Document.read(MigrationList.self, try client.get("/migrations")).migrations
            let live = all.filter { !["finished", "removed"].contains($0.standing) }
            let candidates = live.isEmpty ? all : live
            guard candidates.count == 1, let only = candidates.first else {
                let names = candidates.map(\.id).joined(separator: ", ")
                throw ValidationError(candidates.isEmpty ? "there is no migration" : "which one: \(names)?")
            }
            return only.id
        }
    }
}

extension MigrateCommand {
    struct Start: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Begin what a manifest says.")

        @OptionGroup var place: Place
        @Argument(help: "The manifest, YAML or JSON.") var manifest: String

        func run() throws {
            guard let text = try? String(contentsOfFile: manifest, encoding: .utf8) else {
                throw ValidationError("cannot read \(manifest)")
            }
            try place.run { client in
                let bytes = try client.post("/migrations", text, by: place.name, contentType: "application/yaml")
                if place.json { return place.show(bytes) }
                MigrateView.print(try Document.read(MigrationAnswer.self, bytes).migration)
            }
        }
    }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "All migrations.")

        @OptionGroup var place: Place

        func run() throws {
            try place.run { client in
                let bytes = try client.get("/migrations")
                if place.json { return place.show(bytes) }
                for one in try Document.read(MigrationList.self, bytes).migrations { MigrateView.printLine(one) }
            }
        }
    }

    struct Status: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Where it stands, and each gate of its phase.")

        @OptionGroup var place: Place
        @OptionGroup var which: Which

        func run() throws {
            try place.run { client in
                let bytes = try client.get("\(try which.path(client))/status")
                if place.json { return place.show(bytes) }
                MigrateView.print(try Document.read(MigrationDocument.self, bytes))
            }
        }
    }

    struct Advance: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Go on to the next step, if the gates hold. --dry-run prints the go/no-go list.")

        @OptionGroup var place: Place
        @OptionGroup var which: Which
        @Flag(name: .long, help: "Say what would be done, and whether it may; do nothing.") var dryRun = false
        @Option(name: .long, help: "Do nothing if it is not there any more: status calls it position (--json).")
        var from: String?

        func run() throws {
            if !dryRun {
                let position = from?.addingPercentEncoding(withAllowedCharacters: .alphanumerics)
                let query = position.map { "?from=\($0)" } ?? ""
                return try MigrateCommand.perform("advance", query: query, "", place, which)
            }
            try place.run { client in
                let bytes = try client.post("\(try which.path(client))/advance?dry_run=1", "", by: place.name)
                let document = try Document.read(MigrationDocument.self, bytes)
                if place.json { place.show(bytes) } else { MigrateView.printDecision(document) }
                if !document.go { throw ExitCode(1) }
            }
        }
    }

    struct Pause: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Stay where it is, whatever the gates say.")

        @OptionGroup var place: Place
        @OptionGroup var which: Which
        @Option(name: .long, help: "Why, for the records.") var reason = ""

        func run() throws { try MigrateCommand.perform("pause", reason, place, which) }
    }

    struct Resume: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Go on after pause, a roll-back or an abort.")

        @OptionGroup var place: Place
        @OptionGroup var which: Which

        func run() throws { try MigrateCommand.perform("resume", "", place, which) }
    }

    struct Abort: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Back to OLD, now: reads at once, writes without a loss.")

        @OptionGroup var place: Place
        @OptionGroup var which: Which
        @Option(name: .long, help: "Why, for the records.") var reason = ""

        func run() throws { try MigrateCommand.perform("abort", reason, place, which) }
    }

    struct Approve: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Approve that the phase is left.")

        @OptionGroup var place: Place
        @OptionGroup var which: Which

        func run() throws { try MigrateCommand.perform("approve", "", place, which) }
    }

    struct Force: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Advance though gates do not hold; the reason is kept.")

        @OptionGroup var place: Place
        @OptionGroup var which: Which
        @Option(name: .long, help: "Why the gates do not count.") var reason: String

        func run() throws { try MigrateCommand.perform("force", reason, place, which) }
    }

    struct Events: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "What was decided, oldest first.")

        @OptionGroup var place: Place
        @OptionGroup var which: Which
        @Flag(name: .long, help: "Go on with what comes.") var follow = false

        private struct List: Decodable {
            var events: [Line]
            var last: Int64
        }

        private struct Line: Decodable {
            struct Event: Decodable {
                var time: String
                var kind: String
                var cause: String
            }

            var id: Int64
            var event: Event
        }

        func run() throws {
            try place.run { client in
                let path = "\(try which.path(client))/events"
                if follow {
                    let isJSON = place.json
                    return try client.follow(path) { text in
                        if isJSON { return say(text) }
                        if let line = try? JSONDecoder().decode(Line.self, from: Data(text.utf8)) { Self.show(line) }
                    }
                }
                var last: Int64 = 0
                while true {
                    let bytes = try client.get("\(path)?after=\(last)")
                    let list = try JSONDecoder().decode(List.self, from: Data(bytes))
                    if list.events.isEmpty { return }
                    if place.json { place.show(bytes) } else { for line in list.events { Self.show(line) } }
                    last = list.last
                }
            }
        }

        private static func show(_ line: Line) { say("\(line.event.time) \(line.event.kind): \(line.event.cause)") }
    }

    struct Report: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Everything about it, as JSON, for the archive.")

        @OptionGroup var place: Place
        @OptionGroup var which: Which

        func run() throws {
            try place.run { client in place.show(try client.get("\(try which.path(client))/report")) }
        }
    }

    /// Gives a command, and says what came of it.
    static func perform(
        _ verb: String, query: String = "", _ reason: String, _ place: Place, _ which: Which
    ) throws {
        try place.run { client in
            struct Words: Encodable {
                var reason: String
            }
            let body = reason.isEmpty ? "" : String(decoding: Document.bytes(Words(reason: reason)), as: UTF8.self)
            let bytes = try client.post("\(try which.path(client))/\(verb)\(query)", body, by: place.name)
            if place.json { return place.show(bytes) }
            let answer = try Document.read(MigrationAnswer.self, bytes)
            say(answer.answer)
            MigrateView.printLine(answer.migration)
        }
    }
}
