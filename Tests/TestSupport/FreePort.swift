import Glibc
import Synchronization

package enum FreePort {
    /// Those that were given away: whoever has one may not listen on it yet.
    private static let given = Mutex<Set<UInt16>>([])

    /// A port of 127.0.0.1 that nobody listens on, outside the range the kernel gives to outgoing connections. No other
    /// test of this process gets the same one.
    ///
    /// Another process may take it before it is used: whoever starts a server on it tries again with another one.
    package static func find() throws -> UInt16 {
        for _ in 0..<200 {
            let port = UInt16.random(in: 20_000..<32_000)
            // Taken first: to look at a port is to listen on it for a moment, and whoever was given it would not get it.
            if given.withLock({ $0.insert(port).inserted }), isFree(port) { return port }
        }
        throw TestFailure("no free port in 200 tries")
    }

    private static func isFree(_ port: UInt16) -> Bool {
        let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var address = sockaddr_in.loopback(port)
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
    }
}

extension sockaddr_in {
    static func loopback(_ port: UInt16) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        return address
    }
}
