import CLibPQ

/// A conninfo text or URI taken apart by libpq's own parser, so that ours never disagrees with psql's.
/// Immutable, any thread.
package struct ConnectionString: Sendable, Equatable, CustomStringConvertible {
    /// What the text says, by libpq's keywords; nothing that it leaves out.
    package private(set) var parameters: [String: String]

    /// - Throws: `ConnectionStringError` in libpq's words: an unknown keyword, a missing "=", a bad URI.
    package init(parsing text: String) throws(ConnectionStringError) {
        var message: UnsafeMutablePointer<CChar>?
        guard let options = PQconninfoParse(text, &message) else {
            let reason = message.map { String(cString: $0) } ?? "out of memory"
            PQfreemem(message)
            throw ConnectionStringError(reason: reason.trimmed)
        }
        defer { PQconninfoFree(options) }
        parameters = Self.collect(options)
    }

    package var host: String? { value("host") }
    package var hostaddr: String? { value("hostaddr") }
    package var port: UInt16? { value("port").flatMap { UInt16($0) } }
    package var dbname: String? { value("dbname") }
    package var user: String? { value("user") }
    package var password: String? { value("password") }
    package var sslmode: String? { value("sslmode") }
    package var options: String? { value("options") }
    package var connectTimeoutSeconds: Int? { value("connect_timeout").flatMap { Int($0) } }

    private func value(_ keyword: String) -> String? { parameters[keyword] }

    /// The same with some parameters replaced; an empty value takes a parameter out.
    package func overriding(_ overrides: [String: String]) -> ConnectionString {
        var changed = self
        for (keyword, value) in overrides { changed.parameters[keyword] = value.isEmpty ? nil : value }
        return changed
    }

    /// The same, with libpq's defaults (environment, service file, built-in) for what the text leaves out.
    package func fillingDefaults() -> ConnectionString {
        guard let options = PQconndefaults() else { return self }
        defer { PQconninfoFree(options) }
        var filled = self
        filled.parameters = Self.collect(options).merging(parameters) { _, said in said }
        return filled
    }

    /// conninfo text: keyword='value' in the order of the keywords. Holds the password.
    package var text: String {
        parameters.sorted { $0.key < $1.key }.map { keyword, value in
            var quoted = ""
            for scalar in value.unicodeScalars {
                if scalar == "'" || scalar == "\\" { quoted.append("\\") }
                quoted.unicodeScalars.append(scalar)
            }
            return "\(keyword)='\(quoted)'"
        }.joined(separator: " ")
    }

    /// For logs and errors: where to and as whom, never the password.
    package var description: String {
        ["host", "hostaddr", "port", "dbname", "user"].compactMap { keyword in
            parameters[keyword].map { "\(keyword)=\($0)" }
        }.joined(separator: " ")
    }

    private static func collect(_ options: UnsafeMutablePointer<PQconninfoOption>) -> [String: String] {
        var found: [String: String] = [:]
        var option = options
        while let keyword = option.pointee.keyword {
            if let value = option.pointee.val { found[String(cString: keyword)] = String(cString: value) }
            option += 1
        }
        return found
    }
}

package struct ConnectionStringError: Error, Sendable, Equatable, CustomStringConvertible {
    package var reason: String
    package var description: String { "not a connection string: \(reason)" }
}

extension String {
    var trimmed: String {
        var view = Substring(self)
        while let last = view.last, last.isWhitespace { view.removeLast() }
        return String(view)
    }
}
