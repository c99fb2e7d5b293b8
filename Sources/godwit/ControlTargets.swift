import ArgumentParser
import Configuration
import Foundation
import LibPQ
import Primitives

/// What every command needs that talks to one database's two sides: the checked file, and where OLD and NEW
/// are.
struct ControlTargets {
    let database: DatabaseSettings
    let old: ConnectionString
    let new: ConnectionString

    /// - Throws: ExitCode after having said why on standard error.
    init(configuration path: String, database name: String, failure code: ExitCode) throws {
        let settings = try Self.load(path, failure: code)
        guard let database = settings.database(named: name) else {
            let known = settings.databases.map(\.name).joined(separator: ", ")
            complain("\(path): no database '\(name)', the file has: \(known)")
            throw code
        }
        try self.init(database, failure: code)
    }

    init(_ database: DatabaseSettings, failure code: ExitCode) throws {
        self.database = database
        old = try Self.target(database, .old, code)
        new = try Self.target(database, .new, code)
    }

    static func load(_ path: String, failure code: ExitCode) throws -> Settings {
        do throws(SettingsError) {
            return try SettingsFile.load(path: path)
        } catch {
            complain("\(error)")
            throw code
        }
    }

    private static func target(
        _ database: DatabaseSettings, _ side: Side, _ code: ExitCode
    ) throws -> ConnectionString {
        do throws(ConnectionStringError) {
            return try database.controlTarget(side)
        } catch {
            complain("databases.\(database.name).\(side): \(error)")
            throw code
        }
    }

    func connect(_ side: Side, purpose: String, failure code: ExitCode) throws -> Connection {
        do throws(PostgresFailure) {
            return try Connection.open(side == .old ? old : new, purpose: purpose)
        } catch {
            complain("\(database.name), \(side.title): \(error)")
            throw code
        }
    }
}

/// One line on standard error.
func complain(_ line: String) { FileHandle.standardError.write(Data("godwit: \(line)\n".utf8)) }

/// One line on standard output, at once also into a pipe.
func say(_ line: String) {
    FileHandle.standardOutput.write(Data("\(line)\n".utf8))
}
