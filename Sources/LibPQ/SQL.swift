/// Text of statements: names and values quoted so that nothing in them is read as SQL.
package enum SQL {
    /// A value as a string literal, whatever standard_conforming_strings says.
    package static func literal(_ value: String) -> String {
        let doubled = double(value, "'")
        guard value.utf8.contains(UInt8(ascii: "\\")) else { return "'\(doubled)'" }
        return " E'\(double(doubled, "\\"))'"
    }

    package static func literal(_ value: String?) -> String { value.map { literal($0) } ?? "NULL" }

    package static func identifier(_ name: String) -> String { "\"\(double(name, "\""))\"" }

    package static func array(_ values: [String]) -> String {
        "ARRAY[\(values.map { literal($0) }.joined(separator: ","))]::text[]"
    }

    /// By code points, not characters: a quote followed by a combining mark is still a quote to the server.
    private static func double(_ text: String, _ mark: Unicode.Scalar) -> String {
        guard text.unicodeScalars.contains(mark) else { return text }
        var doubled = ""
        for scalar in text.unicodeScalars {
            doubled.unicodeScalars.append(scalar)
            if scalar == mark { doubled.unicodeScalars.append(scalar) }
        }
        return doubled
    }
}
