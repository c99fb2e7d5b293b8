import CEpoll
import Glibc
import Synchronization

/// Messages from any thread to the one that owns the mailbox; an eventfd makes its epoll or poll wake up.
///
/// Unbounded by design: senders are other threads of ours (control, other reactors), whose messages answer requests
/// that are themselves bounded. It is not on the path of a query.
package final class Mailbox<Message: Sendable>: Sendable {
    private let messages = Mutex<[Message]>([])
    /// Readable while messages wait; registered with the owner's epoll.
    package let descriptor: CInt

    package init() {
        descriptor = godwit_eventfd()
        precondition(descriptor >= 0, "eventfd: out of file descriptors")
    }

    deinit { _ = close(descriptor) }

    /// Any thread.
    package func post(_ message: Message) {
        let first = messages.withLock { waiting in
            waiting.append(message)
            return waiting.count == 1
        }
        if first { signal(eventDescriptor: descriptor) }
    }

    /// The owner's thread: takes everything that waits.
    package func take() -> [Message] {
        drain(eventDescriptor: descriptor)
        return messages.withLock { waiting in
            let taken = waiting
            waiting = []
            return taken
        }
    }
}

/// Makes an eventfd readable.
package func signal(eventDescriptor: CInt) {
    var one: UInt64 = 1
    _ = write(eventDescriptor, &one, 8)
}

/// Makes an eventfd unreadable again.
package func drain(eventDescriptor: CInt) {
    var count: UInt64 = 0
    _ = read(eventDescriptor, &count, 8)
}
