import Synchronization
import TestSupport

@testable import ControlPlane

/// Where a test keeps its state: both kinds are to do the same.
enum StatePlace: String, CaseIterable, Sendable {
    case sqlite, postgres

    private static let server = Result { try PostgresCluster(.new18) }
    private static let counter = Atomic<Int>(0)

    static func cluster() throws -> PostgresCluster { try server.get() }

    /// The name of a new database.
    static func makeDatabase() throws -> String {
        let name = "state\(counter.add(1, ordering: .relaxed).newValue)"
        try cluster().psql("CREATE DATABASE \(name)")
        return name
    }

    static func url(_ database: String, port: UInt16? = nil) throws -> String {
        let port = try port ?? cluster().port
        return "host=127.0.0.1 port=\(port) dbname=\(database) user=postgres"
    }

    /// Opens the same one each time.
    func opener() throws -> () throws -> StateStore {
        switch self {
        case .sqlite:
            let path = TestResources.uniquePath("state")
            return { try StateStore(path: path) }
        case .postgres:
            let url = try Self.url(try Self.makeDatabase())
            return { try StateStore(url: url, address: "") }
        }
    }

    /// One that runs migrations.
    func runner() throws -> StateStore {
        let store = try opener()()
        try store.becomeRunner()
        return store
    }
}

extension StateStore {
    /// Waits until it has the migrations, and writes as such.
    @discardableResult
    func becomeRunner() throws -> Int64 {
        var number: Int64 = 0
        Awaited.wait(for: "the right to run migrations", Place(#fileID, #line)) {
            while true {
                if case .ours(let found) = term() {
                    number = found
                    return
                }
                _ = try? read(StateStatement("SELECT 1"))
            }
        }
        hold(number)
        return number
    }
}
