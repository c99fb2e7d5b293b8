import Foundation
import Glibc
import LibPQ
import Primitives
import Synchronization

/// What a comparison has found equal so far, in a file, so that one that was killed goes on where it was. Any thread.
///
/// A line for each range, appended when it was compared. Tables in which anything differs, or that have changed since,
/// begin anew. What was compared before is as of then: as much as a comparison says at all under a mirror, which keeps
/// what is equal so.
package final class VerifyLedger: Sendable {
    package enum Failure: Error, CustomStringConvertible {
        case unusable(path: String, reason: String)
        case another(path: String)

        package var description: String {
            switch self {
            case .unusable(let path, let reason): "\(path): \(reason)"
            case .another(let path):
                "\(path) is no comparison of these two databases: remove it, or name another file"
            }
        }
    }

    /// Whose comparison it is.
    package struct Subject: Codable, Equatable, Sendable {
        var source: String
        var target: String
    }

    private struct Header: Codable {
        var subject: Subject
        /// Seconds since 1970.
        var started: Int64
    }

    private struct Line: Codable {
        var table: String
        /// Of the first range: what the table was. It begins anew with it.
        var mark: String?
        /// The range's last key; nil: it was the table's last.
        var through: [String]?
        var rows: Int64
        var ranges: Int
        var differing: Int
    }

    /// Where a table's comparison goes on.
    package struct Place: Sendable, Equatable {
        package var after: [String]?
        package var rows: Int64 = 0
        package var ranges = 0
        package var isDone = false
    }

    private struct Entry {
        var mark = ""
        var place = Place()
        var differs = false
    }

    private struct State {
        /// By the name in SQL.
        var places: [ExactName: Entry] = [:]
        /// -1: closed.
        var descriptor: CInt

        mutating func close() {
            if descriptor >= 0 { _ = Glibc.close(descriptor) }
            descriptor = -1
        }

        /// A file that takes no more loses progress, never a result: nothing follows a line that is not whole.
        mutating func append(_ value: some Encodable) {
            guard descriptor >= 0, let line = try? JSONEncoder().encode(value) else { return }
            let bytes = line + [UInt8(ascii: "\n")]
            let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
            if count != bytes.count { close() }
        }
    }

    package let path: String
    /// Of the comparison that is gone on with; nil: it begins now.
    package let resumedFrom: Int64?
    private let state: Mutex<State>

    package init(path: String, subject: Subject) throws(Failure) {
        self.path = path
        let descriptor = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw .unusable(path: path, reason: String(cString: strerror(errno))) }
        var state = State(descriptor: descriptor)
        do throws(Failure) {
            resumedFrom = try Self.read(path, subject, &state)
        } catch {
            close(descriptor)
            throw error
        }
        self.state = Mutex(state)
    }

    deinit { state.withLock { $0.close() } }

    /// - Returns: when the comparison in the file began; nil: it begins now.
    private static func read(_ path: String, _ subject: Subject, _ state: inout State) throws(Failure) -> Int64? {
        // The process's own, and gone with it; also with any other descriptor of the file that it closes.
        guard lockf(state.descriptor, F_TLOCK, 0) == 0 else {
            throw .unusable(path: path, reason: "another comparison uses it now")
        }
        let file = FileHandle(fileDescriptor: state.descriptor, closeOnDealloc: false)
        guard let text = try? file.readToEnd() ?? Data() else {
            throw .unusable(path: path, reason: "cannot be read")
        }
        if text.isEmpty {
            state.append(Header(subject: subject, started: Int64(time(nil))))
            return nil
        }
        var lines = text.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        // What a crash has cut off has no end.
        let torn = lines.popLast().map(\.count) ?? 0
        let decoder = JSONDecoder()
        guard let first = lines.first, let header = try? decoder.decode(Header.self, from: Data(first)),
            header.subject == subject
        else { throw .another(path: path) }
        for text in lines.dropFirst() {
            guard let line = try? decoder.decode(Line.self, from: Data(text)) else {
                throw .unusable(path: path, reason: "is damaged: remove it")
            }
            add(line, to: &state)
        }
        if torn > 0, ftruncate(state.descriptor, off_t(text.count - torn)) != 0 {
            throw .unusable(path: path, reason: String(cString: strerror(errno)))
        }
        return header.started
    }

    private static func add(_ line: Line, to state: inout State) {
        let table = ExactName(line.table)
        var entry = line.mark.map { Entry(mark: $0) } ?? state.places[table] ?? Entry()
        entry.place.after = line.through
        entry.place.isDone = line.through == nil
        entry.place.rows += line.rows
        entry.place.ranges += line.ranges
        entry.differs = entry.differs || line.differing > 0
        state.places[table] = entry
    }

    /// - Parameter mark: what the table is now: another one, and it begins anew.
    package func place(of table: TableName, mark: String) -> Place {
        state.withLock { state in
            let entry = state.places[ExactName(table.sql)]
            return entry.flatMap { $0.mark.hasSameBytes(as: mark) && !$0.differs ? $0.place : nil } ?? Place()
        }
    }

    /// One range was compared.
    ///
    /// - Parameter mark: with the table's first range only.
    package func record(
        _ table: TableName, mark: String?, through: [String]?, rows: Int64, differing: Int
    ) {
        let line = Line(
            table: table.sql, mark: mark, through: through, rows: rows, ranges: 1, differing: differing)
        state.withLock { $0.append(line) }
    }

    /// The comparison has come to its end: the next one begins anew.
    package func finish() {
        state.withLock { state in
            state.close()
            _ = unlink(path)
        }
    }
}
