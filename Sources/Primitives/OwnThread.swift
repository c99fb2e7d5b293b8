import CEpoll
import Glibc
import Synchronization

/// A thread of ours outside Swift's concurrency: named, started at once, with a stack that the SQL grammar's recursion
/// fits into. Joined at most once.
package final class OwnThread: Sendable {
    private static let stackBytes = 16 * 1024 * 1024

    private final class Body: Sendable {
        let name: String
        let run: @Sendable () -> Void

        init(_ name: String, _ run: @escaping @Sendable () -> Void) {
            self.name = name
            self.run = run
        }
    }

    private let thread: pthread_t
    private let isJoined = Atomic<Bool>(false)

    /// - Parameter name: as top and gdb show it; cut at 15 bytes.
    package init(name: String, _ run: @escaping @Sendable () -> Void) {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setstacksize(&attributes, Self.stackBytes)
        defer { pthread_attr_destroy(&attributes) }
        var made = pthread_t()
        let body = Unmanaged.passRetained(Body(name, run))
        let status = pthread_create(
            &made, &attributes,
            { context in
                guard let context else { return nil }
                let body = Unmanaged<Body>.fromOpaque(context).takeRetainedValue()
                godwit_name_thread(body.name)
                body.run()
                return nil
            }, body.toOpaque())
        precondition(status == 0, "pthread_create: out of threads")
        thread = made
    }

    /// Of a thread that nobody will join the system keeps nothing behind its end, its stack above all.
    deinit { if !isJoined.load(ordering: .relaxed) { pthread_detach(thread) } }

    /// Blocks until the thread has ended. Call once.
    package func join() {
        isJoined.store(true, ordering: .relaxed)
        pthread_join(thread, nil)
    }
}

extension Mutex<OwnThread?> {
    /// Takes the thread out and blocks until it has ended; further calls do nothing.
    package func join() {
        let running = withLock { thread in
            defer { thread = nil }
            return thread
        }
        running?.join()
    }
}
