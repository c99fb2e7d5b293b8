import Foundation
import Glibc
import TestSupport
import Testing

/// A new process takes the place of the running one, and no client is refused.
@Suite(.serialized) struct TakeoverTests {
    let servers: Servers
    let database: String
    var configuration: GodwitConfiguration

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeMarkedDatabase()
        configuration = GodwitConfiguration([servers.entry(database)])
        configuration.threads = 2
    }

    private func cancelRequest(_ key: [UInt8]) -> [UInt8] {
        FrameBuilder.bigEndian(UInt32(8 + key.count)) + FrameBuilder.bigEndian(UInt32(80_877_102)) + key
    }

    private func loop(_ godwit: GodwitProcess, extra: [String] = []) throws -> ChildProcess {
        let python = TestResources.packageRoot + "/.build/venv/bin/python"
        let program = TestResources.packageRoot + "/Tests/EndToEndTests/Drivers/connect_loop.py"
        let conninfo = godwit.conninfo(database: database)
        let loop = try ChildProcess([python, program, conninfo, conninfo] + extra, keepsInput: true)
        try loop.output.waitForLine(containing: "going")
        return loop
    }

    /// Waits until each way has been gone again.
    private func moreRounds(_ loop: ChildProcess) throws {
        func rounds() throws -> [Int] {
            let before = loop.output.lines.count
            loop.write("?\n")
            let line = try loop.output.waitForLine(containing: "rounds", skipping: before)
            let numbers = line.firstMatch(of: /\[([0-9, ]+)\]/)?.output.1 ?? ""
            return numbers.split(separator: ",").compactMap { Int($0.trimmingCharacters(in: .whitespaces)) }
        }
        let before = try rounds()
        try waitUntil { zip(try rounds(), before).allSatisfy { $0 > $1 + 2 } }
    }

    @Test func `clients come and go over TCP and a Unix socket while four processes follow each other: no error`() throws {
        var configuration = configuration
        configuration.listen["unix_socket_directory"] = "DIRECTORY"
        configuration.port = try FreePort.find()
        var running = try GodwitProcess(configuration)
        let unix = "host=\(running.directory) port=\(running.port) dbname=\(database) user=app"
        let loop = try loop(running, extra: [unix, unix])
        let port = running.port
        for _ in 0..<4 {
            try moreRounds(loop)
            let next = try GodwitProcess(takingOverFrom: running)
            #expect(next.port == port)
            #expect(running.process.wait() == .code(0), "\(running.log.text)")
            running = next
        }
        try moreRounds(loop)
        loop.endInput()
        #expect(loop.wait() == .code(0), "\(loop.output.text)\(loop.errors.text)\n\(running.log.text)")
        print("takeovers under load:", loop.output.lines.last ?? "")
        let events = try running.console("SHOW EVENTS").filter { $0["kind"] == "takeover" }
        #expect(events.contains { $0["cause"]?.contains("has taken over") == true }, "\(events)")
        #expect(running.terminate() == .code(0))
    }

    @Test func `a new process that cannot start leaves the running one as it was`() throws {
        var configuration = configuration
        configuration.http = ["port": "\(try FreePort.find())"]
        let godwit = try GodwitProcess(configuration)
        let client = try WireClient(port: godwit.port, database: database)
        let good = try String(contentsOfFile: godwit.configurationPath, encoding: .utf8)

        // Its file is wrong.
        try good.replacing("reads:", with: "raeds:").write(
            toFile: godwit.configurationPath, atomically: true, encoding: .utf8)
        let invalid = try GodwitProcess.command(["serve", "--takeover", "--config", godwit.configurationPath])
        #expect(invalid.wait() == .code(2), "\(invalid.errors.text)")

        // It has been given the sockets already when it finds another one taken.
        let before = godwit.log.lines.count
        var taken = configuration
        taken.listen["unix_socket_directory"] = "/dev/null"
        try taken.text(directory: godwit.directory).write(
            toFile: godwit.configurationPath, atomically: true, encoding: .utf8)
        let unable = try GodwitProcess.command(["serve", "--takeover", "--config", godwit.configurationPath])
        #expect(unable.wait() == .code(1), "\(unable.errors.text)")
        #expect(unable.errors.text.contains("/dev/null"), "\(unable.errors.text)")
        try godwit.log.waitForLine(containing: "did not take over", skipping: before)

        #expect(try client.value("SELECT side FROM side_marker") == "old")
        let another = try WireClient(port: godwit.port, database: database)
        #expect(try another.value("SELECT side FROM side_marker") == "old")
        // And the next attempt is met as if there had been none.
        try good.write(toFile: godwit.configurationPath, atomically: true, encoding: .utf8)
        let next = try GodwitProcess(takingOverFrom: godwit)
        #expect(try WireClient(port: next.port, database: database).value("SELECT 1") == "1")
    }

    @Test func `without a running one there is nothing to take over`() throws {
        let directory = try GodwitProcess.makeDirectory(configuration)
        let process = try GodwitProcess.command(["serve", "--takeover", "--config", directory + "/godwit.yaml"])
        #expect(process.wait() == .code(1))
        #expect(process.errors.text.contains("without --takeover"), "\(process.errors.text)")
    }

    @Test func `while sockets are not read nobody takes over`() throws {
        let godwit = try GodwitProcess(configuration)
        _ = try godwit.console("SUSPEND")
        let refused = try GodwitProcess.command(["serve", "--takeover", "--config", godwit.configurationPath])
        #expect(refused.wait() == .code(1))
        #expect(refused.errors.text.contains("RESUME"), "\(refused.errors.text)")
        _ = try godwit.console("RESUME")
        let next = try GodwitProcess(takingOverFrom: godwit)
        #expect(try WireClient(port: next.port, database: database).value("SELECT 1") == "1")
    }

    @Test func `while a switch is under way nobody takes over, also before it holds anybody`() throws {
        let name = try servers.makeDatabase("CREATE TABLE item (id int PRIMARY KEY, word text)")
        let godwit = try servers.mirroring(name)
        // Whoever settles an earlier switch is waited for.
        let settling = try WireClient(port: servers.old.port, database: name)
        _ = try settling.query("SELECT pg_advisory_lock(7451605422)")
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        console.send(FrameBuilder.query("CUTOVER \(name) WITHOUT VERIFY DEADLINE 60000"))
        try waitUntil {
            try servers.old.psql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                + " AND database = (SELECT oid FROM pg_database WHERE datname = '\(name)')") == "1"
        }
        let refused = try GodwitProcess.command(["serve", "--takeover", "--config", godwit.configurationPath])
        #expect(refused.wait() == .code(1))
        #expect(refused.errors.text.contains("switch of the authority"), "\(refused.errors.text)")
        _ = try settling.query("SELECT pg_advisory_unlock(7451605422)")
        _ = try console.readToReady()
        let next = try GodwitProcess(takingOverFrom: godwit)
        #expect(try next.console("SHOW AUTHORITY").contains { $0["database"] == name })
    }

    @Test func `clients of the old process stay until they leave, and are told to after takeover_wait`() throws {
        var configuration = configuration
        configuration.listen["takeover_wait"] = "100000"
        let godwit = try GodwitProcess(configuration)
        let stays = try WireClient(port: godwit.port, database: database)
        let next = try GodwitProcess(takingOverFrom: godwit)
        #expect(try WireClient(port: next.port, database: database).value("SELECT 1") == "1")
        #expect(try stays.value("SELECT side FROM side_marker") == "old")
        _ = try stays.query("BEGIN")
        _ = try stays.query("UPDATE side_marker SET id = 7")
        #expect(!godwit.process.hasEnded)
        // Another one has to wait for the first to end.
        let third = try GodwitProcess.command(["serve", "--takeover", "--config", godwit.configurationPath])
        #expect(third.wait() == .code(1))
        #expect(third.errors.text.contains("has not ended"), "\(third.errors.text)")
        // SIGTERM is the drain of old: at a transaction's border.
        godwit.process.send(SIGTERM)
        #expect(try stays.query("COMMIT").first?.commandTag == "COMMIT")
        _ = try stays.readToEnd()
        #expect(godwit.process.wait() == .code(0))
        try next.log.waitForLine(containing: "before this one has ended")
        #expect(try servers.old.psql("SELECT id FROM side_marker", database: database) == "7")
    }

    @Test func `with takeover_wait at an end the clients are told`() throws {
        var configuration = configuration
        configuration.listen["takeover_wait"] = "0.2"
        let godwit = try GodwitProcess(configuration)
        let idle = try WireClient(port: godwit.port, database: database)
        let next = try GodwitProcess(takingOverFrom: godwit)
        #expect(try idle.readToEnd().last?.sqlState == "57P01")
        #expect(godwit.process.wait() == .code(0))
        #expect(try WireClient(port: next.port, database: database).value("SELECT 1") == "1")
    }

    /// - Parameter look: while the process that has taken over serves.
    private func takeOver(_ godwit: GodwitProcess, bySending signal: CInt, _ look: () throws -> Void) throws {
        godwit.process.send(signal)
        let line = try godwit.log.waitForLine(containing: "was started to take over")
        let digits = line.firstMatch(of: /process ([0-9]+) was started/)?.output.1 ?? ""
        let process = try #require(pid_t(digits))
        defer { kill(process, SIGKILL) }
        // It writes to the same log.
        try godwit.log.waitForLine(containing: "process \(process) has taken over")
        try godwit.log.waitForLine(containing: "notice: ended")
        try look()
    }

    @Test func `SIGUSR2 starts the program anew, and that one takes over`() throws {
        let godwit = try GodwitProcess(configuration)
        let port = godwit.port
        try takeOver(godwit, bySending: SIGUSR2) {
            let side = try WireClient(port: port, database: database).value("SELECT side FROM side_marker")
            #expect(side == "old")
        }
    }

    @Test func `an upgrade takes over also while all is held, and lets nothing go`() throws {
        let godwit = try GodwitProcess(configuration)
        _ = try godwit.console("PAUSE")
        try takeOver(godwit, bySending: SIGURG) {
            let states = try godwit.console("SHOW STATE")
            #expect(states.contains { $0["key"] == "paused" && $0["value"] == "yes" }, "\(states)")
        }
    }

    @Test func `what the old process does about shares is not what the next start goes by`() throws {
        var configuration = configuration
        configuration.listen["takeover_wait"] = "100000"
        let old = try GodwitProcess(configuration)
        let client = try WireClient(port: old.port, database: database)
        _ = try old.console("READS \(database) 10")
        let next = try GodwitProcess(takingOverFrom: old)
        _ = try next.console("READS \(database) 20")
        // The file's share counts there from now on.
        let before = old.log.lines.count
        old.process.send(SIGHUP)
        try old.log.waitForLine(containing: " reload: ", skipping: before)
        client.close()
        #expect(old.process.wait() == .code(0))
        #expect(next.terminate() == .code(0))
        let again = try GodwitProcess(resuming: next)
        let shares = try again.console("SHOW DATABASES").filter { $0["name"] == database && $0["side"] == "new" }
        #expect(shares.map { $0["reads_percent"] } == ["20.00"])
    }

    @Test func `a cancel request for a client of the old process reaches it by way of the new one`() throws {
        let godwit = try GodwitProcess(configuration)
        let sleeper = try WireClient(port: godwit.port, database: database)
        let key = sleeper.cancelKey
        sleeper.send(FrameBuilder.query("SELECT pg_sleep(3600)"))
        try waitUntil {
            try servers.old.psql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)%'"
                + " AND state = 'active' AND datname = '\(database)' AND pid <> pg_backend_pid()") == "1"
        }
        let next = try GodwitProcess(takingOverFrom: godwit)
        let canceller = try WireClient(port: next.port)
        canceller.send(cancelRequest(key))
        // Closed when it has been passed on, as libpq expects.
        _ = try canceller.readToEnd()
        #expect(try sleeper.readToError()?.sqlState == "57014")
        // One that is for nobody is closed as well.
        let stranger = try WireClient(port: next.port)
        stranger.send(cancelRequest([0, 0, 0x7f, 1, 1, 2, 3, 4]))
        _ = try stranger.readToEnd()
    }

    @Test func `a process that has left mirrors nothing behind a switch of the next one's`() throws {
        let name = try servers.makeDatabase("CREATE TABLE item (id int PRIMARY KEY, word text)")
        let godwit = try servers.mirroring(name) { $0.listen["takeover_wait"] = "100000" }
        let stays = try WireClient(port: godwit.port, database: name)
        let next = try GodwitProcess(takingOverFrom: godwit)
        func isMirroring() throws -> Bool { try next.console("SHOW MIRROR").first?["state"] == "mirroring" }
        for verb in ["CUTOVER", "ROLLBACK", "CUTOVER", "ROLLBACK"] {
            try waitUntil { try isMirroring() }
            _ = try next.console("\(verb) \(name) WITHOUT VERIFY DEADLINE 60000")
            // The old process's client is on the side that has the writes now, as soon as it has followed.
            #expect(try stays.query("INSERT INTO item VALUES (1, '') ON CONFLICT DO NOTHING").first?.type == "C")
        }
        try waitUntil { try isMirroring() }
        #expect(godwit.log.lines.count { $0.contains("state=starting") } == 1)
        stays.close()
        #expect(godwit.process.wait() == .code(0))
    }

    @Test func `the mirror goes over early, and reads stay on OLD until the old process has ended`() throws {
        let name = try servers.makeDatabase("CREATE TABLE item (id int PRIMARY KEY, word text)")
        let godwit = try servers.mirroring(name) { $0.database.readsPercent = "100" }
        let writer = try WireClient(port: godwit.port, database: name)
        _ = try writer.query("INSERT INTO item VALUES (1, 'before')")
        let next = try GodwitProcess(takingOverFrom: godwit)
        func mirror() throws -> [String: String]? { try next.console("SHOW MIRROR").first { $0["database"] == name } }
        try waitUntil { try mirror()?["state"] == "mirroring" }
        // What the old process's clients write reaches NEW by the new process's mirror.
        _ = try writer.query("INSERT INTO item VALUES (2, 'during')")
        try waitUntil { try servers.new.psql("SELECT count(*) FROM item", database: name) == "2" }
        #expect(try mirror()?["readable"] == "no")
        let reader = try WireClient(port: next.port, database: name)
        #expect(try reader.value("SELECT count(*) FROM item") == "2")
        #expect(try writer.value("SELECT count(*) FROM item") == "2")
        writer.close()
        #expect(godwit.process.wait() == .code(0))
        try waitUntil { try mirror()?["readable"] == "yes" }
    }

    @Test func `reads of what * has made stay on OLD as well until the old process has ended`() throws {
        var configuration = configuration
        var every = servers.entry(database)
        (every.name, every.readsPercent, every.readsKey) = ("\"*\"", "100", "[{session: user}]")
        configuration.databases.append(every)
        let godwit = try GodwitProcess(configuration)
        let read = "SELECT side FROM side_marker"
        let stays = try WireClient(port: godwit.port, database: "on_demand")
        #expect(try stays.value(read) == "new")
        let next = try GodwitProcess(takingOverFrom: godwit)
        try next.log.waitForLine(containing: "has taken over and serves new clients")
        let client = try WireClient(port: next.port, database: "on_demand")
        for one in [stays, client] { #expect(try one.value(read) == "old") }
        stays.close()
        #expect(godwit.process.wait() == .code(0))
        try waitUntil { try client.value(read) == "new" }
    }
}
