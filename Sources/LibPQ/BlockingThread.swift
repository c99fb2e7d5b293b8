import Glibc

/// A thread for work that blocks, started at once and joined once. Made and joined by one owner.
package final class BlockingThread: Sendable {
    private final class Body: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    private let thread: pthread_t

    package init(_ run: @escaping @Sendable () -> Void) {
        var made = pthread_t()
        let body = Unmanaged.passRetained(Body(run))
        let status = pthread_create(
            &made, nil,
            { context in
                guard let context else { return nil }
                Unmanaged<Body>.fromOpaque(context).takeRetainedValue().run()
                return nil
            }, body.toOpaque())
        precondition(status == 0, "pthread_create: out of threads")
        thread = made
    }

    /// Waits until the work is over. Call once.
    package func join() { pthread_join(thread, nil) }
}
