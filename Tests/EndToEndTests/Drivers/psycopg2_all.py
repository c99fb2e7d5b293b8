"""psycopg2: the simple protocol, named cursors, COPY, errors, many connections."""

import io
import sys
import threading

import psycopg2
import psycopg2.errors
import psycopg2.extras

conninfo = sys.argv[1]
failures = []


def work(number: int):
    try:
        connection = psycopg2.connect(conninfo)
        for turn in range(30):
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT %s, %s", (number, turn))
                assert cursor.fetchone() == (number, turn)
        connection.close()
    except Exception as error:
        failures.append(repr(error))


connection = psycopg2.connect(conninfo)
with connection, connection.cursor() as cursor:
    cursor.execute("TRUNCATE t")
    psycopg2.extras.execute_values(cursor, "INSERT INTO t VALUES %s", [(n, f"v{n}") for n in range(1000)])
    cursor.copy_expert("COPY t FROM STDIN", io.StringIO("5000\tcopied\n"))
with connection, connection.cursor() as cursor:
    out = io.StringIO()
    cursor.copy_expert("COPY t TO STDOUT", out)
    assert len(out.getvalue().splitlines()) == 1001
with connection, connection.cursor("named") as cursor:
    cursor.execute("SELECT id FROM t ORDER BY id")
    assert len(cursor.fetchmany(10)) == 10 and len(cursor.fetchall()) == 991
try:
    with connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1, 'duplicate')")
    raise AssertionError("no error")
except psycopg2.errors.UniqueViolation:
    pass
with connection, connection.cursor() as cursor:
    cursor.execute("SELECT count(*) FROM t")
    assert cursor.fetchone() == (1001,)
    cursor.execute("TRUNCATE t")
connection.close()

threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
print("ok")
