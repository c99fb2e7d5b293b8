"""Talks to the console with the drivers of this environment: console_all.py PORT DATABASE."""

import asyncio
import decimal
import sys

import asyncpg
import psycopg
import psycopg2

port, database = int(sys.argv[1]), sys.argv[2]
conninfo = f"host=127.0.0.1 port={port} dbname=godwit user=godwit sslmode=disable"
shows = (
    "STATS STATS_TOTALS STATS_AVERAGES TOTALS POOLS DATABASES CLIENTS SERVERS USERS LISTS CONFIG MEM FDS SOCKETS "
    "ACTIVE_SOCKETS DNS_HOSTS DNS_ZONES VERSION STATE HELP MIRROR TABLES BREAKERS ROUTES PINS COHORTS RULES SHAPES "
    "CACHES"
).split()


def check(condition, what):
    if not condition:
        sys.exit(f"failed: {what}")


def synchronous(connection, name):
    cursor = connection.cursor()
    for show in shows:
        cursor.execute(f"SHOW {show}")
        names = [column[0] for column in cursor.description]
        check(all(len(row) == len(names) for row in cursor.fetchall()), f"{name}: SHOW {show}")
    cursor.execute("SHOW DATABASES")
    names = [column[0] for column in cursor.description]
    row = dict(zip(names, next(row for row in cursor.fetchall() if row[0] == database)))
    check(row["pool_size"] == 20 and row["paused"] == 0, f"{name}: {row}")
    check(isinstance(row["reads_percent"], decimal.Decimal), f"{name}: {row}")
    cursor.execute(f"PAUSE {database}")
    check(cursor.statusmessage if name == "psycopg2" else cursor.statusmessage == "PAUSE", name)
    cursor.execute(f"RESUME {database}")


def psycopg3(autocommit, binary):
    with psycopg.connect(conninfo, autocommit=autocommit) as connection:
        with connection.cursor(binary=binary) as cursor:
            for show in shows:
                # Never prepared, prepared at once, and after PostgreSQL's usual number of times.
                for prepare in (False, True, None):
                    rows = cursor.execute(f"SHOW {show}", prepare=prepare).fetchall()
                    check(all(len(row) == len(cursor.description) for row in rows), f"psycopg: SHOW {show}")
            stats = cursor.execute("SHOW STATS").fetchone()
            check(isinstance(stats[1], decimal.Decimal), stats)
        try:
            connection.execute("SHOW NOTHING")
            sys.exit("SHOW NOTHING was taken")
        except psycopg.errors.ProtocolViolation:
            connection.rollback()
        synchronous(connection, "psycopg")


async def with_asyncpg():
    connection = await asyncpg.connect(host="127.0.0.1", port=port, database="godwit", user="godwit", ssl=False)
    for show in shows:
        rows = await connection.fetch(f"SHOW {show}")
        again = await connection.fetch(f"SHOW {show}")
        check([list(row.keys()) for row in rows[:1]] == [list(row.keys()) for row in again[:1]], f"asyncpg: SHOW {show}")
    check((await connection.fetchval("SHOW VERSION")).startswith("Godwit"), "fetchval")
    check((await connection.fetchrow("SHOW LISTS"))["items"] >= 1, "fetchrow of several")
    percent = await connection.fetch("SHOW DATABASES")
    check({str(row["reads_percent"]) for row in percent} == {"12.34", "87.66"}, percent)
    check(await connection.execute(f"PAUSE {database}") == "PAUSE", "PAUSE")
    row = next(row for row in await connection.fetch("SHOW DATABASES") if row["name"] == database)
    check(row["paused"] == 1, row)
    statement = await connection.prepare(f"RESUME {database}")
    await statement.fetch()
    check(statement.get_statusmsg() == "RESUME", statement.get_statusmsg())
    try:
        await connection.fetch("SHOW STATS WHERE database = $1", "x")
        sys.exit("parameters were taken")
    except asyncpg.PostgresSyntaxError:
        pass
    async with connection.transaction():
        check(len(await connection.fetch("SHOW STATE")) == 3, "SHOW STATE")
    await connection.close()


for autocommit in (True, False):
    for binary in (True, False):
        psycopg3(autocommit, binary)
connection = psycopg2.connect(conninfo)
synchronous(connection, "psycopg2")
connection.close()
asyncio.run(with_asyncpg())
