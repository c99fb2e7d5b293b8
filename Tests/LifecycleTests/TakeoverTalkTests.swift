import Glibc
import Primitives
import Reactor
import Testing

@testable import Lifecycle

/// The two ends of a hand-over, in one process.
@Suite struct TakeoverTalkTests {
    private let address = SocketAddress.unix(path: "@godwit-talk-\(getpid())-\(UInt64.random(in: 0 ... .max))")
    private let steps = Mailbox<TakeoverStep>()
    private let untold = Untold()

    /// Steps that came together with one that was asked for.
    private final class Untold { var steps: [TakeoverStep] = [] }

    private func offer() throws -> TakeoverOffer {
        let offer = try TakeoverOffer(at: address, inherited: nil) { [steps] in steps.post($0) }
        offer.start()
        return offer
    }

    /// The next step that the running process is told.
    private func next() -> TakeoverStep {
        while untold.steps.isEmpty {
            var ready = pollfd(fd: steps.descriptor, events: Int16(POLLIN), revents: 0)
            _ = poll(&ready, 1, -1)
            untold.steps = steps.take()
        }
        return untold.steps.removeFirst()
    }

    private func expectLost(_ step: TakeoverStep) {
        if case .lost = step { return }
        Issue.record("not lost, but \(String(describing: step))")
    }

    /// The other process's part, on a thread of its own.
    private func claim(_ body: @escaping @Sendable (TakeoverClaim, [(InheritedSockets.Label, CInt)]) -> Void) -> OwnThread {
        let address = address
        return OwnThread(name: "claim") {
            do {
                let begun = try TakeoverClaim.begin(at: address)
                body(begun.claim, begun.sockets)
            } catch {
                Issue.record("\(error)")
            }
        }
    }

    /// The running process's part until it has said that the other one may go on, and its end.
    ///
    /// - Parameter body: what it does in between.
    private func sayGo(_ listening: CInt, _ body: (borrowing HandOverChannel) -> Void = { _ in }) throws {
        do {
            let running = HandOverChannel(owning: accept(listening, nil, nil))
            _ = running.receive(millis: -1)
            running.send("sockets")
            _ = running.receive(millis: -1)
            running.send("go")
            body(running)
        }
        // Its end of the connection is closed: see `untilEnd`.
        _ = try HandOverChannel.connect(to: address)
    }

    /// Returns when the running process of `sayGo` has ended.
    private static func untilEnd(_ listening: CInt) {
        var ended = pollfd(fd: listening, events: Int16(POLLIN), revents: 0)
        _ = poll(&ended, 1, -1)
    }

    @Test func `sockets are handed over, and cancel requests passed back`() throws {
        let offer = try offer()
        let listener = try Listener(on: .ipv4(address: 0x7F00_0001, port: 0))
        let port = listener.address.port
        let answers = Mailbox<TakeoverStep>()
        let thread = claim { claim, sockets in
            #expect(sockets.map(\.0) == [.postgres, .takeover])
            #expect(!claim.isActivated)
            do {
                var inherited = InheritedSockets(sockets.map { (label: $0.0, descriptor: $0.1) })
                let handles = try inherited.take(.postgres)
                #expect(handles.map(\.address.port) == [port])
                #expect(try claim.ready() == ["reads shop 10", "two\nlines"])
            } catch {
                Issue.record("\(error)")
            }
            do { try claim.serving { answers.post($0) } } catch { Issue.record("\(error)") }
            claim.order("hold all")
            claim.cancel(number: 3, processID: 77, secret: [0, 255, 16])
            var ready = pollfd(fd: answers.descriptor, events: Int16(POLLIN), revents: 0)
            _ = poll(&ready, 1, -1)
            var heard: [TakeoverStep] = []
            while heard.count < 2 {
                heard += answers.take()
                if heard.count == 2 { break }
                _ = poll(&ready, 1, -1)
            }
            #expect(heard == [.gateStanding("held 7"), .canceled(number: 3)])
        }
        #expect(next() == .asked(process: getpid()))
        let duplicate = listener.duplicate()
        let copy = try #require(duplicate)
        offer.answer(.granted([(.postgres, copy)], isActivated: false))
        #expect(next() == .ready)
        offer.answer(.go(orders: ["reads shop 10", "two\nlines"]))
        #expect(next() == .serving(process: getpid()))
        #expect(next() == .gate("hold all"))
        offer.answer(.standing("held 7"))
        #expect(next() == .cancel(number: 3, processID: 77, secret: [0, 255, 16]))
        offer.answer(.canceled(number: 3))
        thread.join()
    }

    @Test func `what is refused says why`() throws {
        let offer = try offer()
        let address = address
        let thread = OwnThread(name: "claim") {
            #expect(throws: TakeoverFailure.refused("it is held")) { _ = try TakeoverClaim.begin(at: address) }
        }
        #expect(next() == .asked(process: getpid()))
        offer.answer(.refused("it is held"))
        thread.join()
    }

    @Test func `one that goes away at any point is told as lost, and the next one is met`() throws {
        let offer = try offer()
        // After the sockets.
        var thread = claim { _, sockets in for socket in sockets { close(socket.1) } }
        #expect(next() == .asked(process: getpid()))
        offer.answer(.granted([], isActivated: false))
        expectLost(next())
        thread.join()
        // After ready.
        thread = claim { claim, sockets in
            for socket in sockets { close(socket.1) }
            _ = try? claim.ready()
        }
        #expect(next() == .asked(process: getpid()))
        offer.answer(.granted([], isActivated: true))
        #expect(next() == .ready)
        offer.answer(.go(orders: []))
        expectLost(next())
        thread.join()
        // Silence at the begin is no question at all.
        #expect(throws: TakeoverFailure.nobody) {
            _ = try TakeoverClaim.begin(at: .unix(path: "@godwit-nobody-\(getpid())"))
        }
    }

    @Test func `one that comes too late to serve is told so`() throws {
        let listening = try HandOverChannel.listen(address)
        defer { close(listening) }
        let thread = claim { claim, _ in
            do {
                #expect(try claim.ready() == [])
                Self.untilEnd(listening)
            } catch {
                Issue.record("\(error)")
            }
            #expect(throws: TakeoverFailure.lost) { try claim.serving(patienceMillis: 0) { _ in } }
        }
        try sayGo(listening) { running in
            if case .ended = running.receiveOrClose(millis: 0) { return }
            Issue.record("it was there in time")
        }
        thread.join()
    }

    @Test func `one whose predecessor was killed in between serves all the same`() throws {
        let listening = try HandOverChannel.listen(address)
        defer { close(listening) }
        let steps = steps
        let thread = claim { claim, _ in
            do {
                #expect(try claim.ready() == [])
                Self.untilEnd(listening)
                try claim.serving { steps.post($0) }
            } catch {
                Issue.record("\(error)")
            }
        }
        try sayGo(listening)
        #expect(next() == .predecessorEnded)
        thread.join()
    }

    @Test func `what was said in time is heard`() throws {
        let listening = try HandOverChannel.listen(address)
        defer { close(listening) }
        let other = try HandOverChannel.connect(to: address)
        let running = HandOverChannel(owning: accept(listening, nil, nil))
        other.send("serving")
        shutdown(running.socket.raw, CInt(SHUT_RD))
        guard case .message("serving", _) = running.receiveOrClose(millis: 0) else {
            Issue.record("not heard")
            return
        }
        let isHeard = other.send("too late")
        #expect(!isHeard)
    }

    @Test func `sockets of a service manager are those that it names for this process`() throws {
        let first = try Listener(on: .ipv4(address: 0x7F00_0001, port: 0))
        let second = try Listener(on: .ipv4(address: 0x7F00_0001, port: 0))
        // Two numbers that follow each other, as the manager would have them, and are nobody's: others open many.
        var base = fcntl(first.descriptor.raw, F_DUPFD, 700)
        var above = fcntl(second.descriptor.raw, F_DUPFD, base + 1)
        while base >= 0 && above > base + 1 {
            close(base)
            base = above
            dup2(first.descriptor.raw, base)
            above = fcntl(second.descriptor.raw, F_DUPFD, base + 1)
        }
        try #require(base >= 700 && above == base + 1)
        let environment = ["LISTEN_PID": "\(getpid())", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "clients:http"]
        var sockets = InheritedSockets(environment: environment, first: base)
        let (wanted, wantedHTTP) = (first.address, second.address)
        let clients = try sockets.take(.postgres).map(\.address)
        let http = try sockets.take(.http).map(\.address)
        #expect(clients == [wanted])
        #expect(http == [wantedHTTP])
        let others = InheritedSockets(environment: environment, process: 1, first: base)
        let hasAny = others.has(.postgres)
        #expect(!hasAny)
    }

    @Test func `a descriptor that does not listen is refused`() throws {
        let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
        var sockets = InheritedSockets([(.postgres, descriptor)])
        do throws(SocketError) {
            _ = try sockets.take(.postgres)
            Issue.record("it was taken")
        } catch {
            #expect(error == SocketError(operation: .inherit, errno: EINVAL))
        }
    }
}
