"""What a capture by statement (`mirror.bulk`) costs beside the one by row, by rows of a statement.

    .build/venv/bin/python loadtest/trigger_cost.py [--rounds 7] [--rows 1 10 1000] [--version 15|18] [--mirror]

Three equal tables on one server, as `godwit prepare` leaves them: without capture, with a row trigger, and with
statement triggers that write the keys of a whole statement down at once, from its transition tables. Each round runs
INSERT, UPDATE (no key changes), UPDATE of all keys and DELETE of so many rows on each table by turns, one statement a
transaction, synchronous_commit off. What is printed is microseconds a row, the median of the rounds, and what a capture
adds. With --mirror the session is like the mirror's, whom the triggers let pass: what the captures that sleep on NEW
cost it.
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
    "INSERT": "INSERT INTO {table} SELECT g, g %% 97, repeat('x', 60) "
              "FROM generate_series(%(first)s::bigint, %(last)s::bigint) g",
    "UPDATE": "UPDATE {table} SET v = v + 1 WHERE id BETWEEN %(first)s AND %(last)s",
    "UPDATE of the key": "UPDATE {table} SET id = -id WHERE id BETWEEN %(first)s AND %(last)s",
    "DELETE": "DELETE FROM {table} WHERE id BETWEEN -%(last)s::bigint AND -%(first)s::bigint",
}
# Of a row, by all of these.
KEYS_WRITTEN = 5


def measure(connection, table: str, verb: str, rows: int, times: int) -> float:
    """Microseconds a row."""
    text = STATEMENTS[verb].format(table=table)
    began = time.perf_counter()
    for number in range(times):
        first = number * rows + 1
        connection.execute(text, {"first": first, "last": first + rows - 1})
    return (time.perf_counter() - began) / (times * rows) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 10, 1000, 100_000])
    parser.add_argument("--version", default="15", choices=("15", "18"))
    parser.add_argument("--mirror", action="store_true", help="write as the mirror does")
    arguments = parser.parse_args()
    with Stage() as stage:
        programs = (OLD_PROGRAMS, new_programs())
        old, new = (Postgres(stage, name, programs[(arguments.version == "18") != (name == "new")])
                    for name in ("old", "new"))
        for server in (old, new):
            server.sql(f"CREATE DATABASE {DATABASE}")
            for table in TABLES:
                server.sql(f"CREATE TABLE {table} (id bigint PRIMARY KEY, v int, filler text)", DATABASE)
        godwit = Godwit(stage, old, new)
        godwit.configure(percent=0, mirror="async, bulk: [public.by_statement]")
        godwit.command("prepare", DATABASE)
        for trigger in ("godwit_capture", "godwit_capture_replica"):
            old.sql(f"DROP TRIGGER {trigger} ON plain", DATABASE)
        for server_table in ("plain", "by_row", "by_statement"):
            old.sql(f"ALTER TABLE {server_table} SET (autovacuum_enabled = off)", DATABASE)
        results: dict[tuple[str, int, str], list[float]] = {}
        with psycopg.connect(f"{old.conninfo()} user=postgres", autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            if arguments.mirror:
                connection.execute("SET session_replication_role = replica")
                connection.execute("SET godwit.applier = 'on'")
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
                    captured = [] if arguments.mirror else TABLES[1:]
                    assert wanted == [(table, KEYS_WRITTEN * rows * times) for table in captured], wanted
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
