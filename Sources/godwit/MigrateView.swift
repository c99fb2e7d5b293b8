import Configuration
import ControlPlane
import Foundation
import Glibc

/// A migration as people read it: with bars on a terminal, in plain lines elsewhere. No state, any thread.
enum MigrateView {
    private static let barWidth = 30

    /// One line.
    static func printLine(_ one: MigrationDocument) {
        let cause = one.cause.isEmpty ? "" : ": \(one.cause)"
        say("\(one.id) (\(one.database)): \(one.place), \(one.standing)\(cause)")
    }

    static func print(_ one: MigrationDocument) {
        printLine(one)
        say("writes on \(one.writes.uppercased()), in this step since \(one.since), begun \(one.started)")
        if isatty(STDOUT_FILENO) == 1 {
            printBar("phases", one.progress.phasesPercent)
            if let copied = one.progress.copiedPercent { printBar("copied", copied) }
            printBar("reads", one.progress.readsPercent)
        } else {
            let copied = one.progress.copiedPercent.map { ", copied \($0) %" } ?? ""
            say("phases \(one.progress.phasesPercent) %\(copied), reads on NEW \(one.progress.readsPercent) %")
        }
        printDecision(one)
    }

    /// What has come of a drill.
    static func print(_ drill: MigrationDocument.DrillDocument) {
        say("drill \(drill.passed ? "passed" : "FAILED"): \(drill.words)")
        for (name, millis) in [("cutover", drill.cutoverHeld), ("way back", drill.rollbackHeld)] {
            guard let millis else { continue }
            say("  \(name.padding(toLength: 8, withPad: " ", startingAt: 0))  writes held for \(millis) ms")
        }
        if let verify = drill.verify { say("  verify    \(drill.rowsCompared ?? 0) rows, \(verify)") }
    }

    private static func printBar(_ name: String, _ percent: Double) {
        let full = Int((percent / 100 * Double(barWidth)).rounded(.down))
        let bar = String(repeating: "█", count: full) + String(repeating: "░", count: barWidth - full)
        say("  \(name.padding(toLength: 7, withPad: " ", startingAt: 0)) \(bar) \(percent) %")
    }

    /// The go/no-go list.
    static func printDecision(_ one: MigrationDocument) {
        let width = one.gates.map(\.name.count).max() ?? 0
        for gate in one.gates {
            let missed = gate.holds == nil ? "unknown" : "NO     "
            let mark = gate.holds == true ? "ok     " : gate.required ? missed : "-      "
            let name = gate.name.padding(toLength: width, withPad: " ", startingAt: 0)
            let since = gate.since.map { ", since \($0)" } ?? ""
            say("  \(mark) \(name)  \(gate.value) (wanted: \(gate.threshold)\(since))")
            if gate.holds != true, gate.required, !gate.advice.isEmpty { say("          \(gate.advice)") }
        }
        if !one.next.isEmpty { say("\(one.go ? "GO" : "NO GO"): \(one.next)") }
    }
}
