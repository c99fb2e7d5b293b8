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
    private var boundTexts: (bounds: [Double], texts: [String]) = ([], [])

    package init() { bytes.reserveCapacity(64 * 1024) }

    /// - Parameter help: one sentence for the operator.
    package mutating func begin(_ name: String, _ kind: Kind, _ help: String) {
        precondition(Self.isName(name), "not a name of a metric")
        precondition(families.insert(name).inserted, "a family that is begun twice")
        family = name
        bytes.append(contentsOf: "# HELP \(name) ".utf8)
        appendEscaped(help, quotes: false)
        bytes.append(contentsOf: "\n# TYPE \(name) \(kind.rawValue)\n".utf8)
    }

    /// One sample of the family that was begun last.
    package mutating func sample(_ labels: [(String, String)] = [], _ value: UInt64) {
        line("", labels, "\(value)")
    }

    package mutating func sample(_ labels: [(String, String)] = [], _ value: Double) {
        line("", labels, Self.text(value))
    }

    /// - Parameters:
    ///   - counts: of each bucket alone, one more than `bounds`: the last is of what is above them all.
    ///   - bounds: the buckets' upper ends, rising.
    ///   - sum: of all observations, in the unit of `bounds`.
    package mutating func histogram(
        _ labels: [(String, String)], counts: some Collection<UInt64>, bounds: [Double], sum: Double
    ) {
        precondition(counts.count == bounds.count + 1, "a histogram without a bucket for what is above all bounds")
        precondition(!family.isEmpty, "a sample without a family")
        var total: UInt64 = 0
        // Most lines of an answer are these: what they share is written once, and copied.
        let start = bytes.count
        head("_bucket", labels)
        bytes.append(contentsOf: (labels.isEmpty ? "{le=\"" : ",le=\"").utf8)
        let shared = Array(bytes[start...])
        bytes.removeLast(shared.count)
        var texts: [String] = []
        if boundTexts.bounds == bounds { texts = boundTexts.texts } else { texts = bounds.map(Self.text) + ["+Inf"] }
        boundTexts = (bounds, texts)
        for (count, text) in zip(counts, texts) {
            total += count
            bytes.append(contentsOf: shared)
            bytes.append(contentsOf: text.utf8)
            bytes.append(contentsOf: "\"} ".utf8)
            append(total)
            bytes.append(UInt8(ascii: "\n"))
        }
        line("_sum", labels, Self.text(sum))
        line("_count", labels, "\(total)")
    }

    private mutating func append(_ number: UInt64) {
        var digits: [UInt8] = []
        var rest = number
        repeat {
            digits.append(UInt8(ascii: "0") + UInt8(rest % 10))
            rest /= 10
        } while rest > 0
        bytes.append(contentsOf: digits.reversed())
    }

    private mutating func line(_ suffix: String, _ labels: [(String, String)], _ value: String) {
        precondition(!family.isEmpty, "a sample without a family")
        head(suffix, labels)
        if !labels.isEmpty { bytes.append(UInt8(ascii: "}")) }
        bytes.append(UInt8(ascii: " "))
        bytes.append(contentsOf: value.utf8)
        bytes.append(UInt8(ascii: "\n"))
    }

    /// The name and the labels, without the closing bracket.
    private mutating func head(_ suffix: String, _ labels: [(String, String)]) {
        bytes.append(contentsOf: family.utf8)
        bytes.append(contentsOf: suffix.utf8)
        for (index, label) in labels.enumerated() {
            bytes.append(UInt8(ascii: index == 0 ? "{" : ","))
            bytes.append(contentsOf: label.0.utf8)
            bytes.append(contentsOf: "=\"".utf8)
            appendEscaped(label.1, quotes: true)
            bytes.append(UInt8(ascii: "\""))
        }
    }

    private mutating func appendEscaped(_ text: String, quotes: Bool) {
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
