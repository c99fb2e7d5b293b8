/// Writes metrics in Prometheus' text format 0.0.4. A value, one owner.
///
/// A family is begun once and has its samples right behind it, as the format asks. Its names are ours, so a wrong one
/// is a bug; label values come from outside and are escaped.
package struct ExpositionWriter {
    package enum Kind: String { case counter, gauge, histogram }

    /// What HTTP calls the format.
    package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    package private(set) var bytes: [UInt8] = []
    private var family = ""
    private var families: Set<String> = []
    /// Of the histogram that was written last: all have the same.
    private var boundTexts: (bounds: [Double], texts: [[UInt8]]) = ([], [])

    package init() { bytes.reserveCapacity(64 * 1024) }

    /// - Parameter help: one sentence for the operator.
    package mutating func begin(_ name: String, _ kind: Kind, _ help: String) {
        precondition(Self.isName(name), "not a name of a metric")
        // Each name is written out in the program, so tests meet every one; hashing them cost a tenth of an answer.
        assert(families.insert(name).inserted, "a family that is begun twice")
        family = name
        append("# HELP ")
        append(name)
        append(" ")
        appendEscaped(help, quotes: false)
        append("\n# TYPE ")
        append(name)
        append(" ")
        append(kind.rawValue)
        append("\n")
    }

    /// One sample of the family that was begun last.
    package mutating func sample(_ labels: [(String, String)] = [], _ value: UInt64) {
        line("", labels, value)
    }

    package mutating func sample(_ labels: [(String, String)] = [], _ value: Double) {
        line("", labels, Self.text(value))
    }

    /// - Parameters:
    ///   - counts: of each bucket alone, one more than `bounds`: the last is of what is above them all.
    ///   - bounds: the buckets' upper ends, rising.
    ///   - sum: of all observations, in the unit of `bounds`.
    package mutating func histogram(
        _ labels: [(String, String)], counts: ArraySlice<UInt64>, bounds: [Double], sum: Double
    ) {
        precondition(counts.count == bounds.count + 1, "a histogram without a bucket for what is above all bounds")
        precondition(!family.isEmpty, "a sample without a family")
        var total: UInt64 = 0
        // Most lines of an answer are these: what they share is written once, and copied.
        let start = bytes.count
        head("_bucket", labels)
        append(labels.isEmpty ? "{le=\"" : ",le=\"")
        let shared = Array(bytes[start...])
        bytes.removeLast(shared.count)
        if boundTexts.bounds != bounds {
            // What follows the shared part, up to the number.
            boundTexts = (bounds, (bounds.map(Self.text) + ["+Inf"]).map { Array("\($0)\"} ".utf8) })
        }
        // Without an iterator over both: unspecialized, it cost more than all else here.
        for place in boundTexts.texts.indices {
            total += counts[counts.startIndex + place]
            bytes.append(contentsOf: shared)
            bytes.append(contentsOf: boundTexts.texts[place])
            append(total)
            bytes.append(UInt8(ascii: "\n"))
        }
        line("_sum", labels, Self.text(sum))
        line("_count", labels, total)
    }

    private mutating func append(_ text: String) {
        var text = text
        text.withUTF8 { bytes.append(contentsOf: $0) }
    }

    private mutating func append(_ number: UInt64) {
        let start = bytes.count
        var rest = number
        repeat {
            bytes.append(UInt8(ascii: "0") + UInt8(rest % 10))
            rest /= 10
        } while rest > 0
        var (low, high) = (start, bytes.count - 1)
        while low < high {
            bytes.swapAt(low, high)
            (low, high) = (low + 1, high - 1)
        }
    }

    private mutating func line(_ suffix: String, _ labels: [(String, String)], _ value: String) {
        begin(line: suffix, labels)
        append(value)
        bytes.append(UInt8(ascii: "\n"))
    }

    private mutating func line(_ suffix: String, _ labels: [(String, String)], _ value: UInt64) {
        begin(line: suffix, labels)
        append(value)
        bytes.append(UInt8(ascii: "\n"))
    }

    /// All but the value.
    private mutating func begin(line suffix: String, _ labels: [(String, String)]) {
        precondition(!family.isEmpty, "a sample without a family")
        head(suffix, labels)
        if !labels.isEmpty { bytes.append(UInt8(ascii: "}")) }
        bytes.append(UInt8(ascii: " "))
    }

    /// The name and the labels, without the closing bracket.
    private mutating func head(_ suffix: String, _ labels: [(String, String)]) {
        append(family)
        append(suffix)
        for (index, label) in labels.enumerated() {
            bytes.append(UInt8(ascii: index == 0 ? "{" : ","))
            append(label.0)
            append("=\"")
            appendEscaped(label.1, quotes: true)
            bytes.append(UInt8(ascii: "\""))
        }
    }

    private mutating func appendEscaped(_ text: String, quotes: Bool) {
        let isPlain = text.utf8.allSatisfy { byte in
            byte != UInt8(ascii: "\\") && byte != UInt8(ascii: "\n") && byte != UInt8(ascii: "\"")
        }
        if isPlain { return append(text) }
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\\"): bytes.append(contentsOf: "\\\\".utf8)
            case UInt8(ascii: "\n"): bytes.append(contentsOf: "\\n".utf8)
            case UInt8(ascii: "\"") where quotes: bytes.append(contentsOf: "\\\"".utf8)
            default: bytes.append(byte)
            }
        }
    }

    private static func text(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value > 0 ? "+Inf" : "-Inf" }
        return "\(value)"
    }

    private static func isName(_ name: String) -> Bool {
        guard let first = name.utf8.first, !(0x30...0x39).contains(first) else { return false }
        return name.utf8.allSatisfy { byte in
            byte == UInt8(ascii: "_") || (0x30...0x39).contains(byte) || (0x61...0x7A).contains(byte | 0x20)
        }
    }
}
