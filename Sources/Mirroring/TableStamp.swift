import LibPQ
import Primitives

/// What must not change behind the mirror's back on the two sides of one table, because it changes rows, or lets them
/// change, without any trigger firing. NEW keeps it in godwit.backfill from the start of the table's copy; when it no
/// longer holds, the copy starts anew. Pure.
struct TableStamp: Equatable {
    /// A column as rows have it that were there before it.
    struct Column {
        var number: Int
        /// What those show in it, as the catalog tells; nil: it does not tell.
        var value: String?
    }

    /// One side's table.
    struct Side: Equatable {
        /// The greatest number of a carried column: a new one may have brought values of its own into every row.
        var lastColumn = 0
        /// The greatest number of any column there ever was; nil: an earlier version has not noted it.
        var width: Int?
        /// The table's file and those of its partitions, by oid: a rewrite, a TRUNCATE of a partition give another.
        var files: [UInt32: String] = [:]
        /// The versions of the columns' catalog rows. They tell a rewrite by ALTER TABLE, which may change values, from
        /// VACUUM FULL or CLUSTER, which do not.
        var attributes = ""
        /// Of what was just read: the carried columns. They are not kept, and do not tell two stamps apart.
        var columns: [String: Column] = [:]

        static func == (left: Side, right: Side) -> Bool {
            left.lastColumn == right.lastColumn && left.width == right.width && left.files == right.files
                && left.attributes == right.attributes
        }
    }

    var old = Side()
    var new = Side()
    /// The carried columns by their numbers: OLD's, and NEW's of the same name. Empty: an earlier version has not noted
    /// them, or a mapping, which is a part of `key`, says which goes where.
    var pairs: [UInt32: String] = [:]
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
        let haveSame = haveSameNewColumns(before, now)
        if let reason = breach(before.old, now.old, haveSame) { return "\(source)'s table \(reason)" }
        if let reason = breach(before.new, now.new, haveSame) { return "\(target)'s table \(reason)" }
        // Names that were exchanged on one side, or that a dropped column had before: no row was written.
        // Of either one: what was carried from nowhere before, for both sides computed it, is another partner, too.
        if now.pairs.contains(where: { pair in
            before.pairs.contains { ($0.key == pair.key) != ($0.value == pair.value) }
        }) {
            return "a column's name is another column's on \(source) or \(target)"
        }
        let leaves = before.new.files.count > 1 || now.new.files.count > 1
        if leaves, before.new.files.contains(where: { now.new.files[$0.key] != $0.value }) {
            return "a partition on \(target) was emptied, rewritten or taken away"
        }
        return nil
    }

    /// Each column that came, came on both sides since, and gave all rows that were there the same value without
    /// writing any. What was written since then is in the journal.
    private static func haveSameNewColumns(_ before: TableStamp, _ now: TableStamp) -> Bool {
        guard let oldWidth = before.old.width, let newWidth = before.new.width else { return false }
        let ofOld = now.old.columns.filter { $0.value.number > before.old.lastColumn }
        let ofNew = now.new.columns.filter { $0.value.number > before.new.lastColumn }
        return Set(ofOld.keys) == Set(ofNew.keys) && ofOld.allSatisfy { name, column in
            guard let twin = ofNew[name], let value = column.value, let other = twin.value else { return false }
            return column.number > oldWidth && twin.number > newWidth && value == other
        }
    }

    private static func breach(_ before: Side, _ now: Side, _ haveSameNewColumns: Bool) -> String? {
        if now.lastColumn > before.lastColumn, !haveSameNewColumns { return "got a column" }
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
            old.numbers + (pairs.isEmpty ? "" : "/" + Self.text(pairs)), Self.text(old.files), old.attributes,
            new.numbers, Self.text(new.files), new.attributes, Self.text(triggers), key,
        ].joined(separator: "|")
    }

    init() {}

    init?(_ text: String) {
        let parts = text.split(separator: "|", maxSplits: 7, omittingEmptySubsequences: false)
        guard parts.count == 8, let ofOld = Side(numbers: parts[0]), let ofNew = Side(numbers: parts[3]) else {
            return nil
        }
        (old, new) = (ofOld, ofNew)
        let numbers = parts[0].split(separator: "/", maxSplits: 2)
        if numbers.count == 3 { pairs = Self.map(numbers[2]) }
        (old.files, old.attributes) = (Self.map(parts[1]), String(parts[2]))
        (new.files, new.attributes) = (Self.map(parts[4]), String(parts[5]))
        triggers = Self.map(parts[6])
        key = String(parts[7])
    }

    // MARK: catalog

    /// By oid: file (and those of partitions), versions of the columns' rows, each live column's number and name; how
    /// many columns there ever were, and what rows show in the column that were there before it.
    static func sideQuery(_ tables: String) -> String {
        """
        SELECT c.oid::bigint, c.relfilenode || (CASE c.relkind WHEN 'p' THEN (
                   SELECT coalesce(string_agg(',' || p.relid::oid || ':' || l.relfilenode, ''), '')
                     FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid WHERE p.isleaf) ELSE '' END),
               md5((SELECT string_agg(a.attnum || ' ' || a.xmin, ',' ORDER BY a.attnum) FROM pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum > 0)),
               a.attnum, a.attname, c.relnatts,
               CASE WHEN a.attgenerated <> '' OR a.attidentity <> '' OR (c.relkind = 'p' AND a.atthasdef) THEN NULL
                    WHEN c.relkind = 'p' THEN \(leavesValue)
                    WHEN a.atthasmissing THEN '=' || a.attmissingval::text ELSE '-' END
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.oid IN (\(tables))
        """
    }

    /// The rows are in the partitions, and each has a value of its own for those that it had.
    private static let leavesValue = """
        (SELECT CASE WHEN count(DISTINCT v) = 1 THEN min(v) END
           FROM (SELECT CASE WHEN l.atthasmissing THEN '=' || l.attmissingval::text ELSE '-' END AS v
                   FROM pg_partition_tree(c.oid) p JOIN pg_attribute l ON l.attrelid = p.relid
                  WHERE p.isleaf AND l.attname = a.attname AND NOT l.attisdropped) leaves)
        """

    /// - Parameter carried: of each table, by oid.
    static func collect(_ rows: Rows, carried: [UInt32: Set<String>]) -> [UInt32: Side] {
        var found: [UInt32: Side] = [:]
        for row in 0..<rows.count {
            guard let oid = rows[row, 0].flatMap({ UInt32($0) }) else { continue }
            if found[oid] == nil {
                let files = map("\(oid):\(rows[row, 1] ?? "")")
                found[oid] = Side(
                    width: rows.integer(row, 5).map { Int($0) }, files: files, attributes: rows[row, 2] ?? "")
            }
            guard carried[oid]?.contains(rows[row, 4] ?? "") ?? false else { continue }
            let number = Int(rows.integer(row, 3) ?? 0)
            found[oid]?.columns[rows[row, 4] ?? ""] = Column(number: number, value: rows[row, 6])
            if number > found[oid]?.lastColumn ?? 0 { found[oid]?.lastColumn = number }
        }
        return found
    }

    /// By what is read of both sides.
    mutating func notePairs() {
        for (name, column) in old.columns {
            if let twin = new.columns[name] { pairs[UInt32(column.number)] = "\(twin.number)" }
        }
    }

    /// Table (of partitions: the root's), trigger and its version, of all capture triggers.
    static let triggersQuery = """
        WITH RECURSIVE ours (root, trigger) AS (
            SELECT tgrelid, oid FROM pg_trigger WHERE tgparentid = 0 AND NOT tgisinternal
               AND tgname IN \(CaptureSchema.triggerList)
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

extension TableStamp.Side {
    /// `5/7`, from earlier versions `5`; of OLD the pairs may follow.
    fileprivate init?(numbers: Substring) {
        let parts = numbers.split(separator: "/", maxSplits: 2)
        guard let last = parts.first.flatMap({ Int($0) }) else { return nil }
        lastColumn = last
        width = parts.count > 1 ? Int(parts[1]) : nil
    }

    fileprivate var numbers: String { "\(lastColumn)" + (width.map { "/\($0)" } ?? "") }
}
