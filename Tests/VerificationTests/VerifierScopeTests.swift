import LibPQ
import TestSupport
import Testing

@testable import Verification

/// Which tables are compared, and by which texts of their keys.
@Suite struct VerifierScopeTests {
    @Test func `a table that is to be compared and is not there leaves it open whether all are equal`() throws {
        let pair = try MirroredPair(schema: "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY)")
        let verifier = Verifier(
            old: try ConnectionString(parsing: pair.oldConninfo), new: try ConnectionString(parsing: pair.newConninfo))
        let wanted = ["a", "b"].map { TableName(schema: "public", name: $0) }
        let report = try verifier.run(only: Set(wanted))
        #expect(report.outcome == .couldNotTell && report.tables.map(\.name) == wanted)
        #expect(report.tables.map(\.problem) == [nil, "does not exist on OLD"])
    }

    @Test func `nobody is waited for who has a table for himself that is not compared`() throws {
        let pair = try MirroredPair(schema: "CREATE TABLE a (id int PRIMARY KEY)")
        try pair.old.psql("CREATE TABLE load (id int PRIMARY KEY, line text)", database: pair.database)
        let loader = try Connection.open(try ConnectionString(parsing: pair.oldConninfo), purpose: "test")
        try loader.execute("BEGIN; TRUNCATE public.load")
        let report = try Verifier(
            old: try ConnectionString(parsing: pair.oldConninfo), new: try ConnectionString(parsing: pair.newConninfo)
        ).run()
        #expect(report.tables.map(\.problem) == [nil, "does not exist on NEW"])
        try loader.execute("ROLLBACK")
    }

    @Test func `a key's text is that of its type, not of a cast that somebody has made`() throws {
        let pair = try MirroredPair(schema: """
            CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TABLE t (k mood PRIMARY KEY, v int);
            CREATE FUNCTION shown(mood) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
                RAISE EXCEPTION 'called as %', current_user; END $$;
            CREATE CAST (mood AS text) WITH FUNCTION shown(mood)
            """)
        try pair.old.psql("INSERT INTO t VALUES ('sad', 1), ('glad', 2)", database: pair.database)
        try pair.new.psql("INSERT INTO t VALUES ('sad', 1), ('glad', 3)", database: pair.database)
        let report = try Verifier(
            old: try ConnectionString(parsing: pair.oldConninfo), new: try ConnectionString(parsing: pair.newConninfo)
        ).run()
        #expect(report.outcome == .different && report.tables.map { $0.keys.map(\.key) } == [[["glad"]]])
    }
}
