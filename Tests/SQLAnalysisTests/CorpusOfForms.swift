/// Every command of PostgreSQL's reference that is no read, in a form of its own, and what object-relational mappers send.
extension Corpus {
    private static func lines(_ text: String) -> [String] { text.split(separator: "\n").map(String.init) }

    static let commands: [String] = lines("""
        alter aggregate myavg(integer) rename to my_average
        alter collation "de_DE" rename to german
        alter conversion iso_8859_1_to_utf8 rename to latin1_to_unicode
        alter database test set enable_indexscan to off
        alter default privileges in schema myschema grant select on tables to public
        alter domain zipcode set not null
        alter event trigger abort_ddl disable
        alter extension hstore update to '2.0'
        alter foreign data wrapper dbi options (add foo '1', drop bar)
        alter foreign table distributors alter column street set not null
        alter function sqrt(integer) rename to square_root
        alter group staff add user karl, john
        alter index distributors rename to suppliers
        alter language plsample rename to other
        alter large object 1 owner to bob
        alter materialized view foo rename to bar
        alter operator @@ (text, text) owner to joe
        alter operator class widget_ops using btree rename to other
        alter operator family integer_ops using btree add operator 1 < (int4, int2)
        alter policy p on t using (true)
        alter procedure insert_data(integer, integer) rename to insert_record
        alter publication noinsert set (publish = 'update, delete')
        alter role davide with password 'hu8jmn3'
        alter routine foo(integer) rename to foobar
        alter rule notify_all on emp rename to notify_me
        alter schema a rename to b
        alter sequence serial restart with 105
        alter server foo options (host 'foo', dbname 'foodb')
        alter statistics foo set statistics 100
        alter subscription mysub disable
        alter system reset all
        alter table distributors add column address varchar(30)
        alter table distributors drop column address restrict
        alter table distributors rename column address to city
        alter table distributors alter column street type varchar(80), alter column name type varchar(100)
        alter table distributors add constraint zipchk check (char_length(zipcode) = 5)
        alter table distributors add constraint distfk foreign key (address) references addresses (address) not valid
        alter table distributors enable row level security
        alter table measurement attach partition measurement_y2016m07 for values from ('2016-07-01') to ('2016-08-01')
        alter table measurement detach partition measurement_y2015m12
        alter table distributors set schema yourschema
        alter table distributors disable trigger all
        alter tablespace index_space rename to fast_raid
        alter text search configuration my_config alter mapping replace english with swedish
        alter text search dictionary my_dict (stopwords = newrussian)
        alter text search parser p rename to q
        alter text search template p rename to q
        alter trigger emp_stamp on emp rename to emp_track_chgs
        alter type colors add value 'orange' after 'red'
        alter type compfoo add attribute f3 int
        alter user bob set work_mem = '8MB'
        alter user mapping for bob server foo options (set password 'public')
        alter view foo rename to bar
        analyze verbose t (a, b)
        call insert_data(1, 2)
        cluster employees using employees_ind
        comment on column my_table.my_column is 'employee id number'
        create access method heptree type index handler heptree_handler
        create aggregate sum (complex) (sfunc = complex_add, stype = complex, initcond = '(0,0)')
        create cast (bigint as int4) with function int4(bigint) as assignment
        create collation french (locale = 'fr_FR.utf8')
        create conversion myconv for 'UTF8' to 'LATIN1' from myfunc
        create database music template template0
        create domain us_postal_code as text check (value ~ '^\\d{5}$')
        create event trigger abort_ddl on ddl_command_start execute function abort_any_command()
        create extension hstore with schema addons
        create foreign data wrapper dummy
        create foreign table films (code char(5) not null) server film_server
        create function add(integer, integer) returns integer as 'select $1 + $2;' language sql immutable
        create or replace function inc(i integer) returns integer as $$ begin return i + 1; end; $$ language plpgsql
        create group staff
        create unique index title_idx on films (title) include (director, rating)
        create index concurrently sales_quantity_index on sales_table (quantity)
        create index code_idx on films (code) where code is not null
        create language plperl
        create materialized view mymatview as select * from mytable with no data
        create operator === (leftarg = box, rightarg = box, function = area_equal)
        create operator class gist__int_ops default for type _int4 using gist as operator 3 &&
        create operator family f using btree
        create policy p on t for select using (owner = current_user)
        create procedure insert_data(a integer, b integer) language sql as $$ insert into tbl values (a); $$
        create publication mypublication for table users, departments
        create role admin with createdb createrole
        create rule notify_me as on update to mytable do also notify mytable
        create schema hollywood create table films (title text)
        create sequence serial start 101
        create server myserver foreign data wrapper postgres_fdw options (host 'foo')
        create statistics s1 (dependencies) on a, b from t1
        create subscription mysub connection 'host=192.168.1.50' publication mypublication
        create table films (code char(5) constraint firstkey primary key, title varchar(40) not null)
        create table if not exists t (id bigint generated always as identity, b text default 'x')
        create table measurement (logdate date not null) partition by range (logdate)
        create table measurement_y2016m07 partition of measurement for values from ('2016-07-01') to ('2016-08-01')
        create table t2 (like t including all)
        create table films_recent as select * from films where date_prod >= '2002-01-01'
        create table t3 as execute p
        create tablespace dbspace location '/data/dbs'
        create text search configuration my_config (copy = english)
        create text search dictionary my_russian (template = snowball, language = russian)
        create transform for hstore language plpython3u (from sql with function f(internal), to sql with function g(internal))
        create trigger check_update before update of balance on accounts for each row execute function check_account_update()
        create constraint trigger c after insert on t deferrable initially deferred for each row execute function f()
        create type compfoo as (f1 int, f2 text)
        create type float8_range as range (subtype = float8, subtype_diff = float8mi)
        create user davide with password 'jw8s0F4'
        create user mapping for bob server foo options (user 'bob', password 'secret')
        create view comedies as select * from films where kind = 'Comedy'
        create recursive view public.nums_1_100 (n) as values (1) union all select n+1 from nums_1_100 where n < 100
        create or replace view v as select 1 with check option
        do $$declare r record; begin for r in select 1 loop null; end loop; end$$
        do language plpgsql $$ begin perform 1; end $$
        drop access method heptree
        drop aggregate myavg(integer)
        drop cast (text as int)
        drop collation german
        drop conversion myname
        drop database if exists x
        drop domain box
        drop event trigger snitch
        drop extension hstore cascade
        drop foreign data wrapper dbi
        drop foreign table films, distributors
        drop function sqrt(integer)
        drop index concurrently title_idx
        drop language plsample
        drop materialized view order_summary
        drop operator ^ (integer, integer)
        drop operator class widget_ops using btree
        drop operator family float_ops using btree
        drop owned by bob
        drop policy p1 on my_table
        drop procedure do_db_maintenance()
        drop publication mypublication
        drop role jonathan
        drop routine foo(integer)
        drop rule newrule on mytable
        drop schema mystuff cascade
        drop sequence serial
        drop server if exists foo
        drop statistics if exists s1
        drop subscription mysub
        drop table films, distributors
        drop tablespace mystuff
        drop text search configuration my_english
        drop text search dictionary english
        drop text search parser my_parser
        drop text search template thesaurus
        drop transform for hstore language plpython3u
        drop trigger if_dist_exists on films
        drop type box
        drop user mapping if exists for bob server foo
        drop view kinds
        grant insert on films to public
        grant all privileges on kinds to manuel with grant option
        grant admins to joe
        import foreign schema foreign_films limit to (actors, directors) from server film_server into films
        lock table films in share mode
        lock table films in row exclusive mode nowait
        merge into wines w using wine_stock_changes s on s.winename = w.winename when matched then delete
        notify virtual, 'This is the payload'
        reassign owned by doctor to nurse
        refresh materialized view concurrently order_summary
        reindex index my_index
        reindex (verbose, concurrently) table my_broken_table
        revoke insert on films from public
        revoke grant option for all privileges on kinds from manuel
        revoke admins from joe
        security label for selinux on table mytable is 'system_u:object_r:sepgsql_table_t:s0'
        set constraints all immediate
        truncate only bigtable, fattable
        vacuum (verbose, analyze) onek
        vacuum full freeze t
        insert into films values ('UA502', 'Bananas', 105, '1971-07-13', default, '82 minutes')
        insert into films (code, title) values ('B6717', 'Tampopo'), ('HG120', 'The Dinner Game')
        insert into tictactoe (game, board[1:3][1:3]) values (1, '{{" "," "," "},{" "," "," "},{" "," "," "}}')
        insert into distributors (did, dname) overriding system value values (8, 'x') on conflict on constraint d_pkey do nothing
        with upd as (update employees set sales_count = sales_count + 1 returning *) insert into employees_log select *, current_timestamp from upd
        update weather set (temp_lo, temp_hi, prcp) = (temp_lo+1, temp_lo+15, default) where city = 'San Francisco'
        update films set kind = 'Dramatic' where current of c_films
        update only t set a = 1 from u where t.id = u.id returning t.*
        delete from tasks where current of c_tasks
        delete from only films using producers where producer_id = producers.id
        """)

    static let mappedReads: [String] = lines("""
        SELECT "auth_user"."id", "auth_user"."password", "auth_user"."last_login" FROM "auth_user" WHERE "auth_user"."id" = 1 LIMIT 21
        SELECT (1) AS "a" FROM "shop_order" WHERE "shop_order"."user_id" = 5 LIMIT 1
        SELECT COUNT(*) AS "__count" FROM "shop_order" WHERE NOT ("shop_order"."state" = 'x')
        SELECT "django_session"."session_key", "django_session"."session_data" FROM "django_session" WHERE ("django_session"."expire_date" > '2026-01-01T00:00:00+00:00'::timestamptz AND "django_session"."session_key" = 'abc')
        SELECT "a"."id", "b"."name" FROM "a" LEFT OUTER JOIN "b" ON ("a"."b_id" = "b"."id") WHERE UPPER("a"."name"::text) LIKE UPPER('%x%') ORDER BY "a"."id" DESC LIMIT 10 OFFSET 20
        SELECT DISTINCT "t"."kind" FROM "t" WHERE "t"."created" BETWEEN '2026-01-01'::date AND '2026-12-31'::date
        SELECT "t"."kind", COUNT("t"."id") AS "n", SUM("t"."amount") AS "total" FROM "t" GROUP BY "t"."kind" HAVING COUNT("t"."id") > 3
        SELECT "t"."id", CASE WHEN "t"."a" = 1 THEN 'one' ELSE NULL END AS "label" FROM "t"
        SELECT "t"."id", EXISTS(SELECT 1 AS "a" FROM "u" U0 WHERE U0."t_id" = ("t"."id") LIMIT 1) AS "has" FROM "t"
        SELECT ("t"."data" -> 'a') FROM "t" WHERE ("t"."data" -> 'k') = '"v"'::jsonb
        SELECT "t"."id", ROW_NUMBER() OVER (PARTITION BY "t"."kind" ORDER BY "t"."id" DESC) AS "row" FROM "t"
        SELECT DATE_TRUNC('day', "t"."created" AT TIME ZONE 'UTC') AS "day" FROM "t"
        (SELECT "t"."id" AS "col1" FROM "t" WHERE "t"."a" = 1) UNION (SELECT "u"."id" AS "col1" FROM "u")
        SELECT "t"."id" FROM "t" WHERE "t"."tags" @> ARRAY['a','b']::varchar(50)[]
        SELECT "t"."id" FROM "t" WHERE to_tsvector(COALESCE("t"."body", '')) @@ (plainto_tsquery('x')) = true
        SELECT "t"."id", COALESCE(SUM("u"."x"), 0) AS "s" FROM "t" LEFT OUTER JOIN "u" ON ("t"."id" = "u"."t_id") GROUP BY "t"."id"
        SELECT users.id AS users_id, users.name AS users_name FROM users WHERE users.id = %(pk_1)s
        SELECT users.id, users.name FROM users WHERE users.name LIKE '%%' || 'x' || '%%' LIMIT 5
        SELECT anon_1.users_id, addresses_1.email FROM (SELECT users.id AS users_id FROM users LIMIT 5) AS anon_1 LEFT OUTER JOIN addresses AS addresses_1 ON anon_1.users_id = addresses_1.user_id
        SELECT count(*) AS count_1 FROM (SELECT t.id AS t_id FROM t WHERE t.a = $1::INTEGER) AS anon_1
        SELECT t.id, t.data FROM t WHERE t.id IN ($1::UUID, $2::UUID, $3::UUID)
        SELECT max(t.created) AS max_1 FROM t WHERE t.deleted IS false
        SELECT EXISTS (SELECT * FROM t WHERE t.id = $1::BIGINT) AS anon_1
        WITH RECURSIVE tree(id, parent_id) AS (SELECT n.id, n.parent_id FROM n WHERE n.id = $1 UNION ALL SELECT m.id, m.parent_id FROM n AS m JOIN tree ON m.parent_id = tree.id) SELECT tree.id FROM tree
        SELECT t.id FROM t WHERE t.a = $1::VARCHAR ORDER BY t.b ASC NULLS LAST LIMIT $2::INTEGER OFFSET $3::INTEGER
        SELECT lower(t.name) AS lower_1, CAST(t.x AS NUMERIC(10, 2)) AS x FROM t WHERE (t.a, t.b) IN (($1, $2), ($3, $4))
        SELECT t.id FROM t WHERE t.id = ANY ($1::INTEGER[])
        SELECT "users".* FROM "users" WHERE "users"."email" = $1 ORDER BY "users"."id" ASC LIMIT $2
        SELECT 1 AS one FROM "users" WHERE "users"."email" = 'a@b.c' LIMIT 1
        SELECT COUNT(*) FROM "posts" INNER JOIN "users" ON "users"."id" = "posts"."user_id" WHERE "users"."active" = TRUE
        SELECT "posts".* FROM "posts" WHERE "posts"."user_id" IN (1, 2, 3) AND "posts"."deleted_at" IS NULL
        SELECT SUM("orders"."total") AS sum_total, "orders"."kind" AS orders_kind FROM "orders" GROUP BY "orders"."kind"
        SELECT DISTINCT "users"."id", "users"."name" FROM "users" LEFT OUTER JOIN "posts" ON "posts"."user_id" = "users"."id" WHERE "posts"."id" IS NULL
        SELECT "users"."id" AS t0_r0, "users"."name" AS t0_r1, "posts"."id" AS t1_r0 FROM "users" LEFT OUTER JOIN "posts" ON "posts"."user_id" = "users"."id"
        SELECT "t".* FROM "t" WHERE "t"."range" && '[1,5)'::int4range
        SELECT "t".* FROM "t" WHERE (created_at > now() - interval '1 day')
        SELECT AVG("t"."x") FROM "t" WHERE NOT (("t"."a" = 1 OR "t"."b" = 2))
        select user0_.id as id1_0_, user0_.name as name2_0_ from users user0_ where user0_.id=?1
        select u1_0.id,u1_0.name from users u1_0 where u1_0.id=$1
        select u1_0.id,u1_0.name from users u1_0 where u1_0.name like $1 escape '' order by u1_0.id offset $2 rows fetch first $3 rows only
        select count(*) from orders o1_0 where o1_0.user_id=$1 and o1_0.state in ($2,$3)
        select o1_0.id, i1_0.order_id, i1_0.sku from orders o1_0 left join order_items i1_0 on o1_0.id=i1_0.order_id where o1_0.id=$1
        select distinct u1_0.kind from users u1_0 fetch first 10 rows only
        select case when count(o1_0.id)>0 then true else false end from orders o1_0
        select coalesce(sum(o1_0.total),0) from orders o1_0 where o1_0.created>=$1
        SELECT "public"."User"."id", "public"."User"."email" FROM "public"."User" WHERE ("public"."User"."id" = $1 AND 1=1) LIMIT $2 OFFSET $3
        SELECT "t1"."id", COALESCE("aggr"."_count", 0) FROM "public"."T" AS "t1" LEFT JOIN (SELECT "b", COUNT(*) AS "_count" FROM "public"."U" WHERE 1=1 GROUP BY "b") AS "aggr" ON ("t1"."id" = "aggr"."b")
        SELECT "User"."id" AS "User_id" FROM "user" "User" WHERE (("User"."id" = $1)) LIMIT 1
        SELECT * FROM "users" AS "User" WHERE "User"."id" = '5' AND "User"."deletedAt" IS NULL
        SELECT * FROM "users" WHERE "users"."deleted_at" IS NULL ORDER BY "users"."id" LIMIT 1
        SELECT u0."id", u0."name" FROM "users" AS u0 WHERE (u0."id" = $1)
        SELECT count(*) FROM "users" AS u0 WHERE (u0."age" > $1::integer) AND NOT (u0."name" IS NULL)
        SELECT s0."id" FROM (SELECT su0."id" AS "id" FROM "users" AS su0 LIMIT 5) AS s0
        select "id", "name" from "users" where "id" = $1 limit $2
        select * from "users" where "users"."id" in ($1, $2) and "users"."deleted_at" is null
        select exists(select * from "users" where "email" = $1) as "exists"
        select count(*) as aggregate from "orders" where "state" = $1
        SELECT c."Id", c."Name" FROM "Customers" AS c WHERE c."Id" = @__id_0 LIMIT 1
        SELECT c."Id", (SELECT count(*)::int FROM "Orders" AS o WHERE c."Id" = o."CustomerId") AS "Count" FROM "Customers" AS c
        SELECT t."Id" FROM (SELECT c."Id" FROM "C" AS c ORDER BY c."Id" LIMIT 2) AS t LEFT JOIN "O" AS o ON t."Id" = o."CId"
        """)

    static let mappedWrites: [String] = lines("""
        INSERT INTO "auth_user" ("username", "email") VALUES ('a', 'b') RETURNING "auth_user"."id"
        INSERT INTO "t" ("a", "b") SELECT "u"."a", 1 FROM "u"
        UPDATE "auth_user" SET "last_login" = '2026-01-01T00:00:00+00:00'::timestamptz WHERE "auth_user"."id" = 1
        UPDATE "t" SET "n" = ("t"."n" + 1) WHERE "t"."id" = 1
        DELETE FROM "django_session" WHERE "django_session"."session_key" IN ('a')
        SELECT "t"."id" FROM "t" WHERE "t"."id" = 1 LIMIT 21 FOR UPDATE
        SELECT "t"."id" FROM "t" WHERE "t"."id" = 1 FOR UPDATE OF "t" SKIP LOCKED
        SELECT "t"."id" FROM "t" INNER JOIN "u" ON ("t"."u_id" = "u"."id") FOR NO KEY UPDATE NOWAIT
        INSERT INTO users (name) VALUES ($1::VARCHAR) RETURNING users.id
        INSERT INTO users (id, name) SELECT p0::INTEGER, p1::VARCHAR FROM (VALUES ($1, $2, 0)) AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter RETURNING users.id
        UPDATE users SET name=$1::VARCHAR WHERE users.id = $2::INTEGER AND users.version = $3::INTEGER
        DELETE FROM users WHERE users.id = $1::INTEGER
        SELECT users.id FROM users WHERE users.id = $1 FOR SHARE
        SELECT nextval('users_id_seq') AS nextval_1
        INSERT INTO "users" ("email", "created_at") VALUES ($1, $2) RETURNING "id"
        INSERT INTO "users" ("email") VALUES ('a') ON CONFLICT ("email") DO UPDATE SET updated_at=(CASE WHEN ("users"."x" IS NOT DISTINCT FROM excluded."x") THEN "users".updated_at ELSE CURRENT_TIMESTAMP END) RETURNING "id"
        UPDATE "posts" SET "views" = COALESCE("posts"."views", 0) + 1 WHERE "posts"."id" = $1
        DELETE FROM "posts" WHERE "posts"."id" IN (SELECT "posts"."id" FROM "posts" WHERE "posts"."x" = 1)
        SELECT "users".* FROM "users" WHERE "users"."id" = $1 LIMIT $2 FOR UPDATE
        SELECT pg_try_advisory_lock(8240592834)
        SELECT pg_advisory_unlock(8240592834)
        select u1_0.id,u1_0.name from users u1_0 where u1_0.id=$1 for no key update
        select u1_0.id from users u1_0 where u1_0.id=$1 for update skip locked
        select nextval ('hibernate_sequence')
        select nextval('users_seq')
        insert into users (name,id) values ($1,$2)
        update users set name=$1,version=$2 where id=$3 and version=$4
        delete from users where id=$1 and version=$2
        INSERT INTO "public"."User" ("email") VALUES ($1) RETURNING "public"."User"."id"
        UPDATE "public"."User" SET "email" = $1 WHERE ("public"."User"."id" = $2 AND 1=1) RETURNING "public"."User"."id"
        DELETE FROM "public"."User" WHERE ("public"."User"."id" = $1 AND 1=1)
        WITH x AS (INSERT INTO "t" VALUES (1) RETURNING id) SELECT id FROM x
        with "job" as (select id from jobs where state = 'new' limit 1 for update skip locked) select * from "job"
        select * from jobs where id = (select id from jobs order by id limit 1 for update skip locked)
        insert into "users" ("name") values ($1) on conflict do nothing returning "id"
        update "users" set "name" = $1 where "id" = $2
        INSERT INTO "Customers" ("Name") VALUES (@p0) RETURNING "Id"
        SELECT setval(pg_get_serial_sequence('"t"','id'), coalesce(max("id"), 1), max("id") IS NOT null) FROM "t"
        COPY "t" ("a", "b") FROM STDIN WITH (FORMAT binary)
        select graphile_worker.add_job('x', '{}'::json)
        SELECT create_hypertable('conditions', 'time')
        SELECT cron.schedule('0 0 * * *', 'delete from t')
        select pgmq.send('q', '{}')
        select audit.log_read('x')
        """)

    // MARK: every place a call can stand in, times every kind of call that must not be missed

    /// `?` is the call; each is a read where the call is one.
    static let places: [String] = lines("""
        select ?
        select a, ? from t
        select * from t where ? is not null
        select * from t order by ?
        select a from t group by a having ? is null
        select case when ? is null then 1 end
        select coalesce(null, ?)
        select (select ?)
        select array[?]
        select row(?, 1)
        select * from t join u on ? is null
        select * from (select ? as x) y
        with x as (select ?) select * from x
        values (?)
        select 1 union all select ?
        select * from t where a in (select ?)
        select * from t limit (select count(*) from (select ?) x)
        select count(*) filter (where ? is null) from t
        select sum(a) over (order by ?) from t
        select (?)::text
        select greatest(1, length(?::text))
        copy (select ?) to stdout
        explain analyze select ?
        select exists (select 1 from t where ? is null)
        select * from t where not (? is null and true)
        """)

    static let harmfulCalls = [
        "nextval('s')", "setval('s', 1)", "set_config('a.b', a, false)", "pg_notify('a', 'b')", "pg_advisory_lock(1)",
        "pg_advisory_xact_lock(1)", "lo_create(0)", "dblink_exec('delete from t')", "my_function(1)", "s.my_function()",
        "pg_terminate_backend(1)", "query_to_xml('delete from t', true, true, '')", "pg_read_file('x')", "txid_status_x(1)",
        "PG_CATALOG.NEXTVAL('s')", "\"nextval\"('s')", "a.nextval", "('s'::text).nextval",
    ]

    static let harmlessCalls = [
        "lower('x')", "now()", "abs(-1)", "pg_catalog.upper('x')", "coalesce(null, 1)", "random()", "current_user", "'nextval(1)'",
        "$1", "a.nextvalue", "md5('pg_notify()')", "extract(year from now())",
    ]

    static func filled(_ calls: [String]) -> [String] {
        places.flatMap { place in calls.map { place.replacing("?", with: $0) } }
    }
}
