/// FunctionCall messages as SQL. PROTOCOL-FLOW: "Function Call".
package enum FunctionCallText {
    /// - Parameter function: as the message names it; those of pg_catalog have the same identifiers in all versions.
    /// - Returns: a query that leaves in its session, or asks of it, what the function does; nil: it does nothing of
    ///   that kind.
    package static func ofSession(function identifier: UInt32) -> StaticString? {
        switch identifier {
        case 1575: "SELECT pg_catalog.currval(NULL)"
        case 2078: "SELECT pg_catalog.set_config(a, a, false) FROM (SELECT NULL::text AS a) b"
        case 2559: "SELECT pg_catalog.lastval()"
        case 2880, 2886: "SELECT pg_catalog.pg_advisory_lock(NULL)"
        case 2881, 2887: "SELECT pg_catalog.pg_advisory_lock_shared(NULL)"
        case 2882, 2888: "SELECT pg_catalog.pg_try_advisory_lock(NULL)"
        case 2883, 2889: "SELECT pg_catalog.pg_try_advisory_lock_shared(NULL)"
        case 2884, 2890: "SELECT pg_catalog.pg_advisory_unlock(NULL)"
        case 2885, 2891: "SELECT pg_catalog.pg_advisory_unlock_shared(NULL)"
        case 2892: "SELECT pg_catalog.pg_advisory_unlock_all()"
        default: nil
        }
    }
}
