import Glibc
import Primitives

/// Starts the program anew, to take this process's place. Any thread.
package enum Successor {
    /// The program's file, as it was called when this process began: a package may have put another in its place since,
    /// and that one is wanted.
    static let program: String = {
        var path = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &path, path.count - 1)
        return String(decoding: path.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }()

    /// To be called when the process begins: afterwards the system may only say that the file was replaced.
    package static func noteProgram() { _ = program }

    /// - Parameters:
    ///   - arguments: those of this process, without the program.
    ///   - deliver: told, on a thread of its own, how the new process ended, if this one sees it.
    /// - Returns: its number.
    /// - Throws: the system's error.
    package static func start(
        _ arguments: [String], _ deliver: @escaping @Sendable (TakeoverStep) -> Void
    ) throws(SuccessorFailure) -> pid_t {
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var mask = sigset_t()
        sigemptyset(&mask)
        var defaults = sigset_t()
        sigfillset(&defaults)
        posix_spawnattr_setsigmask(&attributes, &mask)
        posix_spawnattr_setsigdefault(&attributes, &defaults)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK))
        let flag = "--takeover"
        let all = [program] + (arguments.contains(flag) ? arguments : arguments + [flag])
        var words = all.map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        var process: pid_t = 0
        let status = posix_spawn(&process, program, nil, &attributes, &words, environ)
        if status != 0 { throw SuccessorFailure(program: program, errno: status) }
        let started = process
        _ = OwnThread(name: "godwit-next") {
            var status: CInt = 0
            while waitpid(started, &status, 0) < 0 && errno == EINTR {}
            let code = status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
            deliver(.successorExited(process: started, status: code))
        }
        return process
    }
}

/// The program that was to take our place did not start.
package struct SuccessorFailure: Error, CustomStringConvertible {
    let program: String
    let errno: CInt

    package var description: String { "cannot start \(program): \(String(cString: strerror(errno)))" }
}
