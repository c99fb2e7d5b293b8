import Glibc
import Synchronization

/// posix_spawn with what the tests need: own process group (so that Ctrl-C reaches only the tests), default signals.
enum Spawn {
    /// Held while a process is made, and while a descriptor is made that is closed on exec only a moment later: a server
    /// that inherits a connection keeps it open for good.
    private static let fork = Mutex(())

    /// A connection of the listener's, which no process inherits.
    static func accept(_ listener: CInt) -> CInt {
        fork.withLock { _ in
            let descriptor = Glibc.accept(listener, nil, nil)
            if descriptor >= 0 { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
            return descriptor
        }
    }

    /// - Parameter arguments: the first one is the program, looked up in PATH.
    /// - Parameter furtherDescriptors: they are 3 and up in the process.
    /// - Returns: the process id. A descriptor that is nil becomes /dev/null.
    static func process(
        _ arguments: [String], environment: [String: String] = [:], directory: String? = nil,
        standardInput: CInt? = nil, standardOutput: CInt? = nil, standardError: CInt? = nil,
        furtherDescriptors: [CInt] = []
    ) throws -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for (target, source) in [(0, standardInput), (1, standardOutput), (2, standardError)] as [(CInt, CInt?)] {
            if let source {
                posix_spawn_file_actions_adddup2(&actions, source, target)
            } else {
                posix_spawn_file_actions_addopen(&actions, target, "/dev/null", target == 0 ? O_RDONLY : O_WRONLY, 0)
            }
        }

        // By way of high numbers: a source may be one of the targets.
        for (index, source) in furtherDescriptors.enumerated() {
            posix_spawn_file_actions_adddup2(&actions, source, 200 + CInt(index))
        }
        for index in furtherDescriptors.indices {
            posix_spawn_file_actions_adddup2(&actions, 200 + CInt(index), 3 + CInt(index))
            posix_spawn_file_actions_addclose(&actions, 200 + CInt(index))
        }

        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var defaults = sigset_t()
        sigfillset(&defaults)
        var mask = sigset_t()
        sigemptyset(&mask)
        posix_spawnattr_setsigdefault(&attributes, &defaults)
        posix_spawnattr_setsigmask(&attributes, &mask)
        posix_spawnattr_setpgroup(&attributes, 0)
        let flags = POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK
        posix_spawnattr_setflags(&attributes, Int16(flags))

        var command = arguments
        if let directory {
            command = ["/bin/sh", "-c", "cd \"$0\" && exec \"$@\"", directory] + arguments
        }
        var words = command.map { strdup($0) } + [nil]
        defer { words.forEach { free($0) } }
        var variables = variablesOfThisProcess().merging(environment) { _, new in new }
            .map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { variables.forEach { free($0) } }

        var pid: pid_t = 0
        let code = fork.withLock { _ in
            posix_spawnp(&pid, command[0], &actions, &attributes, &words, &variables)
        }
        guard code == 0 else { throw TestFailure("\(command[0]): \(String(cString: strerror(code)))") }
        return pid
    }

    /// The environment without the variables that would lead PostgreSQL's programs elsewhere.
    private static func variablesOfThisProcess() -> [String: String] {
        var variables: [String: String] = [:]
        var entry = environ
        while let text = entry.pointee {
            let line = String(cString: text)
            if let equals = line.firstIndex(of: "="), !line.hasPrefix("PG") {
                variables[String(line[..<equals])] = String(line[line.index(after: equals)...])
            }
            entry += 1
        }
        return variables
    }
}
