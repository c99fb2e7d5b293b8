"""Traffic of all kinds for a capture: simple, extended, prepared, pipelined, COPY, errors, transactions.

Deterministic, so that a replay on a fresh copy can be held against it.
"""
import sys

import psycopg

conninfo = sys.argv[1]
secret = sys.argv[2] if len(sys.argv) > 2 else "Hopper"


def simple():
    with psycopg.connect(conninfo, autocommit=True, application_name="simple") as connection:
        cursor = psycopg.ClientCursor(connection)
        cursor.execute("SET statement_timeout = '1min'")
        cursor.execute("INSERT INTO person VALUES (%s, %s, %s)", (1, secret, 1.5))
        cursor.execute("SELECT id, name FROM person ORDER BY id; SELECT 2")
        cursor.execute("")
        for statement in ("SELECT * FROM nowhere", "SELECT 1 / 0"):
            try:
                cursor.execute(statement)
                raise SystemExit(f"{statement} should fail")
            except psycopg.Error:
                pass


def extended():
    with psycopg.connect(conninfo, application_name="extended") as connection:
        for number in range(10, 40):
            connection.execute("INSERT INTO person VALUES (%s, %s, %s)", (number, f"{secret} {number}", number / 7))
        connection.commit()
        # From the fifth time on it is prepared.
        for number in range(10, 30):
            row = connection.execute("SELECT name FROM person WHERE id = %s", (number,)).fetchone()
            assert row == (f"{secret} {number}",), row
        connection.rollback()
        binary = connection.execute("SELECT id, note FROM person WHERE id = %b", (11,), binary=True).fetchone()
        assert binary[0] == 11
        connection.execute("UPDATE person SET note = note + 1 WHERE id = 12")
        connection.rollback()
        try:
            connection.execute("INSERT INTO person VALUES (11, 'again', 0)")
            raise SystemExit("a duplicate key")
        except psycopg.errors.UniqueViolation:
            connection.rollback()
        with connection.transaction():
            connection.execute("UPDATE person SET note = 0 WHERE id = 13")
            try:
                with connection.transaction():
                    connection.execute("DELETE FROM person")
                    raise ValueError("the savepoint is rolled back")
            except ValueError:
                pass


def pipelined():
    with psycopg.connect(conninfo, autocommit=True, application_name="pipelined") as connection:
        with connection.pipeline() as pipeline:
            for number in range(50, 80):
                connection.execute("INSERT INTO person VALUES (%s, %s, 0)", (number, f"{secret} {number}"))
            cursor = connection.execute("SELECT count(*) FROM person WHERE id >= 50")
            pipeline.sync()
            assert cursor.fetchone() == (30,)


def copied():
    with psycopg.connect(conninfo, application_name="copied") as connection:
        with connection.cursor().copy("COPY person (id, name, note) FROM STDIN") as copy:
            for number in range(100, 300):
                copy.write_row((number, f"{secret} {number}", number))
        with connection.cursor().copy("COPY person (id, name, note) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text", "float8"])
            for number in range(300, 320):
                copy.write_row((number, f"{secret} {number}", float(number)))
        with connection.cursor().copy("COPY (SELECT * FROM person ORDER BY id) TO STDOUT") as copy:
            rows = sum(len(piece) for piece in copy)
            assert rows > 1000
        connection.commit()
        try:
            with connection.cursor().copy("COPY person FROM STDIN") as copy:
                copy.write("no number\tx\t0\n")
            raise SystemExit("a bad line")
        except psycopg.errors.InvalidTextRepresentation:
            connection.rollback()


simple()
extended()
pipelined()
copied()
print("done")
