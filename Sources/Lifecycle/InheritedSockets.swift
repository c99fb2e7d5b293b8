import Glibc
import Reactor

/// Listening sockets that were open before this process ran: a service manager's (sd_listen_fds(3)), or those of the
/// Godwit that it takes over from.
///
/// What one of them serves is told by its label. Those that nobody takes are closed. Used on the thread that starts
/// the process.
package struct InheritedSockets: ~Copyable {
    package enum Label: String, Sendable, CaseIterable {
        /// Clients of the proxy.
        case postgres
        case http
        /// The Godwit that takes over from us asks there.
        case takeover
    }

    /// The first descriptor that a service manager passes: SD_LISTEN_FDS_START.
    package static let firstDescriptor: CInt = 3

    private var descriptors: [(label: Label, descriptor: CInt)]

    /// Owns these.
    package init(_ descriptors: [(label: Label, descriptor: CInt)] = []) { self.descriptors = descriptors }

    /// Those of the service manager. A socket called "http" (FileDescriptorName=) is for HTTP, all others for clients.
    ///
    /// - Parameters:
    ///   - environment: LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are read.
    ///   - first: the number of the first of them.
    package init(environment: [String: String], process: pid_t = getpid(), first: CInt = firstDescriptor) {
        descriptors = []
        guard environment["LISTEN_PID"] == "\(process)", let count = environment["LISTEN_FDS"].flatMap(CInt.init),
            count > 0, count <= 64
        else { return }
        let names = (environment["LISTEN_FDNAMES"] ?? "").split(separator: ":", omittingEmptySubsequences: false)
        for index in 0..<count {
            let descriptor = first + index
            _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
            let name = Int(index) < names.count ? String(names[Int(index)]) : ""
            descriptors.append((name == Label.http.rawValue ? .http : .postgres, descriptor))
        }
    }

    deinit { for entry in descriptors { close(entry.descriptor) } }

    /// There is one with this label.
    package func has(_ label: Label) -> Bool { descriptors.contains { $0.label == label } }

    /// The first with this label, the caller's from here on; nil: there is none.
    package mutating func takeDescriptor(_ label: Label) -> CInt? {
        guard let place = descriptors.firstIndex(where: { $0.label == label }) else { return nil }
        return descriptors.remove(at: place).descriptor
    }

    /// Takes all with this label.
    ///
    /// - Throws: `SocketError` when one is not a listening stream socket.
    package mutating func take(_ label: Label) throws(SocketError) -> [ListenerHandle] {
        let taken = descriptors.filter { $0.label == label }
        descriptors.removeAll { $0.label == label }
        var handles: [ListenerHandle] = []
        for entry in taken { handles.append(ListenerHandle(try Listener(inheriting: entry.descriptor))) }
        return handles
    }
}
