"""Everything that moves many bytes or needs a second connection, over whatever the connection string asks for.

Arguments: the connection string, then `tls` or `plain`: what the connection must be.
"""

import os
import sys
import threading

import psycopg

conninfo, wanted = sys.argv[1:3]
MEGABYTES = 100
LINE = b"x" * 1023 + b"\n"

connection = psycopg.connect(conninfo, autocommit=True)
assert bool(connection.pgconn.ssl_in_use) == (wanted == "tls"), connection.pgconn.ssl_in_use

# Small and large values, rows by the thousand.
assert connection.execute("SELECT 1").fetchone() == (1,)
assert connection.execute("SELECT repeat('y', 10000000)").fetchone() == ("y" * 10_000_000,)
assert connection.execute("SELECT length(%s)", ["z" * 10_000_000]).fetchone() == (10_000_000,)
assert len(connection.execute("SELECT g FROM generate_series(1, 50000) g").fetchall()) == 50_000

# COPY in both directions.
with connection.transaction():
    connection.execute("CREATE TEMP TABLE bulk (line text) ON COMMIT DROP")
    with connection.cursor().copy("COPY bulk FROM STDIN") as copy:
        for _ in range(MEGABYTES * 1024):
            copy.write(LINE)
    assert connection.execute("SELECT count(*), sum(length(line)) FROM bulk").fetchone() == (
        MEGABYTES * 1024, MEGABYTES * 1024 * 1023)
    received = 0
    with connection.cursor().copy("COPY bulk TO STDOUT") as copy:
        for part in copy:
            received += len(part)
    assert received == MEGABYTES * 1024 * 1024, received

# A deep pipeline.
with connection.pipeline():
    cursors = [connection.execute("SELECT %s::int", [number]) for number in range(1000)]
    assert [cursor.fetchone()[0] for cursor in cursors] == list(range(1000))

# Cancel, as the connection is: libpq 17 and later encrypt the request too.
started = threading.Event()
# Nobody else's on this server.
asleep = f"SELECT pg_sleep(600) /* {os.getpid()} */"


def sleep_long():
    started.set()
    try:
        connection.execute(asleep)
    except psycopg.errors.QueryCanceled:
        return
    raise AssertionError("it was not cancelled")


worker = threading.Thread(target=sleep_long)
worker.start()
started.wait()
with psycopg.connect(conninfo, autocommit=True) as other:
    while not other.execute(
        "SELECT 1 FROM pg_stat_activity WHERE query = %s AND state = 'active'", (asleep,)
    ).fetchone():
        pass
connection.cancel_safe()
worker.join()
assert connection.execute("SELECT 2").fetchone() == (2,)
connection.close()
print("ok")
