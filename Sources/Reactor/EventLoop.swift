import CEpoll
import Glibc
import Primitives

/// What a registration waits for.
@usableFromInline @frozen package struct Interest: OptionSet, Sendable {
    @usableFromInline package let rawValue: UInt32
    @inlinable package init(rawValue: UInt32) { self.rawValue = rawValue }
    /// Without the generic machinery of sets: this is asked for after every send.
    @inlinable package init(reads: Bool, writes: Bool) {
        rawValue = (reads ? EPOLLIN.rawValue : 0) | (writes ? EPOLLOUT.rawValue : 0)
    }

    @inlinable package var isToWrite: Bool { rawValue & EPOLLOUT.rawValue != 0 }

    package static let read = Interest(rawValue: EPOLLIN.rawValue)
    package static let write = Interest(rawValue: EPOLLOUT.rawValue)
}

/// A place in the owner's table of connections, with a generation: an event that was queued for a socket which has been
/// closed since never meets the next socket in the same place.
@usableFromInline @frozen package struct Registration: Hashable, Sendable {
    @inlinable static var firstBit: UInt32 { 1 << 31 }

    @usableFromInline let place: UInt32
    @usableFromInline package let generation: UInt32

    /// - Parameter slot: below 2^31.
    /// - Parameter comesFirst: its events are handled before those of others that are ready at the same time.
    package init(slot: UInt32, generation: UInt32, comesFirst: Bool = false) {
        precondition(slot < Self.firstBit, "more connections than a process can have")
        place = comesFirst ? slot | Self.firstBit : slot
        self.generation = generation
    }

    @inlinable package var slot: UInt32 { place & ~Self.firstBit }

    @inlinable var comesFirst: Bool { place & Self.firstBit != 0 }

    fileprivate var data: UInt64 { UInt64(generation) << 32 | UInt64(place) }

    @inlinable init(data: UInt64) {
        place = UInt32(truncatingIfNeeded: data)
        generation = UInt32(truncatingIfNeeded: data >> 32)
    }
}

/// Level-triggered epoll for one thread.
@usableFromInline package final class EventLoop {
    /// Events taken from the kernel at once.
    @inlinable package static var batchMax: Int { 256 }

    @usableFromInline let epoll: CInt
    @usableFromInline let events: UnsafeMutablePointer<epoll_event>

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

    /// Waits until something is ready, and no longer.
    ///
    /// - Parameters:
    ///   - timeoutMillis: -1 waits for as long as it takes.
    ///   - begin: is told before all events.
    ///   - handle: is given each ready registration, those that come first before all others.
    @inlinable
    package func wait(
        timeoutMillis: CInt, begin: () -> Void = {},
        _ handle: (Registration, _ readable: Bool, _ writable: Bool) -> Void
    ) {
        let count = epoll_wait(epoll, events, CInt(Self.batchMax), timeoutMillis)
        begin()
        if count <= 0 { return }  // time, or a signal
        give(Int(count), comingFirst: true, handle)
        give(Int(count), comingFirst: false, handle)
    }

    @inlinable @inline(__always) func give(
        _ count: Int, comingFirst: Bool, _ handle: (Registration, _ readable: Bool, _ writable: Bool) -> Void
    ) {
        for index in 0..<count {
            let registration = Registration(data: godwit_epoll_data(events + index))
            if registration.comesFirst != comingFirst { continue }
            let ready = godwit_epoll_events(events + index)
            // A hang-up or an error shows itself in the next read or write: treat it as both.
            let broken = ready & (EPOLLERR.rawValue | EPOLLHUP.rawValue) != 0
            handle(registration, broken || ready & EPOLLIN.rawValue != 0, broken || ready & EPOLLOUT.rawValue != 0)
        }
    }
}
