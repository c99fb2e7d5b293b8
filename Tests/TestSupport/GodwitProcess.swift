import Foundation
import Glibc

/// A running `godwit serve`, on a port of its own. It is killed with its last reference.
package final class GodwitProcess: Sendable {
    package let port: UInt16
    package let directory: String
    package let process: ChildProcess

    package var configurationPath: String { directory + "/godwit.yaml" }
    package var log: CollectedText { process.errors }

    /// The executable under test: GODWIT_BIN, or the debug build's.
    package static let executable = ProcessInfo.processInfo.environment["GODWIT_BIN"]
        ?? TestResources.packageRoot + "/.build/debug/godwit"

    /// Starts it and waits until it listens.
    ///
    /// - Parameter sockets: they listen already, as a service manager's; LISTEN_PID and LISTEN_FDS tell of them.
    package convenience init(
        _ configuration: GodwitConfiguration, environment: [String: String] = [:], sockets: [CInt] = []
    ) throws {
        let directory = try Self.makeDirectory(configuration)
        try self.init(directory: directory, environment: environment, sockets: sockets)
    }

    /// Another process with the configuration, and all files, of one that has ended.
    package convenience init(resuming ended: GodwitProcess, environment: [String: String] = [:]) throws {
        try self.init(directory: ended.directory, environment: environment)
    }

    /// Starts it in the place of one that runs, and waits until it listens.
    package convenience init(takingOverFrom running: GodwitProcess) throws {
        try self.init(directory: running.directory, ["--takeover"])
    }

    private init(
        directory: String, _ arguments: [String] = [], environment: [String: String] = [:], sockets: [CInt] = []
    ) throws {
        self.directory = directory
        var command = [Self.executable, "serve", "--config", directory + "/godwit.yaml"] + arguments
        if !sockets.isEmpty {
            // Its own number is told by the shell that becomes it.
            let script = "LISTEN_PID=$$ LISTEN_FDS=\(sockets.count) exec \"$@\""
            command = ["/bin/sh", "-c", script, "sh"] + command
        }
        process = try ChildProcess(command, environment: environment, furtherDescriptors: sockets)
        let line = try process.errors.waitForLine(containing: "listening on 127.0.0.1:")
        guard let digits = line.components(separatedBy: "listening on 127.0.0.1:").last?.prefix(while: \.isNumber),
            let port = UInt16(digits)
        else { throw TestFailure("no port in '\(line)'") }
        self.port = port
    }

    /// The directory with godwit.yaml and users.txt for this configuration.
    package static func makeDirectory(_ configuration: GodwitConfiguration) throws -> String {
        let directory = TestResources.uniquePath("godwit")
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        try write(configuration, in: directory)
        return directory
    }

    private static func write(_ configuration: GodwitConfiguration, in directory: String) throws {
        let text = configuration.text(directory: directory)
        try text.write(toFile: directory + "/godwit.yaml", atomically: true, encoding: .utf8)
        for (name, content) in configuration.files {
            try content.write(toFile: "\(directory)/\(name)", atomically: true, encoding: .utf8)
        }
        if let users = configuration.users {
            try users.write(toFile: directory + "/users.txt", atomically: true, encoding: .utf8)
        }
    }

    /// Runs another command of godwit to its end.
    package static func command(_ arguments: [String]) throws -> ChildProcess {
        let process = try ChildProcess([executable] + arguments)
        process.wait()
        return process
    }

    // MARK: Signals

    /// Writes the configuration, sends SIGHUP and waits for the line of the log that tells of the outcome.
    /// - Returns: what the log said since.
    @discardableResult
    package func reload(_ configuration: GodwitConfiguration) throws -> [String] {
        try reload(text: configuration.text(directory: directory))
    }

    @discardableResult
    package func reload(text: String) throws -> [String] {
        try text.write(toFile: configurationPath, atomically: true, encoding: .utf8)
        let before = log.lines.count
        process.send(SIGHUP)
        // The last that is said of it.
        try log.waitForLine(containing: " reload: ", skipping: before)
        return Array(log.lines.dropFirst(before))
    }

    /// SIGTERM, and waits for the end.
    @discardableResult
    package func terminate() -> ChildProcess.Exit {
        process.send(SIGTERM)
        return process.wait()
    }

    // MARK: Use

    package func conninfo(database: String, user: String = "app", password: String? = nil) -> String {
        var text = "host=127.0.0.1 port=\(port) dbname=\(database) user=\(user) sslmode=disable"
        if let password { text += " password=\(password)" }
        return text
    }

    /// Runs SQL through Godwit; rows as unaligned tuples, columns separated by `|`.
    @discardableResult
    package func psql(
        _ sql: String, database: String, user: String = "app", password: String? = nil, options: String = ""
    ) throws -> String {
        let conninfo = conninfo(database: database, user: user, password: password)
        let text = try ChildProcess.run(
            ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", conninfo, "-c", sql],
            environment: options.isEmpty ? [:] : ["PGOPTIONS": options])
        return text.hasSuffix("\n") ? String(text.dropLast()) : text
    }

    /// SIGSTOP: from here on it does nothing, until it gets SIGCONT.
    package func suspend() throws {
        process.send(SIGSTOP)
        // The others go on until one has taken the signal.
        let threads = "/proc/\(process.pid)/task"
        try waitUntil("all threads to stop") {
            try FileManager.default.contentsOfDirectory(atPath: threads).allSatisfy {
                try String(contentsOfFile: "\(threads)/\($0)/status", encoding: .utf8).contains("State:\tT")
            }
        }
    }

    /// Hundredths of a second of processors that it has used.
    package func processorTicks() throws -> Int {
        let text = try String(contentsOfFile: "/proc/\(process.pid)/stat", encoding: .utf8)
        guard let fields = text.split(separator: ")").last?.split(separator: " "), fields.count > 12,
            let own = Int(fields[11]), let kernels = Int(fields[12])
        else { throw TestFailure("no times in '\(text)'") }
        return own + kernels
    }

    /// A console command's rows, each as a dictionary by column name.
    package func console(_ command: String, user: String = "godwit") throws -> [[String: String]] {
        let text = try ChildProcess.run([
            "psql", "-XqA", "-F", "\t", "-P", "footer=off", "-d", conninfo(database: "godwit", user: user),
            "-c", command,
        ])
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        while lines.last == "" { lines.removeLast() }
        guard let head = lines.first else { return [] }
        let names = head.components(separatedBy: "\t")
        return lines.dropFirst().map { line in
            Dictionary(zip(names, line.components(separatedBy: "\t")), uniquingKeysWith: { first, _ in first })
        }
    }

    /// The names of a console command's columns, in order.
    package func consoleColumns(_ command: String) throws -> [String] {
        let text = try ChildProcess.run([
            "psql", "-XqA", "-F", "\t", "-P", "footer=off", "-d", conninfo(database: "godwit", user: "godwit"),
            "-c", command,
        ])
        return text.split(separator: "\n").first?.components(separatedBy: "\t") ?? []
    }
}
