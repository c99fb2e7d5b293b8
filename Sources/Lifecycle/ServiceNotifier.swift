import CEpoll
import Glibc
import Primitives
import Reactor
import Synchronization

/// Tells a service supervisor how we are: the protocol of sd_notify(3), spoken by hand. Any thread.
///
/// One datagram for each word, to the Unix socket that NOTIFY_SOCKET names. Without that variable, or when nobody takes
/// the datagram, nothing happens: a supervisor that is gone must not stop the proxy.
package final class ServiceNotifier: Sendable {
    /// Bytes of a STATUS= line that are sent.
    static let statusBytesMax = 500

    private let descriptor: CInt
    private let address: SocketAddress?
    /// How often the supervisor wants a sign; nil: never.
    package let watchdogSeconds: Double?

    /// - Parameter environment: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are read.
    package init(environment: [String: String], process: pid_t = getpid()) {
        let path = environment["NOTIFY_SOCKET"] ?? ""
        // Others (vsock) are a virtual machine's.
        address = path.hasPrefix("/") || path.hasPrefix("@") ? .unix(path: path) : nil
        let type = CInt(SOCK_DGRAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue) | CInt(SOCK_NONBLOCK.rawValue)
        descriptor = address == nil ? -1 : socket(AF_UNIX, type, 0)
        let isOurs = environment["WATCHDOG_PID"].map { $0 == "\(process)" } ?? true
        let micros = environment["WATCHDOG_USEC"].flatMap(UInt64.init) ?? 0
        watchdogSeconds = isOurs && micros > 0 && descriptor >= 0 ? Double(micros) / 1e6 : nil
    }

    /// Somebody wants to be told.
    package var isThere: Bool { descriptor >= 0 }

    deinit { if descriptor >= 0 { close(descriptor) } }

    package enum State: Equatable, Sendable {
        /// Clients are served.
        case ready
        /// The configuration is being read; `ready` follows, also when it is refused.
        case reloading(MonotonicInstant)
        case stopping
        /// One line for people.
        case status(String)
        case watchdog
        /// Another process is the service from now on.
        case mainProcess(pid_t)

        var text: String {
            switch self {
            case .ready: "READY=1"
            case .reloading(let now): "RELOADING=1\nMONOTONIC_USEC=\(now.nanoseconds / 1000)"
            case .stopping: "STOPPING=1"
            case .status(let line):
                "STATUS=" + String(decoding: line.utf8.prefix(ServiceNotifier.statusBytesMax), as: UTF8.self)
                    .replacing("\n", with: " ")
            case .watchdog: "WATCHDOG=1"
            case .mainProcess(let process): "MAINPID=\(process)"
            }
        }
    }

    /// All in one datagram, so that they count at the same time.
    package func tell(_ states: State...) {
        guard let address, descriptor >= 0 else { return }
        let text = Array(states.map(\.text).joined(separator: "\n").utf8)
        _ = address.withSockaddr { target, length in
            text.withUnsafeBytes { sendto(descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL), target, length) }
        }
    }
}
