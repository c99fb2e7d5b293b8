"""Errors and what comes after them, rollbacks, savepoints, notices, types, settings."""

import sys

import psycopg
from psycopg.pq import TransactionStatus

conninfo = sys.argv[1]
with psycopg.connect(conninfo) as connection:
    connection.execute("TRUNCATE t")
    connection.commit()
    connection.execute("INSERT INTO t VALUES (1, 'one')")
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    connection.rollback()

    connection.execute("INSERT INTO t VALUES (2, 'two') ON CONFLICT DO NOTHING")
    connection.commit()
    for statement, error in [
        ("SELECT * FROM nowhere", psycopg.errors.UndefinedTable),
        ("SELEC 1", psycopg.errors.SyntaxError),
        ("INSERT INTO t VALUES (2, 'again')", psycopg.errors.UniqueViolation),
        ("SELECT 1/0", psycopg.errors.DivisionByZero),
    ]:
        try:
            connection.execute(statement)
            raise AssertionError(f"no error from {statement}")
        except error:
            assert connection.info.transaction_status == TransactionStatus.INERROR
        try:
            connection.execute("SELECT 1")
            raise AssertionError("a failed transaction went on")
        except psycopg.errors.InFailedSqlTransaction:
            pass
        connection.rollback()
        assert connection.execute("SELECT 1").fetchone() == (1,)
        connection.rollback()

    with connection.transaction():
        connection.execute("INSERT INTO t VALUES (3, 'outer')")
        try:
            with connection.transaction():
                connection.execute("INSERT INTO t VALUES (4, 'inner')")
                raise ValueError
        except ValueError:
            pass
    assert connection.execute("SELECT array_agg(id ORDER BY id) FROM t WHERE id > 2").fetchone() == ([3],)
    connection.commit()

    heard = []
    connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    connection.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
    connection.commit()
    assert heard == ["one", "two"], heard

    connection.autocommit = True
    connection.execute("SET statement_timeout = '2s'")
    try:
        connection.execute("SELECT pg_sleep(100)")
        raise AssertionError("statement_timeout was lost")
    except psycopg.errors.QueryCanceled:
        pass
    connection.execute("RESET statement_timeout")
    connection.execute("TRUNCATE t")
print("ok")
