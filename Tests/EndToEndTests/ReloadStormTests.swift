import Foundation
import Glibc
import Primitives
import TestSupport
import Testing

/// The configuration is read a hundred times under load, good and bad in any order, while consoles order this and that.
@Suite(.serialized) struct ReloadStormTests {
    @Test func `a hundred reloads of good and bad files meet no client`() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let servers = try Servers.shared.get()
        let database = try servers.makeMarkedDatabase()
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.threads = 2
        configuration.sections = "log: {rate: 0}"
        let godwit = try GodwitProcess(configuration)
        let python = TestResources.packageRoot + "/.build/venv/bin/python"
        let program = TestResources.packageRoot + "/Tests/EndToEndTests/Drivers/connect_loop.py"
        let conninfo = godwit.conninfo(database: database)
        let load = try ChildProcess([python, program, conninfo, conninfo, conninfo], keepsInput: true)
        try load.output.waitForLine(containing: "going")
        let held = try WireClient(port: godwit.port, database: database)
        _ = try held.query("BEGIN")
        _ = try held.query("UPDATE side_marker SET id = id")

        var (good, bad) = (0, 0)
        for turn in 0..<100 {
            var next = configuration
            next.database.readsPercent = "\(Int.random(in: 0...100, using: &generator))"
            next.database.pool = ["size": "\(Int.random(in: 4...30, using: &generator))"]
            next.database.breaker["failures"] = "\(Int.random(in: 1...9, using: &generator))"
            next.sections = "log: {rate: 0, level: \(["debug", "info", "notice"].randomElement(using: &generator) ?? "info")}"
            var text = next.text(directory: godwit.directory)
            let isBad = Bool.random(using: &generator)
            if isBad { text = spoiled(text, &generator) }
            try text.write(toFile: godwit.configurationPath, atomically: true, encoding: .utf8)
            let before = godwit.log.lines.count
            godwit.process.send(SIGHUP)
            if turn % 5 == 0 { try order(godwit, database, &generator) }
            let line = try godwit.log.waitForLine(containing: " reload: ", skipping: before)
            #expect(line.contains("refused, nothing changed") == isBad, "seed \(seed), turn \(turn): \(line)")
            if isBad { bad += 1 } else { good += 1 }
        }
        #expect(try held.query("COMMIT").first?.commandTag == "COMMIT")
        load.endInput()
        #expect(load.wait() == .code(0), "seed \(seed): \(load.output.text)\(load.errors.text)")
        print("reload storm: \(good) taken, \(bad) refused;", load.output.lines.last ?? "")
        #expect(!godwit.process.hasEnded)
    }

    /// Wrong in one of the ways that people and half-written files are.
    private func spoiled(_ text: String, _ generator: inout SeededGenerator) -> String {
        switch Int.random(in: 0..<5, using: &generator) {
        case 0: text.replacing("percent:", with: "percnt:")
        case 1: text.replacing("size:", with: "size: -")
        case 2: String(text.prefix(Int.random(in: 1..<text.count / 3, using: &generator))) + "\n  ] {"
        case 3: text + "\nnonsense: true\n"
        default: ""
        }
    }

    private func order(_ godwit: GodwitProcess, _ database: String, _ generator: inout SeededGenerator) throws {
        let commands = [
            "SHOW POOLS", "READS \(database) 30", "SET pool.size = 12", "RECONNECT \(database)", "SHOW EVENTS",
            "FORCE \(database) AUTO",
        ]
        _ = try godwit.console(commands.randomElement(using: &generator) ?? "SHOW POOLS")
    }
}
