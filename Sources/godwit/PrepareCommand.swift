import ArgumentParser
import Configuration
import LibPQ
import Migration
import Mirroring
import Primitives

/// Puts onto OLD and NEW what the mirror needs, or takes it away. May be repeated.
struct PrepareCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "prepare",
        abstract: "Install the capture of changes on OLD and the mirror's progress on NEW, or remove both.",
        discussion: """
            Checks both sides first (with --copy-schema: behind it) and changes nothing when something cannot be \
            carried. Exit status: 0 done, 1 something stands in the way (each with its fix), 2 file invalid or a side \
            cannot be reached.
            """)

    @Option(name: .long, help: "Configuration file.") var config: String
    @Argument(help: "Name of the database in the file.") var database: String
    @Flag(name: .long, help: "Take Godwit away from both sides; behind a cutover OLD stays fenced.") var remove = false
    @Flag(name: .long, help: "With --remove: the fence too. Name NEW as `old` in the file first.") var all = false

    @Flag(name: .long, help: "First bring OLD's schema to an empty NEW: tables, types, keys (pg_dump, pg_restore).")
    var copySchema = false
    @Flag(name: .long, help: "After the first copy: bring what --copy-schema left out (indexes, constraints), ANALYZE.")
    var finishSchema = false
    @Option(name: .long, help: "Folder of pg_dump, pg_restore, psql, no older than OLD; else those in PATH.")
    var programs = ""

    func validate() throws {
        if [remove, copySchema, finishSchema].count(where: { $0 }) > 1 {
            throw ValidationError("--remove, --copy-schema and --finish-schema exclude each other")
        }
    }

    func run() throws {
        let unreachable = ExitCode(2)
        let targets = try ControlTargets(configuration: config, database: database, failure: unreachable)
        let old = try targets.connect(.old, purpose: "prepare", failure: unreachable)
        let new = try targets.connect(.new, purpose: "prepare", failure: unreachable)
        let installer = CaptureInstaller(progress: { say("  \($0)") })
        do {
            if remove {
                if try installer.remove(old: old, new: new, isAll: all) {
                    say("\(database): NEW has the writes. OLD stays fenced, and godwit.authority says so on both: "
                        + "name NEW as `old` in the file, then DROP SCHEMA godwit CASCADE on both, or --remove --all")
                    return
                }
                say("\(database): nothing of Godwit is left on OLD and NEW (NEW keeps the mirrored rows)")
                return
            }
            if finishSchema { return try finish(targets, old, new) }
            if copySchema, try AuthorityReader.claim(new)?.epoch ?? 0 > 0 {
                complain("\(database): NEW has taken the writes before: its schema is not replaced")
                throw ExitCode(1)
            }
            let mappings = TableMappings(targets.database.mirror)
            if copySchema {
                let copy = try SchemaCopy(old: targets.old, new: targets.new, programs: programs)
                defer { copy.end() }
                try copy.copyBeforeRows(old, new, mappings) { say("LEFT TO YOU \($0)") }
                say("  NEW has OLD's tables, types and keys"
                    + (mappings.all.isEmpty ? "" : ", those of mirror.tables as it says"))
            }
            let ownership = Ownership.resolve(
                old: try AuthorityReader.claim(old) ?? .untouched, new: try AuthorityReader.claim(new) ?? .untouched)
            let direction = MirrorDirection(from: ownership.authority)
            if direction != .forward { say("  NEW takes the writes: the mirror runs from NEW to OLD") }
            let bulk = targets.database.mirror.bulkTables
            let result = try Preflight.check(
                direction, old: old, new: new, mappings: mappings, bulk: bulk,
                bulkMayCome: targets.database.mirror.ddl == .barrier)
            for finding in result.findings { say("\(finding.weight == .blocking ? "PROBLEM" : "note") \(finding)") }
            guard result.blocking.isEmpty else {
                complain("\(database): \(result.blocking.count) problems; " + (copySchema
                    ? "NEW has the schema, and nothing else was changed: mend them, then prepare without --copy-schema"
                    : "nothing was changed"))
                throw ExitCode(1)
            }
            let report = try installer.install(
                direction, old: old, new: new, tables: result.tables, mappings: mappings, bulk: bulk)
            for name in report.suspect {
                complain("\(name): its triggers were missing, or for another key, while it was mirrored: "
                    + "the mirror copies it anew")
            }
            let before = report.present.count + report.exchanged.count
            say("\(database): \(report.installed.count) tables captured now, \(before) were already")
        } catch let failure as SchemaCopy.Failure {
            complain("\(database): \(failure)")
            throw ExitCode(1)
        } catch let failure as CaptureInstaller.Failure {
            complain("\(database): \(failure)")
            throw ExitCode(1)
        } catch let failure as PostgresFailure {
            complain("\(database): \(failure)")
            throw ExitCode(failure.isConnectionClass ? 2 : 1)
        }
    }

    /// Indexes and constraints are built while the mirror goes on; it waits for the locks of each.
    private func finish(
        _ targets: ControlTargets, _ old: borrowing Connection, _ new: borrowing Connection
    ) throws {
        let isPrepared = try new.hasRelation("godwit.backfill")
        let left = try isPrepared
            ? new.query("SELECT count(*) FROM godwit.backfill WHERE NOT is_copied").integer(0, 0) ?? 0 : 0
        guard isPrepared, left == 0 else {
            complain("\(database): "
                + (isPrepared ? "\(left) tables are not copied yet (SHOW TABLES)" : "not prepared yet"))
            throw ExitCode(1)
        }
        let copy = try SchemaCopy(old: targets.old, new: targets.new, programs: programs)
        defer { copy.end() }
        let count = try copy.copyAfterRows(old, new, TableMappings(targets.database.mirror)) {
            say("LEFT TO YOU \($0)")
        }
        say("\(database): \(count) objects of the schema came to NEW, and ANALYZE was run")
    }
}
