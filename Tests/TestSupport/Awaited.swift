import Foundation
import Glibc
import Synchronization

/// Where a wait stands in the tests' sources.
package struct Place: Sendable, Equatable, CustomStringConvertible {
    package let file: String
    package let line: Int

    package init(_ file: StaticString, _ line: UInt) {
        self.file = file.description
        self.line = Int(line)
    }

    package var description: String { "\(file):\(line)" }
}

/// What is awaited now, and since when. Pure.
package struct AwaitedRegister: Sendable {
    /// Seconds after which a wait is told of, and between two times that it is.
    package static let patienceSeconds = 60

    private struct Wait {
        let what: String
        let place: Place
        let since: ContinuousClock.Instant
        var told = 0
    }

    private var waits: [Int: Wait] = [:]
    private var lastTicket = 0

    package init() {}

    package mutating func begin(_ what: String, _ place: Place, at now: ContinuousClock.Instant) -> Int {
        lastTicket += 1
        waits[lastTicket] = Wait(what: what, place: place, since: now)
        return lastTicket
    }

    package mutating func end(_ ticket: Int) { waits[ticket] = nil }

    /// A line for each wait that has another `patienceSeconds` behind it since it was last told of.
    package mutating func overdue(at now: ContinuousClock.Instant) -> [String] {
        var lines: [String] = []
        for (ticket, wait) in waits.sorted(by: { $0.key < $1.key }) {
            let seconds = Int((now - wait.since).components.seconds)
            let turn = seconds / Self.patienceSeconds
            if turn <= wait.told { continue }
            waits[ticket]?.told = turn
            lines.append("still awaited after \(seconds) s at \(wait.place): \(wait.what)")
        }
        return lines
    }
}

/// Lets a wait in vain tell of itself: tests have no time limits, so nothing else would say which one hangs.
///
/// One thread looks at all waits and writes to standard error. Any thread.
package enum Awaited {
    private static let register = Mutex(AwaitedRegister())
    private static let millisBetweenLooks: CInt = 5_000

    private static let watch: Void = {
        let thread = Thread {
            while true {
                poll(nil, 0, millisBetweenLooks)
                let lines = register.withLock { $0.overdue(at: .now) }
                for line in lines { FileHandle.standardError.write(Data("\(line)\n".utf8)) }
            }
        }
        thread.start()
    }()

    /// Between two questions of a wait that can only ask: whoever is asked needs the processor more.
    package static func pause() { poll(nil, 0, 5) }

    /// Runs what may wait for long.
    package static func wait<Result, Failure: Error>(
        for what: @autoclosure () -> String, _ place: Place, _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        _ = watch
        let ticket = register.withLock { [what = what()] in $0.begin(what, place, at: .now) }
        defer { register.withLock { $0.end(ticket) } }
        return try body()
    }
}

/// Asks again until it is so, with a pause in between and without an end: a busy machine is no fault. What never comes is
/// told of, with its place, once a minute.
package func waitUntil<Failure: Error>(
    _ what: @autoclosure () -> String = "a condition", _ file: StaticString = #fileID, _ line: UInt = #line,
    _ condition: () throws(Failure) -> Bool
) throws(Failure) {
    try Awaited.wait(for: what(), Place(file, line)) { () throws(Failure) in
        while try !condition() { Awaited.pause() }
    }
}
