import CLibPQ

/// A conninfo text or URI taken apart by libpq's own parser, so that ours never disagrees with psql's.
/// Immutable, any thread.
package struct ConnectionString: Sendable, Equatable, CustomStringConvertible {
    /// What the text says, by libpq's keywords; nothing that it leaves out.
    package private(set) var parameters: [String: String]

    /// - Throws: `ConnectionStringError` in libpq's words: an unknown keyword, a missing "=", a bad URI.
    package init(parsing text: String) throws(ConnectionStringError) {
        do { try self.init(reading: text) } catch {
            throw ConnectionStringError(reason: Self.withoutSecrets(error.reason, of: text))
        }
    }

    private init(reading text: String) throws(ConnectionStringError) {
        do {
            parameters = try Self.parse(text)
        } catch {
            // A libpq before 17 does not know this word, which is the proxy's affair: libpq itself then asks for TLS
            // in the old way, which every server takes.
            guard error.reason.contains("sslnegotiation"), let (rest, value) = Self.takeNegotiation(from: text) else {
                throw error
            }
            parameters = try Self.parse(rest)
            sslnegotiation = value
        }
        sslnegotiation = sslnegotiation ?? parameters["sslnegotiation"]
    }

    /// `postgres` or `direct`; nil: not said.
    package private(set) var sslnegotiation: String?

    private static func parse(_ text: String) throws(ConnectionStringError) -> [String: String] {
        var message: UnsafeMutablePointer<CChar>?
        guard let options = PQconninfoParse(text, &message) else {
            let reason = message.map { String(cString: $0) } ?? "out of memory"
            PQfreemem(message)
            throw ConnectionStringError(reason: reason.trimmed)
        }
        defer { PQconninfoFree(options) }
        return collect(options)
    }

    /// libpq quotes what it cannot read: a word of a password with blanks in it, or a URI as a whole.
    private static func withoutSecrets(_ reason: String, of text: String) -> String {
        guard text.contains(/password|:\/\/.*:.*@/.ignoresCase()) else { return reason }
        for mark in [": \"", "after \"", "option \"", "found in \""] {
            guard let start = reason.firstRange(of: mark)?.upperBound, let end = reason.lastIndex(of: "\""),
                start <= end
            else { continue }
            return "\(reason[..<start])***\(reason[end...])"
        }
        return reason
    }

    /// The text without the word, and its value.
    private static func takeNegotiation(from text: String) -> (rest: String, value: String)? {
        let word = /(^|[\s?&])sslnegotiation\s*=\s*('?)([a-z]+)'?(&?)/
        guard let match = text.firstMatch(of: word) else { return nil }
        // In a URI the mark before the word stays for what follows it.
        let mark = match.output.4.isEmpty && match.output.1 == "&" ? "" : match.output.1
        return (text.replacingCharacters(match.range, with: String(mark)), String(match.output.3))
    }

    package var host: String? { value("host") }
    package var hostaddr: String? { value("hostaddr") }
    package var port: UInt16? { value("port").flatMap { UInt16($0) } }
    package var dbname: String? { value("dbname") }
    package var user: String? { value("user") }
    package var password: String? { value("password") }
    package var sslmode: String? { value("sslmode") }
    package var options: String? { value("options") }
    /// Any other keyword's value.
    package subscript(keyword: String) -> String? { value(keyword) }
    /// nil: none is said, or none is wanted (0 and less, as libpq has it). More than a day is a mistake in the unit.
    package var connectTimeoutSeconds: Int? {
        value("connect_timeout").flatMap { Int($0) }.flatMap { $0 > 0 ? min($0, 86_400) : nil }
    }

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

/// Why a text is no conninfo or URI that libpq would take; without the text, which may have a password.
package struct ConnectionStringError: Error, Sendable, Equatable, CustomStringConvertible {
    package var reason: String
    package var description: String { "not a connection string: \(reason)" }
}

extension String {
    fileprivate func replacingCharacters(_ range: Range<String.Index>, with replacement: String) -> String {
        String(self[..<range.lowerBound]) + replacement + String(self[range.upperBound...])
    }

    var trimmed: String {
        var view = Substring(self)
        while let last = view.last, last.isWhitespace { view.removeLast() }
        return String(view)
    }
}
