/// Bounds and time limits of one pool; 0 switches a time limit off.
@usableFromInline @frozen package struct PoolLimits: Equatable, Sendable {
    /// Open servers, logins under way included.
    @usableFromInline package var serversMax: Int
    /// Clients that may wait at once.
    @usableFromInline package var waitersMax: Int
    @usableFromInline package var waitMaxNanos: UInt64
    @usableFromInline package var idleMaxNanos: UInt64
    @usableFromInline package var lifetimeMaxNanos: UInt64
    /// The longest pause between two attempts to connect while they fail; it starts at a hundredth and doubles.
    @usableFromInline package var retryMaxNanos: UInt64
    /// Servers kept open while somebody uses the pool.
    @usableFromInline package var serversMin: Int
    /// Servers beyond `serversMax` while a client has waited for `reserveAfterNanos`.
    @usableFromInline package var reserveMax: Int
    @usableFromInline package var reserveAfterNanos: UInt64

    package init(
        serversMax: Int, waitersMax: Int, waitMaxNanos: UInt64, idleMaxNanos: UInt64, lifetimeMaxNanos: UInt64,
        retryMaxNanos: UInt64, serversMin: Int = 0, reserveMax: Int = 0, reserveAfterNanos: UInt64 = 0
    ) {
        precondition(serversMax > 0 && waitersMax > 0, "a pool without room")
        self.serversMax = serversMax
        self.waitersMax = waitersMax
        self.waitMaxNanos = waitMaxNanos
        self.idleMaxNanos = idleMaxNanos
        self.lifetimeMaxNanos = lifetimeMaxNanos
        self.retryMaxNanos = retryMaxNanos
        self.serversMin = serversMin
        self.reserveMax = reserveMax
        self.reserveAfterNanos = reserveAfterNanos
    }
}
