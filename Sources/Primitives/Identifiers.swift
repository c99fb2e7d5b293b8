/// A client connection, unique within one process run. Immutable, any thread.
package struct ClientID: Hashable, Sendable {
    package let value: UInt64
    package init(_ value: UInt64) { self.value = value }
}

/// A server connection (ours to a database), unique within one process run. Immutable, any thread.
package struct ServerID: Hashable, Sendable {
    package let value: UInt64
    package init(_ value: UInt64) { self.value = value }
}
