import LibPQ

/// What tells the mirror's own writes on a side from everybody else's: a setting of its session, which the conditions
/// of the triggers ask for. Neither side's journal gets what the mirror brings, and no fence keeps it out.
///
/// Anybody may set a name of that kind: by SET, set_config, a connection's options, ALTER ROLE. So the session must be
/// in the role of a replica too, which takes a superuser, or whom one has granted it: such a one could take the
/// triggers away as well. Where the control user may not take that role, the session must be *its* session, whatever it
/// has become by SET ROLE or a SECURITY DEFINER function: as the owner of the tables that user, too, could take the
/// triggers away.
struct ApplierMark: Equatable {
    /// nil: the mirror comes in the role of a replica. Otherwise it comes as this user.
    let user: String?

    static let setting = "godwit.applier"
    static let value = "on"
    static let role = "session_replication_role"
    static let roleValue = "replica"
    static let replica = ApplierMark(user: nil)

    /// How the mirror comes to the side of this connection, which must be the control user's and outside a transaction.
    static func of(_ connection: borrowing Connection) throws(PostgresFailure) -> ApplierMark {
        do throws(PostgresFailure) {
            try connection.execute("BEGIN; SET LOCAL \(role) = \(roleValue); ROLLBACK")
            return .replica
        } catch {
            guard error.kind == .refused else { throw error }
            try connection.execute("ROLLBACK")
            guard error.sqlState == SQLState.insufficientPrivilege else { throw error }
            return ApplierMark(user: try connection.query("SELECT session_user")[0, 0] ?? "")
        }
    }

    /// For WHEN: true for everybody but the mirror. Cheaper than a function that would look for itself, and others
    /// are told by its first half.
    var isAbsent: String {
        let others = user.map { " AND session_user IS DISTINCT FROM \(SQL.literal($0))" } ?? ""
        return """
            pg_catalog.current_setting('\(Self.setting)', true) IS DISTINCT FROM '\(Self.value)' \
            OR pg_catalog.current_setting('\(Self.role)') IS DISTINCT FROM '\(Self.roleValue)'\(others)
            """
    }

    /// SQL, true for a trigger whose condition lets the mirror pass, and nobody who only says that he is the mirror.
    /// In a session of the control user.
    func isKnown(to trigger: String) -> String {
        let definition = "pg_get_triggerdef(\(trigger))"
        if user == nil { return "\(definition) LIKE '%\(Self.role)%'" }
        return "strpos(\(definition), 'SESSION_USER IS DISTINCT FROM ' || quote_literal(session_user)) > 0"
    }

    /// Where a trigger of ours does not let it pass.
    var strangeTables: String {
        """
        SELECT t.tgrelid::regclass FROM pg_trigger t WHERE t.tgname LIKE 'godwit\\_%' AND NOT t.tgisinternal
           AND t.tgparentid = 0 AND NOT \(isKnown(to: "t.oid")) ORDER BY 1 LIMIT 1
        """
    }

    private enum SQLState { static let insufficientPrivilege = "42501" }
}
