import Configuration
import LibPQ
import Migration
import Mirroring
import Primitives

/// What takes time in a migration, each on a thread of its own. No state, any thread.
enum MigrationWork {
    /// - Returns: nil when it is done; else why not.
    static func install(_ manifest: MigrationManifest, _ database: DatabaseSettings) -> String? {
        do {
            let old = try connect(database, .old), new = try connect(database, .new)
            let result = try Preflight.check(old: old, new: new)
            let blocking = result.blocking.map(\.description)
            guard blocking.isEmpty else {
                let more = blocking.count > 3 ? " (and \(blocking.count - 3) more: godwit check)" : ""
                return blocking.prefix(3).joined(separator: " ") + more
            }
            var tables = result.tables
            if !manifest.tables.isEmpty {
                let known = Set(tables.map { "\($0.name.schema).\($0.name.name)" })
                if let missing = manifest.tables.first(where: { !known.contains($0) }) {
                    return "scope.tables names \(missing), which OLD does not have"
                }
                let wanted = Set(manifest.tables)
                tables = tables.filter { wanted.contains("\($0.name.schema).\($0.name.name)") }
            }
            _ = try CaptureInstaller().install(old: old, new: new, tables: tables)
            return nil
        } catch {
            return "\(error)"
        }
    }

    static func remove(_ database: DatabaseSettings) -> String? {
        do {
            let old = try connect(database, .old), new = try connect(database, .new)
            try CaptureInstaller().remove(old: old, new: new)
            return nil
        } catch {
            return "\(error)"
        }
    }

    private static func connect(_ database: DatabaseSettings, _ side: Side) throws -> Connection {
        try Connection.open(try ConnectionString(parsing: database.controlConninfo(side)), purpose: "prepare")
    }
}
