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

    private static let isUnset =
        "pg_catalog.current_setting('\(setting)', true) IS DISTINCT FROM '\(value)'"

    private var isAnotherUser: String? { user.map { "session_user IS DISTINCT FROM \(SQL.literal($0))" } }

    /// For WHEN: true for everybody but the mirror. Cheaper, for the mirror's many rows, than a function that would
    /// look for itself. But PostgreSQL parses it again for each statement, some 20 microseconds: triggers that most of
    /// the application's statements fire are two, each for one kind of role (`whenOrdinary`, `whenReplica`).
    var isAbsent: String {
        let others = isAnotherUser.map { " AND \($0)" } ?? ""
        return """
            \(Self.isUnset) \
            OR pg_catalog.current_setting('\(Self.role)') IS DISTINCT FROM '\(Self.roleValue)'\(others)
            """
    }

    /// The condition of a trigger that sleeps in the role of a replica: none, where the mirror comes in that role.
    var whenOrdinary: String { isAnotherUser.map { "WHEN (\(Self.isUnset) OR \($0))" } ?? "" }

    /// The condition of a trigger that fires in the role of a replica only.
    static let whenReplica = "WHEN (\(isUnset))"

    /// SQL, true for a trigger that lets the mirror pass, and nobody who only says that he is the mirror. In a session
    /// of the control user.
    ///
    /// - Parameter trigger: how its row of pg_trigger is called.
    func isKnown(to trigger: String) -> String {
        let definition = "pg_get_triggerdef(\(trigger).oid)"
        let byCondition = user == nil ? """
            \(definition) LIKE '%\(Self.role)%'
                OR (\(trigger).tgname = '\(CaptureSchema.rowTrigger)' AND \(trigger).tgenabled = 'O')
            """ : "strpos(\(definition), 'SESSION_USER IS DISTINCT FROM ' || quote_literal(session_user)) > 0"
        return "(\(trigger).tgname = '\(CaptureSchema.replicaTrigger)' OR \(byCondition))"
    }

    /// Where a trigger of ours does not let it pass.
    var strangeTables: String {
        """
        SELECT t.tgrelid::regclass FROM pg_trigger t WHERE t.tgname LIKE 'godwit\\_%' AND NOT t.tgisinternal
           AND t.tgparentid = 0 AND NOT \(isKnown(to: "t")) ORDER BY 1 LIMIT 1
        """
    }

    private enum SQLState { static let insufficientPrivilege = "42501" }
}
