/// Text to command. Pure, any thread.
package enum ConsoleParser {
    package enum Failure: Error, Equatable, Sendable {
        case unknownCommand(String)
        case unknownSubject(String)
        case usage(String)
    }

    package static let commandBytesMax = 10_000
    /// Seconds; longer times are a mistake in the unit.
    package static let secondsMax = 86_400.0

    private typealias Word = ConsoleWords.Word

    package static func parse(_ text: String) throws(Failure) -> ConsoleCommand {
        if text.utf8.count > commandBytesMax { throw .usage("a console command is at most \(commandBytesMax) bytes") }
        let words = try ConsoleWords.split(text)
        guard let verb = words.first else { return .empty }
        let rest = words.dropFirst()
        switch verb.text.lowercased() {
        case "show": return try show(rest)
        case "set": return try set(rest)
        case "reload": return try alone(rest, "RELOAD", .reload)
        case "reads":
            let (database, hundredths) = try share(rest, of: "READS")
            return .reads(database: database, hundredths: hundredths)
        case "shadow":
            let (database, hundredths) = try share(rest, of: "SHADOW")
            return .shadow(database: database, hundredths: hundredths)
        case "mirror": return try mirror(rest)
        case "force":
            guard rest.count == 2, let database = rest.first, let side = rest.last,
                let order = ForceOrder(rawValue: side.lowercased)
            else { throw .usage("FORCE <database> OLD|NEW|AUTO") }
            return .force(database: database.text, order)
        case "cutover": return .switchOver(try switchOver(rest, toNew: true))
        case "rollback" where !rest.isEmpty: return .switchOver(try switchOver(rest, toNew: false))
        case "pause": return .gate(.pause(try pause(rest)))
        case "resume": return .gate(.resume(try scope(rest, "RESUME [<database>]")))
        case "disable": return .gate(.disable(try name(rest, "DISABLE <database>")))
        case "enable": return .gate(.enable(try name(rest, "ENABLE <database>")))
        case "reconnect": return .gate(.reconnect(try scope(rest, "RECONNECT [<database>]")))
        case "kill": return .gate(.kill(try scope(rest, "KILL [<database>]")))
        case "capture": return try CaptureCommand.parse(rest)
        case "kill_client": return .killClient(try name(rest, "KILL_CLIENT <id or ptr of SHOW CLIENTS>"))
        case "suspend":
            let (scope, limit) = try limited(rest, "SUSPEND [<seconds>]")
            guard scope == .everything else { throw .usage("SUSPEND [<seconds>]") }
            return .gate(.suspend(limit: limit))
        case "wait_close":
            let (scope, limit) = try limited(rest, "WAIT_CLOSE [<database>] [<seconds>]")
            return .gate(.waitClose(scope, limit: limit))
        case "shutdown": return .gate(.shutdown(try shutdown(rest)))
        case "begin", "commit", "rollback", "start", "discard", "deallocate":
            // Drivers put them around everything; the console has no transactions.
            let tag = verb.text.uppercased() == "START" ? "START TRANSACTION" : verb.text.uppercased()
            return .ignored(tag: tag)
        default: throw .unknownCommand(verb.text)
        }
    }

    // MARK: commands

    private static func alone(
        _ words: ArraySlice<Word>, _ usage: String, _ command: ConsoleCommand
    ) throws(Failure) -> ConsoleCommand {
        if words.isEmpty { return command }
        throw .usage(usage)
    }

    private static func name(_ words: ArraySlice<Word>, _ usage: String) throws(Failure) -> String {
        guard words.count == 1, let word = words.first else { throw .usage(usage) }
        return word.text
    }

    private static func scope(_ words: ArraySlice<Word>, _ usage: String) throws(Failure) -> GateScope {
        guard words.count <= 1 else { throw .usage(usage) }
        return GateScope(words.first?.text)
    }

    private static func show(_ words: ArraySlice<Word>) throws(Failure) -> ConsoleCommand {
        if words.map(\.lowercased) == ["time", "zone"] { return .showSetting(name: "timezone", value: "UTC") }
        guard words.count == 1, let word = words.first else { throw .usage("SHOW \(ConsoleCommand.Subject.usage)") }
        if let subject = ConsoleCommand.Subject(rawValue: word.text.lowercased()) { return .show(subject) }
        if let value = sessionSettings[word.text.lowercased()] {
            return .showSetting(name: word.text.lowercased(), value: value)
        }
        throw .unknownSubject(word.text)
    }

    private static func share(
        _ words: ArraySlice<Word>, of verb: String
    ) throws(Failure) -> (database: String, hundredths: Int) {
        guard words.count == 2, let database = words.first, let share = words.last, let hundredths = percent(share.text)
        else { throw .usage("\(verb) <database> <percent from 0 to 100, in steps of 0.01>") }
        return (database.text, hundredths)
    }

    private static func switchOver(_ words: ArraySlice<Word>, toNew: Bool) throws(Failure) -> SwitchCommand {
        let usage = "\(toNew ? "CUTOVER" : "ROLLBACK") <database> [DRY RUN] [DEADLINE <milliseconds>] [WITHOUT VERIFY] "
            + "[END PINNED]"
        var rest = words
        guard let database = rest.popFirst() else { throw .usage(usage) }
        var command = SwitchCommand(toNew: toNew, database: database.text)
        while let word = rest.popFirst() {
            guard let next = rest.popFirst() else { throw .usage(usage) }
            switch (word.lowercased, next.lowercased) {
            case ("dry", "run"): command.isDryRun = true
            case ("without", "verify"): command.waivesVerify = true
            case ("end", "pinned"): command.endsPinned = true
            case ("deadline", let number):
                guard number.utf8.count <= 5, number.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }),
                    let millis = Int(number), (1...SwitchCommand.deadlineMillisMax).contains(millis)
                else { throw .usage(usage) }
                command.deadlineMillis = millis
            default: throw .usage(usage)
            }
        }
        return command
    }

    private static func mirror(_ words: ArraySlice<Word>) throws(Failure) -> ConsoleCommand {
        let usage = "MIRROR PAUSE|RESUME <database>, or MIRROR THROTTLE <database> <rows a second; 0: any>"
        let words = words.map(\.text)
        guard words.count >= 2 else { throw .usage(usage) }
        switch (words[0].lowercased(), words.count) {
        case ("pause", 2): return .mirror(database: words[1], .pause)
        case ("resume", 2): return .mirror(database: words[1], .resume)
        case ("throttle", 3):
            guard words[2].utf8.count <= 9, words[2].utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }),
                let rows = Int(words[2])
            else { throw .usage(usage) }
            return .mirror(database: words[1], .throttle(rowsPerSecond: rows))
        default: throw .usage(usage)
        }
    }

    private static func pause(_ words: ArraySlice<Word>) throws(Failure) -> GateCommand.Pause {
        let usage = "PAUSE [<database>] [<seconds>] [WRITES] [KEEP] [FOR <seconds>]; quote a name that is also a word"
        var rest = words
        var pause = GateCommand.Pause(.everything)
        if let first = rest.first, first.isQuoted || seconds(first) == nil && !pauseWords.contains(first.lowercased) {
            pause.scope = GateScope(first.text)
            rest.removeFirst()
        }
        if let first = rest.first, let limit = seconds(first) {
            pause.limit = limit
            rest.removeFirst()
        }
        while let word = rest.popFirst() {
            switch word.isQuoted ? "" : word.lowercased {
            case "writes" where pause.hold == .all: pause.hold = .writes
            case "keep" where !pause.isKept: pause.isKept = true
            case "for" where pause.lifetime == nil:
                guard let next = rest.popFirst(), let lifetime = seconds(next), lifetime > 0 else {
                    throw .usage(usage)
                }
                pause.lifetime = lifetime
            default: throw .usage(usage)
            }
        }
        return pause
    }

    private static let pauseWords: Set<String> = ["writes", "keep", "for"]

    /// `[<database>] [<seconds>]`
    private static func limited(
        _ words: ArraySlice<Word>, _ usage: String
    ) throws(Failure) -> (GateScope, Double?) {
        var rest = words
        var scope = GateScope.everything
        if let first = rest.first, first.isQuoted || seconds(first) == nil {
            scope = GateScope(first.text)
            rest.removeFirst()
        }
        guard let word = rest.popFirst() else { return (scope, nil) }
        guard rest.isEmpty, let limit = seconds(word) else { throw .usage(usage) }
        return (scope, limit)
    }

    /// `5`, `0.5`; nil for anything else, and for what is quoted.
    private static func seconds(_ word: Word) -> Double? {
        guard !word.isQuoted, let first = word.text.utf8.first, (0x30...0x39).contains(first),
            word.text.utf8.allSatisfy({ (0x30...0x39).contains($0) || $0 == UInt8(ascii: ".") }),
            let value = Double(word.text), value <= secondsMax
        else { return nil }
        return value
    }

    private static func shutdown(_ words: ArraySlice<Word>) throws(Failure) -> GateCommand.Shutdown {
        let usage = "SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]"
        guard words.count <= 1 else { throw .usage(usage) }
        switch words.first?.lowercased {
        case nil: return .now
        case "wait_for_servers": return .waitForServers
        case "wait_for_clients": return .waitForClients
        default: throw .usage(usage)
        }
    }

    // MARK: SET

    /// What drivers and tools set of PostgreSQL's on connecting: taken and forgotten.
    private static let ignoredSettings: Set<String> = [
        "application_name", "bytea_output", "client_encoding", "client_min_messages", "datestyle",
        "default_transaction_isolation", "default_transaction_read_only", "extra_float_digits", "idle_session_timeout",
        "idle_in_transaction_session_timeout", "intervalstyle", "jit", "lc_messages", "lock_timeout", "names", "role",
        "search_path", "session", "standard_conforming_strings", "statement_timeout", "time", "timezone", "transaction",
    ]

    /// What drivers ask for of PostgreSQL's settings.
    private static let sessionSettings = [
        "client_encoding": "UTF8", "datestyle": "ISO, MDY", "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "off", "integer_datetimes": "on", "server_version": "15.0",
        "standard_conforming_strings": "on", "timezone": "UTC", "transaction_isolation": "read committed",
        "transaction_read_only": "off",
    ]

    private static func set(_ words: ArraySlice<Word>) throws(Failure) -> ConsoleCommand {
        let usage = "SET <key> = <value>; SHOW CONFIG has the keys"
        var rest = words
        if let scope = rest.first, !scope.isQuoted, ["session", "local"].contains(scope.lowercased), rest.count > 1 {
            rest.removeFirst()
        }
        guard let key = rest.popFirst() else { throw .usage(usage) }
        if !key.isQuoted && ignoredSettings.contains(key.lowercased) { return .ignored(tag: "SET") }
        guard let sign = rest.popFirst(), !sign.isQuoted, ["=", "to"].contains(sign.lowercased), !rest.isEmpty else {
            throw .usage(usage)
        }
        return .set(key: key.text, value: value(rest))
    }

    /// What stands in quotes behind a `=` of the value's own stays in quotes: a conninfo's password may hold blanks,
    /// and who hides it in events would take its first word for all of it.
    private static func value(_ words: ArraySlice<Word>) -> String {
        var parts: [String] = []
        var isBehindSign = false
        for word in words {
            if isBehindSign && word.isQuoted {
                let escaped = word.text.replacing("\\", with: "\\\\").replacing("'", with: "\\'")
                parts.append("'\(escaped)'")
            } else {
                parts.append(word.text)
            }
            isBehindSign = !word.isQuoted && word.text == "="
        }
        return parts.joined(separator: " ")
    }

    // MARK: numbers

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
}

/// A command's words. Pure, any thread.
enum ConsoleWords {
    struct Word: Equatable {
        var text: String
        var isQuoted: Bool
        var lowercased: String { text.lowercased() }
    }

    /// Words by blanks; what is in double quotes is a name and may hold anything, `""` is one quote; so is what is in
    /// single quotes behind `=` or TO, a value. `=` stands alone; comments are dropped, and semicolons at the end.
    static func split(_ text: String) throws(ConsoleParser.Failure) -> [Word] {
        var words: [Word] = []
        var word: Word?
        var hasEnded = false
        var characters = text[...]
        func finish() {
            if let ended = word { words.append(ended) }
            word = nil
        }
        while let character = characters.popFirst() {
            let isBlank = [" ", "\t", "\n", "\r", "\r\n"].contains(character)
            let isComment = character == "-" && characters.first == "-" && word == nil
            if hasEnded && !isBlank && !isComment && character != ";" { throw .usage("one command at a time") }
            switch character {
            case _ where isBlank:
                finish()
            case ";":
                finish()
                hasEnded = !words.isEmpty
            case "=":
                finish()
                words.append(Word(text: "=", isQuoted: false))
            case "\"":
                word = Word(text: (word?.text ?? "") + (try quoted(&characters, "\"")), isQuoted: true)
            case "'" where word == nil && isValueNext(words):
                word = Word(text: try quoted(&characters, "'"), isQuoted: true)
            case _ where isComment:
                characters = characters.drop { !$0.isNewline }
            default:
                word = Word(text: (word?.text ?? "") + String(character), isQuoted: word?.isQuoted ?? false)
            }
        }
        finish()
        return words
    }

    private static func isValueNext(_ words: [Word]) -> Bool {
        guard let last = words.last, !last.isQuoted else { return false }
        return last.text == "=" || last.lowercased == "to"
    }

    private static func quoted(
        _ characters: inout Substring, _ quote: Character
    ) throws(ConsoleParser.Failure) -> String {
        var text = ""
        while true {
            guard let next = characters.popFirst() else { throw .usage("a quote is not closed") }
            if next == quote {
                guard characters.first == quote else { return text }
                characters.removeFirst()
            }
            text.append(next)
        }
    }
}
