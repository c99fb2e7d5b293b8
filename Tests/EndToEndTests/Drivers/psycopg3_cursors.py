"""Server-side cursors in a transaction while others use the pool; LISTEN-free session state; COMMIT's own error."""

import sys
import threading

import psycopg

conninfo = sys.argv[1]
stop = threading.Event()
failures = []


def disturb():
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            while not stop.is_set():
                connection.execute("SELECT count(*) FROM pg_class")
    except Exception as error:
        failures.append(repr(error))


thread = threading.Thread(target=disturb)
thread.start()
try:
    with psycopg.connect(conninfo) as connection:
        with connection.cursor(name="many") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT * FROM generate_series(1, 5000)")
            assert [row[0] for row in cursor] == list(range(1, 5001))
        connection.commit()
        with connection.cursor(name="scroll", scrollable=True) as cursor:
            cursor.execute("SELECT * FROM generate_series(1, 10)")
            cursor.scroll(5)
            assert cursor.fetchone() == (6,)
            cursor.scroll(-3)
            assert cursor.fetchone() == (4,)
        connection.commit()

        connection.execute("CREATE TABLE IF NOT EXISTS deferred (id int, UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)")
        connection.commit()
        connection.execute("INSERT INTO deferred VALUES (1), (1)")
        try:
            connection.commit()
            raise AssertionError("COMMIT hid its error")
        except psycopg.errors.UniqueViolation:
            connection.rollback()
        connection.execute("DROP TABLE deferred")
        connection.commit()
finally:
    stop.set()
    thread.join()
assert not failures, failures
print("ok")
