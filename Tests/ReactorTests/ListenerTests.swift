import Glibc
import Reactor
import Testing

@Suite struct ListenerTests {
    /// A directory of its own in /tmp, removed with its sockets by the test.
    private func temporaryDirectory() -> String {
        var template = Array("/tmp/godwit-listener-XXXXXX\0".utf8CString)
        guard let path = mkdtemp(&template) else { preconditionFailure("mkdtemp: \(errno)") }
        return String(cString: path)
    }

    private func talk(_ listener: borrowing Listener, from client: borrowing SocketDescriptor) {
        listener.descriptor.wait(for: POLLIN)
        switch listener.accept() {
        case .client(let server, let peer):
            client.wait(for: POLLOUT)
            #expect(client.connectError() == 0)
            #expect(peer.host == listener.address.host)
            #expect(client.sendBytes([1, 2, 3]) == .bytes(3))
            server.wait(for: POLLIN)
            #expect(server.receiveBytes().bytes == [1, 2, 3])
            #expect(server.sendBytes([4]) == .bytes(1))
            client.wait(for: POLLIN)
            #expect(client.receiveBytes().bytes == [4])
            #expect(client.receiveBytes().outcome == .wouldBlock)
        case .none:
            Issue.record("nobody was accepted")
        case .failed(let code):
            Issue.record("accept: \(code)")
        }
        switch listener.accept() {
        case .none: break
        case .client: Issue.record("somebody else was there")
        case .failed(let code): Issue.record("accept: \(code)")
        }
    }

    @Test(arguments: ["127.0.0.1", "::1"])
    func `clients come in over loopback on the port that the kernel chose`(host: String) throws {
        let wanted = try #require(SocketAddress(host: host, port: 0))
        let listener: Listener
        do {
            listener = try Listener(on: wanted)
        } catch {
            if error.errno == EADDRNOTAVAIL || error.errno == EAFNOSUPPORT { return }  // a host without IPv6
            throw error
        }
        #expect(listener.address.port != 0)
        #expect(listener.address.host == host)
        let client = try SocketDescriptor.connect(to: listener.address)
        talk(listener, from: client)
        let taken = listener.address
        #expect(throws: SocketError(operation: .bind, errno: EADDRINUSE)) { _ = try Listener(on: taken) }
    }

    @Test func `a client that comes by IPv4 where both are listened for has its IPv4 address`() throws {
        let wanted = try #require(SocketAddress(host: "::", port: 0))
        let listener: Listener
        do {
            listener = try Listener(on: wanted)
        } catch {
            if error.errno == EADDRNOTAVAIL || error.errno == EAFNOSUPPORT { return }  // a host without IPv6
            throw error
        }
        let address = try #require(SocketAddress(host: "127.0.0.1", port: listener.address.port))
        let client = try SocketDescriptor.connect(to: address)
        listener.descriptor.wait(for: POLLIN)
        guard case .client(_, let peer) = listener.accept() else {
            Issue.record("nobody was accepted")
            return
        }
        #expect(peer.host == "127.0.0.1")
        #expect(client.connectError() == 0)
    }

    @Test func `clients come in over a Unix socket, and one that was left behind is replaced`() throws {
        let directory = temporaryDirectory()
        let address = SocketAddress.unix(path: directory + "/.s.PGSQL.1")
        do { _ = try Listener(on: address) }
        let listener = try Listener(on: address)
        #expect(listener.address == address)
        let client = try SocketDescriptor.connect(to: address)
        talk(listener, from: client)
        unlink(address.description)
        rmdir(directory)
    }

    @Test func `a Unix socket where somebody listens is not taken away, nor is a file`() throws {
        let directory = temporaryDirectory()
        let address = SocketAddress.unix(path: directory + "/.s.PGSQL.1")
        let listener = try Listener(on: address)
        #expect(throws: SocketError(operation: .bind, errno: EADDRINUSE)) { _ = try Listener(on: address) }
        // Who asked whether somebody listens has left.
        _ = listener.accept()
        let client = try SocketDescriptor.connect(to: address)
        talk(listener, from: client)
        unlink(address.description)
        let file = open(address.description, O_CREAT | O_WRONLY, 0o600)
        #expect(file >= 0)
        close(file)
        #expect(throws: SocketError(operation: .bind, errno: EADDRINUSE)) { _ = try Listener(on: address) }
        #expect(access(address.description, F_OK) == 0)
        unlink(address.description)
        rmdir(directory)
    }

    @Test func `every user of the system may come in over a Unix socket`() throws {
        let directory = temporaryDirectory()
        let address = SocketAddress.unix(path: directory + "/.s.PGSQL.1")
        let before = umask(0o077)
        defer { umask(before) }
        let listener = try Listener(on: address)
        var status = stat()
        let outcome = lstat(listener.address.description, &status)
        #expect(outcome == 0)
        #expect(status.st_mode & 0o777 == 0o777)
        unlink(address.description)
        rmdir(directory)
    }

    @Test func `a name that starts with @ leaves no file`() throws {
        let name = "@godwit-\(getpid())-\(UInt64.random(in: .min ... .max))"
        let listener = try Listener(on: .unix(path: name))
        #expect(access(name, F_OK) != 0)
        let client = try SocketDescriptor.connect(to: .unix(path: name))
        talk(listener, from: client)
        #expect(throws: SocketError(operation: .connect, errno: ECONNREFUSED)) {
            _ = try SocketDescriptor.connect(to: .unix(path: name + "x"))
        }
    }

    @Test func `a path that does not fit is refused and not cut`() throws {
        let directory = temporaryDirectory()
        let longest =
            directory + "/"
            + String(repeating: "s", count: SocketAddress.unixPathMax - directory.utf8.count - 1)
        let listener = try Listener(on: .unix(path: longest))
        let client = try SocketDescriptor.connect(to: .unix(path: longest))
        talk(listener, from: client)
        #expect(throws: SocketError(operation: .bind, errno: ENAMETOOLONG)) {
            _ = try Listener(on: .unix(path: longest + "s"))
        }
        #expect(throws: SocketError(operation: .connect, errno: ENAMETOOLONG)) {
            _ = try SocketDescriptor.connect(to: .unix(path: longest + "s"))
        }
        unlink(longest)
        rmdir(directory)
    }

    @Test func `nobody listens and the connection fails, at once or when it is looked at`() throws {
        #expect(throws: SocketError(operation: .connect, errno: ENOENT)) {
            _ = try SocketDescriptor.connect(to: .unix(path: "/tmp/godwit-nobody-\(getpid())"))
        }
        // A port that was just given back.
        let port = try { () throws -> UInt16 in
            try Listener(on: .ipv4(address: 0x7F00_0001, port: 0)).address.port
        }()
        do {
            let client = try SocketDescriptor.connect(to: .ipv4(address: 0x7F00_0001, port: port))
            client.wait(for: POLLOUT)
            #expect(client.connectError() == ECONNREFUSED)
            #expect(client.connectError() == 0, "an error is told once")
        } catch {
            #expect(error == SocketError(operation: .connect, errno: ECONNREFUSED))
        }
    }

    @Test func `a Unix listener with a full queue refuses instead of half connecting`() throws {
        let directory = temporaryDirectory()
        let address = SocketAddress.unix(path: directory + "/full")
        let listening = SocketDescriptor(owning: socket(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0))
        #expect(address.withSockaddr { bind(listening.raw, $0, $1) } == 0)
        #expect(listen(listening.raw, 0) == 0)
        var made: [CInt] = []
        var failure: SocketError?
        while failure == nil && made.count < 10 {
            do { made.append(try SocketDescriptor.connect(to: address).release()) } catch { failure = error }
        }
        #expect(failure == SocketError(operation: .connect, errno: EAGAIN))
        for raw in made { close(raw) }
        unlink(address.description)
        rmdir(directory)
    }

    @Test func `an address that is not ours cannot be listened on`() {
        #expect(throws: SocketError(operation: .bind, errno: EADDRNOTAVAIL)) {
            _ = try Listener(on: .ipv4(address: 0xC000_0201, port: 0))  // 192.0.2.1, for documentation only
        }
        #expect(SocketError(operation: .bind, errno: EADDRINUSE).reason == "Address already in use")
    }
}
