import PGWire
import Primitives
import Sessions
import Testing

@Suite struct UnitScannerTests {
    typealias Progress = UnitScanner.Progress

    private static func message(_ tag: Character, _ bodySize: Int = 0) -> [UInt8] {
        var writer = MessageWriter()
        writer.message(tag.asciiValue ?? 0) { $0.raw([UInt8](repeating: 0x20, count: bodySize)) }
        return writer.bytes
    }

    private static func stream(_ tags: String, _ bodySize: Int = 0) -> [UInt8] {
        tags.flatMap { message($0, bodySize) }
    }

    /// Everything that a scanner finds when the stream comes in pieces that end at `cuts`.
    private static func units(_ bytes: [UInt8], cuts: [Int]) -> (
        progress: [Progress], frames: [FrontendFrame]
    ) {
        var found: [Progress] = []
        var frames: [FrontendFrame] = []
        var scanner = UnitScanner()
        var base = 0
        for cut in cuts + [bytes.count] {
            scan: while base <= cut {
                let progress = bytes[base..<cut].withUnsafeBytes { raw in
                    scanner.scan(raw) {
                        frames.append(FrontendFrame(tag: $0.tag, start: $0.start + base, end: $0.end + base))
                    }
                }
                switch progress {
                case .needsMore:
                    break scan
                case .simple(let end), .functionCall(let end), .extended(let end, _), .stray(let end):
                    found.append(progress)
                    base += end
                    scanner = UnitScanner()
                case .terminate, .violation:
                    found.append(progress)
                    return (found, frames)
                }
            }
        }
        return (found, frames)
    }

    @Test(
        arguments: [
            ("Q", [.simple(end: 5)]), ("F", [.functionCall(end: 5)]),
            ("QQ", [.simple(end: 5), .simple(end: 5)]),
            ("PBDES", [.extended(end: 25, endsWithSync: true)]),
            ("S", [.extended(end: 5, endsWithSync: true)]),
            ("PBEHPS", [.extended(end: 20, endsWithSync: false), .extended(end: 10, endsWithSync: true)]),
            ("HHQ", [.simple(end: 15)]), ("PB", []), ("", []),
            ("CS", [.extended(end: 10, endsWithSync: true)]),
            ("PQ", [.extended(end: 5, endsWithSync: false), .simple(end: 5)]),
            ("PF", [.extended(end: 5, endsWithSync: false), .functionCall(end: 5)]),
            ("PX", [.extended(end: 5, endsWithSync: false), .terminate]), ("X", [.terminate]),
            ("QX", [.simple(end: 5), .terminate]),
            ("dcQ", [.stray(end: 5), .stray(end: 5), .simple(end: 5)]), ("f", [.stray(end: 5)]),
            ("PdS", [.extended(end: 15, endsWithSync: true)]), ("HdQ", [.simple(end: 15)]),
            ("p", [.violation(.unexpectedMessage(tag: 0x70))]),
            ("Qp", [.simple(end: 5), .violation(.unexpectedMessage(tag: 0x70))]),
            ("Z", [.violation(.unexpectedMessage(tag: 0x5A))]),
            ("PZ", [.violation(.unexpectedMessage(tag: 0x5A))]),
        ] as [(String, [UnitScanner.Progress])])
    func `a unit ends with a query, a Sync or a Flush`(tags: String, progress: [UnitScanner.Progress]) {
        #expect(Self.units(Self.stream(tags), cuts: []).progress == progress)
    }

    @Test(arguments: ["PBDESQPBEHPBESX", "HPHdcQSFCDESX", "dddfPBSQ", "PPBBEESQQp", "QQSSX"])
    func `every split of a stream gives the same units`(tags: String) {
        let bytes = Self.stream(tags, 3)
        let whole = Self.units(bytes, cuts: [])
        let single = Self.units(bytes, cuts: Array(0..<bytes.count))
        #expect(single.progress == whole.progress)
        #expect(single.frames == whole.frames)
        for first in 0..<bytes.count {
            for second in stride(from: first, to: bytes.count, by: 3) {
                let parts = Self.units(bytes, cuts: [first, second])
                #expect(parts.progress == whole.progress, "cut at \(first) and \(second)")
                #expect(parts.frames == whole.frames, "cut at \(first) and \(second)")
            }
        }
    }

    @Test(arguments: [51, 52, 53, 54] as [UInt64])
    func `random streams give the same units however they are cut`(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        for _ in 0..<200 {
            let tags = String((0..<12).map { _ in "QFPBDECSHdcf".randomElement(using: &random) ?? "Q" })
            let bytes = tags.flatMap { Self.message($0, Int.random(in: 0..<6, using: &random)) }
            let cuts = (0..<4).map { _ in Int.random(in: 0...bytes.count, using: &random) }.sorted()
            let whole = Self.units(bytes, cuts: [])
            let parts = Self.units(bytes, cuts: cuts)
            #expect(parts.progress == whole.progress, "seed \(seed), \(tags), \(cuts)")
            #expect(parts.frames == whole.frames, "seed \(seed), \(tags), \(cuts)")
        }
    }

    @Test func `a leftover of a COPY is nothing's beginning, also where its end has not come`() {
        #expect(Self.units(Array(Self.message("d", 100).dropLast()), cuts: [4, 5]).progress == [.stray(end: 105)])
    }

    @Test func `leftovers of a COPY are not visited`() {
        let frames = Self.units(Self.stream("dcfQ"), cuts: []).frames
        #expect(frames == [FrontendFrame(tag: FrontendTag.query, start: 15, end: 20)])
        #expect(frames.first?.bodyStart == 20)
    }

    @Test func `a batch is counted`() {
        var scanner = UnitScanner()
        #expect(scanner.batchCount == 0)
        Self.stream("PBE").withUnsafeBytes { raw in #expect(scanner.scan(raw) { _ in } == .needsMore) }
        #expect(scanner.batchCount == 3)
        #expect(scanner.offset == 15)
    }

    @Test(
        arguments: [
            ("Q", 3), ("Q", 0), ("Q", UInt32.max), ("Q", 0x4000_0000), ("S", 10_001), ("P", 0x8000_0000),
            ("d", 0), ("X", 3),
        ] as [(Character, UInt32)])
    func `a length out of range is a violation before a byte of the body came`(tag: Character, length: UInt32)
    {
        let code = tag.asciiValue ?? 0
        let bytes = [code] + [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: length >> UInt32($0)) }
        for cut in 0..<5 { #expect(Self.units(Array(bytes[..<cut]), cuts: []).progress == []) }
        #expect(
            Self.units(bytes, cuts: []).progress == [.violation(.lengthOutOfRange(tag: code, length: length))]
        )
    }

    @Test func `a huge message within its bound is waited for`() {
        #expect(Self.units([0x51, 0x3F, 0xFF, 0xFF, 0xFF, 0x20], cuts: []).progress == [])
    }

    @Test func `every type that a client may not send is a violation`() {
        for tag in UInt8.min...UInt8.max where !"QFPBDECSHXdcf".utf8.contains(tag) {
            #expect(
                Self.units([tag, 0, 0, 0, 4], cuts: []).progress == [.violation(.unexpectedMessage(tag: tag))]
            )
        }
    }
}
