import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized) struct VerifyResumeTests {
    let servers: Servers

    init() throws { servers = try Servers.shared.get() }

    @Test func `a comparison that is killed goes on where it was, while the application writes`() throws {
        let database = try servers.makeDatabase(
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            old: "INSERT INTO t SELECT g, g FROM generate_series(1, 110000) g")
        let godwit = try servers.mirroring(database)
        let file = godwit.directory + "/progress"
        let command = ["verify", "--config", godwit.configurationPath, database, "--resume", file]
        // A range of 20,000 rows in two seconds: another process has to begin before the last one.
        let first = try ChildProcess([GodwitProcess.executable] + command + ["--rate", "10000"])
        try waitUntil {
            _ = try godwit.psql("UPDATE t SET v = v || '.' WHERE id % 1000 = 7", database: database)
            let lines = FileManager.default.contents(atPath: file)?.split(separator: UInt8(ascii: "\n")).count ?? 0
            if first.hasEnded { throw TestFailure("\(first.wait()): \(first.output.text) \(first.errors.text)") }
            return lines > 2
        }
        let beside = try GodwitProcess.command(command)
        #expect(beside.wait() == .code(2) && beside.errors.text.contains("another comparison uses it now"))
        first.send(SIGKILL)
        #expect(first.wait() == .signal(SIGKILL))
        let second = try GodwitProcess.command(command)
        #expect(second.wait() == .code(0), "\(second.errors.text)")
        #expect(second.output.text.contains("goes on with a comparison begun"))
        #expect(second.output.text.contains("110000"), "\(second.output.text)")
        #expect(!FileManager.default.fileExists(atPath: file))
    }
}
