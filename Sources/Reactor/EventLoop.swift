import CEpoll
import Glibc
import Primitives

/// What a registration waits for.
package struct Interest: OptionSet, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    /// Without the generic machinery of sets: this is asked for after every send.
    package init(reads: Bool, writes: Bool) {
        rawValue = (reads ? EPOLLIN.rawValue : 0) | (writes ? EPOLLOUT.rawValue : 0)
    }

    package static let read = Interest(rawValue: EPOLLIN.rawValue)
    package static let write = Interest(rawValue: EPOLLOUT.rawValue)
}

/// A place in the owner's table of connections, with a generation: an event that was queued for a socket which has been
/// closed since never meets the next socket in the same place.
package struct Registration: Hashable, Sendable {
    package let slot: UInt32
    package let generation: UInt32

    package init(slot: UInt32, generation: UInt32) {
        self.slot = slot
        self.generation = generation
    }

    fileprivate var data: UInt64 { UInt64(generation) << 32 | UInt64(slot) }

    fileprivate init(data: UInt64) {
        slot = UInt32(truncatingIfNeeded: data)
        generation = UInt32(truncatingIfNeeded: data >> 32)
    }
}

/// Level-triggered epoll for one thread.
package final class EventLoop {
    /// Events taken from the kernel at once.
    package static let batchMax = 256

    private let epoll: CInt
    private let events: UnsafeMutablePointer<epoll_event>

    package init() {
        epoll = epoll_create1(CInt(EPOLL_CLOEXEC))
        precondition(epoll >= 0, "epoll_create1: out of file descriptors")
        events = .allocate(capacity: Self.batchMax)
    }

    deinit {
        events.deallocate()
        _ = close(epoll)
    }

    package func register(_ descriptor: CInt, _ interest: Interest, as registration: Registration) {
        control(EPOLL_CTL_ADD, descriptor, interest, registration)
    }

    package func modify(_ descriptor: CInt, _ interest: Interest, as registration: Registration) {
        control(EPOLL_CTL_MOD, descriptor, interest, registration)
    }

    /// Closing a descriptor takes it out as well; this is for one that lives on elsewhere.
    package func unregister(_ descriptor: CInt) {
        _ = godwit_epoll_ctl(epoll, CInt(EPOLL_CTL_DEL), descriptor, 0, 0)
    }

    private func control(_ operation: CInt, _ descriptor: CInt, _ interest: Interest, _ registration: Registration) {
        let result = godwit_epoll_ctl(epoll, operation, descriptor, interest.rawValue, registration.data)
        precondition(result == 0, "epoll_ctl on a descriptor that is not ours to register")
    }

    /// Waits and gives each ready registration to `handle`.
    ///
    /// - Parameter timeoutMillis: -1 waits until something is ready.
    package func wait(timeoutMillis: CInt, _ handle: (Registration, _ readable: Bool, _ writable: Bool) -> Void) {
        let count = epoll_wait(epoll, events, CInt(Self.batchMax), timeoutMillis)
        if count <= 0 { return }  // time, or a signal
        for index in 0..<Int(count) {
            let ready = godwit_epoll_events(events + index)
            // A hang-up or an error shows itself in the next read or write: treat it as both.
            let broken = ready & (EPOLLERR.rawValue | EPOLLHUP.rawValue) != 0
            handle(
                Registration(data: godwit_epoll_data(events + index)),
                broken || ready & EPOLLIN.rawValue != 0,
                broken || ready & EPOLLOUT.rawValue != 0)
        }
    }
}
