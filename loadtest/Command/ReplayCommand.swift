import ArgumentParser
import Capture
import Foundation
import LibPQ
import Replay
import ReplayEngine

/// Where a report goes, for all commands that make one.
struct ReportOptions: ParsableArguments {
    @Flag(name: .long, help: "The report as JSON on standard output, instead of tables.") var json = false
    @Option(name: .long, help: "The report as JSON, into this file.") var output: String?
    @Option(name: .long, help: "The report as one HTML page, into this file.") var html: String?
    @Flag(name: .long, help: "No progress on standard error.") var quiet = false
    @Option(name: .long, help: "What to call the run in its report.") var title: String?

    /// Before a run, which may take hours: its report has a place to go to.
    func prepare() throws {
        for path in [output, html] { if let path { try Output.prepare(path) } }
    }

    /// - Throws: ExitCode of the verdict.
    func deliver(_ report: RunReport) throws {
        let text = String(decoding: try report.encoded(), as: UTF8.self) + "\n"
        if let output { try Output.write(text, to: output) }
        if let html { try Output.write(try ReportPage.page([report]), to: html) }
        try Output.write(json ? text : ReportText.text(report) + "\n", to: "-")
        if report.exitStatus != 0 { throw ExitCode(report.exitStatus) }
    }

    func progress(_ progress: RunProgress) {
        if quiet { return }
        let sides = progress.sides.map { side in
            "\(side.units) units, \(side.errors) errors, p50 \(ReportText.millis(side.p50)) ms, "
                + "p99 \(ReportText.millis(side.p99)) ms"
        }.joined(separator: " | ")
        let differences = progress.mismatches > 0 ? ", \(progress.mismatches) DIFFERENT" : ""
        let words = "\(Int(progress.seconds)) s, \(progress.connections) connections\(differences): \(sides)"
        // A line that is longer than the terminal is wide would stay there.
        let line = Self.columns.map { "\r\u{1B}[K\(words.prefix($0 - 1))" } ?? "\(words)\n"
        Output.tell(line)
    }

    /// Of the terminal that standard error is; nil: it is none.
    private static var columns: Int? {
        if isatty(2) != 1 { return nil }
        var size = winsize()
        return ioctl(2, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 1 ? Int(size.ws_col) : 80
    }

    func endProgress() { if !quiet && isatty(2) == 1 { Output.tell("\n") } }
}

/// A side to play on.
enum TargetReader {
    static func read(_ text: String, name: String) throws -> ReplayTarget {
        do throws(ConnectionStringError) {
            return ReplayTarget(name: name, conninfo: try ConnectionString(parsing: text))
        } catch {
            throw ValidationError("\(name): \(error)")
        }
    }
}

enum PaceReader {
    static func read(_ text: String) throws -> ReplayOptions.Pace {
        if text == "max" { return .max }
        guard let speed = Double(text), speed > 0, speed <= 10_000 else {
            throw ValidationError("--speed is a number above 0, such as 1 or 2.5, or max")
        }
        return .timed(speed)
    }
}

/// Plays a capture.
struct ReplayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay", abstract: "Play a capture on a database, and count what comes of it.",
        discussion: """
            Each captured connection is a connection; messages go out as they were sent, at their times: an answer that \
            is late delays what waited for it, and counts as latency. Outcomes are compared with the captured ones. \
            Passwords come from the connection string, PGPASSWORD or the password file. Exit status: 0 as captured, \
            1 otherwise, 2 when it could not be told (connections failed or broke off, or the run was stopped).
            """)

    @Argument(help: "The capture; - for standard input.") var file: String
    @Option(name: .long, help: "Where to play: a libpq connection string; user and dbname as captured if it has none.")
    var target: String
    @Option(name: .long, help: "A second database, played on at the same time; rows are compared by digest.")
    var against: String?
    @Option(name: .long, help: "1: as captured; 2: twice as fast; max: as fast as answers come.") var speed = "1"
    @Option(name: .long, help: "At most so many connections at once; the others wait, which counts as latency.")
    var clients: Int?
    @Option(name: .long, help: """
        connection: each connection keeps its order. causal: what was answered before a unit was sent, on any \
        connection, comes before it. Default: causal with --speed max.
        """) var order: ReplayOptions.Order?
    @Flag(name: .long, help: "Begin again at the end, until Ctrl-C or --for.") var loop = false
    @Flag(name: .long, help: "Leave out what is not surely a read.") var readOnly = false
    @Flag(name: .long, help: "Go on with what is still being written to the capture, until it is ended.")
    var follow = false
    @Option(name: .customLong("for"), help: "End after so many seconds.") var seconds: Double?
    @OptionGroup var report: ReportOptions

    func run() throws {
        var options = ReplayOptions()
        options.pace = try PaceReader.read(speed)
        options.clientsMax = clients
        options.order = order
        options.loops = loop
        options.follows = follow
        options.onlyReads = readOnly
        options.seconds = seconds
        if loop && follow { throw ValidationError("--loop begins again at an end that --follow waits for") }
        // Of standard input nothing can be read twice, and whoever waits for more of it sends nothing meanwhile.
        if file == "-" && (loop || follow) { throw ValidationError("--loop and --follow are for files") }
        if let clients, clients < 1 { throw ValidationError("--clients is at least 1") }
        var targets = [try TargetReader.read(target, name: against == nil ? "target" : "first")]
        if let against { targets.append(try TargetReader.read(against, name: "second")) }
        try RunPerformer.perform(
            file: file, follow: follow, targets: targets, options, kind: "replay", title: "replay of \(file)", report)
    }
}

extension ReplayOptions.Order: ExpressibleByArgument {}

/// Compares two databases by a capture.
struct CompareCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "compare", abstract: "Play a capture on two databases in step, and compare what they answer.",
        discussion: """
            Rows are compared one by one, their order only where ORDER BY asks for it. A read that differs is run once \
            more on both: what differs on the first side alone is noise (random(), now()). Writes are played too, so \
            both must be copies to spare, at the same state. Exit status: 0 equal, 1 different, 2 could not tell.
            """)

    @Argument(help: "The capture.") var file: String
    @Option(name: .long, help: "The first database.") var target: String
    @Option(name: .long, help: "The second.") var against: String
    @Option(name: .long, help: "max: as fast as answers come; 1: as captured.") var speed = "max"
    @Flag(name: .long, help: "Leave out what is not surely a read: may be done with databases in use.")
    var readOnly = false
    @Option(name: .long, help: "Floats may differ by this part of the larger one, such as 1e-9.")
    var floatTolerance = 0.0
    @Option(name: .customLong("for"), help: "End after so many seconds.") var seconds: Double?
    @OptionGroup var report: ReportOptions

    func run() throws {
        var options = ReplayOptions()
        options.pace = try PaceReader.read(speed)
        options.onlyReads = readOnly
        options.compares = true
        options.floatTolerance = floatTolerance
        options.seconds = seconds
        let targets = [
            try TargetReader.read(target, name: "first"), try TargetReader.read(against, name: "second"),
        ]
        try RunPerformer.perform(
            file: file, follow: false, targets: targets, options, kind: "compare",
            title: "comparison by \(file)", report)
    }
}

/// Runs, and tells what came of it.
enum RunPerformer {
    static func perform(
        file: String, follow: Bool, targets: [ReplayTarget], _ options: ReplayOptions, kind: String, title: String,
        _ delivery: ReportOptions
    ) throws {
        try delivery.prepare()
        Interrupt.watch()
        let startedAt = Date().formatted(.iso8601)
        var report: RunReport
        do {
            var options = options
            let source = try CaptureSource(path: file, follows: follow, onlyReads: options.onlyReads)
            options.withDigests = true
            let run = ReplayRun(source, on: targets, options) { delivery.progress($0) }
            _ = try run.run { Interrupt.hasCome }
            delivery.endProgress()
            report = run.report(
                kind: kind, title: delivery.title ?? title, startedAt: startedAt, stopped: Interrupt.hasCome)
        } catch let error as CaptureError {
            complain("\(error)")
            throw ExitCode(2)
        }
        for target in targets { report.options[target.name] = target.conninfo.description }
        report.options["speed"] = if case .timed(let speed) = options.pace { ReportText.plain(speed) } else { "max" }
        report.options["order"] = options.effectiveOrder.rawValue
        if options.onlyReads { report.options["read_only"] = "yes" }
        if let clients = options.clientsMax { report.options["clients"] = "\(clients)" }
        try delivery.deliver(report)
    }
}
