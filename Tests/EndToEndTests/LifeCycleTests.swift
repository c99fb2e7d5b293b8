import Foundation
import Glibc
import TestSupport
import Testing

/// What a service manager sees of a process: its notifications, its sockets, its log.
@Suite(.serialized) struct LifeCycleTests {
    let servers: Servers
    let database: String
    let configuration: GodwitConfiguration

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeMarkedDatabase()
        configuration = GodwitConfiguration([servers.entry(database)])
    }

    /// The supervisor's socket, in a directory of the test's.
    private func supervisor() throws -> (descriptor: CInt, path: String) {
        let path = TestResources.uniquePath("notify")
        let descriptor = socket(AF_UNIX, CInt(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let status = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard status == 0 else { throw TestFailure("bind \(path): \(errno)") }
        return (descriptor, path)
    }

    /// The next datagram with this in it.
    private func wait(for word: String, on descriptor: CInt) -> String {
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            let text = String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
            if text.contains(word) { return text }
        }
    }

    @Test func `the supervisor is told of start, reloads, signs of life and the end`() throws {
        let (descriptor, path) = try supervisor()
        defer { close(descriptor) }
        let godwit = try GodwitProcess(
            configuration, environment: ["NOTIFY_SOCKET": path, "WATCHDOG_USEC": "300000"])
        #expect(wait(for: "READY=1", on: descriptor).contains("STATUS="))
        #expect(wait(for: "WATCHDOG=1", on: descriptor) == "WATCHDOG=1")
        #expect(wait(for: "STATUS=", on: descriptor).contains("clients over"))
        for text in [configuration.text(directory: godwit.directory), "nonsense: true"] {
            try text.write(toFile: godwit.configurationPath, atomically: true, encoding: .utf8)
            godwit.process.send(SIGHUP)
            let told = wait(for: "RELOADING=1", on: descriptor)
            #expect(told.contains("MONOTONIC_USEC="), "\(told)")
            #expect(wait(for: "READY=1", on: descriptor) == "READY=1")
        }
        let client = try WireClient(port: godwit.port, database: database)
        _ = try client.query("BEGIN")
        _ = try client.query("UPDATE side_marker SET id = 3")
        godwit.process.send(SIGTERM)
        #expect(wait(for: "STOPPING=1", on: descriptor).contains("draining"))
        _ = try client.query("COMMIT")
        #expect(godwit.process.wait() == .code(0))
    }

    @Test func `while clients are waited for the supervisor hears signs of life, and of no end`() throws {
        let (descriptor, path) = try supervisor()
        defer { close(descriptor) }
        let godwit = try GodwitProcess(
            configuration, environment: ["NOTIFY_SOCKET": path, "WATCHDOG_USEC": "300000"])
        let client = try WireClient(port: godwit.port, database: database)
        _ = try godwit.console("SHUTDOWN WAIT_FOR_CLIENTS")
        // What is told of the order comes before what is told of the signal.
        godwit.process.send(SIGHUP)
        var told = ""
        repeat {
            told = wait(for: "=1", on: descriptor)
            #expect(!told.contains("STOPPING"))
        } while !told.contains("RELOADING")
        #expect(wait(for: "WATCHDOG=1", on: descriptor) == "WATCHDOG=1")
        #expect(try client.value("SELECT 1") == "1")
        client.close()
        #expect(godwit.process.wait() == .code(0))
    }

    @Test func `a reload that takes its time is no thread that hangs`() throws {
        let (descriptor, path) = try supervisor()
        defer { close(descriptor) }
        let godwit = try GodwitProcess(
            configuration, environment: ["NOTIFY_SOCKET": path, "WATCHDOG_USEC": "300000"])
        // Read to its end, which comes when somebody has written it.
        let keys = godwit.directory + "/keys"
        try #require(mkfifo(keys, 0o600) == 0)
        var changed = configuration
        changed.databases[0].reads = ["cohorts": "[{name: slow, file: \"\(keys)\", percent: 0}]"]
        try changed.text(directory: godwit.directory)
            .write(toFile: godwit.configurationPath, atomically: true, encoding: .utf8)
        godwit.process.send(SIGHUP)
        _ = wait(for: "RELOADING=1", on: descriptor)
        // One may have been asked for before.
        for _ in 0..<3 { #expect(wait(for: "=1", on: descriptor) == "WATCHDOG=1") }
        let writer = try #require(FileHandle(forWritingAtPath: keys))
        try writer.write(contentsOf: Data("7\n".utf8))
        try writer.close()
        #expect(wait(for: "READY=1", on: descriptor) == "READY=1")
    }

    @Test func `the supervisor follows to the process that has taken over`() throws {
        let (descriptor, path) = try supervisor()
        defer { close(descriptor) }
        let godwit = try GodwitProcess(configuration, environment: ["NOTIFY_SOCKET": path])
        let next = try GodwitProcess(takingOverFrom: godwit)
        #expect(wait(for: "MAINPID", on: descriptor) == "MAINPID=\(next.process.pid)")
        #expect(godwit.process.wait() == .code(0))
        expectNoEnd(on: descriptor)
    }

    /// The service goes on.
    private func expectNoEnd(on descriptor: CInt) {
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, CInt(MSG_DONTWAIT))
            if count <= 0 { break }
            #expect(!String(decoding: buffer.prefix(count), as: UTF8.self).contains("STOPPING"))
        }
    }

    @Test func `one that lets its last clients go behind a takeover does not end the service`() throws {
        let (descriptor, path) = try supervisor()
        defer { close(descriptor) }
        var configuration = configuration
        configuration.listen["takeover_wait"] = "0.2"
        let godwit = try GodwitProcess(configuration, environment: ["NOTIFY_SOCKET": path])
        let client = try WireClient(port: godwit.port, database: database)
        _ = try client.query("BEGIN")
        _ = try client.query("UPDATE side_marker SET id = 4")
        let next = try GodwitProcess(takingOverFrom: godwit)
        #expect(wait(for: "MAINPID", on: descriptor) == "MAINPID=\(next.process.pid)")
        try godwit.log.waitForLine(containing: "are let go")
        #expect(try client.query("COMMIT").first?.commandTag == "COMMIT")
        #expect(godwit.process.wait() == .code(0))
        expectNoEnd(on: descriptor)
    }

    private func listening() throws -> (descriptor: CInt, port: UInt16) {
        let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let status = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                bind(descriptor, pointer, length) | listen(descriptor, 16) | getsockname(descriptor, pointer, &length)
            }
        }
        guard status == 0 else { throw TestFailure("listen: \(errno)") }
        return (descriptor, UInt16(bigEndian: address.sin_port))
    }

    @Test func `sockets that the service manager has opened are served, whatever the file says, also after a takeover`() throws {
        let (clients, port) = try listening()
        let (http, httpPort) = try listening()
        defer { for descriptor in [clients, http] { close(descriptor) } }
        var configuration = configuration
        configuration.port = try FreePort.find()
        // Before anybody serves it, a connection waits in the kernel.
        let early = try WireClient(port: port)
        let godwit = try GodwitProcess(
            configuration, environment: ["LISTEN_FDNAMES": "clients:http"], sockets: [clients, http])
        #expect(godwit.port == port)
        early.send(FrameBuilder.startup([("user", "app"), ("database", database)]))
        #expect(try early.readToReady().last?.transactionStatus == "I")
        early.close()
        #expect(try HTTPExchange.get("/healthz", port: httpPort).status == 200)
        let next = try GodwitProcess(takingOverFrom: godwit)
        #expect(next.port == port)
        #expect(godwit.process.wait() == .code(0))
        #expect(try WireClient(port: port, database: database).value("SELECT side FROM side_marker") == "old")
        #expect(try HTTPExchange.get("/healthz", port: httpPort).status == 200)
    }

    // MARK: the log

    private func json(_ line: String) throws -> [String: Any] {
        try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any], "\(line)")
    }

    @Test func `the log is text or JSON, as the last reload says`() throws {
        var configuration = configuration
        configuration.sections = "log: {format: json}"
        let godwit = try GodwitProcess(configuration)
        let start = try json(try godwit.log.waitForLine(containing: "listening on"))
        #expect(start["level"] as? String == "notice")
        #expect((start["message"] as? String)?.hasPrefix("listening on 127.0.0.1:") == true)
        #expect((start["time"] as? String)?.hasSuffix("Z") == true)
        _ = try godwit.console("DISABLE \(database)")
        let order = try json(try godwit.log.waitForLine(containing: "DISABLE"))
        let event = try #require(order["event"] as? [String: Any])
        #expect(event["kind"] as? String == "order")
        #expect(event["database"] as? String == database)
        #expect((event["cause"] as? String)?.contains("by user \"godwit\" from 127.0.0.1") == true)
        _ = try godwit.console("SET log.format = 'text'")
        let before = godwit.log.lines.count
        _ = try godwit.console("ENABLE \(database)")
        let line = try godwit.log.waitForLine(containing: "ENABLE", skipping: before)
        #expect(!line.hasPrefix("{"), "\(line)")
    }

    @Test func `failed logins by the hundred are a few lines, and how many there were`() throws {
        var configuration = configuration
        configuration.authMethod = "password"
        configuration.users = "\"app\" \"right\"\n"
        configuration.sections = "log: {rate: 3}"
        let godwit = try GodwitProcess(configuration)
        // All at once: one by one they might be too slow for the rate.
        let clients = try (0..<40).map { _ in
            let client = try WireClient(port: godwit.port)
            client.send(FrameBuilder.startup([("user", "app"), ("database", database)]))
            client.send(FrameBuilder.message("p", FrameBuilder.string("wrong")))
            return client
        }
        for client in clients { #expect(try client.readToEnd().last?.sqlState == "28P01") }
        try godwit.log.waitForLine(containing: "suppressed")
        let lines = godwit.log.lines.filter { $0.contains("login from") }
        #expect(lines.count < 40, "\(lines.count)")
    }

    @Test func `no text of a client, and no secret, is in the log at its loudest`() throws {
        var configuration = configuration
        configuration.sections = "log: {level: trace}"
        configuration.authMethod = "scram-sha-256"
        configuration.users = "\"app\" \"s3cr3t-of-app\"\n\"godwit\" \"s3cr3t-of-admin\"\n"
        configuration.database.old += " password=s3cr3t-of-old"
        let godwit = try GodwitProcess(configuration)
        let sql = """
            SELECT 'l1teral-1'; INSERT INTO side_marker VALUES (1, 'l1teral-2'); SELECT 'l1teral-3'::int;
            """
        // The first is answered, and the errors of the others repeat what they had.
        let statements = sql.split(separator: ";").map(String.init)
        let answer = try godwit.psql(statements[0], database: database, password: "s3cr3t-of-app")
        #expect(answer == "l1teral-1")
        for (statement, words) in zip(statements.dropFirst(), ["duplicate key", "l1teral-3"]) {
            let error = #expect(throws: TestFailure.self) {
                try godwit.psql(statement, database: database, password: "s3cr3t-of-app")
            }
            #expect(error.map { "\($0)".contains(words) } == true, "\(statement)")
        }
        _ = try? godwit.psql("SELECT 1", database: database, password: "s3cr3t-that-is-wrong")
        let console = godwit.conninfo(database: "godwit", user: "godwit", password: "s3cr3t-of-admin")
        _ = try? ChildProcess.run([
            "psql", "-XqA", "-d", console, "-c",
            "SET databases.\(database).old = 'host=127.0.0.1 password=s3cr3t-of-set'",
        ])
        try godwit.log.waitForLine(containing: "SET databases")
        _ = try ChildProcess.run(["psql", "-XqA", "-d", console, "-c", "SHUTDOWN"])
        godwit.process.wait()
        #expect(!godwit.log.text.contains("l1teral"), "\(godwit.log.text)")
        #expect(!godwit.log.text.contains("s3cr3t"), "\(godwit.log.text)")
    }

    // MARK: events

    @Test func `what operators order is told as events, with who did it and from where`() throws {
        let godwit = try GodwitProcess(configuration)
        _ = try godwit.console("PAUSE \(database)")
        _ = try godwit.console("RESUME \(database)")
        _ = try godwit.console("RECONNECT \(database)")
        _ = try godwit.console("SET pool.size = 7")
        _ = try godwit.console("RELOAD")
        _ = try godwit.console("KILL \(database)")
        _ = try godwit.console("RESUME \(database)")
        godwit.process.send(SIGUSR1)
        try godwit.log.waitForLine(containing: "by SIGUSR1")
        _ = try godwit.console("RESUME")
        let events = try godwit.console("SHOW EVENTS")
        let by = "by user \"godwit\" from 127.0.0.1"
        for words in [
            "PAUSE \(database), \(by)", "RESUME \(database), \(by)", "RECONNECT \(database), \(by)",
            "SET pool.size = 7, \(by)", "RELOAD, \(by)", "KILL \(database), \(by)", "PAUSE KEEP, by SIGUSR1",
        ] {
            #expect(events.contains { $0["kind"] == "order" && $0["cause"] == words }, "\(words): \(events)")
        }
        let client = try WireClient(port: godwit.port, database: database)
        _ = try client.query("BEGIN")
        _ = try client.query("SELECT 1 FROM side_marker FOR UPDATE")
        godwit.process.send(SIGTERM)
        try godwit.log.waitForLine(containing: "shutdown: SIGTERM: draining")
        godwit.process.send(SIGTERM)
        try godwit.log.waitForLine(containing: "shutdown: SIGTERM: ending")
        #expect(godwit.process.wait() == .code(0))
    }

    @Test(arguments: [SIGINT, SIGQUIT])
    func `SIGINT and SIGQUIT end at once`(signal: CInt) throws {
        let godwit = try GodwitProcess(configuration)
        let client = try WireClient(port: godwit.port, database: database)
        _ = try client.query("BEGIN")
        _ = try client.query("SELECT 1 FROM side_marker FOR UPDATE")
        godwit.process.send(signal)
        #expect(godwit.process.wait() == .code(0))
        _ = try? client.readToEnd()
    }
}
