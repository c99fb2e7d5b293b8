import Foundation

/// A report, or two, as one HTML page that needs nothing else. Pure.
package enum ReportPage {
    package static func page(_ reports: [RunReport]) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        // "</script>" and "<!--" in a statement must not end the script.
        let data = String(decoding: try encoder.encode(reports), as: UTF8.self).replacing("<", with: "\\u003c")
            .replacing("\u{2028}", with: "\\u2028").replacing("\u{2029}", with: "\\u2029")
        return ReportTemplate.head + "<script>const reports = \(data);\n" + ReportTemplate.script + "</script></body></html>\n"
    }
}
