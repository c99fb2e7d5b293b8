import LibPQ
import Migration
import Primitives

/// What must hold before a switch begins, as far as the two databases and the mirror tell. Each is looked at whatever
/// the others say, so that one dry run names all that is to be done.
extension SwitchSession {
    /// - Parameter horizon: of the running mirror.
    /// - Parameter connectionsNeeded: to the coming authority, for the pools.
    package func rails(
        _ order: SwitchOrder, horizon: Horizon, connectionsNeeded: Int
    ) throws(Failure) -> [GuardRail] {
        var rails = [standing()]
        rails += mirror(horizon.report, order)
        rails.append(try unmirrored())
        rails.append(try unfinished())
        rails.append(try rogueWrites())
        rails.append(try prepared())
        rails.append(try fences())
        rails.append(try captures())
        if let rail = try setAside() { rails.append(rail) }
        rails.append(mapping())
        rails.append(try schemas())
        rails.append(try sequences())
        rails.append(try longTransactions(order))
        rails.append(try connections(connectionsNeeded))
        rails.append(try wayBack())
        rails.append(Self.evidence(order))
        return rails
    }

    private func standing() -> GuardRail {
        let isFenced = claims.source.fencedFor != nil
        let isAuthority = direction.source == .old
            ? claims.source.epoch >= claims.target.epoch : claims.source.epoch > claims.target.epoch
        return GuardRail(
            "authority", value: isFenced ? "\(direction.source.title) is fenced" : isAuthority
                ? direction.source.title : direction.target.title,
            threshold: "\(direction.source.title), and not fenced", isMet: isAuthority && !isFenced,
            advice: "Another switch is under way or was cut off: wait until Godwit has settled it (SHOW AUTHORITY)")
    }

    private func mirror(_ report: MirrorReport, _ order: SwitchOrder) -> [GuardRail] {
        let reason = report.reason.isEmpty ? "" : ": \(report.reason)"
        let age = Double(MonotonicInstant.now().nanoseconds(
            since: MonotonicInstant(nanoseconds: report.lastAppliedNanos))) / 1e6
        let lag = max(Double(report.lagMicrosP99) / 1000, report.lastAppliedNanos == 0 ? 1e9 : age)
        let left = report.tables.count { !$0.isCopied }
        let limit = Double(order.deadlineMillis) / 2
        return [
            GuardRail(
                "mirror", value: report.state.rawValue + reason, threshold: "mirroring",
                isMet: report.state == .mirroring, advice: "SHOW MIRROR says why; it must run and have caught up"),
            GuardRail(
                "copy", value: "\(left) tables to copy", threshold: "0", isMet: left == 0,
                advice: "Wait for the first copy (SHOW TABLES)"),
            GuardRail(
                "lag", value: report.lastAppliedNanos == 0 ? "no batch yet" : "\(SwitchReport.tenths(lag)) ms",
                threshold: "half of the deadline, \(SwitchReport.tenths(limit)) ms",
                isMet: lag <= limit, advice: "Wait for a quieter time, or give a longer DEADLINE"),
        ]
    }

    /// As they are now: the mirror looks every few seconds, and DDL on both sides may have made and mirrored one since.
    private func unmirrored() throws(Failure) -> GuardRail {
        let names = try querySource(CaptureSchema.uncapturedTables).tableNames.map(\.description)
        return GuardRail(
            "unmirrored_tables", value: names.isEmpty ? "none" : Self.some(names), threshold: "none",
            isMet: names.isEmpty, advice: "Create them on both sides and run godwit prepare, or drop them")
    }

    /// DDL that the source has and the target is still to get. The record of it is on the source, and behind the switch
    /// nobody would look there.
    private func unfinished() throws(Failure) -> GuardRail {
        let isPending: Bool
        do throws(PostgresFailure) { isPending = try SchemaChange.isPending(source) } catch {
            throw .side(direction.source, error)
        }
        let target = direction.target.title
        return GuardRail(
            "unfinished_ddl", value: isPending ? "still to be made on \(target)" : "none", threshold: "none",
            isMet: !isPending,
            advice: "Godwit makes it there by itself as soon as it can (SHOW EVENTS says what is in the way). Where "
                + "both sides are alike already: DELETE FROM godwit.change on \(direction.source.title)")
    }

    private func rogueWrites() throws(Failure) -> GuardRail {
        let count = try queryTarget("SELECT count(*) FROM godwit.rogue").integer(0, 0) ?? 0
        return GuardRail(
            "foreign_writes", value: "\(count) on \(direction.target.title)", threshold: "0", isMet: count == 0,
            advice: "Somebody else writes there; the mirror mends it within seconds. Find out who it is")
    }

    private func prepared() throws(Failure) -> GuardRail {
        let sql = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
        let count = (try querySource(sql).integer(0, 0) ?? 0) + (try queryTarget(sql).integer(0, 0) ?? 0)
        return GuardRail(
            "prepared_transactions", value: "\(count)", threshold: "0", isMet: count == 0,
            advice: "COMMIT PREPARED or ROLLBACK PREPARED them (pg_prepared_xacts)")
    }

    private func fences() throws(Failure) -> GuardRail {
        var missing: [String] = []
        for (side, rows) in [
            (direction.source, try querySource(AuthoritySchema.missingFences(try mark(of: source, direction.source)))),
            (direction.target, try queryTarget(AuthoritySchema.missingFences(try mark(of: target, direction.target)))),
        ] {
            for row in 0..<rows.count { missing.append("\(side.title) \(rows[row, 0] ?? "").\(rows[row, 1] ?? "")") }
        }
        return GuardRail(
            "fences", value: missing.isEmpty ? "on all tables" : "missing: \(Self.some(missing))",
            threshold: "on all tables of both sides", isMet: missing.isEmpty, advice: "Run godwit prepare")
    }

    private func mark(of connection: borrowing Connection, _ side: Side) throws(Failure) -> ApplierMark {
        do throws(PostgresFailure) { return try ApplierMark.of(connection) } catch { throw .side(side, error) }
    }

    /// Triggers and foreign keys that come back with the claim: tried, and taken back. nil: there are none.
    private func setAside() throws(Failure) -> GuardRail? {
        if putBack.isEmpty { return nil }
        let counts = try queryTarget(SetAside.counts)
        guard counts.count > 0 else { return nil }
        let what = SetAside.describe(counts)
        var problem: String?
        do throws(Failure) {
            // No batch of the mirror is under way then.
            try onTarget("""
                BEGIN; SET LOCAL lock_timeout = '\(SetAside.lockTimeout)'; SELECT FROM godwit.progress FOR UPDATE;
                \(putBack) ROLLBACK
                """)
        } catch {
            guard case .side(_, let failure) = error, failure.kind == .refused else { throw error }
            try onTarget("ROLLBACK")
            problem = failure.message
        }
        return GuardRail(
            "set_aside", value: problem.map { "\(what): \($0)" } ?? "\(what) on \(direction.target.title)",
            threshold: "the claim can put them back", isMet: problem == nil,
            advice: "Mend what the message says (godwit.aside on \(direction.target.title) holds the definitions)")
    }

    private func captures() throws(Failure) -> GuardRail {
        var wrong: [String] = []
        for (side, rows, isSource) in [
            (direction.source, try querySource(CaptureSchema.capturedTables), true),
            (direction.target, try queryTarget(CaptureSchema.capturedTables), false),
        ] {
            let healthy = CaptureSchema.healthy(rows)
            for table in tables {
                let description = isSource ? table.onSource : table.onTarget
                if healthy[description.oid]?.mayGoOn(for: description) != true {
                    wrong.append("\(side.title) \(description.name)")
                }
            }
        }
        return GuardRail(
            "captures", value: wrong.isEmpty ? "on all tables" : "missing, or other than expected: \(Self.some(wrong))",
            threshold: "on all tables of both sides", isMet: wrong.isEmpty, advice: "Run godwit prepare")
    }

    /// Both ways: what NEW could not give back would be lost on the way back.
    private func schemas() throws(Failure) -> GuardRail {
        let back = MirrorDirection(from: direction.target)
        var found: [String] = []
        for table in tables {
            let defects = SchemaMatch.defects(direction, old: table.shape, new: table.onTarget)
                + (table.back.map { SchemaMatch.defects(back, old: $0, new: table.onSource) } ?? [])
            found += defects.filter { $0.weight == .blocking }.map { "\($0.place) \($0.problem)" }
        }
        return GuardRail(
            "schemas", value: found.isEmpty ? "each side holds the other's rows" : Self.some(found),
            threshold: "each side holds the other's rows", isMet: found.isEmpty,
            advice: "Make the tables alike (godwit verify --schema), then run godwit prepare")
    }

    /// What a mapping cannot give back must be meant; and what went one way does not come back.
    private func mapping() -> GuardRail {
        var found: [String] = [], oneWay: [String] = []
        for mapping in mappings.all {
            if mapping.isOneWay {
                oneWay.append("\(mapping.old)")
            } else if direction.source == .old, let table = tables.first(where: { $0.onSource.name == mapping.old }) {
                let obstacles = mapping.obstacles(old: table.onSource, new: table.onTarget)
                if let first = obstacles.first { found.append("OLD \(mapping.old): \(first)") }
            }
        }
        if direction.source == .new {
            return GuardRail(
                "mapping", value: oneWay.isEmpty ? "all of OLD was mirrored back" : "one way: \(Self.some(oneWay))",
                threshold: "all of OLD was mirrored back", isMet: oneWay.isEmpty,
                advice: "OLD lacks what was written to them since the cutover: there is no rollback")
        }
        let goes = oneWay.isEmpty ? "all can be mirrored back" : "one way, as it is meant: \(Self.some(oneWay))"
        return GuardRail(
            "mapping", value: found.isEmpty ? goes : Self.some(found),
            threshold: "all can be mirrored back, or one_way", isMet: found.isEmpty,
            advice: "Give `back` in mirror.tables for what is missing, or say one_way: true and do without rollback")
    }

    private func sequences() throws(Failure) -> GuardRail {
        let (source, target) = (direction.source.title, direction.target.title)
        let rows = try querySource(SequenceRaiser.Reading.query)
        let (ours, known) = (rows.tableNames, Set(try queryTarget(SequenceRaiser.Reading.query).tableNames))
        let missing = ours.filter { !known.contains(sequenceNames[$0] ?? $0) }.map(\.description)
        let hidden = SequenceRaiser.Reading(rows).hidden.map(\.description)
        let value = !missing.isEmpty ? "missing: \(Self.some(missing))"
            : !hidden.isEmpty ? "not readable: \(Self.some(hidden))" : "\(ours.count) on both sides"
        return GuardRail(
            "sequences", value: value, threshold: "all of \(source) on \(target), and readable on \(source)",
            isMet: missing.isEmpty && hidden.isEmpty,
            advice: missing.isEmpty ? "GRANT SELECT on them to the control user" : "Create them on \(target)")
    }

    private func longTransactions(_ order: SwitchOrder) throws(Failure) -> GuardRail {
        let oids = tables.map { "\($0.onSource.oid)" }.joined(separator: ", ")
        let rows = try querySource("""
            SELECT a.pid, (extract(epoch FROM clock_timestamp() - a.xact_start) * 1000)::bigint FROM pg_stat_activity a
             WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
               AND a.xact_start < clock_timestamp() - interval '\(order.deadlineMillis) milliseconds'
               AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'relation'
                   AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
                   AND l.relation IN (SELECT relid FROM unnest(ARRAY[\(oids)]::oid[]) t, pg_partition_tree(t)
                       UNION SELECT unnest(ARRAY[\(oids)]::oid[])))
               AND a.backend_type = 'client backend' ORDER BY a.xact_start
            """)
        let found = (0..<rows.count).map { "process \(rows[$0, 0] ?? "") for \(rows[$0, 1] ?? "") ms" }
        return GuardRail(
            "long_transactions", value: found.isEmpty ? "none" : Self.some(found),
            threshold: "none that writes for longer than the deadline", isMet: found.isEmpty,
            advice: "Let them end, or end them on \(direction.source.title): they would outlast the deadline")
    }

    private func connections(_ needed: Int) throws(Failure) -> GuardRail {
        let rows = try queryTarget("""
            SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
                    AND application_name NOT LIKE 'godwit%')
            """)
        let free = rows.integer(0, 0) ?? 0
        return GuardRail(
            "connections", value: "\(free) free on \(direction.target.title)",
            threshold: "\(needed), as the pools need", isMet: free >= needed,
            advice: "Raise max_connections there, or lower pool.size")
    }

    /// The mirror back writes on the present authority as this one does on the other side.
    private func wayBack() throws(Failure) -> GuardRail {
        var found: [String] = []
        let mark = try self.mark(of: source, direction.source), isForbidden = mark != .replica
        do throws(PostgresFailure) {
            if isForbidden {
                found += try SetAside.obstacles(source, tables: tables.map(\.onSource.oid))
                let strange = try source.query(mark.strangeTables)
                if strange.count > 0 { found.append("\(strange[0, 0] ?? "")'s triggers do not know it by its name") }
            }
        } catch {
            throw .side(direction.source, error)
        }
        if !found.isEmpty { found.insert("the control user may not set session_replication_role", at: 0) }
        do throws(PostgresFailure) {
            found += try Preflight.firing(source, on: direction.source).map { "\($0.place) \($0.problem)" }
        } catch {
            throw .side(direction.source, error)
        }
        return GuardRail(
            "way_back", value: !found.isEmpty ? Self.some(found) : isForbidden
                ? "open, with \(direction.source.title)'s triggers and foreign keys set aside meanwhile" : "open",
            threshold: "a mirror can write on \(direction.source.title)", isMet: found.isEmpty,
            advice: "Run godwit prepare; or GRANT SET ON PARAMETER session_replication_role (15 and later), use a "
                + "superuser there or the tables' owner; let triggers and rules fire for applications only")
    }

    private static func evidence(_ order: SwitchOrder) -> GuardRail {
        let (value, isMet): (String, Bool)
        switch order.evidence {
        case .none: (value, isMet) = ("none", false)
        case .waived: (value, isMet) = ("waived by the operator", true)
        case .verified(let seconds, let isEqual):
            value = "\(isEqual ? "equal" : "different") \(Int64(seconds)) s ago"
            isMet = isEqual && seconds <= order.verifiedSecondsMax
        }
        return GuardRail(
            "verified", value: value, threshold: "equal within \(Int64(order.verifiedSecondsMax)) s", isMet: isMet,
            advice: "Run godwit verify, and order the switch WITHOUT VERIFY when it says equal")
    }

    /// The first few of them.
    private static func some(_ names: [String]) -> String {
        names.prefix(3).joined(separator: ", ") + (names.count > 3 ? " and \(names.count - 3) more" : "")
    }
}
