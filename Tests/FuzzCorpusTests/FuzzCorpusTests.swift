import FuzzTargets
import Foundation
import Testing

/// Examples of everything that is fuzzed, and every input that was ever found to break it.
@Suite struct FuzzCorpusTests {
    private static let corpus = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "FuzzCorpus")

    @Test(arguments: FuzzTarget.allCases)
    func `nothing that is known breaks it`(target: FuzzTarget) throws {
        let folder = Self.corpus.appending(path: target.rawValue)
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        #expect(!names.isEmpty)
        for name in names {
            let bytes = [UInt8](try Data(contentsOf: folder.appending(path: name)))
            target.run(bytes)
            // Cut short anywhere, too; long ones at some places.
            for end in stride(from: 0, to: bytes.count, by: max(1, bytes.count / 16)) { target.run(Array(bytes[..<end])) }
        }
    }
}
