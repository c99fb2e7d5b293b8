/// A regular expression, or a glob, that is matched in time proportional to the text whatever the pattern is: all its
/// states advance together, nothing is ever tried again. Immutable, any thread; equal when written equally.
///
/// Known: literals, `.`, `[a-z]`, `[^…]`, `\d \w \s \D \W \S`, `\t \n \r`, `^ $`, `( ) (?: ) |`, `* + ? {m,n}`, and
/// `(?i)` at the front. A regular expression matches anywhere, a glob (`*` and `?`) the whole text. A dot, a question mark and
/// a negated class take one UTF-8 character; classes hold ASCII only. No look-around, no back references.
package struct LinearPattern: Sendable, Equatable, CustomStringConvertible {
    package enum Failure: Error, Equatable, Sendable, CustomStringConvertible {
        case unclosed(String)
        case unknown(String)
        case nothingToRepeat
        case repeatsTooOften(max: Int)
        case nestedTooDeeply(max: Int)
        case tooLong(max: Int)

        package var description: String {
            switch self {
            case .unclosed(let what): "\(what) is not closed"
            case .unknown(let what): "\(what) is not known here"
            case .nothingToRepeat: "there is nothing to repeat"
            case .repeatsTooOften(let max): "a repetition is at most \(max) times"
            case .nestedTooDeeply(let max): "brackets are nested deeper than \(max)"
            case .tooLong(let max): "it becomes longer than \(max) steps"
            }
        }
    }

    package static let stepsMax = 500
    package static let repeatsMax = 100
    package static let depthMax = 50

    /// A set of bytes.
    struct Bytes: Sendable, Equatable {
        var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

        mutating func insert(_ byte: UInt8) {
            let bit: UInt64 = 1 << UInt64(byte & 63)
            switch byte >> 6 {
            case 0: words.0 |= bit
            case 1: words.1 |= bit
            case 2: words.2 |= bit
            default: words.3 |= bit
            }
        }

        func contains(_ byte: UInt8) -> Bool {
            let bit: UInt64 = 1 << UInt64(byte & 63)
            switch byte >> 6 {
            case 0: return words.0 & bit != 0
            case 1: return words.1 & bit != 0
            case 2: return words.2 & bit != 0
            default: return words.3 & bit != 0
            }
        }

        static func == (left: Bytes, right: Bytes) -> Bool { left.words == right.words }
    }

    enum Step: Sendable, Equatable {
        case byte(Bytes)
        case fork(Int, Int)
        case jump(Int)
        case atStart
        case atEnd
        case match
    }

    /// As written.
    package let source: String
    package let isGlob: Bool
    private let steps: [Step]

    package var description: String { source }

    package init(regex source: String) throws(Failure) {
        self.source = source
        isGlob = false
        var compiler = PatternCompiler(source)
        steps = try compiler.regex()
    }

    package init(glob source: String) throws(Failure) {
        self.source = source
        isGlob = true
        var compiler = PatternCompiler(source)
        steps = try compiler.glob()
    }

    package static func == (left: LinearPattern, right: LinearPattern) -> Bool {
        left.source == right.source && left.isGlob == right.isGlob
    }

    // MARK: matching

    package func matches(_ text: [UInt8]) -> Bool { text.withUnsafeBytes { matches($0) } }
    package func matches(_ text: String) -> Bool { matches(Array(text.utf8)) }

    /// Time: the text's length times the pattern's, at the very worst. Memory: the pattern's length.
    package func matches(_ text: UnsafeRawBufferPointer) -> Bool {
        var run = Run(count: steps.count)
        for position in 0...text.count {
            if !isGlob || position == 0 { run.add(0, steps, isStart: position == 0, isEnd: position == text.count) }
            if run.hasMatched { return true }
            if position == text.count { return false }
            if run.current.isEmpty && isGlob { return false }
            run.advance(text[position], steps, isEnd: position + 1 == text.count)
            if run.hasMatched { return true }
        }
        return false
    }

    /// The states the pattern is in; each at most once.
    private struct Run {
        var current: [Int] = []
        var next: [Int] = []
        var seen: [Int]
        var mark = 1
        var pending: [Int] = []
        var hasMatched = false

        init(count: Int) { seen = Array(repeating: 0, count: count) }

        mutating func advance(_ byte: UInt8, _ steps: [Step], isEnd: Bool) {
            swap(&current, &next)
            current.removeAll(keepingCapacity: true)
            mark += 1
            for place in next {
                if case .byte(let set) = steps[place], set.contains(byte) {
                    add(place + 1, steps, isStart: false, isEnd: isEnd)
                }
            }
        }

        mutating func add(_ place: Int, _ steps: [Step], isStart: Bool, isEnd: Bool) {
            pending.append(place)
            while let place = pending.popLast() {
                if seen[place] == mark { continue }
                seen[place] = mark
                switch steps[place] {
                case .byte: current.append(place)
                case .fork(let one, let other): pending += [one, other]
                case .jump(let target): pending.append(target)
                case .atStart: if isStart { pending.append(place + 1) }
                case .atEnd: if isEnd { pending.append(place + 1) }
                case .match: hasMatched = true
                }
            }
        }
    }
}

/// From a pattern's text to its steps. Lives within one call.
private struct PatternCompiler {
    private typealias Step = LinearPattern.Step

    private let text: [UInt8]
    private var position = 0
    private var ignoresCase = false

    init(_ source: String) { text = Array(source.utf8) }

    mutating func regex() throws(LinearPattern.Failure) -> [LinearPattern.Step] {
        if text.starts(with: "(?i)".utf8) {
            ignoresCase = true
            position = 4
        }
        let steps = try alternatives(depth: 0)
        if position < text.count { throw .unknown("')'") }
        return try checked(steps + [.match])
    }

    mutating func glob() throws(LinearPattern.Failure) -> [LinearPattern.Step] {
        var steps: [Step] = []
        for byte in text {
            switch byte {
            case UInt8(ascii: "*"): steps += moved(repeated(character(except: .init()), 0, nil), steps.count)
            case UInt8(ascii: "?"): steps += moved(character(except: .init()), steps.count)
            default: steps.append(single(byte))
            }
        }
        return try checked(steps + [.atEnd, .match])
    }

    private func checked(_ steps: [Step]) throws(LinearPattern.Failure) -> [Step] {
        if steps.count > LinearPattern.stepsMax { throw .tooLong(max: LinearPattern.stepsMax) }
        return steps
    }

    // MARK: grammar; steps hold targets relative to their own piece, `moved` shifts them

    private mutating func alternatives(depth: Int) throws(LinearPattern.Failure) -> [Step] {
        if depth > LinearPattern.depthMax { throw .nestedTooDeeply(max: LinearPattern.depthMax) }
        var all = try sequence(depth: depth)
        while peek == UInt8(ascii: "|") {
            position += 1
            let other = try sequence(depth: depth)
            let left = [Step.fork(1, all.count + 2)] + moved(all, 1) + [.jump(all.count + other.count + 2)]
            all = try checked(left + moved(other, left.count))
        }
        return all
    }

    private mutating func sequence(depth: Int) throws(LinearPattern.Failure) -> [Step] {
        var all: [Step] = []
        while let byte = peek, byte != UInt8(ascii: "|"), byte != UInt8(ascii: ")") {
            let piece = try repetition(of: try atom(depth: depth))
            all = try checked(all + moved(piece, all.count))
        }
        return all
    }

    private mutating func atom(depth: Int) throws(LinearPattern.Failure) -> [Step] {
        guard let byte = peek else { return [] }
        position += 1
        switch byte {
        case UInt8(ascii: "."): return character(except: .init())
        case UInt8(ascii: "^"): return [.atStart]
        case UInt8(ascii: "$"): return [.atEnd]
        case UInt8(ascii: "["): return try bracket()
        case UInt8(ascii: "\\"): return try escape()
        case UInt8(ascii: "*"), UInt8(ascii: "+"), UInt8(ascii: "?"), UInt8(ascii: "{"): throw .nothingToRepeat
        case UInt8(ascii: "("):
            if peek == UInt8(ascii: "?") {
                guard position + 1 < text.count, text[position + 1] == UInt8(ascii: ":") else { throw .unknown("'(?'") }
                position += 2
            }
            let inner = try alternatives(depth: depth + 1)
            guard peek == UInt8(ascii: ")") else { throw .unclosed("'('") }
            position += 1
            return inner
        default: return [single(byte)]
        }
    }

    private mutating func repetition(of piece: [Step]) throws(LinearPattern.Failure) -> [Step] {
        var piece = piece
        while let byte = peek {
            switch byte {
            case UInt8(ascii: "*"): piece = repeated(piece, 0, nil)
            case UInt8(ascii: "+"): piece = repeated(piece, 1, nil)
            case UInt8(ascii: "?"): piece = repeated(piece, 0, 1)
            case UInt8(ascii: "{"):
                let (least, most) = try counts()
                let size = piece.count * max(least, most ?? least)
                if size > LinearPattern.stepsMax { throw .tooLong(max: LinearPattern.stepsMax) }
                piece = repeated(piece, least, most)
                position -= 1
            default: return piece
            }
            position += 1
            // Which of several matches is found first does not matter here.
            if peek == UInt8(ascii: "?") { position += 1 }
            _ = try checked(piece)
        }
        return piece
    }

    /// `{m}`, `{m,}` or `{m,n}`; goes to behind the brace.
    private mutating func counts() throws(LinearPattern.Failure) -> (Int, Int?) {
        guard let close = text[position...].firstIndex(of: UInt8(ascii: "}")) else { throw .unclosed("'{'") }
        let parts = String(decoding: text[(position + 1)..<close], as: UTF8.self)
            .split(separator: ",", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count), let least = Int(parts[0]), least >= 0 else { throw .unknown("'{'") }
        var most: Int? = least
        if parts.count == 2 {
            most = Int(parts[1])
            if most == nil && !parts[1].isEmpty { throw .unknown("'{'") }
        }
        if let most, most < least { throw .unknown("'{'") }
        if max(least, most ?? 0) > LinearPattern.repeatsMax { throw .repeatsTooOften(max: LinearPattern.repeatsMax) }
        position = close + 1
        return (least, most)
    }

    // MARK: pieces

    private func repeated(_ piece: [Step], _ least: Int, _ most: Int?) -> [Step] {
        var all: [Step] = []
        for _ in 0..<least { all += moved(piece, all.count) }
        guard let most else {
            let start = all.count
            return all + [.fork(start + 1, start + piece.count + 2)] + moved(piece, start + 1) + [.jump(start)]
        }
        for _ in least..<max(least, most) {
            let start = all.count
            all += [.fork(start + 1, start + piece.count + 1)] + moved(piece, start + 1)
        }
        return all
    }

    private func moved(_ piece: [Step], _ distance: Int) -> [Step] {
        piece.map { step in
            switch step {
            case .fork(let one, let other): .fork(one + distance, other + distance)
            case .jump(let target): .jump(target + distance)
            case .byte, .atStart, .atEnd, .match: step
            }
        }
    }

    private func single(_ byte: UInt8) -> Step {
        var set = LinearPattern.Bytes()
        set.insert(byte)
        if ignoresCase, (byte | 0x20) &- 0x61 < 26 { set.insert(byte ^ 0x20) }
        return .byte(set)
    }

    /// One UTF-8 character that does not begin with any of these: a first byte, and those that continue it.
    private func character(except excluded: LinearPattern.Bytes) -> [Step] {
        var first = LinearPattern.Bytes()
        var more = LinearPattern.Bytes()
        for byte in UInt8.min...UInt8.max {
            if byte & 0xC0 == 0x80 { more.insert(byte) } else if !excluded.contains(byte) { first.insert(byte) }
        }
        return [.byte(first), .fork(2, 4), .byte(more), .jump(1)]
    }

    private mutating func escape() throws(LinearPattern.Failure) -> [Step] {
        guard let byte = peek else { throw .unclosed("'\\'") }
        position += 1
        if let (set, isNegated) = named(byte) { return isNegated ? character(except: set) : [.byte(set)] }
        guard let plain = plain(byte) else { throw .unknown("'\\\(Character(Unicode.Scalar(byte)))'") }
        return [single(plain)]
    }

    private func plain(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "t"): 0x09
        case UInt8(ascii: "n"): 0x0A
        case UInt8(ascii: "r"): 0x0D
        default: (byte | 0x20) &- 0x61 < 26 || byte &- 0x30 < 10 || byte >= 0x80 ? nil : byte
        }
    }

    private func named(_ byte: UInt8) -> (LinearPattern.Bytes, isNegated: Bool)? {
        var set = LinearPattern.Bytes()
        for member in UInt8.min..<0x80 {
            let isIn: Bool
            switch byte | 0x20 {
            case UInt8(ascii: "d"): isIn = member &- 0x30 < 10
            case UInt8(ascii: "w"): isIn = (member | 0x20) &- 0x61 < 26 || member &- 0x30 < 10 || member == 0x5F
            case UInt8(ascii: "s"): isIn = member == 0x20 || (0x09...0x0D).contains(member)
            default: return nil
            }
            if isIn { set.insert(member) }
        }
        return (set, byte & 0x20 == 0)
    }

    private mutating func bracket() throws(LinearPattern.Failure) -> [Step] {
        var set = LinearPattern.Bytes()
        let isNegated = peek == UInt8(ascii: "^")
        if isNegated { position += 1 }
        var isFirst = true
        while let byte = peek, byte != UInt8(ascii: "]") || isFirst {
            isFirst = false
            position += 1
            var low = byte
            if byte == UInt8(ascii: "\\") {
                guard let escaped = peek else { throw .unclosed("'['") }
                position += 1
                if let (members, isOutside) = named(escaped) {
                    if isOutside { throw .unknown("a negated class within '['") }
                    for member in UInt8.min..<0x80 where members.contains(member) { set.insert(member) }
                    continue
                }
                guard let plain = plain(escaped) else { throw .unknown("an escape within '['") }
                low = plain
            }
            if low >= 0x80 { throw .unknown("a character beyond ASCII within '['") }
            var high = low
            if peek == UInt8(ascii: "-"), position + 1 < text.count, text[position + 1] != UInt8(ascii: "]") {
                high = text[position + 1]
                position += 2
                if high < low || high >= 0x80 { throw .unknown("a range within '['") }
            }
            for member in low...high {
                set.insert(member)
                if ignoresCase, (member | 0x20) &- 0x61 < 26 { set.insert(member ^ 0x20) }
            }
        }
        guard peek == UInt8(ascii: "]") else { throw .unclosed("'['") }
        position += 1
        return isNegated ? character(except: set) : [.byte(set)]
    }

    private var peek: UInt8? { position < text.count ? text[position] : nil }
}
