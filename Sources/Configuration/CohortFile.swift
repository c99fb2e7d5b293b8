import Digests
import Foundation

/// The keys of one file, one a line, as sorted 128-bit digests: 16 bytes a key, however long the keys are.
/// Immutable, any thread.
///
/// Exact for all purposes: of n keys in the file, a key that is not among them is taken for one with a chance of n in
/// 2^128, which for ten million keys is less than one in 10^31.
package struct CohortFile: Sendable, Equatable {
    package static let keysMax = 20_000_000
    /// Bytes of one line.
    package static let lineBytesMax = 1024

    package let path: String
    private let digests: [UInt128]

    package var count: Int { digests.count }

    package func contains(_ digest: UInt128) -> Bool {
        var low = 0
        var high = digests.count
        while low < high {
            let middle = (low + high) / 2
            if digests[middle] < digest { low = middle + 1 } else { high = middle }
        }
        return low < digests.count && digests[low] == digest
    }

    /// A mark of the file's content, for the log.
    package var mark: UInt64 {
        digests.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64(truncatingIfNeeded: $1)) &* 0x0000_0100_0000_01B3 }
    }

    /// Blanks at the end of a line and empty lines do not count; a key that is there twice counts once.
    package static func load(path: String) throws(SettingsError.Reason) -> CohortFile {
        guard let file = FileHandle(forReadingAtPath: path) else {
            let isThere = FileManager.default.fileExists(atPath: path)
            throw .unreadable("\(path): \(isThere ? "no permission" : "no such file")")
        }
        defer { try? file.close() }
        var reader = Reader(path: path)
        while true {
            let chunk: Data
            do {
                chunk = try file.read(upToCount: 1 << 20) ?? Data()
            } catch {
                throw .unreadable("\(path): \(error.localizedDescription)")
            }
            if chunk.isEmpty { return try reader.finish() }
            try reader.take(chunk)
        }
    }

    private init(path: String, digests: [UInt128]) {
        self.path = path
        self.digests = digests
    }

    /// Takes a file in pieces. One thread's value.
    package struct Reader {
        private let path: String
        private var digests: [UInt128] = []
        /// The beginning of the present line; its last blanks may not be the line's.
        private var line: [UInt8] = []
        private var isLineTooLong = false
        private var number = 1

        package init(path: String) { self.path = path }

        package mutating func take(_ chunk: some Sequence<UInt8>) throws(SettingsError.Reason) {
            for byte in chunk {
                if byte == 0x0A {
                    try endLine()
                } else if line.count < lineBytesMax {
                    line.append(byte)
                } else if !Self.isBlank(byte) {
                    isLineTooLong = true
                }
            }
        }

        package mutating func finish() throws(SettingsError.Reason) -> CohortFile {
            try endLine()
            digests.sort()
            var kept = 0
            for index in digests.indices where index == 0 || digests[index] != digests[kept - 1] {
                digests[kept] = digests[index]
                kept += 1
            }
            digests.removeLast(digests.count - kept)
            return CohortFile(path: path, digests: digests)
        }

        private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x0D || byte == 0x09 }

        private mutating func endLine() throws(SettingsError.Reason) {
            if isLineTooLong {
                throw .expected("keys of at most \(lineBytesMax) bytes", found: "more in \(path):\(number)")
            }
            number += 1
            while let last = line.last, Self.isBlank(last) { line.removeLast() }
            if line.isEmpty { return }
            if digests.count == keysMax {
                throw .expected("at most \(keysMax) keys", found: "more in \(path)")
            }
            digests.append(Digest.md5Value(line))
            line.removeAll(keepingCapacity: true)
        }
    }
}
