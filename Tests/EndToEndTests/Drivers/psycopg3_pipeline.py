"""libpq's pipeline mode: many statements in flight, errors in the middle, transactions around them."""

import sys

import psycopg

conninfo = sys.argv[1]
with psycopg.connect(conninfo, autocommit=True) as connection:
    connection.execute("TRUNCATE t")
    with connection.pipeline():
        cursors = [connection.execute("SELECT %s::int * 2", (number,)) for number in range(300)]
        assert [cursor.fetchone()[0] for cursor in cursors] == [number * 2 for number in range(300)]

    with connection.pipeline() as pipeline, connection.transaction():
        for number in range(100):
            connection.execute("INSERT INTO t VALUES (%s, %s)", (number, f"row {number}"))
        pipeline.sync()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (100,)

    try:
        with connection.pipeline():
            connection.execute("INSERT INTO t VALUES (1000, 'lost with the batch')")
            connection.execute("INSERT INTO t VALUES (1, 'duplicate')")
            connection.execute("INSERT INTO t VALUES (1001, 'never runs')")
        raise AssertionError("the duplicate key was not reported")
    except psycopg.errors.UniqueViolation:
        pass
    assert connection.execute("SELECT count(*) FROM t WHERE id >= 1000").fetchone() == (0,)

    with connection.pipeline() as pipeline:
        good = connection.execute("INSERT INTO t VALUES (2000, 'stays')")
        pipeline.sync()
        try:
            connection.execute("SELECT 1/0")
            pipeline.sync()
        except psycopg.errors.DivisionByZero:
            pass
        after = connection.execute("SELECT v FROM t WHERE id = 2000")
        assert after.fetchone() == ("stays",)
    connection.execute("TRUNCATE t")
print("ok")
