import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized) struct PostgresClusterTests {
    @Test(arguments: [(PostgresCluster.Version.old15, "15"), (.new18, "18")])
    func `a cluster answers, dies by signal 9 and comes back`(version: PostgresCluster.Version, major: String) throws {
        let cluster = try PostgresCluster(version)
        #expect(try cluster.psql("SHOW server_version").hasPrefix(major))
        try cluster.psql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)")
        cluster.kill9()
        #expect(!cluster.isRunning)
        try cluster.start()
        #expect(cluster.isRunning)
        cluster.pause()
        cluster.resume()
        try cluster.restart()
        #expect(try cluster.psql("SELECT 1") == "1")
        try cluster.stop()
        #expect(!cluster.isRunning)
    }

    @Test func `a password is asked for where the options say so`() throws {
        var options = PostgresCluster.Options()
        options.authentication = .scramSHA256
        let cluster = try PostgresCluster(.old15, options)
        try cluster.createRole("app", password: "secret")
        let right = cluster.conninfo(user: "app", password: "secret")
        #expect(try ChildProcess.run(["psql", "-XAt", right, "-c", "SELECT current_user"]) == "app\n")
        let wrong = cluster.conninfo(user: "app", password: "wrong")
        #expect(throws: TestFailure.self) { try ChildProcess.run(["psql", "-XAt", wrong, "-c", "SELECT 1"]) }
    }

    @Test func `what test processes that are gone left is removed, what is in use stays`() throws {
        let place = TestResources.uniquePath("roots")
        func makeRoot(_ name: String, owned: Bool) throws -> String {
            let path = "\(place)/godwit-test-\(name)"
            try FileManager.default.createDirectory(atPath: path + "/postgresql-1", withIntermediateDirectories: true)
            if owned { try "".write(toFile: path + "/owner", atomically: false, encoding: .utf8) }
            return path
        }
        let abandoned = try makeRoot("abandoned", owned: true)
        let foreign = try makeRoot("foreign", owned: false)
        let used = try makeRoot("used", owned: true)
        let file = open(used + "/owner", O_RDWR | O_CLOEXEC)
        defer { close(file) }
        #expect(flock(file, LOCK_SH | LOCK_NB) == 0)
        TestResources.removeAbandonedRoots(besides: place + "/godwit-test-own")
        #expect(!FileManager.default.fileExists(atPath: abandoned))
        #expect(FileManager.default.fileExists(atPath: foreign))
        #expect(FileManager.default.fileExists(atPath: used + "/postgresql-1"))
    }
}
