import Glibc

/// Whether `descriptor` could be read now.
func isReadable(_ descriptor: CInt) -> Bool {
    var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    return poll(&entry, 1, 0) == 1
}

/// Blocks until `descriptor` can be read.
func waitUntilReadable(_ descriptor: CInt) {
    var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    while poll(&entry, 1, -1) != 1 {}
}
