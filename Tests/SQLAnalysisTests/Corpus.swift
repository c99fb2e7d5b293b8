/// Statements and the verdict that is right for each, by PostgreSQL's documentation and by what other proxies got wrong.
enum Corpus {
    private static func lines(_ text: String) -> [String] { text.split(separator: "\n").map(String.init) }

    static let reads: [String] = lines("""
        select 1
        select
        SELECT * FROM t
        select a, b from t where a = 1 and b like 'x%'
        select * from s.t
        select count(*) from t
        select count(distinct a), sum(b), avg(c), min(d), max(e) from t group by f having count(*) > 1
        select lower(a), upper(b), coalesce(c, 'x'), nullif(d, 0) from t
        select now(), current_timestamp, current_date, localtime, clock_timestamp()
        select random(), gen_random_uuid()
        select a from t order by b desc nulls last limit 10 offset 5
        select distinct on (a) a, b from t order by a, b
        select * from t fetch first 5 rows only
        select * from t1 join t2 using (id) left join t3 on t3.a = t2.a cross join t4
        select * from t1 natural join t2
        select * from (select * from t) x
        select * from t where a in (select b from u)
        select * from t where exists (select 1 from u where u.a = t.a)
        select * from t where a = any(array[1,2,3])
        select * from t where (a, b) = (1, 2)
        select a::text, cast(b as integer), c::numeric(10,2) from t
        select case when a > 1 then 'x' else 'y' end from t
        select row_number() over (partition by a order by b) from t
        select sum(a) over w from t window w as (order by b rows between 1 preceding and current row)
        select lag(a, 1) over (order by b) from t
        with x as (select 1 as a) select * from x
        with recursive r(n) as (select 1 union all select n + 1 from r where n < 10) select * from r
        with x as materialized (select * from t) select * from x
        select 1 union select 2 union all select 3 intersect select 4 except select 5
        values (1, 'a'), (2, 'b')
        table t
        (select 1)
        ((select 1) union (select 2)) order by 1
        select extract(year from d), date_trunc('day', d), d + interval '1 day' from t
        select substring(a from 1 for 2), position('x' in a), trim(both ' ' from a), overlay(a placing 'x' from 1) from t
        select a at time zone 'utc' from t
        select a collate "C" from t
        select * from generate_series(1, 10) g
        select * from unnest(array[1,2]) with ordinality u(x, n)
        select * from t, lateral (select * from u where u.a = t.a) v
        select a->'b'->>'c', a #> '{x}', a @> '{}' from t
        select jsonb_agg(a), json_build_object('a', b), string_agg(a, ',' order by b) from t
        select array_agg(a order by b) filter (where c > 0) from t
        select percentile_cont(0.5) within group (order by a) from t
        select grouping(a), a from t group by grouping sets ((a), ())
        select * from t group by cube (a, b), rollup (c)
        select t.*, (t).a from t
        select a[1], a[1:2], (b).c from t
        select $1, $2::int from t where a = $3
        select * from t where a between 1 and 5 and b not between $1 and $2
        select * from t where a is null or b is not null or c is distinct from d
        select * from t where a is true and b is not unknown
        select * from t where a ~ 'x' and b !~* 'y' and c similar to 'z'
        select * from t where a ilike 'x' escape '\\'
        select greatest(a, b), least(c, d) from t
        select 'a' || 'b', 1 + 2 * 3, -5, 2 ^ 3, !!a from t
        select E'\\n', $$x$$, $t$y$t$, U&'\\0041', B'101', X'ff', N'x'
        select current_user, session_user, current_schema
        select pg_typeof(a) from t
        select md5(a), encode(sha256(b), 'hex'), length(c) from t
        select to_char(a, 'YYYY'), to_date('2020', 'YYYY'), to_timestamp(1) from t
        select to_tsvector('english', a) @@ to_tsquery('b') from t
        select regexp_replace(a, 'x', 'y', 'g'), regexp_matches(a, 'x') from t
        select * from t tablesample bernoulli (10)
        select * from t tablesample system (1) repeatable (5)
        select pg_sleep(0)
        select xmlelement(name a, 'b'), xmlforest(a as b) from t
        select * from xmltable('/a' passing x columns b int path 'b')
        select * from json_to_recordset('[]') as x(a int, b text)
        select * from rows from (generate_series(1,2), generate_series(1,3)) as x(a, b)
        select pg_catalog.count(*) from t
        select "Weird Name", "select" from "Table"
        select 'nextval(''s'')'
        select 'delete from t; drop table t'
        select 1 -- ; delete from t
        select /* ; delete from t */ 1
        select /* /* nested */ delete */ 1
        select $$; delete from t;$$
        select ';', $a$ $b$ ; $a$
        select 1;
        ;select 1;;
        explain select 1
        explain analyze select * from t
        explain (analyze, buffers, format json) select * from t
        explain (costs off) values (1)
        copy t to stdout
        copy t (a, b) to stdout with (format csv, header)
        copy (select * from t) to stdout
        copy (values (1)) to stdout csv
        select * from only t
        select * from t as x (a, b)
        select all a from t
        select a as select_ from t
        select exists(select 1)
        select array(select a from t)
        select a = all(select b from u) from t
        select a, b from t where (select true)
        select make_date(2020, 1, 1), age(now(), a) from t
        select timezone('utc', a), isfinite(b) from t
        select int4(a), text(b) from t
        select cume_dist() over (order by a), ntile(4) over (order by a) from t
        select interval '1' year, date '2020-01-01', timestamp with time zone '2020-01-01 00:00+0'
        select * from t where a = '-- not a comment' and b = '/* nor this'
        select abalance from pgbench_accounts where aid = 5
        select "t0"."id", "t0"."name" from "users" as "t0" where ("t0"."id" = $1) limit $2
        SELECT "users".* FROM "users" WHERE "users"."id" = $1 LIMIT $2
        SELECT COUNT(*) FROM (SELECT DISTINCT "a"."id" AS col1 FROM "a" INNER JOIN "b" ON ("a"."id" = "b"."a_id")) subquery
        SELECT anon_1.a FROM (SELECT t.a AS a FROM t) AS anon_1 WHERE anon_1.a IN ($1::INTEGER, $2::INTEGER)
        select hashtext(a), array_append(b, 1), starts_with(c, 'x') from t
        select jsonb_extract_path_text(a, 'b') from t
        select current_setting('app.user', true)
        """)

    static let writes: [String] = lines("""
        insert into t values (1)
        insert into t default values
        insert into t select * from u
        insert into t (a) values (1) on conflict do nothing returning a
        insert into t (a) values (1) on conflict (a) do update set b = 2
        update t set a = 1
        update t set a = (select 1) from u where t.b = u.b
        delete from t
        delete from t using u where t.a = u.a returning *
        merge into t using u on t.a = u.a when matched then update set b = 1 when not matched then insert values (1)
        truncate t
        truncate t, u restart identity cascade
        select * from t for update
        select * from t for no key update
        select * from t for share
        select * from t for key share
        select * from t for update skip locked
        select * from t for update nowait
        select * from t for update of t
        select * from (select * from t for update) x
        select * from t where a in (select a from u for share)
        with x as (select * from t for update) select * from x
        select 1 into x
        select * into table y from t
        select * into temp z from t
        select * into unlogged z from t
        with x as (insert into t values (1) returning *) select * from x
        with x as (delete from t returning *) select count(*) from x
        with x as (update t set a = 1 returning *), y as (select 1) select * from y
        with x as (select 1), y as (with z as (delete from t returning 1) select * from z) select * from y
        select * from (with x as (delete from t returning *) select * from x) y
        select nextval('s')
        select setval('s', 1)
        select pg_catalog.nextval('s')
        select NEXTVAL('s'::regclass)
        select * from nextval('s')
        select a from t where nextval('s') > 0
        select ('s'::text).nextval
        select (array['s'])[1].nextval.abs
        select $1.nextval
        select (t.name).nextval from t
        select x.nextval from unnest(array['s']) x
        select 1 from t where (t.id).pg_try_advisory_xact_lock
        select a from t order by nextval('s')
        select count(*) filter (where nextval('s') > 1) from t
        select case when a then nextval('s') end from t
        select coalesce(a, nextval('s')) from t
        select array[nextval('s')]
        select (select nextval('s'))
        select * from t join u on nextval('s') > 1
        select * from t limit nextval('s')
        select sum(nextval('s')) over () from t
        values (nextval('s'))
        select 1 union select nextval('s')
        select * from rows from (generate_series(1,2), nextval('s')) x
        select pg_notify('a', 'b')
        select pg_advisory_lock(1)
        select pg_try_advisory_lock(1)
        select pg_advisory_xact_lock(1, 2)
        select pg_advisory_unlock(1)
        select pg_advisory_unlock_all()
        select pg_try_advisory_xact_lock_shared(1)
        select lo_create(0)
        select lo_import('/etc/passwd')
        select lo_export(1, '/tmp/x')
        select lo_unlink(1)
        select loread(1, 2)
        select lo_get(1)
        select dblink('x', 'delete from t')
        select dblink_exec('delete from t')
        select public.dblink_exec('c', 'delete from t')
        select * from dblink('x', 'select 1') as t(a int)
        select pg_read_file('x')
        select pg_read_binary_file('x')
        select pg_ls_dir('.')
        select pg_terminate_backend(1)
        select pg_cancel_backend(1)
        select pg_reload_conf()
        select pg_rotate_logfile()
        select pg_switch_wal()
        select pg_create_restore_point('x')
        select pg_stat_reset()
        select pg_stat_reset_shared('bgwriter')
        select pg_promote()
        select pg_export_snapshot()
        select pg_logical_emit_message(true, 'a', 'b')
        select pg_replication_origin_create('x')
        select pg_create_physical_replication_slot('x')
        select pg_drop_replication_slot('x')
        select query_to_xml('delete from t returning *', true, true, '')
        select * from query_to_xml('select 1', true, true, '')
        select table_to_xml('t', true, true, '')
        select cursor_to_xml('c', 1, true, true, '')
        select database_to_xml(true, true, '')
        select ts_stat('delete from t returning a')
        select ts_rewrite('a', 'select a, b from t')
        select crosstab('select 1')
        select setseed(0.5)
        select my_function()
        select my_schema.my_function(1)
        select a from t where my_function(a)
        select * from my_function() as x
        select pg_temp.f()
        select unknown_agg(a) from t
        select pg_catalog.my_function()
        select pg_my_own(1)
        select lo_anything(1)
        call p()
        do $$ begin end $$
        lock table t
        lock t in access exclusive mode
        create table t (a int)
        create table t as select 1
        create temp table t (a int)
        create temporary table t as select 1
        create unlogged table t (a int)
        create view v as select 1
        create materialized view v as select 1
        refresh materialized view v
        create index on t (a)
        create index concurrently i on t (a)
        create function f() returns int language sql as 'select 1'
        create sequence s
        create schema s
        create extension x
        create type y as enum ('a')
        create role r
        create trigger g before insert on t for each row execute function f()
        create rule r as on insert to t do instead nothing
        create policy p on t
        create publication p for all tables
        create database d
        alter table t add column b int
        alter sequence s restart
        alter system set work_mem = '1MB'
        alter role r set search_path = x
        alter database d set work_mem = '1MB'
        drop table t
        drop function f()
        comment on table t is 'x'
        grant select on t to r
        revoke select on t from r
        reindex table t
        cluster t
        vacuum
        vacuum full t
        analyze t
        checkpoint
        notify a
        notify a, 'b'
        load 'x'
        set constraints all deferred
        security label on table t is 'x'
        import foreign schema x from server y into z
        reassign owned by a to b
        copy t from stdin
        copy t from '/tmp/x'
        copy t from program 'x'
        copy t to '/tmp/x'
        copy t to program 'cat'
        copy (select * from t) to '/tmp/x'
        copy (delete from t returning *) to stdout
        copy (insert into t values (1) returning *) to stdout
        copy (select nextval('s')) to stdout
        copy (select * from t for update) to stdout
        explain analyze delete from t
        explain (analyze) insert into t values (1)
        explain (analyze true) update t set a = 1
        explain (analyze on) delete from t
        explain (analyze 1) delete from t
        explain (analyze 'true') delete from t
        explain analyze create table x as select 1
        explain analyze select nextval('s')
        explain analyze execute p
        explain (analyze, verbose) merge into t using u on true when matched then delete
        select * from t where a = (select nextval('s'))
        select * from pg_temp.t
        select lastval(), nextval('s')
        select a from t tablesample my_method (1)
        insert into t select * from u for update
        """)

    static let sideDependent: [String] = lines("""
        select current_setting('server_version_num')
        select current_setting('transaction_read_only', true)
        select a from t where b = current_setting($1)
        select current_setting(a) from t
        select ('work_mem'::text).current_setting
        select set_config('a.b', 'c', false)
        select set_config('search_path', 'x', true)
        select t.a from t where exists (select set_config('a.b', 'c', false))
        select (t).xmin from t
        select * from pg_class
        select * from pg_catalog.pg_type
        select * from pg_stat_activity
        select * from information_schema.tables
        select 't'::regclass
        select 't'::regclass::oid
        select a::regtype from t
        select oid(a) from t
        select ctid, * from t
        select t.ctid from t
        select xmin from t
        select tableoid from t
        select * from t where ctid = '(0,1)'
        select pg_backend_pid()
        select txid_current()
        select pg_current_xact_id()
        select txid_current_snapshot()
        select currval('s')
        select lastval()
        select inet_server_addr()
        select inet_client_addr()
        select version()
        select pg_is_in_recovery()
        select pg_current_wal_lsn()
        select current_database()
        select current_catalog
        select pg_relation_size('t')
        select pg_total_relation_size('t')
        select pg_database_size('x')
        select pg_get_viewdef('v')
        select has_table_privilege('t', 'select')
        select to_regclass('t')
        select format_type(23, -1)
        select pg_stat_get_activity(1)
        select pg_get_serial_sequence('t', 'a')
        select obj_description(1, 'pg_class')
        select pg_last_wal_replay_lsn()
        select pg_postmaster_start_time()
        select pg_table_is_visible(1)
        explain delete from t
        explain insert into t values (1)
        explain (analyze false) delete from t
        explain (analyze off) update t set a = 1
        explain select * from pg_class
        copy pg_class to stdout
        copy (select ctid from t) to stdout
        """)

    static let unknown: [String] = lines("""
        selct 1
        select * form t where
        select 'a
        select "a
        select $$a
        select /* a
        select E'a\\'
        insert into
        select 1 from t where a = 'x' 'y'
        select * from json_table('{}', '$' columns (a int path '$'))
        merge into t using u on true when matched then delete returning *
        select 1a
        select 0x1F
        select 1_000
        select \u{01}
        )
        (((
        {call f()}
        /*
        '
        "
        $
        \\d
        create table t (a int
        with x as (select 1)
        """)
}
