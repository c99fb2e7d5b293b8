import Foundation
import Glibc

/// What a process writes to one of its streams, read by a thread of its own as it comes. Any thread may ask.
package final class CollectedText: @unchecked Sendable {
    private let condition = NSCondition()
    private var bytes: [UInt8] = []     // guarded by `condition`
    private var ended = false           // guarded by `condition`

    /// Takes the descriptor and closes it at its end.
    init(readingFrom descriptor: CInt) {
        let thread = Thread { self.read(from: descriptor) }
        thread.start()
    }

    package var text: String {
        condition.withLock { String(decoding: bytes, as: UTF8.self) }
    }

    package var lines: [String] {
        text.split(separator: "\n").map(String.init)
    }

    /// Blocks until the other end is closed.
    package func waitForEnd(_ file: StaticString = #fileID, _ line: UInt = #line) {
        Awaited.wait(for: "the end of a process' output", Place(file, line)) {
            condition.withLock { while !ended { condition.wait() } }
        }
    }

    /// Blocks until a whole line contains this, and returns the first such line.
    ///
    /// - Parameter skipping: lines from the start that do not count; take `lines.count` before the cause.
    /// - Throws: `TestFailure` with all that was read when the stream ends before.
    @discardableResult
    package func waitForLine(
        containing part: String, skipping: Int = 0, _ file: StaticString = #fileID, _ line: UInt = #line
    ) throws -> String {
        try Awaited.wait(for: "a line containing '\(part)'", Place(file, line)) {
            try lineBlocking(part, skipping)
        }
    }

    private func lineBlocking(_ part: String, _ skipping: Int) throws -> String {
        try condition.withLock {
            while true {
                let all = String(decoding: bytes, as: UTF8.self)
                let complete = all.split(separator: "\n").dropLast(all.hasSuffix("\n") || ended ? 0 : 1)
                if let line = complete.dropFirst(skipping).first(where: { $0.contains(part) }) { return String(line) }
                guard !ended else { throw TestFailure("ended without a line containing '\(part)':\n\(all)") }
                condition.wait()
            }
        }
    }

    private func read(from descriptor: CInt) {
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = Glibc.read(descriptor, &buffer, buffer.count)
            if count < 0 && errno == EINTR { continue }
            condition.withLock {
                if count > 0 { bytes.append(contentsOf: buffer[..<count]) } else { ended = true }
                condition.broadcast()
            }
            if count <= 0 { break }
        }
        close(descriptor)
    }
}
