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
}
