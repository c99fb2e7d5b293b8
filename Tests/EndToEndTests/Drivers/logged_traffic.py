"""What a server's log must not garble: several sessions, bound values of all sorts, errors, and a cancelled statement.

Deterministic, so that a replay of the log on a fresh copy can be held against it.
"""
import sys
import threading

import psycopg

conninfo = sys.argv[1]

# Quotes, line ends of all kinds, what joins the quote before it to one character, and what looks like the log's own.
VALUES = [
    "it's", "", None, "a\nb", "a\r\nb\r\n", "\ttab\n\ttab", "Zürich — 東京 🐘", "\u0301combining", "\ufe0f'\u200d'",
    "', $2 = 'x", "$1 = NULL, $2 = '", "back\\slash", 'LOG:  statement: "quoted", 1', "NULL", " \n", "x" * 9000,
]


def bound():
    with psycopg.connect(conninfo, autocommit=True, application_name="bound values") as connection:
        for number, value in enumerate(VALUES):
            # From the fifth time on it is prepared, under a name.
            connection.execute("INSERT INTO person VALUES (%s, %s, %s)", (number, value, None), prepare=number > 3)
        connection.execute("SELECT name FROM person WHERE id = %s", (2,))


def plain():
    with psycopg.connect(conninfo, autocommit=True, application_name="plain, \"text\"") as connection:
        cursor = psycopg.ClientCursor(connection)
        for number, value in enumerate(VALUES):
            cursor.execute("INSERT INTO person\r\n\tVALUES (%s,\n%s, 0) -- ü\r\n", (100 + number, value))
        cursor.execute("UPDATE person SET note = 1 WHERE id = 101; UPDATE person SET note = 2 WHERE id = 102")


def failing():
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = psycopg.ClientCursor(connection)
        # Wrong before it is run, in both protocols: what comes after it in the transaction must not be done.
        for number, wrong in enumerate(["SELEC", "SELECT nothing FROM nowhere", "INSERT INTO person VALUES (201, 'double', 0)"]):
            for some, further in (cursor, {}), (connection, {"prepare": True}):
                some.execute("INSERT INTO person VALUES (201, 'first', 0) ON CONFLICT DO NOTHING")
                some.execute("BEGIN")
                some.execute(f"INSERT INTO person VALUES ({210 + number}, 'undone', 0)")
                try:
                    some.execute(wrong, **further)
                    raise SystemExit(f"{wrong} should fail")
                except psycopg.Error:
                    pass
                some.execute("COMMIT")
        try:
            connection.execute("SELECT %s::int", ("no number",))
            raise SystemExit("that is no number")
        except psycopg.Error:
            pass
        connection.execute("INSERT INTO person VALUES (220, 'done', 0)")
        # A log has no rows of it, and is not in this encoding.
        connection.execute("CREATE TEMPORARY TABLE copied (note text)")
        with connection.cursor().copy("COPY copied FROM STDIN") as copy:
            copy.write_row(("not in the log",))
        connection.execute("SET client_encoding TO 'LATIN1'")
        connection.execute("INSERT INTO person VALUES (221, %s, 0)", ("Zürich",))


def cancelled():
    with psycopg.connect(conninfo, autocommit=True, application_name="cancelled") as connection:
        with psycopg.connect(conninfo, autocommit=True, application_name="watching") as watching:
            pid = connection.info.backend_pid

            def cancel():
                asleep = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s"
                while watching.execute(asleep, (pid,)).fetchone() != (True,):
                    pass
                connection.cancel()

            canceller = threading.Thread(target=cancel)
            canceller.start()
            try:
                connection.execute("SELECT 'cancelled', pg_sleep(100000)")
                raise SystemExit("it should be cancelled")
            except psycopg.errors.QueryCanceled:
                pass
            canceller.join()
        connection.execute("INSERT INTO person VALUES (300, 'after the cancel', 0)")


def terminated():
    """Its statement would go on for a day."""
    with psycopg.connect(conninfo, autocommit=True, application_name="watching") as watching:
        connection = psycopg.connect(conninfo, autocommit=True, application_name="terminated")
        pid = connection.info.backend_pid

        def terminate():
            asleep = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s"
            while watching.execute(asleep, (pid,)).fetchone() != (True,):
                pass
            watching.execute("SELECT pg_terminate_backend(%s::int)", (pid,))

        terminator = threading.Thread(target=terminate)
        terminator.start()
        try:
            connection.execute("SELECT 'terminated', pg_sleep(100000)")
            raise SystemExit("it should be terminated")
        except psycopg.OperationalError:
            pass
        terminator.join()


bound()
plain()
failing()
terminated()
cancelled()
