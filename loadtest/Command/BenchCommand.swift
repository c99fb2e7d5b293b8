import ArgumentParser
import Foundation
import LibPQ
import Replay
import ReplayEngine

/// Makes traffic of its own.
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench", abstract: "Measure a database, or a proxy, under made-up traffic.",
        discussion: """
            The workload file says what is sent (loadtest/README.md, loadtest/workloads/). Closed loop: each client \
            sends the next when it has its answer. With a rate: open loop, where latencies count from when a \
            transaction was to begin. Exit status: 0 measured, 2 connections failed or were lost, or \
            the run was stopped.
            """)

    @Argument(help: "The workload, a YAML file.") var file: String
    @Option(name: .long, help: "Where: a libpq connection string.") var target: String
    @Option(name: .long, help: "Instead of the workload's.") var clients: Int?
    @Option(name: .customLong("for"), help: "Seconds, instead of the workload's.") var seconds: Double?
    @Option(name: .long, help: "Transactions a second over all clients, instead of the workload's; 0: closed loop.")
    var rate: Double?
    @Option(name: .long, help: "simple, extended or prepared, instead of the workload's.") var mode: Workload.Mode?
    @Option(name: .long, help: "Of the drawn values; the same numbers give the same traffic.") var seed: UInt64 = 1
    @OptionGroup var report: ReportOptions

    func run() throws {
        var workload: Workload
        do {
            workload = try Workload(yaml: try String(contentsOfFile: file, encoding: .utf8))
        } catch {
            complain("\(file): \(error)")
            throw ExitCode(2)
        }
        if let clients { workload.clients = max(1, clients) }
        if let seconds { workload.seconds = seconds }
        if let rate { workload.rate = rate }
        // As a workload's own are refused: no time follows from others.
        for (name, value) in [("for", workload.seconds), ("rate", workload.rate)] where !(0..<1e9).contains(value) {
            throw ValidationError("--\(name) is a number from 0 on")
        }
        if let mode { workload.mode = mode }
        let target = try TargetReader.read(target, name: "target")
        try report.prepare()
        try setUp(workload, target)
        var options = ReplayOptions()
        options.pace = workload.rate > 0 ? .timed(1) : .max
        options.order = .connection
        options.seconds = workload.seconds
        Interrupt.watch()
        let startedAt = Date().formatted(.iso8601)
        let run = ReplayRun(WorkloadSource(workload, seed: seed), on: [target], options) { report.progress($0) }
        _ = try run.run { Interrupt.hasCome }
        report.endProgress()
        var result = run.report(
            kind: "bench", title: report.title ?? "bench of \(file)", startedAt: startedAt, stopped: Interrupt.hasCome)
        result.options = [
            "target": target.conninfo.description, "clients": "\(workload.clients)", "mode": workload.mode.rawValue,
            "rate": workload.rate > 0 ? "\(ReportText.plain(workload.rate)) per s" : "closed loop", "pipeline": "\(workload.pipeline)",
        ]
        try report.deliver(result)
    }

    private func setUp(_ workload: Workload, _ target: ReplayTarget) throws {
        if workload.setUp.isEmpty { return }
        do throws(PostgresFailure) {
            let connection = try Connection.open(
                target.conninfo, purpose: "loadtest", settings: ["search_path": "\"$user\", public"])
            for statement in workload.setUp { try connection.execute(statement) }
        } catch {
            complain("setup: \(error)")
            throw ExitCode(2)
        }
    }
}

extension Workload.Mode: ExpressibleByArgument {}
