import Foundation
import Glibc
import Synchronization

/// A program that the tests started. Its output is collected as it comes; it never outlives the tests.
package final class ChildProcess: Sendable {
    /// How a process ended.
    package enum Exit: Sendable, Equatable {
        case code(CInt), signal(CInt)
    }

    package let pid: pid_t
    package let output: CollectedText
    package let errors: CollectedText
    private let name: String
    private let pidFile: String
    private let input: Mutex<CInt>
    private let exit = Mutex<Exit?>(nil)

    /// - Parameters:
    ///   - furtherDescriptors: they are 3 and up in the process.
    ///   - keepsInput: standard input is a pipe that `write` fills; otherwise it is /dev/null.
    package init(
        _ arguments: [String], environment: [String: String] = [:], directory: String? = nil,
        keepsInput: Bool = false, furtherDescriptors: [CInt] = []
    ) throws {
        let output = try Pipe()
        let errors = try Pipe()
        let input = keepsInput ? try Pipe() : nil
        name = arguments.joined(separator: " ")
        pid = try Spawn.process(
            arguments, environment: environment, directory: directory, standardInput: input?.readEnd,
            standardOutput: output.writeEnd, standardError: errors.writeEnd,
            furtherDescriptors: furtherDescriptors)
        pidFile = TestResources.uniquePath("process") + ".pid"
        try "\(pid)\n".write(toFile: pidFile, atomically: false, encoding: .utf8)
        close(output.writeEnd)
        close(errors.writeEnd)
        if let input { close(input.readEnd) }
        self.input = Mutex(input?.writeEnd ?? -1)
        self.output = CollectedText(readingFrom: output.readEnd)
        self.errors = CollectedText(readingFrom: errors.readEnd)
    }

    deinit {
        send(SIGKILL)
        _ = wait()
        endInput()
    }

    /// Nothing happens when the process has ended.
    package func send(_ signal: CInt) {
        exit.withLock { if $0 == nil { kill(pid, signal) } }
    }

    package func write(_ text: String) {
        input.withLock { descriptor in
            precondition(descriptor >= 0, "started without keepsInput, or ended")
            _ = text.withCString { Glibc.send(descriptor, $0, strlen($0), CInt(MSG_NOSIGNAL)) }
        }
    }

    /// The process finds the end of its standard input.
    package func endInput() {
        input.withLock { descriptor in
            if descriptor >= 0 { close(descriptor) }
            descriptor = -1
        }
    }

    /// Blocks until the process has ended and all of its output is there.
    @discardableResult
    package func wait(_ file: StaticString = #fileID, _ line: UInt = #line) -> Exit {
        Awaited.wait(for: "the end of \(name)", Place(file, line)) { waitBlocking() }
    }

    private func waitBlocking() -> Exit {
        // WNOWAIT: the process id stays ours until `exit` says that it no longer is.
        var information = siginfo_t()
        while waitid(P_PID, id_t(pid), &information, WEXITED | WNOWAIT) == -1 && errno == EINTR {}
        let result = exit.withLock { stored in
            if let stored { return stored }
            var status: CInt = 0
            while waitpid(pid, &status, 0) == -1 && errno == EINTR {}
            unlink(pidFile)
            let ended: Exit = status & 0x7f == 0 ? .code((status >> 8) & 0xff) : .signal(status & 0x7f)
            stored = ended
            return ended
        }
        output.waitForEnd()
        errors.waitForEnd()
        return result
    }

    package var hasEnded: Bool {
        var information = siginfo_t()
        return waitid(P_PID, id_t(pid), &information, WEXITED | WNOWAIT | WNOHANG) != 0
            || information.si_signo == SIGCHLD
    }

    /// Runs a program to its end.
    /// - Throws: `TestFailure` with all it wrote when it does not end with status 0.
    @discardableResult
    package static func run(
        _ arguments: [String], environment: [String: String] = [:], directory: String? = nil,
        _ file: StaticString = #fileID, _ line: UInt = #line
    ) throws -> String {
        try ChildProcess(arguments, environment: environment, directory: directory).waitForSuccess(file, line)
    }

    /// Blocks until the process has ended; its standard output.
    @discardableResult
    package func waitForSuccess(_ file: StaticString = #fileID, _ line: UInt = #line) throws -> String {
        let exit = wait(file, line)
        guard exit == .code(0) else {
            throw TestFailure("\(name): \(exit)\n\(output.text)\(errors.text)")
        }
        return output.text
    }

    private struct Pipe {
        let readEnd: CInt
        let writeEnd: CInt

        /// Both ends are closed on exec: a server that a test starts next must not hold them.
        init() throws {
            var ends: [CInt] = [-1, -1]
            let type = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
            guard socketpair(AF_UNIX, type, 0, &ends) == 0 else { throw TestFailure("socketpair: errno \(errno)") }
            readEnd = ends[0]
            writeEnd = ends[1]
        }
    }
}
