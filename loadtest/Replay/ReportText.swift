import Foundation

/// A report for a terminal. Pure.
package enum ReportText {
    private static let shapesMax = 15
    private static let textMax = 90

    package static func text(_ report: RunReport) -> String {
        var lines = [
            "\(report.title): \(number(report.seconds, 1)) s, verdict: \(words(report.verdict, report))", "",
        ]
        lines += table(sides(report))
        for side in report.sides {
            lines += side.findings.map { "  ! \(side.name): \(oneLine($0))" }
        }
        lines.append("")
        for side in report.sides where !side.shapes.isEmpty {
            lines += ["Most time, \(side.name) (latencies in ms):"] + table(shapes(side)) + [""]
        }
        if let comparison = report.comparison, !comparison.shapes.isEmpty {
            lines += ["Differences between \(report.sides.map(\.name).joined(separator: " and ")):"]
            lines += differences(comparison) + [""]
        } else {
            for side in report.sides {
                let other = side.shapes.filter { $0.differences > 0 }
                if other.isEmpty { continue }
                lines.append("Outcomes other than captured, \(side.name):")
                for shape in other.prefix(shapesMax) {
                    lines.append("  \(shape.differences) x \(cut(shape.text))")
                    lines += shape.samples.prefix(3).map { "      \(cut($0, 160))" }
                }
                lines.append("")
            }
        }
        lines += report.notes.map { "note: \($0)" }
        return lines.joined(separator: "\n")
    }

    private static func words(_ verdict: RunReport.Verdict, _ report: RunReport) -> String {
        switch (verdict, report.kind) {
        case (.equal, "bench"): "measured"
        case (.unknown, "bench"): "incomplete"
        case (.equal, "replay") where report.comparison == nil && report.isChecked:
            report.hasOtherRows ? "as captured but for rows" : "as captured"
        case (.equal, "replay") where report.comparison == nil: "played"
        case (.equal, _): "equal"
        case (.different, _): "DIFFERENT"
        case (.unknown, _): "could not tell"
        }
    }

    private static func sides(_ report: RunReport) -> [[String]] {
        var rows: [[String]] = [
            ["", "units", "per s", "errors", "lost", "p50 ms", "p95", "p99", "p99.9", "max"]
                + (report.isChecked ? ["as captured", "other"] : []),
        ]
        if let captured = report.captured {
            rows.append(["captured", "\(captured.count)", "", "", ""] + latencies(captured)
                + (report.isChecked ? ["", ""] : []))
        }
        for side in report.sides {
            let rate = report.seconds > 0 ? Double(side.units) / report.seconds : 0
            let other = side.otherThanCaptured + side.otherDigests
            rows.append(
                [side.name, "\(side.units)", number(rate, 0), "\(side.errors.values.reduce(0, +))", "\(side.unitsLost)"]
                    + latencies(side.response)
                    + (report.isChecked ? ["\(side.sameAsCaptured)", "\(other)"] : []))
        }
        return rows
    }

    private static func latencies(_ latency: RunReport.Latency) -> [String] {
        [latency.p50, latency.p95, latency.p99, latency.p999, latency.max].map { latency.count > 0 ? millis($0) : "" }
    }

    private static func shapes(_ side: RunReport.Side) -> [[String]] {
        [["count", "mean", "p50", "p99", "max", "errors", "statement"]]
            + side.shapes.prefix(shapesMax).map { shape in
                [
                    "\(shape.latency.count)", number(shape.latency.mean / 1000, 3), millis(shape.latency.p50),
                    millis(shape.latency.p99), millis(shape.latency.max), "\(shape.errors.values.reduce(0, +))",
                    cut(shape.text),
                ]
            }
    }

    private static func differences(_ comparison: RunReport.Comparison) -> [String] {
        var lines = [
            "  \(comparison.units) units compared: \(comparison.equal) equal, \(comparison.mismatches) different, "
                + "\(comparison.unproven) different and not to be run twice, \(comparison.noise) that differ on one "
                + "side alone, \(comparison.sideDependent) that belong to one server"
        ]
        for shape in comparison.shapes.prefix(shapesMax) where shape.mismatches + shape.unproven > 0 {
            lines.append("  \(shape.mismatches) different, \(shape.unproven) unproven: \(cut(shape.text))")
            lines += shape.samples.prefix(3).map { "      \(cut($0, 200))" }
        }
        return lines
    }

    // MARK: tables

    /// Statements and the first column of names to the left, all others to the right.
    package static func table(_ rows: [[String]]) -> [String] {
        guard let head = rows.first else { return [] }
        let widths = head.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            let cells = row.enumerated().map { index, cell in
                let gap = String(repeating: " ", count: widths[index] - cell.count)
                let isLeft = index == 0 && head[0].isEmpty || head[index] == "statement"
                return isLeft ? cell + (index == row.count - 1 ? "" : gap) : gap + cell
            }
            return "  " + cells.joined(separator: "  ")
        }
    }

    private static func oneLine(_ text: String) -> String {
        text.split(whereSeparator: \.isNewline).map { $0.drop(while: \.isWhitespace) }.joined(separator: " ")
    }

    private static func cut(_ text: String, _ most: Int = textMax) -> String {
        let line = oneLine(text)
        return line.count > most ? line.prefix(most - 1) + "…" : line
    }

    /// `2`, `0.5`: as somebody would type it.
    package static func plain(_ value: Double) -> String { Int(exactly: value).map { "\($0)" } ?? "\(value)" }

    package static func millis(_ micros: UInt64) -> String { number(Double(micros) / 1000, micros < 10_000 ? 3 : 1) }

    package static func number(_ value: Double, _ digits: Int) -> String { String(format: "%.\(digits)f", value) }
}
