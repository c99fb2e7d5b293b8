import Foundation
import Glibc
import Synchronization

/// Where everything that the tests start lives: one directory per test process, with a supervisor outside it.
///
/// The supervisor is a shell that waits on a socket whose other end only this process holds. However this process
/// ends (also by signal 9), the kernel closes that end; the supervisor then stops every process that has a `*.pid`
/// file below the directory and removes the directory. So no server outlives its tests, whatever happens to them.
/// Where the supervisor was killed as well, the next test process removes what they left: gigabytes, after a whole run.
package enum TestResources {
    /// The root of the package: the directory that holds Package.swift.
    package static let packageRoot = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().path

    /// The directory of this test process; PostgreSQL's user may pass through it.
    package static let root: String = {
        do { return try makeSupervisedRoot() } catch { fatalError("no directory for the tests: \(error)") }
    }()

    private static let counter = Atomic<Int>(0)

    /// A path below `root` that nobody else gets.
    package static func uniquePath(_ prefix: String) -> String {
        "\(root)/\(prefix)-\(counter.add(1, ordering: .relaxed).newValue)"
    }

    /// A file below `root` with this text.
    package static func file(_ prefix: String, _ text: String) throws -> String {
        let path = uniquePath(prefix)
        try text.write(toFile: path, atomically: false, encoding: .utf8)
        return path
    }

    private static let supervisor = """
        trap '' INT TERM HUP QUIT
        exec 9< "$0/owner"; flock --shared 9
        cat > /dev/null
        pids() { find "$0" -name '*.pid' -exec head -qn 1 {} + 2> /dev/null; }
        for pid in $(find "$0" -name postmaster.pid -exec head -qn 1 {} + 2> /dev/null); do
            kill -CONT "$pid"; kill -QUIT "$pid"
        done 2> /dev/null
        for pid in $(find "$0" -name '*.pid' ! -name postmaster.pid -exec cat {} + 2> /dev/null); do
            kill -KILL "$pid"
        done 2> /dev/null
        turns=0
        while [ "$turns" -lt 50 ] && find "$0" -name postmaster.pid 2> /dev/null | grep -q .; do
            sleep 0.1; turns=$((turns + 1))
        done
        for pid in $(pids); do kill -KILL "$pid"; done 2> /dev/null
        rm -rf "$0"
        """

    private static func makeSupervisedRoot() throws -> String {
        var template = Array("\(NSTemporaryDirectory())/godwit-test-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw TestFailure("mkdtemp: errno \(errno)") }
        let path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
            .replacingOccurrences(of: "//", with: "/")
        chmod(path, 0o755)
        try markAsOwned(path)
        removeAbandonedRoots(besides: path)

        var ends: [CInt] = [-1, -1]
        let type = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, type, 0, &ends) == 0 else { throw TestFailure("socketpair: errno \(errno)") }
        // ends[0] stays open for as long as this process lives.
        _ = try Spawn.process(["/bin/sh", "-c", supervisor, path], standardInput: ends[1])
        close(ends[1])
        return path
    }

    /// A file below a root that its test process and the supervisor hold locked, each for as long as it lives.
    private static let ownerFile = "owner"

    private static func markAsOwned(_ root: String) throws {
        let unlocked = "\(root)/\(ownerFile).new"
        let file = open(unlocked, O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
        // Stays open: the lock ends with the process. It has its name only once it is locked.
        guard file >= 0, flock(file, LOCK_SH | LOCK_NB) == 0, rename(unlocked, "\(root)/\(ownerFile)") == 0 else {
            throw TestFailure("no lock on \(unlocked): errno \(errno)")
        }
    }

    /// Removes the roots beside this one whose owners are gone. One without an owner's file is not known to be a root.
    package static func removeAbandonedRoots(besides own: String) {
        let directory = (own as NSString).deletingLastPathComponent
        let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
        for path in names.filter({ $0.hasPrefix("godwit-test-") }).map({ "\(directory)/\($0)" }) where path != own {
            let file = open("\(path)/\(ownerFile)", O_RDWR | O_CLOEXEC)
            guard file >= 0 else { continue }
            defer { close(file) }
            if flock(file, LOCK_EX | LOCK_NB) == 0 { try? FileManager.default.removeItem(atPath: path) }
        }
    }
}
