"""What a capture trigger FOR EACH STATEMENT would cost beside the one FOR EACH ROW, by rows of a statement.

    .build/venv/bin/python loadtest/trigger_cost.py [--rounds 7] [--rows 1 10 1000 100000] [--version 15|18]

Three equal tables on one server: without capture, with the triggers that `godwit prepare` makes, and with triggers that
write the keys of a whole statement down at once, from its transition tables. Each round runs INSERT, UPDATE (no key
changes) and DELETE of so many rows on each table by turns, one statement a transaction, synchronous_commit off. What is
printed is microseconds a row, the median of the rounds, and what a capture adds.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))

import psycopg  # noqa: E402

from parts import DATABASE, OLD_PROGRAMS, Godwit, Postgres, Stage, new_programs  # noqa: E402

TABLES = ("plain", "by_row", "by_statement")
STATEMENTS = {
    "INSERT": "INSERT INTO {table} SELECT g, g %% 97, repeat('x', 60) FROM generate_series(%s::bigint, %s::bigint) g",
    "UPDATE": "UPDATE {table} SET v = v + 1 WHERE id BETWEEN %s AND %s",
    "DELETE": "DELETE FROM {table} WHERE id BETWEEN %s AND %s",
}
KEYS = {
    "insert": ("NEW TABLE AS n", "SELECT ARRAY[id::text] FROM n"),
    # A key that is changed is two; one that is not is to be written once.
    "update": ("OLD TABLE AS o NEW TABLE AS n",
               "SELECT ARRAY[id::text] FROM o UNION SELECT ARRAY[id::text] FROM n"),
    "update_cheap": ("OLD TABLE AS o NEW TABLE AS n", "SELECT ARRAY[id::text] FROM o UNION ALL "
                     "SELECT ARRAY[id::text] FROM n WHERE id NOT IN (SELECT id FROM o)"),
    "delete": ("OLD TABLE AS o", "SELECT ARRAY[id::text] FROM o"),
}


def statement_triggers(condition: str, update: str) -> str:
    """Capture of `by_statement`, with the condition and the segments of the row trigger."""
    text = ["DROP TRIGGER godwit_capture ON by_statement;"]
    for verb in ("insert", update, "delete"):
        tables, keys = KEYS[verb]
        event = verb.removesuffix("_cheap")
        branches = "".join(
            f" {'ELSE' if index == 2 else f'WHEN {index} THEN'} INSERT INTO godwit.journal_{index} "
            f"(xid, relation, key) SELECT x, TG_RELID, k FROM ({keys}) s (k);" for index in range(3))
        text.append(f"""
            CREATE FUNCTION godwit.by_statement_{event}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = pg_catalog, pg_temp AS $$
            DECLARE x xid8 := pg_current_xact_id();
            BEGIN
                CASE (x::text::bigint >> 16) % 3 {branches} END CASE;
                RETURN NULL;
            END $$;
            CREATE TRIGGER by_statement_{event} AFTER {event} ON by_statement REFERENCING {tables}
                FOR EACH STATEMENT WHEN ({condition}) EXECUTE FUNCTION godwit.by_statement_{event}();
            ALTER TABLE by_statement ENABLE ALWAYS TRIGGER by_statement_{event};""")
    return "\n".join(text)


def measure(connection, table: str, verb: str, rows: int, times: int) -> float:
    """Microseconds a row."""
    text = STATEMENTS[verb].format(table=table)
    began = time.perf_counter()
    for number in range(times):
        first = number * rows + 1
        connection.execute(text, (first, first + rows - 1))
    return (time.perf_counter() - began) / (times * rows) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 10, 1000, 100_000])
    parser.add_argument("--version", default="15", choices=("15", "18"))
    parser.add_argument("--update", default="update", choices=("update", "update_cheap"),
                        help="how both keys of an UPDATE are told apart: UNION, or an anti-join")
    arguments = parser.parse_args()
    with Stage() as stage:
        programs = (OLD_PROGRAMS, new_programs())
        old, new = (Postgres(stage, name, programs[(arguments.version == "18") != (name == "new")])
                    for name in ("old", "new"))
        for server in (old, new):
            server.sql(f"CREATE DATABASE {DATABASE}")
            for table in TABLES:
                server.sql(f"CREATE TABLE {table} (id bigint PRIMARY KEY, v int, filler text)", DATABASE)
        Godwit(stage, old, new).command("prepare", DATABASE)
        condition = old.sql("""
            SELECT substring(pg_get_triggerdef(oid) FROM 'WHEN \\((.*)\\) EXECUTE') FROM pg_trigger
             WHERE tgname = 'godwit_capture' AND tgrelid = 'by_row'::regclass""", DATABASE)
        old.sql(f"DROP TRIGGER godwit_capture ON plain; {statement_triggers(condition, arguments.update)}", DATABASE)
        for server_table in ("plain", "by_row", "by_statement"):
            old.sql(f"ALTER TABLE {server_table} SET (autovacuum_enabled = off)", DATABASE)
        results: dict[tuple[str, int, str], list[float]] = {}
        with psycopg.connect(f"{old.conninfo()} user=postgres", autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            for number in range(-1, arguments.rounds):
                for rows in arguments.rows:
                    times = max(1, min(400, 20_000 // rows))
                    order = TABLES if number % 2 else TABLES[::-1]
                    for verb in STATEMENTS:
                        for table in order:
                            taken = measure(connection, table, verb, rows, times)
                            if number >= 0:
                                results.setdefault((verb, rows, table), []).append(taken)
                    wanted = connection.execute("""
                        SELECT relation::regclass::text, count(*) FROM (TABLE godwit.journal_0 UNION ALL
                            TABLE godwit.journal_1 UNION ALL TABLE godwit.journal_2) j GROUP BY 1 ORDER BY 1
                        """).fetchall()
                    assert wanted == [(table, 3 * rows * times) for table in TABLES[1:]], wanted
                    connection.execute(f"TRUNCATE {', '.join(TABLES)}")      # leaves markers in the journal
                    connection.execute("TRUNCATE godwit.journal_0, godwit.journal_1, godwit.journal_2")
                    connection.execute("CHECKPOINT")
                    print(f"round {number + 1}, {rows} rows", file=sys.stderr, flush=True)
    print(f"\nPostgreSQL {arguments.version}, microseconds a row, median of {arguments.rounds}; "
          f"load {os.getloadavg()[0]:.1f}\n")
    print("| | rows | without | by row | by statement | added by row | added by statement | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for verb in STATEMENTS:
        for rows in arguments.rows:
            plain, by_row, by_statement = (median(results[verb, rows, table]) for table in TABLES)
            added = by_row - plain, by_statement - plain
            print(f"| {verb} | {rows:,} | {plain:.2f} | {by_row:.2f} | {by_statement:.2f} | {added[0]:.2f} "
                  f"| {added[1]:.2f} | {added[1] / added[0]:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
