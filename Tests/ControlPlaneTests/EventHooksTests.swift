import Configuration
import Foundation
import Logging
import Primitives
import TestSupport
import Testing

@testable import ControlPlane

@Suite struct EventHooksTests {
    private let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    private func script(_ text: String) throws -> String {
        let path = try TestResources.file("hook", "#!/bin/sh\n" + text + "\n")
        chmod(path, 0o755)
        return path
    }

    private func hooks(_ paths: [String], timeout: Double = 60) -> EventHooks {
        let hooks = EventHooks(logger: logger)
        var settings = EventSettings()
        settings.hooks = paths
        settings.hookTimeoutSeconds = timeout
        hooks.apply(settings)
        return hooks
    }

    /// Blocks until somebody has written so many lines into a FIFO.
    private func lines(_ count: Int, of fifo: String) throws -> [String] {
        let file = try #require(FileHandle(forUpdatingAtPath: fifo))
        var text = ""
        while text.split(separator: "\n").count < count || !text.hasSuffix("\n") {
            text += String(decoding: file.availableData, as: UTF8.self)
        }
        return text.split(separator: "\n").map(String.init)
    }

    @Test func `each program gets each event on its standard input, in order, also beside one that hangs`() throws {
        let fifo = TestResources.uniquePath("fifo")
        #expect(mkfifo(fifo, 0o600) == 0)
        let hooks = hooks([try script("exec sleep 1000"), try script("cat > \(fifo)")])
        defer { hooks.stop() }
        let log = EventLog()
        log.add(hooks)
        for number in 1...3 { log.append(EventRecord(.trip, database: "shop", side: .new, cause: "cause \(number)")) }
        let lines = try lines(3, of: fifo)
        #expect(lines == log.events.map(\.json))
    }

    @Test func `what takes too long is ended with all it started, and what fails is counted`() throws {
        let fifo = TestResources.uniquePath("fifo")
        #expect(mkfifo(fifo, 0o600) == 0)
        let hooks = hooks([try script("sleep 1000 & echo $! > \(fifo)\nwait"), try script("exit 3")], timeout: 0.3)
        defer { hooks.stop() }
        hooks.append(EventRecord(.reload, cause: "x"))
        let child = try #require(pid_t(try lines(1, of: fifo)[0]))
        while hooks.figures[0].timedOut == 0 || hooks.figures[1].failed == 0 { sched_yield() }
        #expect(hooks.figures[0].succeeded == 0 && hooks.figures[1].succeeded == 0)
        // Nobody may reap it here: dead is enough.
        while kill(child, 0) == 0 {
            let stat = (try? String(contentsOfFile: "/proc/\(child)/stat", encoding: .utf8)) ?? ") Z"
            if stat.contains(") Z") { break }
        }
    }

    @Test func `a full queue drops and counts, and the end does not wait`() throws {
        let fifo = TestResources.uniquePath("fifo")
        #expect(mkfifo(fifo, 0o600) == 0)
        let hooks = hooks([try script("echo begun > \(fifo)\nexec sleep 1000")], timeout: 1000)
        hooks.append(EventRecord(.reload, cause: "first"))
        #expect(try lines(1, of: fifo) == ["begun"])
        for _ in 0..<HookRunner.waitingMax { hooks.append(EventRecord(.reload, cause: "waits")) }
        #expect(hooks.figures[0].dropped == 0)
        hooks.append(EventRecord(.reload, cause: "too many"))
        #expect(hooks.figures[0].dropped == 1)
        hooks.stop()
        #expect(hooks.figures.isEmpty)
    }
}
