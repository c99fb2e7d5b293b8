import Glibc
import Primitives

/// Signals of the process, taken by a thread of their own and given on as calls: no code of ours runs in a handler.
package enum SignalSource {
    /// SIGURG is nobody else's here: the kernel sends it for sockets only to who asks for it.
    private static let handled: [CInt] = [SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGURG]

    private static func makeSet() -> sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        for signal in handled { sigaddset(&set, signal) }
        return set
    }

    /// Call before any thread starts: all inherit it, and no system call is interrupted.
    package static func block() {
        var blocked = makeSet()
        pthread_sigmask(SIG_BLOCK, &blocked, nil)
        signal(SIGPIPE, SIG_IGN)
        // A file that may grow no more is an error to its writer, and no end of the process.
        signal(SIGXFSZ, SIG_IGN)
    }

    /// Gives each signal to `deliver`, on the thread that waits for them, until the process ends.
    package static func forward(_ deliver: @escaping @Sendable (CInt) -> Void) {
        _ = OwnThread(name: "godwit-signals") {
            var awaited = makeSet()
            while true {
                var number: CInt = 0
                if sigwait(&awaited, &number) == 0 { deliver(number) }
            }
        }
    }
}
