"""Cancelling a running query with libpq's PQcancel, again and again, with other clients on the same servers."""

import sys
import threading

import psycopg

conninfo = sys.argv[1]
failures = []
stop = threading.Event()


def bystander():
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            while not stop.is_set():
                connection.execute("SELECT pg_sleep(0.002)")
    except Exception as error:
        failures.append(repr(error))


thread = threading.Thread(target=bystander)
thread.start()
try:
    with psycopg.connect(conninfo, autocommit=True) as connection, \
            psycopg.connect(conninfo, autocommit=True) as watcher:
        for turn in range(5):
            marker = f"/* cancel {turn} */"

            def cancel():
                query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s " \
                        "AND query NOT LIKE '%%pg_stat_activity%%'"
                while watcher.execute(query, (f"{marker}%",)).fetchone() == (0,):
                    pass
                connection.cancel()

            canceller = threading.Thread(target=cancel)
            canceller.start()
            try:
                connection.execute(f"{marker} SELECT pg_sleep(3600)")
                raise AssertionError("not cancelled")
            except psycopg.errors.QueryCanceled:
                pass
            canceller.join()
            assert connection.execute("SELECT 1").fetchone() == (1,)
finally:
    stop.set()
    thread.join()
assert not failures, failures
print("ok")
