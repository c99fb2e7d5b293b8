import LibPQ

/// Which partitions OLD's tables have, as of the snapshot that NEW holds. Used by the mirror's thread.
///
/// Row triggers on the root are cloned to every partition, so changed rows need nothing further. But rows also come and
/// go with whole partitions, unseen by any trigger: ATTACH, DETACH, DROP and TRUNCATE of a partition. Each of these
/// gives the partition another stamp (its rows in pg_inherits, its file). A partition that came, went or has another
/// stamp is brought anew: on NEW the rows of its range are deleted, then those that OLD has there are copied, in
/// the batch's transaction. NEW keeps the list that goes with its snapshot, so a crash changes nothing.
struct PartitionTracker {
    struct Leaf: Equatable {
        var stamp: String
        /// The partition's constraint: what a row must satisfy to be in it.
        var condition: String
        /// nil where we may not read it by itself.
        var name: TableName?
    }

    /// What one root needs in this batch.
    struct Change {
        var plan: TablePlan
        /// As SQL conditions on NEW's rows.
        var deletions: [String]
        /// Statements that copy partitions; nil: all of the root comes.
        var copies: [String]?
        var leaves: [UInt32: Leaf]
    }

    private var known: [UInt32: [UInt32: Leaf]]

    init(_ rows: Rows) {
        known = [:]
        for row in 0..<rows.count {
            guard let root = rows[row, 0].flatMap({ UInt32($0) }), let leaf = rows[row, 1].flatMap({ UInt32($0) })
            else { continue }
            known[root, default: [:]][leaf] = Leaf(stamp: rows[row, 2] ?? "", condition: rows[row, 3] ?? "", name: nil)
        }
    }

    static let knownQuery = "SELECT root::bigint, leaf::bigint, stamp, condition FROM godwit.partition"

    /// Root, partition and stamp, under the snapshot of whoever asks: not by pg_partition_tree, which asks no snapshot.
    private static func tree(_ roots: [UInt32]) -> String {
        """
        WITH RECURSIVE tree (root, leaf, stamp) AS (
            SELECT c.oid, c.oid, '' FROM pg_class c WHERE c.oid IN (\(roots.map { "\($0)" }.joined(separator: ", ")))
            UNION ALL SELECT t.root, i.inhrelid, t.stamp || i.xmin::text || '.'
              FROM tree t JOIN pg_inherits i ON i.inhparent = t.leaf AND NOT i.inhdetachpending),
        leaves AS (SELECT t.root, t.leaf, t.stamp || c.relfilenode AS stamp, c.relname, c.relnamespace
            FROM tree t JOIN pg_class c ON c.oid = t.leaf WHERE c.relkind = 'r')
        """
    }

    /// One row for each root, and a text that changes with any of its stamps.
    static func digestQuery(_ roots: [UInt32]) -> String {
        """
        \(tree(roots)) SELECT root::bigint, string_agg(leaf || ':' || stamp, ',' ORDER BY leaf) FROM leaves
         GROUP BY root
        """
    }

    private func digest(_ root: UInt32) -> String {
        (known[root] ?? [:]).sorted { $0.key < $1.key }.map { "\($0.key):\($0.value.stamp)" }.joined(separator: ",")
    }

    /// Roots whose partitions are not what NEW has.
    func changed(_ digests: [UInt32: String], _ plans: [TablePlan]) -> [TablePlan] {
        plans.filter { $0.isPartitioned && (digests[$0.oid] ?? "") != digest($0.oid) }
    }

    /// The same of what NEW holds.
    static let knownDigestQuery = """
        SELECT root::bigint, string_agg(leaf || ':' || stamp, ',' ORDER BY leaf) FROM godwit.partition GROUP BY root
        """

    static func collectDigests(_ rows: Rows) -> [UInt32: String] {
        var digests: [UInt32: String] = [:]
        for row in 0..<rows.count {
            if let root = rows[row, 0].flatMap({ UInt32($0) }) { digests[root] = rows[row, 1] ?? "" }
        }
        return digests
    }

    static func leavesQuery(_ root: UInt32) -> String {
        """
        \(tree([root])) SELECT leaf::bigint, stamp, coalesce(pg_get_partition_constraintdef(leaf), 'true'), n.nspname,
            l.relname, has_table_privilege(l.leaf, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
            FROM leaves l JOIN pg_namespace n ON n.oid = l.relnamespace
        """
    }

    /// - Parameter isUntouched: NEW holds no row of it yet: the first copy will bring all.
    func change(_ plan: TablePlan, leaves rows: Rows, isUntouched: Bool) -> Change {
        var leaves: [UInt32: Leaf] = [:]
        for row in 0..<rows.count {
            guard let leaf = rows[row, 0].flatMap({ UInt32($0) }) else { continue }
            let name = TableName(schema: rows[row, 3] ?? "", name: rows[row, 4] ?? "")
            leaves[leaf] = Leaf(
                stamp: rows[row, 1] ?? "", condition: rows[row, 2] ?? "true", name: rows.flag(row, 5) ? name : nil)
        }
        let before = known[plan.oid] ?? [:]
        var change = Change(plan: plan, deletions: [], copies: [], leaves: leaves)
        guard !isUntouched else { return change }
        for (leaf, was) in before.sorted(by: { $0.key < $1.key }) where leaves[leaf]?.stamp != was.stamp {
            change.deletions.append(was.condition)
        }
        for (leaf, now) in leaves.sorted(by: { $0.key < $1.key }) where before[leaf]?.stamp != now.stamp {
            change.deletions.append(now.condition)
            change.copies?.append(now.name.map { plan.copyPartition($0) } ?? plan.copyRows(where: now.condition))
        }
        // The condition of a hash partition names the table by its number, which NEW does not know; that of a mapped
        // table OLD's columns; and NEW may have other texts in a range.
        let isForeign = change.deletions.contains {
            $0.contains("satisfies_hash_partition") || !plan.hasPortableOrder(in: $0)
        }
        if isForeign || (plan.isMapped && !change.deletions.isEmpty) {
            change.deletions = ["true"]
            change.copies = nil
        }
        return change
    }

    /// What NEW keeps, in the transaction that brings the rows.
    static func recordText(_ change: Change) -> String {
        let rows = change.leaves.sorted { $0.key < $1.key }.map { leaf, now in
            "(\(change.plan.oid), \(leaf), \(SQL.literal(now.stamp)), \(SQL.literal(now.condition)))"
        }
        return "DELETE FROM godwit.partition WHERE root = \(change.plan.oid);"
            + (rows.isEmpty ? "" : "INSERT INTO godwit.partition VALUES \(rows.joined(separator: ", "));")
    }

    /// After NEW has committed the same.
    mutating func record(_ changes: [Change]) {
        for change in changes { known[change.plan.oid] = change.leaves }
    }
}
