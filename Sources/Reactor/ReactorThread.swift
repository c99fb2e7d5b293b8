import CEpoll
import Glibc

/// Starts a thread of ours: named, with a stack that the SQL grammar's recursion fits into.
package enum ReactorThread {
    private static let stackBytes = 16 * 1024 * 1024

    private final class Body {
        let run: @Sendable () -> Void
        let name: String
        init(name: String, run: @escaping @Sendable () -> Void) {
            self.name = name
            self.run = run
        }
    }

    /// A running thread, to be joined once.
    package struct Handle: Sendable {
        private let thread: UInt
        fileprivate init(_ thread: pthread_t) { self.thread = UInt(thread) }

        /// Blocks until the thread has ended.
        package func join() { pthread_join(pthread_t(thread), nil) }
    }

    package static func start(name: String, _ run: @escaping @Sendable () -> Void) -> Handle {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setstacksize(&attributes, stackBytes)
        defer { pthread_attr_destroy(&attributes) }
        var thread = pthread_t()
        let body = Unmanaged.passRetained(Body(name: name, run: run))
        let result = pthread_create(&thread, &attributes, { argument in
            guard let argument else { return nil }
            let body = Unmanaged<Body>.fromOpaque(argument).takeRetainedValue()
            godwit_name_thread(body.name)
            body.run()
            return nil
        }, body.toOpaque())
        precondition(result == 0, "pthread_create: out of threads")
        return Handle(thread)
    }
}
