"""COPY in and out in text and binary, errors on either side, and what comes after."""

import sys

import psycopg

conninfo = sys.argv[1]
with psycopg.connect(conninfo) as connection:
    connection.execute("TRUNCATE t")
    with connection.cursor() as cursor:
        with cursor.copy("COPY t (id, v) FROM STDIN") as copy:
            for number in range(20_000):
                copy.write_row((number, f"text {number} \t\n\\"))
        with cursor.copy("COPY t (id, v) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            for number in range(20_000, 21_000):
                copy.write_row((number, "binary"))
    connection.commit()
    with connection.cursor() as cursor:
        with cursor.copy("COPY (SELECT id, v FROM t ORDER BY id) TO STDOUT") as copy:
            copy.set_types(["int4", "text"])
            rows = list(copy.rows())
        assert len(rows) == 21_000 and rows[7] == (7, "text 7 \t\n\\"), rows[7]
        assert cursor.execute("SELECT 1").fetchone() == (1,)
    connection.commit()

    try:
        with connection.cursor() as cursor, cursor.copy("COPY t (id, v) FROM STDIN") as copy:
            copy.write_row((1, "duplicate"))
        raise AssertionError("the duplicate key was not reported")
    except psycopg.errors.UniqueViolation:
        connection.rollback()

    class Change(Exception):
        pass

    try:
        with connection.cursor() as cursor, cursor.copy("COPY t (id, v) FROM STDIN") as copy:
            copy.write_row((99_999, "given up"))
            raise Change
    except Change:
        connection.rollback()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (21_000,)
    connection.execute("TRUNCATE t")
    connection.commit()
print("ok")
