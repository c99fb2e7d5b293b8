import CLibPQ
import Glibc

/// LISTEN's other half: what other sessions have told this one.
extension Connection {
    /// For poll(2): readable when the server has sent something, or is gone.
    package var descriptor: CInt { PQsocket(raw) }

    /// Takes what NOTIFY has brought without waiting for any.
    ///
    /// - Returns: how many there were.
    package borrowing func takeNotifications() throws(PostgresFailure) -> Int {
        guard PQconsumeInput(raw) == 1 else { throw lost() }
        var count = 0
        while let notification = PQnotifies(raw) {
            PQfreemem(notification)
            count += 1
        }
        return count
    }
}
