"""Prepared statements of many connections on few servers, each used across transactions."""

import sys
import threading

import psycopg

conninfo = sys.argv[1]
failures = []


def work(number: int):
    try:
        with psycopg.connect(conninfo, autocommit=number % 2 == 0) as connection:
            connection.prepare_threshold = 0
            for turn in range(50):
                for kind in range(4):
                    # The same names (_pg3_0, ...) in every connection, for different statements.
                    row = connection.execute(f"SELECT %s::int + {number * 1000 + kind}", (turn,)).fetchone()
                    assert row == (turn + number * 1000 + kind,), (row, number, turn, kind)
                connection.commit()
    except Exception as error:
        failures.append((number, repr(error)))


threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures

with psycopg.connect(conninfo, autocommit=True) as connection:
    # The statement's result type changes under a prepared statement: PostgreSQL's own error, and the next try works.
    connection.prepare_threshold = 0
    connection.execute("DROP TABLE IF EXISTS changing")
    connection.execute("CREATE TABLE changing (a int)")
    connection.execute("INSERT INTO changing VALUES (1)")
    assert connection.execute("SELECT * FROM changing WHERE a = %s", (1,)).fetchone() == (1,)
    connection.execute("ALTER TABLE changing ADD b int")
    try:
        connection.execute("SELECT * FROM changing WHERE a = %s", (1,))
    except psycopg.errors.FeatureNotSupported as error:
        assert "cached plan" in str(error), error
        connection.execute("DEALLOCATE ALL")
        connection._prepared.clear()
    assert connection.execute("SELECT a FROM changing WHERE a = %s", (1,)).fetchone() == (1,)
    connection.execute("DROP TABLE changing")
print("ok")
