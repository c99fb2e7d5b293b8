/// One command of the console (the database `godwit`), as PgBouncer's users know them. Immutable.
package enum ConsoleCommand: Equatable, Sendable {
    package enum Subject: String, CaseIterable, Sendable {
        case pools, clients, servers, databases, stats, lists, config, version, help, mirror, tables, breakers, routes,
            pins, cohorts, rules, shapes, caches, events
    }

    case show(Subject)
    case reload
    /// READS <database> <percent>; the share in hundredths of a percent.
    case reads(database: String, hundredths: Int)
    /// MIRROR PAUSE|RESUME|THROTTLE <database>.
    case mirror(database: String, MirrorOrder)
    /// FORCE <database> OLD|NEW|AUTO.
    case force(database: String, ForceOrder)
    /// Nothing but blanks and semicolons.
    case empty
    /// What drivers and tools set on connecting; the console has no settings of its own.
    case ignored(tag: String)

    package var isReadOnly: Bool {
        switch self {
        case .show, .empty, .ignored: true
        case .reload, .reads, .mirror, .force: false
        }
    }
}

/// What an operator orders of a mirror. Immutable, any thread.
package enum MirrorOrder: Equatable, Sendable {
    case pause, resume
    /// Of the first copy; 0: any.
    case throttle(rowsPerSecond: Int)
}

/// Where reads go that have both sides to go to, whatever the breaker finds; `auto`: the breaker decides.
package enum ForceOrder: String, Equatable, Sendable, CaseIterable { case old, new, auto }

/// Text to command. Pure, any thread.
package enum ConsoleParser {
    package enum Failure: Error, Equatable, Sendable {
        case unknownCommand(String)
        case unknownSubject(String)
        case usage(String)
    }

    package static let commandBytesMax = 10_000

    package static func parse(_ text: String) throws(Failure) -> ConsoleCommand {
        if text.utf8.count > commandBytesMax { throw .usage("a console command is at most \(commandBytesMax) bytes") }
        let words = try split(text)
        guard let verb = words.first else { return .empty }
        switch verb.lowercased() {
        case "show":
            guard words.count == 2 else { throw .usage("SHOW \(ConsoleCommand.Subject.usage)") }
            guard let subject = ConsoleCommand.Subject(rawValue: words[1].lowercased()) else {
                throw .unknownSubject(words[1])
            }
            return .show(subject)
        case "reload":
            guard words.count == 1 else { throw .usage("RELOAD") }
            return .reload
        case "reads":
            guard words.count == 3, let hundredths = percent(words[2]) else {
                throw .usage("READS <database> <percent from 0 to 100, in steps of 0.01>")
            }
            return .reads(database: words[1], hundredths: hundredths)
        case "mirror":
            return try mirror(words)
        case "force":
            guard words.count == 3, let order = ForceOrder(rawValue: words[2].lowercased()) else {
                throw .usage("FORCE <database> OLD|NEW|AUTO")
            }
            return .force(database: words[1], order)
        case "set":
            return .ignored(tag: "SET")
        default:
            throw .unknownCommand(verb)
        }
    }

    private static func mirror(_ words: [String]) throws(Failure) -> ConsoleCommand {
        let usage = "MIRROR PAUSE|RESUME <database>, or MIRROR THROTTLE <database> <rows a second; 0: any>"
        guard words.count >= 3 else { throw .usage(usage) }
        switch (words[1].lowercased(), words.count) {
        case ("pause", 3): return .mirror(database: words[2], .pause)
        case ("resume", 3): return .mirror(database: words[2], .resume)
        case ("throttle", 4):
            guard words[3].utf8.count <= 9, words[3].utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }),
                let rows = Int(words[3])
            else { throw .usage(usage) }
            return .mirror(database: words[2], .throttle(rowsPerSecond: rows))
        default: throw .usage(usage)
        }
    }

    /// `12.34` to 1234, exactly; an optional `%` behind it.
    package static func percent(_ text: String) -> Int? {
        var digits = text[...]
        if digits.hasSuffix("%") { digits = digits.dropLast() }
        let parts = digits.split(separator: ".", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count), (1...3).contains(parts[0].count),
            parts.allSatisfy({ $0.utf8.allSatisfy { $0 >= 0x30 && $0 <= 0x39 } }),
            let whole = Int(parts[0])
        else { return nil }
        var hundredths = whole * 100
        if parts.count == 2 {
            guard (1...2).contains(parts[1].count), let fraction = Int(parts[1]) else { return nil }
            hundredths += parts[1].count == 1 ? fraction * 10 : fraction
        }
        return hundredths <= 10_000 ? hundredths : nil
    }

    /// Words by blanks; a double-quoted word may hold anything, `""` is one quote; comments and semicolons are dropped.
    private static func split(_ text: String) throws(Failure) -> [String] {
        var words: [String] = []
        var word: String?
        var characters = text[...]
        func finish() {
            if let ended = word { words.append(ended) }
            word = nil
        }
        while let character = characters.popFirst() {
            switch character {
            case " ", "\t", "\n", "\r", "\r\n", ";":
                finish()
            case "\"":
                var quoted = word ?? ""
                while true {
                    guard let next = characters.popFirst() else { throw .usage("a double quote is not closed") }
                    if next == "\"" {
                        guard characters.first == "\"" else { break }
                        characters.removeFirst()
                    }
                    quoted.append(next)
                }
                word = quoted
            case "-" where characters.first == "-" && word == nil:
                characters = characters.drop { !$0.isNewline }
            default:
                word = (word ?? "") + String(character)
            }
        }
        finish()
        return words
    }
}

extension ConsoleCommand.Subject {
    /// `POOLS|CLIENTS|…`
    package static var usage: String { allCases.map { $0.rawValue.uppercased() }.joined(separator: "|") }
}
