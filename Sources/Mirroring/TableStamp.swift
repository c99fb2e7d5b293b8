import LibPQ
import Primitives

/// What must not change behind the mirror's back on the two sides of one table, because it changes rows, or lets them
/// change, without any trigger firing. NEW keeps it in godwit.backfill from the start of the table's copy; when it no
/// longer holds, the copy starts anew. Pure.
struct TableStamp: Equatable {
    /// One side's table.
    struct Side: Equatable {
        /// The greatest number of a carried column: a new one may have brought values of its own into every row.
        var lastColumn = 0
        /// The table's file and those of its partitions, by oid: a rewrite, a TRUNCATE of a partition give another.
        var files: [UInt32: String] = [:]
        /// The versions of the columns' catalog rows. They tell a rewrite by ALTER TABLE, which may change values, from
        /// VACUUM FULL or CLUSTER, which do not.
        var attributes = ""
    }

    var old = Side()
    var new = Side()
    /// Versions of the capture triggers' catalog rows, by trigger: one that was off for a moment has another.
    var triggers: [UInt32: String] = [:]
    /// The columns whose values the triggers write down; on a second line how a mapping reads the rows.
    var key = ""

    /// Before the version of a trigger that is the table's own, not a partition's copy of it.
    private static let rootMark = "r"

    /// Why rows may differ although no trigger fired; nil: they may not.
    static func breach(
        _ direction: MirrorDirection = .forward, from before: TableStamp, to now: TableStamp
    ) -> String? {
        let (source, target) = (direction.source.title, direction.target.title)
        if before.key != now.key {
            let keys = [before, now].map { $0.key.prefix { $0 != "\n" } }
            return "\(source)'s \(keys[0] == keys[1] ? "mapping" : "key") has changed"
        }
        for (trigger, version) in before.triggers where now.triggers[trigger] != version {
            // A partition's trigger goes with the partition.
            if now.triggers[trigger] == nil && !version.hasPrefix(rootMark) { continue }
            return "the capture triggers on \(source) were changed, off or gone for a while"
        }
        if let reason = breach(before.old, now.old) { return "\(source)'s table \(reason)" }
        if let reason = breach(before.new, now.new) { return "\(target)'s table \(reason)" }
        let leaves = before.new.files.count > 1 || now.new.files.count > 1
        if leaves, before.new.files.contains(where: { now.new.files[$0.key] != $0.value }) {
            return "a partition on \(target) was emptied, rewritten or taken away"
        }
        return nil
    }

    private static func breach(_ before: Side, _ now: Side) -> String? {
        if now.lastColumn > before.lastColumn { return "got a column" }
        if now.files != before.files && now.attributes != before.attributes { return "was rewritten" }
        return nil
    }

    // MARK: text

    private static func text(_ map: [UInt32: String]) -> String {
        map.sorted { $0.key < $1.key }.map { "\($0.key):\($0.value)" }.joined(separator: ",")
    }

    private static func map(_ text: some StringProtocol) -> [UInt32: String] {
        var found: [UInt32: String] = [:]
        for entry in text.split(separator: ",") {
            let parts = entry.split(separator: ":", maxSplits: 1)
            if parts.count == 2, let oid = UInt32(parts[0]) { found[oid] = String(parts[1]) }
        }
        return found
    }

    /// As NEW keeps it. The key comes last: its names may hold any character.
    var text: String {
        [
            "\(old.lastColumn)", Self.text(old.files), old.attributes, "\(new.lastColumn)", Self.text(new.files),
            new.attributes, Self.text(triggers), key,
        ].joined(separator: "|")
    }

    init() {}

    init?(_ text: String) {
        let parts = text.split(separator: "|", maxSplits: 7, omittingEmptySubsequences: false)
        guard parts.count == 8, let ofOld = Int(parts[0]), let ofNew = Int(parts[3]) else { return nil }
        old = Side(lastColumn: ofOld, files: Self.map(parts[1]), attributes: String(parts[2]))
        new = Side(lastColumn: ofNew, files: Self.map(parts[4]), attributes: String(parts[5]))
        triggers = Self.map(parts[6])
        key = String(parts[7])
    }

    // MARK: catalog

    /// By oid: file (and those of partitions), versions of the columns' rows, and each live column's number and name.
    static func sideQuery(_ tables: String) -> String {
        """
        SELECT c.oid::bigint, c.relfilenode || (CASE c.relkind WHEN 'p' THEN (
                   SELECT coalesce(string_agg(',' || p.relid::oid || ':' || l.relfilenode, ''), '')
                     FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid WHERE p.isleaf) ELSE '' END),
               md5((SELECT string_agg(a.attnum || ' ' || a.xmin, ',' ORDER BY a.attnum) FROM pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum > 0)),
               a.attnum, a.attname
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.oid IN (\(tables))
        """
    }

    /// - Parameter carried: of each table, by oid.
    static func collect(_ rows: Rows, carried: [UInt32: Set<String>]) -> [UInt32: Side] {
        var found: [UInt32: Side] = [:]
        for row in 0..<rows.count {
            guard let oid = rows[row, 0].flatMap({ UInt32($0) }) else { continue }
            if found[oid] == nil {
                let files = map("\(oid):\(rows[row, 1] ?? "")")
                found[oid] = Side(lastColumn: 0, files: files, attributes: rows[row, 2] ?? "")
            }
            guard carried[oid]?.contains(rows[row, 4] ?? "") ?? false else { continue }
            let number = Int(rows.integer(row, 3) ?? 0)
            if number > found[oid]?.lastColumn ?? 0 { found[oid]?.lastColumn = number }
        }
        return found
    }

    /// Table (of partitions: the root's), trigger and its version, of all capture triggers.
    static let triggersQuery = """
        WITH RECURSIVE ours (root, trigger) AS (
            SELECT tgrelid, oid FROM pg_trigger WHERE tgparentid = 0 AND NOT tgisinternal
               AND tgname IN ('\(CaptureSchema.rowTrigger)', '\(CaptureSchema.truncateTrigger)')
            UNION ALL SELECT o.root, t.oid FROM ours o JOIN pg_trigger t ON t.tgparentid = o.trigger)
        SELECT o.root::bigint, o.trigger::bigint, CASE t.tgparentid WHEN 0 THEN '\(rootMark)' ELSE '' END || t.xmin
          FROM ours o JOIN pg_trigger t ON t.oid = o.trigger
        """

    static func collectTriggers(_ rows: Rows) -> [UInt32: [UInt32: String]] {
        var found: [UInt32: [UInt32: String]] = [:]
        for row in 0..<rows.count {
            guard let table = rows[row, 0].flatMap({ UInt32($0) }), let trigger = rows[row, 1].flatMap({ UInt32($0) })
            else { continue }
            found[table, default: [:]][trigger] = rows[row, 2] ?? ""
        }
        return found
    }
}
