import Digests
import Glibc

/// Stands in for values by others of the same kind and length: the same value always by the same one, under a key that
/// is nowhere written down. One thread.
///
/// Kinds are told by the value's own form: whole numbers stay whole numbers of as many digits (and within the integer
/// type that the value fits), dates and times stay dates and times, UUIDs stay UUIDs; in all other texts each letter
/// becomes a letter and each digit a digit, and blanks and marks stay. true, false and null stay.
struct Pseudonyms {
    private let key: [UInt8]
    private let numbers: NumberPermutation
    private var known: [[UInt8]: [UInt8]] = [:]
    private static let knownMax = 20_000
    private static let knownBytesMax = 256

    init(key: [UInt8]) {
        self.key = key
        numbers = NumberPermutation(key: Digest.hmacSHA256(key: key, Array("whole numbers".utf8)))
    }

    mutating func of(_ value: [UInt8]) -> [UInt8] {
        if let found = known[value] { return found }
        let made = make(value)
        if value.count <= Self.knownBytesMax {
            if known.count >= Self.knownMax { known.removeAll(keepingCapacity: true) }
            known[value] = made
        }
        return made
    }

    private static let kept: Set<[UInt8]> = Set(
        ["true", "false", "null", "t", "f", "on", "off", "yes", "no", "now", "today", "infinity", "-infinity", "nan"]
            .map { Array($0.utf8) })

    private func make(_ value: [UInt8]) -> [UInt8] {
        if value.isEmpty || Self.kept.contains(value.map { Form.lower($0) }) { return value }
        var stream = PseudonymStream(key: key, value: value)
        let digits = value.first == UInt8(ascii: "-") ? value.dropFirst() : value[...]
        if !digits.isEmpty, digits.allSatisfy(Form.isDigit) {
            return (digits.count < value.count ? [UInt8(ascii: "-")] : []) + integer(Array(digits), &stream)
        }
        if let moment = Form.moment(value, &stream) { return moment }
        return text(value, &stream)
    }

    /// As many digits, not the same ones, within the smallest of int2, int4, int8 and numeric that has room for it;
    /// each number by another one, so that keys stay unique.
    private func integer(_ digits: [UInt8], _ stream: inout PseudonymStream) -> [UInt8] {
        if digits[0] == UInt8(ascii: "0") && digits.count > 1 {
            guard digits.count <= 19, let value = UInt64(String(decoding: digits, as: UTF8.self)) else {
                return otherDigits(digits, &stream)
            }
            let range = 0...(Self.power(digits.count - 1) - 1)
            let made = Array(String(numbers.image(of: value, in: range)).utf8)
            return [UInt8](repeating: UInt8(ascii: "0"), count: digits.count - made.count) + made
        }
        guard digits.count <= 19, let value = UInt64(String(decoding: digits, as: UTF8.self)) else {
            return otherDigits(digits, &stream)
        }
        let floor = digits.count == 1 ? 0 : Self.power(digits.count - 1)
        let ceiling = digits.count == 1 ? 9 : floor - 1 + floor * 9
        for most in [UInt64(Int16.max), UInt64(Int32.max), UInt64(Int64.max)] where floor < most && most < ceiling {
            let range = value <= most ? floor...most : (most + 1)...ceiling
            return Array(String(numbers.image(of: value, in: range)).utf8)
        }
        return Array(String(numbers.image(of: value, in: floor...ceiling)).utf8)
    }

    private static func power(_ exponent: Int) -> UInt64 { (0..<exponent).reduce(1) { power, _ in power * 10 } }

    private func otherDigits(_ digits: [UInt8], _ stream: inout PseudonymStream) -> [UInt8] {
        var made = digits
        repeat {
            for index in made.indices { made[index] = stream.digit() }
            // A number stays as long as it is.
            if digits[0] != UInt8(ascii: "0") && digits.count > 1 {
                made[0] = UInt8(ascii: "1") + UInt8(stream.word() % 9)
            }
        } while made == digits
        return made
    }

    /// - Returns: as many bytes; what gives a text its form stays.
    private func text(_ value: [UInt8], _ stream: inout PseudonymStream) -> [UInt8] {
        let isUUID = Form.isUUID(value)
        let isInterval = Form.isInterval(value)
        let isJSON = value.first == UInt8(ascii: "{") || value.first == UInt8(ascii: "[")
        var made = value
        var index = 0
        while index < value.count {
            let end = Form.wordEnd(value, from: index)
            if end > index {
                let word = Array(value[index..<end])
                let isKept = isJSON && Self.kept.contains(word) && word.count > 3
                    || isInterval && !Form.isDigit(word[0])
                if !isKept {
                    repeat {
                        for place in index..<end { made[place] = stream.replacement(of: value[place], isHex: isUUID) }
                        if isJSON, Form.isDigit(value[index]), value[index] != UInt8(ascii: "0") {
                            made[index] = UInt8(ascii: "1") + UInt8(stream.word() % 9)
                        }
                    } while made[index..<end].elementsEqual(word)
                }
                index = end
            } else {
                // `\n` and its kin mean something.
                if value[index] == UInt8(ascii: "\\") && index + 1 < value.count { index += 1 }
                index += 1
            }
        }
        return made
    }
}

/// Bytes that follow from a key and a value.
struct PseudonymStream {
    private let key: [UInt8]
    private var block: [UInt8]
    private var place = 0

    init(key: [UInt8], value: [UInt8]) {
        self.key = key
        block = Digest.hmacSHA256(key: key, value)
    }

    mutating func byte() -> UInt8 {
        if place == block.count {
            block = Digest.hmacSHA256(key: key, block)
            place = 0
        }
        place += 1
        return block[place - 1]
    }

    mutating func word() -> UInt64 {
        var value: UInt64 = 0
        for _ in 0..<8 { value = value << 8 | UInt64(byte()) }
        return value
    }

    mutating func digit() -> UInt8 { UInt8(ascii: "0") + UInt8((UInt16(byte()) << 8 | UInt16(byte())) % 10) }

    /// - Parameter isHex: letters are digits to the base of 16.
    mutating func replacement(of byte: UInt8, isHex: Bool) -> UInt8 {
        let chosen = UInt16(self.byte()) << 8 | UInt16(self.byte())
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): return UInt8(ascii: "0") + UInt8(chosen % 10)
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): return UInt8(ascii: "A") + UInt8(chosen % (isHex ? 6 : 26))
        // Letters beyond ASCII become as many letters within it.
        default: return UInt8(ascii: "a") + UInt8(chosen % (isHex ? 6 : 26))
        }
    }
}

/// What a value looks like. Pure.
enum Form {
    static func isDigit(_ byte: UInt8) -> Bool { byte &- UInt8(ascii: "0") < 10 }
    static func lower(_ byte: UInt8) -> UInt8 { byte &- UInt8(ascii: "A") < 26 ? byte | 0x20 : byte }

    static func isLetter(_ byte: UInt8) -> Bool { lower(byte) &- UInt8(ascii: "a") < 26 || byte >= 0x80 }

    /// Behind the run of letters and digits that begins here.
    static func wordEnd(_ value: [UInt8], from start: Int) -> Int {
        var end = start
        while end < value.count, isDigit(value[end]) || isLetter(value[end]) { end += 1 }
        return end
    }

    static func isUUID(_ value: [UInt8]) -> Bool {
        value.count == 36 && value.enumerated().allSatisfy { index, byte in
            [8, 13, 18, 23].contains(index)
                ? byte == UInt8(ascii: "-") : isDigit(byte) || lower(byte) &- UInt8(ascii: "a") < 6
        }
    }

    private static let units: Set<String> = [
        "microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "year", "decade", "century",
        "sec", "min", "mon", "ms", "us", "s", "m", "h", "d", "w", "y", "ago", "centurie",
    ]

    /// `1 day`, `2 hours 30 min`, `30s`: numbers, and units of time.
    static func isInterval(_ value: [UInt8]) -> Bool {
        if value.count > 64 || !value.contains(where: isDigit) { return false }
        var hasUnit = false
        for word in String(decoding: value, as: UTF8.self).lowercased().split(whereSeparator: { $0 == " " }) {
            let unit = word.drop { $0.isNumber || $0 == "." || $0 == "-" || $0 == "+" }
            if unit.isEmpty { continue }
            let isPlural = unit.count > 1 && unit.last == "s"
            guard units.contains(String(unit)) || isPlural && units.contains(String(unit.dropLast())) else {
                return false
            }
            hasUnit = true
        }
        return hasUnit
    }

    /// `2024-01-31`, `12:30:00.5`, both with a blank or T between, and a zone behind: other ones of that form.
    static func moment(_ value: [UInt8], _ stream: inout PseudonymStream) -> [UInt8]? {
        var made = value
        var place = 0
        func digits(_ count: Int, _ mark: Character?) -> Bool {
            guard place + count <= value.count, value[place..<(place + count)].allSatisfy(isDigit) else { return false }
            guard let mark else { return true }
            return place + count < value.count && value[place + count] == mark.asciiValue
        }
        func put(_ number: UInt64, _ count: Int) {
            let text = Array(String(number).utf8)
            let padded = [UInt8](repeating: UInt8(ascii: "0"), count: max(0, count - text.count)) + text
            for (index, digit) in padded.enumerated() { made[place + index] = digit }
            place += count + 1
        }
        if digits(4, "-") {
            put(1990 + stream.word() % 40, 4)
            guard digits(2, "-") else { return nil }
            put(1 + stream.word() % 12, 2)
            guard digits(2, nil) else { return nil }
            put(1 + stream.word() % 28, 2)
            place -= 1
            if place == value.count { return made }
            guard value[place] == UInt8(ascii: " ") || value[place] == UInt8(ascii: "T") else { return nil }
            place += 1
        }
        guard digits(2, ":") else { return nil }
        put(stream.word() % 24, 2)
        guard digits(2, nil) else { return nil }
        put(stream.word() % 60, 2)
        place -= 1
        if place < value.count, value[place] == UInt8(ascii: ":") {
            place += 1
            guard digits(2, nil) else { return nil }
            put(stream.word() % 60, 2)
            place -= 1
        }
        if place < value.count, value[place] == UInt8(ascii: ".") {
            place += 1
            while place < value.count, isDigit(value[place]) {
                made[place] = stream.digit()
                place += 1
            }
        }
        // A zone tells nothing: +02, +05:30, Z, UTC.
        return place == value.count || isZone(value[place...]) ? made : nil
    }

    private static func isZone(_ rest: ArraySlice<UInt8>) -> Bool {
        let text = String(decoding: rest, as: UTF8.self)
        if text == "Z" || text == " UTC" { return true }
        guard let sign = text.first, sign == "+" || sign == "-", rest.count <= 6 else { return false }
        return rest.dropFirst().allSatisfy { isDigit($0) || $0 == UInt8(ascii: ":") }
    }
}
