import Foundation
import Glibc

/// A real PostgreSQL server on 127.0.0.1, in a directory of its own, as another user than root.
///
/// All its state is in its directory, so any thread may use it. It stops with its last reference, and in any case with
/// the test process (`TestResources`). Every call blocks until PostgreSQL has done what it asks for.
package final class PostgresCluster: Sendable {
    package enum Version: Sendable {
        case old15, new18

        /// The directory of initdb, pg_ctl and postgres.
        package func programs() throws -> String {
            switch self {
            case .old15:
                return "/usr/lib/postgresql/15/bin"
            case .new18:
                if let named = ProcessInfo.processInfo.environment["GODWIT_PG18_BIN"] { return named }
                let file = TestResources.packageRoot + "/.build/pg18-bin"
                if let text = try? String(contentsOfFile: file, encoding: .utf8) {
                    return text.trimmingCharacters(in: .whitespacesAndNewlines)
                }
                throw TestFailure("no PostgreSQL 18: run `make setup` or set GODWIT_PG18_BIN")
            }
        }
    }

    /// How a connection over TCP proves who it is (pg_hba.conf). The Unix socket always trusts.
    package enum Authentication: String, Sendable {
        case trust, md5, password, reject
        case scramSHA256 = "scram-sha-256"
    }

    package struct Options: Sendable {
        package var authentication: Authentication = .trust
        /// Lines of pg_hba.conf that come before the one for `authentication`.
        package var hbaLines: [String] = []
        package var maxConnections = 100
        /// Switches TLS on, with this certificate and key; and who may sign clients' certificates.
        package var certificate: CertificateAuthority.Issued?
        package var clientAuthority = ""
        /// postgresql.conf, added to (and stronger than) what makes tests quick.
        package var settings: [String: String] = [:]

        package init() {}
    }

    package static let superuser = "postgres"

    package let version: Version
    package let port: UInt16
    /// Holds the data directory, the Unix socket and the log.
    package let directory: String
    private let programs: String

    package var dataDirectory: String { directory + "/data" }
    package var logPath: String { directory + "/log" }
    package var log: String { (try? String(contentsOfFile: logPath, encoding: .utf8)) ?? "" }

    /// Makes the cluster and starts it.
    package init(_ version: Version, _ options: Options = Options()) throws {
        self.version = version
        programs = try version.programs()
        directory = TestResources.uniquePath("postgresql")
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        if geteuid() == 0 {
            guard let user = getpwnam("postgres") else { throw TestFailure("no user postgres: run `make setup`") }
            chown(directory, user.pointee.pw_uid, user.pointee.pw_gid)
        }
        try Self.run([
            programs + "/initdb", "--pgdata", directory + "/data", "--username", Self.superuser, "--auth", "trust",
            "--no-sync", "--no-instructions", "--encoding", "UTF8", "--locale", "C",
        ])
        try Self.writeAuthentication(options.authentication, options.hbaLines, directory)
        var options = options
        if let certificate = options.certificate {
            options.settings.merge(try Self.installTLS(certificate, options.clientAuthority, directory)) { own, _ in own }
        }

        var port = try FreePort.find()
        for attempt in 1... {
            try Self.writeSettings(options, port: port, directory)
            do {
                try Self.startServer(programs, directory)
                break
            } catch {
                guard attempt < 5 else { throw error }
                port = try FreePort.find()     // somebody else took it in between
            }
        }
        self.port = port
    }

    deinit {
        if isRunning { try? stop(mode: "immediate") }
        try? FileManager.default.removeItem(atPath: directory)
    }

    // MARK: Life and death

    /// The postmaster's process id, nil when there is none.
    package var postmaster: pid_t? {
        guard let text = try? String(contentsOfFile: dataDirectory + "/postmaster.pid", encoding: .utf8),
            let line = text.split(separator: "\n").first, let pid = pid_t(line), kill(pid, 0) == 0,
            !Self.isZombie(pid)
        else { return nil }
        return pid
    }

    package var isRunning: Bool { postmaster != nil }

    package func start() throws { try Self.startServer(programs, directory) }

    /// - Parameter mode: pg_ctl's: `fast`, `smart` or `immediate`.
    package func stop(mode: String = "fast") throws {
        resume()
        try Self.run([programs + "/pg_ctl", "stop", "-D", dataDirectory, "-w", "-m", mode])
    }

    package func restart() throws {
        try stop()
        try start()
    }

    /// Ends the postmaster and every backend with signal 9, as when the machine dies, and waits until all have gone.
    package func kill9() {
        guard let postmaster else { return }
        let all = Self.halt(postmaster)
        for pid in all { kill(pid, SIGKILL) }
        for pid in all {
            while kill(pid, 0) == 0 && !Self.isZombie(pid) { sched_yield() }
        }
        // Where nobody reaps orphans (containers), PostgreSQL takes the zombie for a living postmaster.
        unlink(dataDirectory + "/postmaster.pid")
        unlink(directory + "/.s.PGSQL.\(port).lock")
    }

    /// SIGSTOP to all of its processes: connections stay open and nobody answers.
    package func pause() {
        guard let postmaster else { return }
        for pid in Self.halt(postmaster) { kill(pid, SIGSTOP) }
    }

    /// Undoes `pause`.
    package func resume() {
        guard let postmaster else { return }
        for pid in Self.children(of: postmaster) + [postmaster] { kill(pid, SIGCONT) }
    }

    // MARK: Use

    /// libpq's conninfo over TCP. No user is named unless given.
    package func conninfo(database: String = "postgres", user: String? = nil, password: String? = nil) -> String {
        var text = "host=127.0.0.1 port=\(port) dbname=\(database)"
        if let user { text += " user=\(user)" }
        if let password { text += " password=\(password)" }
        return text
    }

    /// Runs SQL as the superuser over the Unix socket; rows as unaligned tuples, columns separated by `|`.
    @discardableResult
    package func psql(_ sql: String, database: String = "postgres") throws -> String {
        let file = try TestResources.file("script", sql)
        defer { unlink(file) }
        let text = try ChildProcess.run([
            "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", directory, "-p", "\(port)", "-U", Self.superuser,
            "-d", database, "-f", file,
        ])
        return text.hasSuffix("\n") ? String(text.dropLast()) : text
    }

    package func createDatabase(_ name: String) throws { try psql("CREATE DATABASE \"\(name)\"") }

    /// A role that may log in.
    /// - Parameter encryption: of the stored secret: `.md5` or `.scramSHA256`.
    package func createRole(
        _ name: String, password: String? = nil, encryption: Authentication = .scramSHA256, attributes: String = ""
    ) throws {
        var sql = "SET password_encryption = '\(encryption.rawValue)';\nCREATE ROLE \"\(name)\" LOGIN \(attributes)"
        if let password { sql += " PASSWORD '\(password)'" }
        try psql(sql)
    }

    /// A new pg_hba.conf, in force for connections that come after this call.
    package func changeAuthentication(_ authentication: Authentication, hbaLines: [String] = []) throws {
        try Self.writeAuthentication(authentication, hbaLines, directory)
        try psql("SELECT pg_reload_conf()")
        // The postmaster answers the next connection only after it has read the file: it handles the signal first.
        try psql("SELECT 1")
    }

    // MARK: Files and processes

    /// Copies the files to where PostgreSQL's user may read them.
    private static func installTLS(
        _ issued: CertificateAuthority.Issued, _ authority: String, _ directory: String
    ) throws -> [String: String] {
        var settings = ["ssl": "on"]
        var files = [("ssl_cert_file", issued.certificate), ("ssl_key_file", issued.key)]
        if !authority.isEmpty { files.append(("ssl_ca_file", authority)) }
        for (setting, source) in files {
            let path = "\(directory)/\(setting).pem"
            try String(contentsOfFile: source, encoding: .utf8).write(toFile: path, atomically: false, encoding: .utf8)
            chmod(path, 0o600)
            if geteuid() == 0, let user = getpwnam("postgres") {
                chown(path, user.pointee.pw_uid, user.pointee.pw_gid)
            }
            settings[setting] = path
        }
        return settings
    }

    /// Another certificate, in force for connections that come after this call.
    package func changeCertificate(_ issued: CertificateAuthority.Issued) throws {
        for (setting, source) in [("ssl_cert_file", issued.certificate), ("ssl_key_file", issued.key)] {
            try Self.overwrite("\(directory)/\(setting).pem", try String(contentsOfFile: source, encoding: .utf8))
        }
        try psql("SELECT pg_reload_conf()")
        try psql("SELECT 1")
    }

    private static func writeAuthentication(
        _ authentication: Authentication, _ lines: [String], _ directory: String
    ) throws {
        let all = ["local all all trust"] + lines + ["host all all 127.0.0.1/32 \(authentication.rawValue)"]
        try overwrite(directory + "/data/pg_hba.conf", all.joined(separator: "\n") + "\n")
    }

    private static func writeSettings(_ options: Options, port: UInt16, _ directory: String) throws {
        var settings = [
            "listen_addresses": "127.0.0.1", "port": "\(port)", "unix_socket_directories": directory,
            // With fsync off and synchronous commits, a commit outlives signal 9, though not the machine.
            "max_connections": "\(options.maxConnections)", "fsync": "off", "full_page_writes": "off",
            "shared_buffers": "32MB", "max_wal_size": "256MB", "log_min_messages": "warning",
            "max_prepared_transactions": "10",
        ]
        settings.merge(options.settings) { _, given in given }
        let text = settings.sorted { $0.key < $1.key }.map { "\($0.key) = '\($0.value)'\n" }.joined()
        try overwrite(directory + "/data/postgresql.conf", text)
    }

    /// Keeps the file's owner, which is PostgreSQL's user.
    private static func overwrite(_ path: String, _ text: String) throws {
        try text.write(toFile: path, atomically: false, encoding: .utf8)
    }

    private static func startServer(_ programs: String, _ directory: String) throws {
        do {
            try run([
                programs + "/pg_ctl", "start", "-D", directory + "/data", "-w", "-t", "120", "-l", directory + "/log",
            ])
        } catch {
            let log = (try? String(contentsOfFile: directory + "/log", encoding: .utf8)) ?? ""
            throw TestFailure("\(error)\n\(log)")
        }
    }

    /// PostgreSQL refuses to run as root: then its programs run as `postgres`.
    private static func run(_ arguments: [String]) throws {
        let user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]
        try ChildProcess.run((geteuid() == 0 ? user : []) + arguments, directory: "/")
    }

    /// Stops the postmaster, which makes no process any more; all of its processes, itself the first. Of one that runs
    /// some would be missing: those that it makes, or takes note of the end of, while they are listed.
    private static func halt(_ postmaster: pid_t) -> [pid_t] {
        kill(postmaster, SIGSTOP)
        while let state = state(of: postmaster), !["T", "Z", "X"].contains(state) { sched_yield() }
        return [postmaster] + children(of: postmaster)
    }

    private static func children(of parent: pid_t) -> [pid_t] {
        let path = "/proc/\(parent)/task/\(parent)/children"
        guard let text = try? String(contentsOfFile: path, encoding: .utf8) else { return [] }
        return text.split(whereSeparator: \.isWhitespace).compactMap { pid_t($0) }
    }

    /// Dead, and waiting for its parent to notice.
    private static func isZombie(_ pid: pid_t) -> Bool { state(of: pid).map { $0 == "Z" } ?? true }

    /// The letter of /proc; nil: there is no such process.
    private static func state(of pid: pid_t) -> Substring? {
        guard let text = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8) else { return nil }
        return text.split(separator: ")").last?.split(separator: " ").first
    }
}
