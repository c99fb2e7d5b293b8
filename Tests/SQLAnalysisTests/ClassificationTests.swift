import Primitives
import Testing

@testable import SQLAnalysis

@Suite struct ClassificationTests {
    @Test(arguments: Corpus.reads) func `a read is a read`(text: String) {
        let verdict = analysed(text).classification
        #expect(verdict.kind == .read, "\(verdict.reason.rawValue)")
    }

    @Test(arguments: Corpus.writes) func `a write is never taken for a read`(text: String) {
        let verdict = analysed(text).classification
        #expect(verdict.kind == .write, "\(verdict.reason.rawValue)")
        #expect(verdict.mayWrite)
    }

    @Test(arguments: Corpus.sideDependent) func `what belongs to one server stays on the authority`(text: String) {
        let verdict = analysed(text).classification
        #expect(verdict.kind == .sideDependent, "\(verdict.reason.rawValue)")
    }

    @Test(arguments: Corpus.unknown) func `what is not understood is unknown`(text: String) {
        #expect(analysed(text).kind == .unknown)
    }

    @Test(arguments: [
        ("begin", StatementKind.begin), ("start transaction read only", .begin), ("commit", .commit), ("end", .commit),
        ("rollback", .rollback), ("abort", .rollback), ("savepoint a", .savepoint), ("release a", .savepoint),
        ("rollback to a", .savepoint), ("prepare transaction 'x'", .preparedTransaction),
        ("commit prepared 'x'", .preparedTransaction), ("set transaction read only", .setTransaction),
        ("set session characteristics as transaction read only", .setTransaction), ("set a.b = 'c'", .set),
        ("set time zone 'utc'", .set), ("reset a.b", .reset), ("reset all", .reset), ("show all", .show),
        ("prepare p as select 1", .prepare), ("execute p(1)", .execute), ("deallocate p", .deallocate),
        ("declare c cursor for select 1", .cursor), ("fetch 5 from c", .cursor), ("move c", .cursor),
        ("close c", .cursor), ("listen a", .listen), ("unlisten *", .unlisten), ("discard all", .discard),
        ("", .empty), (" ; -- x\n ;", .empty), ("/* a */", .empty), ("begin; select 1; commit", .multiple),
        ("select 1; select 2", .multiple), ("select 1; delete from t", .multiple), ("select 1; set a.b = 'c'", .multiple), ("set role x", .set),
    ])
    func `statements about the session have kinds of their own`(text: String, kind: StatementKind) {
        #expect(analysed(text).kind == kind)
    }

    @Test func `BEGIN tells its options`() {
        let text = "begin isolation level repeatable read, read only, not deferrable"
        let options = analysed(text).classification.transaction
        #expect(options.isolation == .repeatableRead)
        #expect(options.readOnly == true)
        #expect(options.deferrable == false)
        #expect(analysed("begin read write").classification.transaction.readOnly == false)
        #expect(analysed("begin").classification.transaction == TransactionOptions())
        #expect(analysed("commit and chain").classification.chains)
        #expect(analysed("set transaction snapshot 'x'").classification.transaction.usesSnapshot)
    }

    @Test(arguments: [
        ("set a.b = 'c'", [SessionEffect.sets(SettingChange(name: "a.b", value: "c", isLocal: false))]),
        ("SET LOCAL A.B TO 'c';", [.sets(SettingChange(name: "a.b", value: "c", isLocal: true))]),
        ("/* x */ set session work_mem = 64", [.sets(SettingChange(name: "work_mem", value: "64", isLocal: false))]),
        ("set work_mem = 0100", [.sets(SettingChange(name: "work_mem", value: "100", isLocal: false))]),
        ("set a.b = 007", [.sets(SettingChange(name: "a.b", value: "7", isLocal: false))]),
        ("set a.b = 00000000000007", [.sets(SettingChange(name: "a.b", value: "7", isLocal: false))]),
        ("set a.b = 02147483648", [.sets(SettingChange(name: "a.b", value: "02147483648", isLocal: false))]),
        ("set godwit.user = 3000000000", [
            .sets(SettingChange(name: "godwit.user", value: "3000000000", isLocal: false))
        ]),
        ("set a.b = ÉCOLE", [.sets(SettingChange(name: "a.b", value: "École", isLocal: false))]),
        ("set work_mem to default", [.sets(SettingChange(name: "work_mem", value: nil, isLocal: false))]),
        ("set search_path to a, \"B\"", [.sets(SettingChange(name: "search_path", value: "a, \"B\"", isLocal: false))]),
        ("set enable_seqscan = off", [.sets(SettingChange(name: "enable_seqscan", value: "off", isLocal: false))]),
        ("set time zone 'utc'", [.sets(SettingChange(name: "timezone", value: "utc", isLocal: false))]),
        ("set time zone interval '1' hour", [.pins(.untrackedSetting)]),
        ("set time zone interval '05:30' hour", [.pins(.untrackedSetting)]),
        ("set time zone interval '05:30:15' hour to minute", [.pins(.untrackedSetting)]),
        ("set time zone interval '1 day'", [.pins(.untrackedSetting)]),
        ("set client_min_messages to warning;set time zone interval '+00:00' hour to minute;", [
            .sets(SettingChange(name: "client_min_messages", value: "warning", isLocal: false)),
            .sets(SettingChange(name: "timezone", value: "INTERVAL '+00:00'", isLocal: false)),
        ]),
        ("set local time zone interval '-8:30'", [
            .sets(SettingChange(name: "timezone", value: "INTERVAL '-8:30'", isLocal: true))
        ]),
        ("set role x", [.sets(SettingChange(name: "role", value: "x", isLocal: false))]),
        ("select set_config('A.b', 'c', true)", [.sets(SettingChange(name: "a.b", value: "c", isLocal: true))]),
        ("select set_config('a.b', x, true) from t", [.pins(.untrackedSetting)]),
        ("select set_config('a.b', 'c', false), set_config('a.c', 'd', false)::text", [
            .sets(SettingChange(name: "a.b", value: "c", isLocal: false)),
            .sets(SettingChange(name: "a.c", value: "d", isLocal: false)),
        ]),
        ("select set_config('a.b', 'c', false), set_config('a.b', 'd', false), set_config('a.b', 'c', false)", [
            .sets(SettingChange(name: "a.b", value: "c", isLocal: false)),
            .sets(SettingChange(name: "a.b", value: "d", isLocal: false)),
            .sets(SettingChange(name: "a.b", value: "c", isLocal: false)),
        ]),
        ("declare c cursor for select set_config('a.b', 'c', false)", [.pins(.untrackedSetting)]),
        ("copy (select set_config('a.b', 'c', false) where false) to stdout", [.pins(.untrackedSetting)]),
        ("select * from set_config('a.b', 'c', false)", [
            .sets(SettingChange(name: "a.b", value: "c", isLocal: false))
        ]),
        ("select set_config('a.b', 'c', false) from t", [.pins(.untrackedSetting)]),
        ("select set_config('a.b', 'c', false) where false", [.pins(.untrackedSetting)]),
        ("select case when d then set_config('a.b', 'c', false) end from t", [.pins(.untrackedSetting)]),
        ("select coalesce(null, set_config('a.b', 'c', false))", [.pins(.untrackedSetting)]),
        ("update t set a = set_config('a.b', 'c', false)", [.pins(.untrackedSetting)]),
        ("reset all", [.resetsAll]), ("reset work_mem", [.resets("work_mem")]),
        ("create temp table t (a int)", [.pins(.temporaryTable)]),
        ("create table pg_temp.t (a int)", [.pins(.temporaryTable)]),
        ("create temp view v as select 1", [.pins(.temporaryTable)]),
        ("create function pg_temp.f() returns int language sql as 'select 1'", [.pins(.temporaryTable)]),
        ("create type pg_temp.e as enum ('a')", [.pins(.temporaryTable)]),
        ("create domain pg_temp.d as int", [.pins(.temporaryTable)]),
        ("create aggregate pg_temp.a(int) (sfunc = int4pl, stype = int)", [.pins(.temporaryTable)]),
        ("create function f() returns int language sql as 'select 1'", []),
        ("create temp sequence s", [.pins(.temporaryTable)]),
        ("create temp table t as select 1", [.pins(.temporaryTable)]),
        ("select 1 into temp t", [.pins(.temporaryTable)]),
        ("declare c cursor with hold for select 1", [.pins(.holdCursor)]),
        ("declare c cursor for select 1", []),
        ("listen a", [.pins(.listen)]), ("unlisten *", [.unlistens(nil)]),
        ("select pg_advisory_lock(1)", [.pins(.advisoryLock)]),
        ("select (5::bigint).pg_advisory_lock", [.pins(.advisoryLock)]),
        ("select x.pg_advisory_lock from generate_series(1, 2) x", [.pins(.advisoryLock)]),
        ("update t set a = 1 where pg_try_advisory_lock(1)", [.pins(.advisoryLock)]),
        ("select pg_advisory_xact_lock(1)", []),
        ("do $$ begin update t set a = 1; end $$", []),
        ("do $$ begin execute 'set work_mem = 1'; end $$", [.pins(.unknownStatement)]),
        ("do $$ <<here>> begin set work_mem = 1; end $$", [.pins(.unknownStatement)]),
        ("do 'begin if true then reset all; end if; end'", [.pins(.unknownStatement)]),
        ("do $$ begin perform set_config('a.b', 'c', false); end $$", [.pins(.unknownStatement)]),
        ("do $$ begin create temp table x (a int); end $$", [.pins(.unknownStatement)]),
        ("do $$ begin create table pg_temp.x (a int); end $$", [.pins(.unknownStatement)]),
        ("do language plperl $$ return 1 $$", [.pins(.unknownStatement)]),
        ("do language plpgsql $$ begin null; end $$", []),
        ("prepare p as select 1", [.prepares("p")]), ("deallocate p", [.deallocates("p")]),
        ("deallocate all", [.deallocates(nil)]), ("discard all", [.discards(.all)]), ("close all", [.closesCursor(nil)]),
        ("load 'x'", [.pins(.library)]),
        ("set a.b = 'c'; listen d", [.sets(SettingChange(name: "a.b", value: "c", isLocal: false)), .pins(.listen)]),
        ("select 1", []), ("insert into t values (1)", []),
    ])
    func `what stays in the session is told`(text: String, effects: [SessionEffect]) {
        #expect(analysed(text).classification.effects == effects)
    }

    @Test(arguments: [
        ("select pg_try_advisory_xact_lock(77431708279161)", true),
        ("lock table t in share update exclusive mode", true),
        ("select pg_advisory_lock(1), pg_try_advisory_xact_lock_shared(2) from t", true),
        ("select pg_advisory_xact_lock(nextval('s'))", false), ("select nextval('s'), pg_advisory_xact_lock(1)", false),
        ("select pg_advisory_xact_lock(id) from t for update", false), ("lock t; delete from t", false),
        ("update t set a = 1 where pg_try_advisory_xact_lock(1)", false),
        ("with d as (delete from t returning id) select pg_advisory_xact_lock(id) from d", false),
    ])
    func `what takes locks and does nothing else is known`(text: String, isOne: Bool) {
        let classification = analysed(text).classification
        #expect(classification.mayWrite && (classification.reason == .takesLocks) == isOne, "\(classification)")
    }

    @Test(arguments: [("perform makes(1)", true), ("x := 1 + s.\"makes\"()", true), ("perform other()", false)])
    func `a function that may leave something is one in a block as well`(statement: String, pins: Bool) {
        let facts = CatalogFacts(rows: [CatalogFacts.Row(kind: "leaves", schema: "s", name: "makes", detail: "")])
        let effects = analysed("do $$ begin \(statement); end $$", facts: facts).classification.effects
        #expect(effects == (pins ? [.pins(.function)] : []))
    }

    @Test(arguments: [
        ("creat temp table", true), ("set set set", true), ("select set_config(", false), ("selct 1", false),
        ("insert into t set x", false), ("select pg_advisory_lock( from", true), ("listen 1", true),
    ])
    func `a text that was not analysed pins only when its words could leave something`(text: String, pins: Bool) {
        let effects = analysed(text).classification.effects
        #expect(analysed(text).kind == .unknown)
        if text != "select set_config(" { #expect((effects == [.pins(.unknownStatement)]) == pins) }
    }

    @Test(arguments: [
        ("set transaction read write", true), ("set transaction_read_only = off", true), ("reset all", true),
        ("reset transaction_read_only", true), ("set transaction isolation level serializable", true),
        ("set a.b = 'c'", false), ("select 1", false), ("set transaction read only", false), ("commit", false),
    ])
    func `what could make a READ ONLY block writable is told`(text: String, lifts: Bool) {
        #expect(analysed(text).classification.mayLiftReadOnly == lifts)
    }

    @Test func `DDL is told from other writes`() {
        for text in ["create table t (a int)", "alter table t add b int", "drop view v", "select 1 into t", "drop owned by r"] {
            #expect(analysed(text).classification.changesSchema, "\(text)")
        }
        for text in ["insert into t values (1)", "vacuum", "truncate t", "select 1", "call p()", "refresh materialized view v"] {
            #expect(!analysed(text).classification.changesSchema, "\(text)")
        }
        // Whatever else is wrong with it.
        #expect(analysed("select a into t from u", facts: .guarded).classification.changesTables)
        #expect(analysed("select distinct on (nextval('s')) a into t from u").classification.changesTables)
    }

    @Test(arguments: [
        ("alter table t add b int default 5", BarrierForm.fits), ("alter table only s.t drop b", .fits),
        ("alter table t alter b type bigint using b + 1", .fits), ("alter table t rename b to c", .fits),
        ("alter table t rename to u", .fits), ("alter table t set schema s", .fits), ("create table t (a int)", .fits),
        ("create table if not exists t (like u including all)", .fits), ("drop table t, u cascade", .fits),
        ("create type m as enum ('a')", .fits), ("alter type m add value 'b'", .fits),
        ("create domain d as int check (value > 0)", .fits), ("create schema s", .fits),
        ("alter table t add constraint c check (b > 0) not valid", .fits), ("alter table t validate constraint c", .fits),
        ("alter table t add constraint c unique using index i", .fits),
        ("alter table t add primary key (b)", .fits), ("alter table t alter b set default 6, alter c drop not null", .fits),
        ("create table t as select 1", .unfit), ("select 1 into t", .unfit), ("alter table t disable trigger all", .unfit),
        ("alter table t enable always trigger g", .unfit), ("alter table t attach partition u default", .unfit),
        ("alter table t detach partition u", .unfit), ("alter table t inherit u", .unfit),
        ("alter table t set unlogged", .unfit), ("alter table t add b int, disable trigger g", .unfit),
        ("alter table t add b int; alter table t add c int", .fits),
        ("create table t (a int); create unique index on t (a); comment on table t is 'x'", .fits),
        ("alter table t add b int; update t set b = 1", .unfit), ("begin; alter table t add b int; commit", .unfit),
        ("alter table t add b int; create index concurrently on t (b)", .unfit), ("create index on t (a); select 1", .notNeeded),
        ("create temp table t (a int); alter table u add b int", .unfit), ("create foreign table f (a int) server s", .unfit),
        ("explain analyze create table t as select 1", .unfit), ("drop owned by r", .unfit), ("create temp table t (a int)", .notNeeded),
        ("set constraints all immediate; alter table t drop constraint c", .fits), ("set constraints a deferred", .comesAlong),
        ("create index on t (a)", .comesAlong), ("create view v as select 1", .comesAlong), ("drop index i", .comesAlong),
        ("create unique index i on t (a); comment on index i is 'x'", .comesAlong),
        ("alter table t rename constraint c to d", .fits), ("alter domain d rename constraint c to e", .fits),
        ("alter index i rename to j", .comesAlong), ("alter sequence s rename to r", .fits),
        ("alter view v rename to w", .comesAlong), ("alter sequence s set schema x", .fits),
        ("create sequence s", .fits), ("create sequence s; create table t (a int default nextval('s'))", .fits),
        ("alter sequence s owned by t.a", .fits), ("alter sequence s restart with 7", .comesAlong),
        ("drop sequence if exists s", .fits), ("drop sequence pg_temp.s", .comesAlong), ("create temp sequence s", .notNeeded),
        ("alter sequence s owner to o", .comesAlong), ("alter function f() stable", .comesAlong),
        ("create collation c (provider = icu, locale = 'und-u-ks-level2', deterministic = false)", .fits),
        ("create collation c from \"C\"; create table t (a text collate c)", .fits), ("drop collation c", .fits),
        ("alter collation c rename to d", .fits), ("alter collation c set schema s", .fits),
        ("create collation pg_temp.c from \"C\"", .notNeeded),
        ("create aggregate a(int) (sfunc = int4pl, stype = int)", .notNeeded),
        ("alter role a rename to b", .notNeeded), ("alter database a rename to b", .notNeeded),
        ("alter table t owner to o", .fits), ("alter table t replica identity full", .fits),
        ("create table t (a int); alter table t owner to o; alter table t rename constraint c to d", .fits),
        // What the grammar does not know.
        ("alter table t alter b set expression as (a * 2)", .unfit), ("select 1; drop table t syntax of tomorrow", .unfit),
        ("create /* x */ table t (a int, b int generated always as (a) virtual)", .unfit),
        ("create temp table t (a int generated always as (1) virtual)", .notNeeded),
        ("drop table if exists t; create local temp table t (a int) syntax of tomorrow; drop table t", .notNeeded),
        ("create temp table t (a int); insert into t values (\(String(repeating: "1", count: 70_000))); drop table t", .notNeeded),
        ("create function f() syntax of tomorrow; select type, table from t", .notNeeded),
        ("create table t (a int) /* \(String(repeating: "x", count: 70_000)) */", .unfit),
        ("insert into t values (1)", .notNeeded), ("do $$ begin end $$", .notNeeded), ("truncate t", .notNeeded),
    ])
    func `DDL that both sides can run is told`(text: String, form: BarrierForm) {
        #expect(analysed(text).classification.barrier == form)
    }

    @Test func `several statements write only when one of them does`() {
        #expect(!analysed("select 1; select 2; set a.b = 'c'").classification.mayWrite)
        #expect(analysed("select 1; delete from t").classification.mayWrite)
        #expect(analysed("select 1; select 2").classification.statementCount == 2)
    }

    /// begins, ends, chains, ends first, goes on behind an end.
    @Test(arguments: [
        ("select 1", ""), ("begin", "b"), ("start transaction read write", "b"), ("commit", "ef"), ("rollback", "ef"),
        ("commit and chain", "ecf"), ("prepare transaction 'x'", "ef"), ("savepoint s", ""), ("rollback to s", ""),
        ("select 1; commit", "e"), ("commit; select 1", "ef"), ("commit; rollback; select 1; commit", "ef"),
        ("commit; insert into t values (1)", "efg"), ("commit; begin read write; insert into t values (1)", "befg"),
        ("select 1; commit; set a.b = 'c'", "eg"), ("; ; commit; begin", "befg"), ("begin; select 1; commit", "be"),
        // What the grammar refuses: one statement can end nothing that goes on.
        ("select syntax of tomorrow", ""), ("select syntax of tomorrow;", ""),
        ("select syntax of tomorrow; commit", "becg"), ("select 'a;b' syntax of tomorrow -- ; x", ""),
    ])
    func `where transactions begin and end is told`(text: String, expected: String) {
        let borders = analysed(text).classification.borders
        let found = (borders.begins ? "b" : "") + (borders.ends ? "e" : "") + (borders.chains ? "c" : "")
            + (borders.endsFirst ? "f" : "") + (borders.goesOn ? "g" : "")
        #expect(found == expected)
    }

    @Test func `going back to a savepoint, and preparing the transaction, is told wherever it stands`() {
        for text in ["rollback to s", "rollback work to savepoint s", "select 1; rollback to s; select 2"] {
            #expect(analysed(text).classification.rollsBackToSavepoint, "\(text)")
        }
        for text in ["rollback", "savepoint s", "release s", "select 1; commit"] {
            #expect(!analysed(text).classification.rollsBackToSavepoint, "\(text)")
        }
        for text in ["prepare transaction 'x'", "select 1; prepare transaction 'x'"] {
            #expect(analysed(text).classification.preparesTransaction, "\(text)")
        }
        for text in ["commit", "commit prepared 'x'", "prepare p as select 1"] {
            #expect(!analysed(text).classification.preparesTransaction, "\(text)")
        }
    }

    @Test(arguments: [
        ("commit", true), ("select 1; /* x */ Commit", true), ("-- x\nend", true), ("rollback to s", true),
        ("abort", true), ("prepare transaction 'x'", true), ("begin", true), ("start transaction", true),
        ("select 'commit'; select 'a;commit'", false), ("select 1 as commit", false), ("insert into t values ('x')", false),
        ("savepoint s", true), ("release s", true), ("select $$;commit$$", false),
    ])
    func `words that begin or end transactions are seen where statements begin`(text: String, expected: Bool) {
        #expect(Array(text.utf8).withUnsafeBytes { AnalysisCache.mayHaveBorder($0) } == expected)
    }

    @Test func `copy streams are told`() {
        #expect(analysed("copy t from stdin").classification.copy == .fromStdin)
        #expect(analysed("copy t to stdout").classification.copy == .toStdout)
        #expect(analysed("copy t from '/x'").classification.copy == nil)
    }
}
