import Foundation
import LibPQ

/// Brings OLD's schema to an empty NEW with pg_dump, pg_restore and psql: first what rows need (tables, types, keys),
/// and after the first copy what would slow it down (other indexes, constraints, triggers). Used by one thread.
struct SchemaCopy {
    struct Failure: Error, CustomStringConvertible { var description: String }

    private let old: ConnectionString
    private let new: ConnectionString
    private let programs: String
    private let directory: String

    /// - Parameter programs: the folder of pg_dump, pg_restore and psql; empty: they are in PATH.
    init(old: ConnectionString, new: ConnectionString, programs: String) throws {
        self.old = old
        self.new = new
        self.programs = programs
        directory = FileManager.default.temporaryDirectory.appendingPathComponent("godwit-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    }

    func end() { try? FileManager.default.removeItem(atPath: directory) }

    /// Everything before the rows, and the keys, in one transaction: NEW has all of it or nothing. It must have no
    /// table yet.
    ///
    /// - Parameter say: gets each line about what NEW cannot have as OLD does, before it is kept.
    func copyBeforeRows(
        _ onOld: borrowing Connection, _ onNew: borrowing Connection, _ mappings: TableMappings,
        say: (String) -> Void
    ) throws {
        let tables = try CatalogReader.tables(onNew)
        guard tables.isEmpty else {
            throw Failure(description: "NEW has \(tables[0].name): --copy-schema is for an empty database")
        }
        try dump()
        let keys = try keyNames(onOld)
        let texts = [
            try script(["--use-list", try beforeRowsList()], onNew),
            try script(try entries().filter { keys.contains($0) || $0.hangsOnKeys }, onNew),
        ]
        // Of its own: what pg_restore has a session set is for no other.
        let session = try Connection.open(new, purpose: "prepare")
        try session.execute("BEGIN")
        for text in texts { try session.execute(text) }
        try session.execute("SET search_path = pg_catalog, pg_temp")
        let left = try MappedSchemaCopy(mappings: mappings).apply(session)
        (left + (try outside(onOld))).forEach(say)
        try session.execute("COMMIT")
    }

    /// What is left, then ANALYZE. May be repeated: what is there already is left alone.
    ///
    /// - Parameter say: gets each line about what is the operator's to make, before anything is touched.
    /// - Returns: how many objects came.
    func copyAfterRows(
        _ onOld: borrowing Connection, _ onNew: borrowing Connection, _ mappings: TableMappings, say: (String) -> Void
    ) throws -> Int {
        try dump()
        let mapped = try MappedSchemaRest(mappings, onOld, onNew)
        let present = try presentNames(onNew)
        let firing = try firing(onOld).filter { !present.contains($0.entry) && !mapped.entries.contains($0.entry) }
        (mapped.left + firing.compactMap(\.line)).forEach(say)
        let except = present.union(mapped.entries).union(firing.map(\.entry)).union(try sameAttributes(onOld, onNew))
        let missing = try entries().filter { !except.contains($0) }
        try restore(missing, onNew)
        for statement in mapped.statements { try onNew.execute(statement) }
        try onNew.execute("ANALYZE")
        return missing.count + mapped.statements.count
    }

    // MARK: the archive

    private var archive: String { directory + "/schema" }
    private var target: [String] { ["--dbname", new.overriding(["password": ""]).text] }

    private func dump() throws {
        try run("pg_dump", [
            "--schema-only", "--format=custom", "--no-publications", "--no-subscriptions",
            "--exclude-schema=godwit", "--file", archive, "--dbname", old.overriding(["password": ""]).text,
        ], old)
    }

    /// One object of the archive behind the rows, as its table of contents names it.
    struct Entry: Hashable {
        /// `CONSTRAINT`, `INDEX`, `INDEX ATTACH`, `FK CONSTRAINT`, `TRIGGER`, ...
        var kind: String
        var name: String
        /// The line of the list; no part of what makes two equal.
        var line = ""

        /// A view or a function that needs a key to be parsed (GROUP BY of one) comes behind it. Of a view there is a
        /// stand-in until then, which gives nothing but NULL, and has a rule of the same name.
        var hangsOnKeys: Bool {
            ["MATERIALIZED VIEW", "FUNCTION", "PROCEDURE"].contains(kind)
                || (kind == "RULE" && name.hasSuffix(" _RETURN"))
        }

        static func == (left: Entry, right: Entry) -> Bool { (left.kind, left.name) == (right.kind, right.name) }

        func hash(into hasher: inout Hasher) {
            hasher.combine(kind)
            hasher.combine(name)
        }
    }

    /// `3345; 2606 16390 CONSTRAINT public t t_pkey owner`, in the order in which they are restored.
    private func entries() throws -> [Entry] {
        let onOld = try Connection.open(old, purpose: "prepare")
        let roles = try onOld.query("""
            SELECT rolname FROM pg_roles WHERE rolname LIKE '% %' ORDER BY length(rolname) DESC
            """)
        let owners = (0..<roles.count).compactMap { roles[$0, 0] }
        let list = try run("pg_restore", ["--list", "--section=post-data", archive], new)
        let kinds = [
            "INDEX ATTACH", "FK CONSTRAINT", "CHECK CONSTRAINT", "CONSTRAINT", "INDEX", "TRIGGER", "EVENT TRIGGER",
            "RULE", "POLICY", "ROW SECURITY", "STATISTICS", "MATERIALIZED VIEW DATA", "MATERIALIZED VIEW", "FUNCTION",
            "PROCEDURE", "COMMENT", "DEFAULT",
        ]
        var found: [Entry] = []
        for line in list.split(separator: "\n") where !line.hasPrefix(";") {
            let parts = line.split(separator: " ", maxSplits: 3)
            guard parts.count == 4 else { continue }
            let rest = String(parts[3])
            // Godwit's own: the capture belongs to OLD.
            if [" godwit_capture", " godwit_fence"].contains(where: { rest.contains($0) }) { continue }
            let kind = kinds.first { rest.hasPrefix($0 + " ") } ?? ""
            // The last word is the owner; a role's name may have blanks in it.
            let owner = owners.first { rest.hasSuffix(" \($0)") } ?? rest.split(separator: " ").last.map(String.init)
            let words = rest.dropFirst(kind.isEmpty ? 0 : kind.count + 1).dropLast(owner?.count ?? 0)
                .split(separator: " ")
            found.append(Entry(kind: kind, name: words.joined(separator: " "), line: String(line)))
        }
        return found
    }

    /// All before the rows but the comments on extensions, which CREATE EXTENSION makes: where NEW has an extension
    /// already, whoever does not own it may not make its comment, and nothing would come.
    private func beforeRowsList() throws -> String {
        let list = try run("pg_restore", ["--list", "--section=pre-data", archive], new)
        return try listFile(list.split(separator: "\n").map { Entry(kind: "", name: "", line: String($0)) }
            .filter { !$0.line.contains(" COMMENT - EXTENSION ") })
    }

    /// Statement by statement, so that what came stays when another one fails.
    private func restore(_ entries: [Entry], _ onNew: borrowing Connection) throws {
        guard !entries.isEmpty else { return }
        let file = directory + "/rest"
        // A side may be closed to others' writes until the cutover.
        try ("SET default_transaction_read_only = off;\n" + script(entries, onNew))
            .write(toFile: file, atomically: true, encoding: .utf8)
        try run("psql", ["-Xq", "--set=ON_ERROR_STOP=1", "--file", file] + target, new)
    }

    /// As SQL.
    private func script(_ entries: [Entry], _ onNew: borrowing Connection) throws -> String {
        entries.isEmpty ? "" : try script(["--use-list", try listFile(entries)], onNew)
    }

    private func script(_ options: [String], _ onNew: borrowing Connection) throws -> String {
        // An archive has them, whatever pg_dump is told, and NEW has others.
        let text = try run("pg_restore", options + ["--no-tablespaces", "--file=-", archive], new)
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        // Its head and its foot may have a line for psql alone.
        let foot = lines.suffix(Self.headLines).lastIndex { $0.hasPrefix("\\unrestrict ") }
        if let foot { lines.remove(at: foot) }
        let head = lines.prefix(Self.headLines)
        let unknown = try unknownSettings(head.compactMap(Self.setting), onNew)
        lines.replaceSubrange(head.indices, with: head.filter { line in
            let setting = Self.setting(line)
            return !line.hasPrefix("\\restrict ") && (setting == nil || !unknown.contains { $0 == setting })
        })
        return lines.joined(separator: "\n")
    }

    /// Lines of a script's head and foot, at most.
    private static let headLines = 25

    /// `SET name = value;`
    private static func setting(_ line: Substring) -> String? {
        let words = line.split(separator: " ", maxSplits: 3)
        return words.count == 4 && words[0] == "SET" && words[2] == "=" ? String(words[1]) : nil
    }

    /// A pg_restore that is newer than NEW sets for its session what NEW has never heard of.
    private func unknownSettings(_ names: [String], _ onNew: borrowing Connection) throws -> [String] {
        if names.isEmpty { return [] }
        let list = names.map(SQL.literal).joined(separator: ", ")
        let rows = try onNew.query("""
            SELECT name FROM unnest(ARRAY[\(list)]) name WHERE current_setting(name, true) IS NULL
            """)
        return (0..<rows.count).compactMap { rows[$0, 0] }
    }

    private func listFile(_ entries: [Entry]) throws -> String {
        let list = directory + "/list"
        try entries.map(\.line).joined(separator: "\n").write(toFile: list, atomically: true, encoding: .utf8)
        return list
    }

    // MARK: what the catalogs say

    /// Primary keys, the unique indexes that serve as one, and what ties partitions' keys together.
    private func keyNames(_ onOld: borrowing Connection) throws -> Set<Entry> {
        let rows = try onOld.query("""
            SELECT CASE WHEN k.conname IS NOT NULL THEN 'CONSTRAINT' ELSE 'INDEX' END,
                   n.nspname, t.relname, coalesce(k.conname, x.relname), x.relispartition
              FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
              JOIN pg_namespace n ON n.oid = x.relnamespace
              LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u')
             WHERE i.indisprimary OR (i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
               AND NOT EXISTS (SELECT FROM pg_index p WHERE p.indrelid = i.indrelid AND p.indisprimary))
            """)
        var names: Set<Entry> = []
        for row in 0..<rows.count {
            let schema = rows[row, 1] ?? "", table = rows[row, 2] ?? "", name = rows[row, 3] ?? ""
            let isConstraint = rows[row, 0] == "CONSTRAINT"
            names.insert(Entry(
                kind: rows[row, 0] ?? "", name: isConstraint ? "\(schema) \(table) \(name)" : "\(schema) \(name)"))
            if rows.flag(row, 4) { names.insert(Entry(kind: "INDEX ATTACH", name: "\(schema) \(name)")) }
        }
        return names
    }

    private func presentNames(_ onNew: borrowing Connection) throws -> Set<Entry> {
        let rows = try onNew.query("""
            SELECT CASE contype WHEN 'f' THEN 'FK CONSTRAINT' WHEN 'c' THEN 'CHECK CONSTRAINT' ELSE 'CONSTRAINT' END,
                   n.nspname || ' ' || t.relname || ' ' || conname
              FROM pg_constraint k JOIN pg_class t ON t.oid = conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
            UNION ALL SELECT 'INDEX', n.nspname || ' ' || c.relname FROM pg_class c
              JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('i', 'I')
            UNION ALL SELECT 'INDEX ATTACH', n.nspname || ' ' || c.relname FROM pg_class c
              JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('i', 'I') AND c.relispartition
            UNION ALL SELECT 'TRIGGER', n.nspname || ' ' || c.relname || ' ' || t.tgname FROM pg_trigger t
              JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            UNION ALL SELECT 'RULE', n.nspname || ' ' || c.relname || ' ' || r.rulename FROM pg_rewrite r
              JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
            UNION ALL SELECT 'POLICY', n.nspname || ' ' || c.relname || ' ' || p.polname FROM pg_policy p
              JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            UNION ALL SELECT 'STATISTICS', n.nspname || ' ' || s.stxname FROM pg_statistic_ext s
              JOIN pg_namespace n ON n.oid = s.stxnamespace
            UNION ALL SELECT 'EVENT TRIGGER', '- ' || evtname FROM pg_event_trigger
            UNION ALL SELECT 'MATERIALIZED VIEW', n.nspname || ' ' || c.relname FROM pg_class c
              JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm'
            UNION ALL SELECT CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
                   format('%s %s(%s)', n.nspname, p.proname, oidvectortypes(p.proargtypes))
              FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid >= 16384
            """)
        var names: Set<Entry> = []
        for row in 0..<rows.count { names.insert(Entry(kind: rows[row, 0] ?? "", name: rows[row, 1] ?? "")) }
        if try onNew.hasRelation("godwit.aside") {
            let away = try onNew.query("""
                SELECT schema_name || ' ' || table_name || ' ' || name FROM godwit.aside WHERE kind = 'foreign key'
                """)
            for row in 0..<away.count { names.insert(Entry(kind: "FK CONSTRAINT", name: away[row, 0] ?? "")) }
        }
        return names
    }

    /// Comments, row level security and default rights that NEW has as OLD has them.
    private func sameAttributes(_ onOld: borrowing Connection, _ onNew: borrowing Connection) throws -> Set<Entry> {
        let there = try attributes(onNew)
        return Set(try attributes(onOld).filter { there[$0.key] == $0.value }.keys)
    }

    private func attributes(_ on: borrowing Connection) throws -> [Entry: String] {
        func comments(_ kind: String, _ catalog: String, _ name: String, _ table: String) -> String {
            """
            UNION ALL SELECT 'COMMENT', n.nspname || ' \(kind) ' || quote_ident(o.\(name)) || ' ON '
                   || quote_ident(c.relname), obj_description(o.oid, '\(catalog)')
              FROM \(catalog) o JOIN pg_class c ON c.oid = o.\(table) JOIN pg_namespace n ON n.oid = c.relnamespace
            """
        }
        let rows = try on.query("""
            SELECT 'ROW SECURITY', n.nspname || ' ' || c.relname, 'on' FROM pg_class c
              JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relrowsecurity
            \(comments("CONSTRAINT", "pg_constraint", "conname", "conrelid"))
            \(comments("TRIGGER", "pg_trigger", "tgname", "tgrelid"))
            \(comments("RULE", "pg_rewrite", "rulename", "ev_class"))
            \(comments("POLICY", "pg_policy", "polname", "polrelid"))
            UNION ALL SELECT 'COMMENT', n.nspname || ' INDEX ' || quote_ident(c.relname),
                   obj_description(c.oid, 'pg_class')
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('i', 'I')
            UNION ALL SELECT 'COMMENT', n.nspname || ' STATISTICS ' || quote_ident(s.stxname),
                   obj_description(s.oid, 'pg_statistic_ext')
              FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
            UNION ALL SELECT 'COMMENT', '- EVENT TRIGGER ' || quote_ident(evtname),
                   obj_description(oid, 'pg_event_trigger') FROM pg_event_trigger
            UNION ALL SELECT 'DEFAULT', 'ACL ' || coalesce(n.nspname, '-') || ' DEFAULT PRIVILEGES FOR '
                   || CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS'
                          WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END,
                   string_agg(pg_get_userbyid(d.defaclrole) || ' ' || d.defaclacl::text, ' '
                       ORDER BY pg_get_userbyid(d.defaclrole))
              FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
             GROUP BY n.nspname, d.defaclobjtype
            """)
        let found = (0..<rows.count).compactMap { row in
            rows[row, 2].map { (Entry(kind: rows[row, 0] ?? "", name: rows[row, 1] ?? ""), $0) }
        }
        return Dictionary(found) { first, _ in first }
    }

    // MARK: processes

    /// - Parameter secrets: of this connection string: the password goes by the environment, not by the command line.
    @discardableResult
    private func run(_ program: String, _ arguments: [String], _ secrets: ConnectionString) throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = [programs.isEmpty ? program : "\(programs)/\(program)"] + arguments
        var environment = ProcessInfo.processInfo.environment
        if let password = secrets.password { environment["PGPASSWORD"] = password }
        process.environment = environment
        // Into files: a full pipe would stop the program.
        let paths = (directory + "/out", directory + "/err")
        for path in [paths.0, paths.1] { _ = FileManager.default.createFile(atPath: path, contents: nil) }
        guard let out = FileHandle(forWritingAtPath: paths.0), let error = FileHandle(forWritingAtPath: paths.1) else {
            throw Failure(description: "cannot write into \(directory)")
        }
        process.standardOutput = out
        process.standardError = error
        try process.run()
        process.waitUntilExit()
        let complaints = (try? String(contentsOfFile: paths.1, encoding: .utf8)) ?? ""
        guard process.terminationStatus == 0 else {
            throw Failure(description: "\(program) failed:\n\(complaints)")
        }
        return (try? String(contentsOfFile: paths.0, encoding: .utf8)) ?? ""
    }
}
