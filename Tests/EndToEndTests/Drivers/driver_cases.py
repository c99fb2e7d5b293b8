"""The same list of cases for every Python driver: each is done, or the driver's class says why it cannot.

argv: the driver's name, a conninfo, those of the servers behind it (none: there is but one), cases (none: all).
Prints `case<TAB>ok`, or `case<TAB>not applicable<TAB>reason`, then "ok". Needs the tables of schema.sql.
The programs of packaged/ do the same for other languages.
"""

import os
import sys
import traceback

import psycopg

from driver_adaptors import DRIVERS

MEGABYTES_10 = 10_000_000




def fails(driver, state: str, action):
    try:
        action()
    except Exception as error:
        assert driver.state(error) == state, f"{driver.state(error)} instead of {state}: {error!r}"
    else:
        raise AssertionError(f"no error {state}")


def one(driver, text: str, *arguments):
    return driver.query(text, *arguments)[0][0]


# MARK: the cases


def connect(driver):
    for _ in range(20):
        other = driver.another()
        assert one(other, "SELECT 1") == 1
        other.close()
    others = [driver.another() for _ in range(5)]
    assert [one(other, "SELECT 2") for other in others] == [2] * 5
    for other in others:
        other.close()


def simple(driver):
    row = (1, "text", None, True, driver.decimal("1.5"))
    assert driver.query("SELECT 1, 'text', NULL, true, 1.5::numeric") == [row]
    assert driver.query("SELECT id FROM t WHERE false") == []
    driver.query("INSERT INTO t VALUES (1, 'one'), (2, 'ünïcödé ☃')")
    assert driver.query("SELECT v FROM t ORDER BY id") == [("one",), ("ünïcödé ☃",)]
    driver.script("INSERT INTO t VALUES (3, 'three'); INSERT INTO t VALUES (4, 'four'); SELECT count(*) FROM t")
    assert one(driver, "SELECT count(*) FROM t") == 4


def parameterised(driver):
    hostile = "it's \"quoted\" \\ $1 %s ; -- ☃"
    driver.query("INSERT INTO t VALUES ($1, $2)", 1, hostile)
    driver.query("INSERT INTO t VALUES ($1, $2)", 2, None)
    assert driver.query("SELECT id, v FROM t WHERE id = $1", 1) == [(1, hostile)]
    assert driver.query("SELECT id, v FROM t WHERE id = $1", 2) == [(2, None)]
    for number in range(50):
        assert one(driver, "SELECT CAST($1 AS int) + 1", number) == number + 1


def prepared(driver):
    """One statement for many transactions, and another of the same name on the same servers."""
    other = driver.another()
    driver.query("INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 20) g")
    mine, theirs = driver.prepare("SELECT v FROM t WHERE id = $1"), other.prepare("SELECT id * 2 FROM t WHERE id = $1")
    for number in range(1, 21):
        assert mine(number) == [(f"v{number}",)]
        other.begin()
        assert theirs(number) == [(number * 2,)]
        driver.begin()
        assert mine(number) == [(f"v{number}",)]
        driver.query("UPDATE t SET v = v || '!' WHERE id = $1", number)
        assert mine(number) == [(f"v{number}!",)]
        other.commit()
        driver.commit()
        assert mine(number) == [(f"v{number}!",)]
    other.close()


def rollback(driver):
    driver.begin()
    driver.query("INSERT INTO t VALUES (1, 'lost')")
    assert one(driver, "SELECT count(*) FROM t") == 1
    driver.rollback()
    assert one(driver, "SELECT count(*) FROM t") == 0
    driver.begin()
    driver.query("INSERT INTO t VALUES (1, 'stays')")
    driver.commit()
    assert one(driver, "SELECT v FROM t") == "stays"
    driver.begin()
    fails(driver, "23505", lambda: driver.query("INSERT INTO t VALUES (1, 'again')"))
    fails(driver, "25P02", lambda: driver.query("SELECT 1"))
    driver.rollback()
    assert one(driver, "SELECT count(*) FROM t") == 1


def savepoints(driver):
    driver.begin()
    driver.query("INSERT INTO t VALUES (1, 'before')")
    driver.query("SAVEPOINT inner_part")
    fails(driver, "23505", lambda: driver.query("INSERT INTO t VALUES (1, 'again')"))
    driver.query("ROLLBACK TO SAVEPOINT inner_part")
    driver.query("INSERT INTO t VALUES (2, 'undone')")
    driver.query("ROLLBACK TO SAVEPOINT inner_part")
    driver.query("RELEASE SAVEPOINT inner_part")
    driver.query("INSERT INTO t VALUES (3, 'after')")
    driver.commit()
    assert driver.query("SELECT id FROM t ORDER BY id") == [(1,), (3,)]


def copy(driver):
    lines = [f"{number}\tline {number}\n" for number in range(10_000)]
    driver.copy_in("COPY t FROM STDIN", "".join(lines))
    assert one(driver, "SELECT count(*) FROM t") == 10_000
    assert driver.copy_out("COPY (SELECT * FROM t ORDER BY id) TO STDOUT") == "".join(lines)
    fails(driver, "23505", lambda: driver.copy_in("COPY t FROM STDIN", "10001\tnew\n1\tduplicate\n"))
    driver.rollback_if_needed()
    assert one(driver, "SELECT count(*) FROM t") == 10_000


def large(driver):
    """Values of 10 MB: up and down as text and as bytes, alone and with others around them."""
    text, data = "x☃" * (MEGABYTES_10 // 4), bytes(range(250)) * (MEGABYTES_10 // 250)
    driver.query("INSERT INTO large VALUES ($1, $2, $3)", 1, text, data)
    (row,) = driver.query("SELECT body, data FROM large WHERE id = $1", 1)
    assert row[0] == text and bytes(row[1]) == data
    assert one(driver, "SELECT repeat('y', 10000000)") == "y" * MEGABYTES_10
    assert one(driver, "SELECT 1") == 1


def arrays(driver):
    numbers, texts = [1, None, -3, 2_000_000_000], ["a", None, "b,\"c\" \\ {d}", "", "☃"]
    driver.query("INSERT INTO arrays VALUES ($1, $2, $3)", 1, numbers, texts)
    assert driver.query("SELECT numbers, texts FROM arrays WHERE id = $1", 1) == [(numbers, texts)]
    assert driver.query("SELECT '{{1,2},{3,4}}'::int[]") == [([[1, 2], [3, 4]],)]
    assert one(driver, "SELECT sum(n) FROM unnest(CAST($1 AS int[])) n", list(range(1000))) == 499_500


def errors(driver):
    driver.query("INSERT INTO t VALUES (1, 'one')")
    for text, state in [("SELEC 1", "42601"), ("SELECT * FROM nowhere", "42P01"), ("SELECT 1/0", "22012"),
                        ("INSERT INTO t VALUES (1, 'again')", "23505"), ("SELECT missing FROM t", "42703")]:
        for _ in range(2):
            fails(driver, state, lambda: driver.query(text))
            assert one(driver, "SELECT 1") == 1
    fails(driver, "22012", lambda: driver.query("SELECT 1 / CAST($1 AS int)", 0))
    assert driver.query("SELECT v FROM t WHERE id = $1", 1) == [("one",)]


def cancel(driver):
    """A wait and work, on whichever side they run: the servers themselves are asked.

    Work only where the driver can ask again: between the messages that begin it a request has no effect.
    """
    watchers = [psycopg.connect(conninfo, autocommit=True) for conninfo in driver.servers]
    works = ["pg_sleep(3600)"] if driver.cancels_once else \
        ["pg_sleep(3600)", "count(*) FROM (SELECT generate_series(1, 1000000000000)) s"]
    for turn, work in enumerate(works * 2):
        mark = f"/* cancel {turn} of {os.getpid()} */"

        def is_running():
            seen = "SELECT count(*) FROM pg_stat_activity WHERE starts_with(query, %s) AND " \
                   + ("wait_event = 'PgSleep'" if driver.cancels_once else "state = 'active'")
            return any(watcher.execute(seen, (mark,)).fetchone()[0] for watcher in watchers)

        fails(driver, "57014", lambda: driver.query_cancelled(f"{mark} SELECT {work}", is_running))
        assert one(driver, "SELECT 1") == 1
    for watcher in watchers:
        watcher.close()


def pipeline(driver):
    rows = driver.pipeline([("SELECT CAST($1 AS int) * 2", (number,)) for number in range(300)])
    assert rows == [[(number * 2,)] for number in range(300)]
    insert = "INSERT INTO t VALUES ($1, $2)"
    driver.pipeline([(insert, (number, "piped")) for number in range(100)])
    assert one(driver, "SELECT count(*) FROM t") == 100
    fails(driver, "23505", lambda: driver.pipeline([(insert, (1000, "lost")), (insert, (1, "duplicate")),
                                                    (insert, (1001, "skipped"))]))
    assert one(driver, "SELECT count(*) FROM t WHERE id >= 1000") == 0


def executemany(driver):
    driver.executemany("INSERT INTO t VALUES ($1, $2)", [(number, f"many {number}") for number in range(500)])
    assert one(driver, "SELECT count(DISTINCT v) FROM t") == 500


def orm(driver):
    driver.orm()


def settings(driver):
    other = driver.another()
    driver.query("SET DateStyle = 'German'")
    driver.query("SET search_path = elsewhere, public")
    for _ in range(5):
        assert one(driver, "SELECT date '2024-12-31' || ''") == "31.12.2024"
        assert one(other, "SELECT date '2024-12-31' || ''") == "2024-12-31"
        assert one(other, "SHOW search_path") != one(driver, "SHOW search_path") == "elsewhere, public"
    driver.begin()
    driver.query("SET LOCAL statement_timeout = '20min'")
    assert one(driver, "SHOW statement_timeout") == "20min"
    driver.commit()
    assert one(driver, "SHOW statement_timeout") == "0"
    driver.begin()
    driver.query("SET statement_timeout = '20min'")
    driver.rollback()
    assert one(driver, "SHOW statement_timeout") == "0"
    driver.query("RESET DateStyle")
    driver.query("RESET search_path")
    assert one(driver, "SELECT date '2024-12-31' || ''") == "2024-12-31"
    other.close()


def disconnect(driver):
    """What was not committed is undone, and its locks go: the second insert waits for that."""
    for number in range(3):
        lost = driver.another()
        lost.begin()
        lost.query("INSERT INTO t VALUES ($1, $2)", number, "lost")
        lost.drop()
        driver.query("INSERT INTO t VALUES ($1, $2)", number, "stays")
    assert driver.query("SELECT DISTINCT v FROM t") == [("stays",)]


CASES = {"connect": connect, "simple": simple, "parameterised": parameterised, "prepared": prepared,
         "rollback": rollback, "savepoints": savepoints, "copy": copy, "large": large, "arrays": arrays,
         "errors": errors, "cancel": cancel, "pipeline": pipeline, "executemany": executemany, "orm": orm,
         "set": settings, "disconnect": disconnect}


def main() -> int:
    name, conninfo = sys.argv[1:3]
    failed = False
    servers = [word for word in sys.argv[3:] if "=" in word] or [conninfo]
    for case in [word for word in sys.argv[3:] if "=" not in word] or CASES:
        run, driver = CASES[case], DRIVERS[name](conninfo)
        driver.servers = servers
        if case in driver.cannot:
            print(case, "not applicable", driver.cannot[case], sep="\t", flush=True)
            continue
        driver.connect()
        try:
            driver.query("DELETE FROM t")
            driver.query("DELETE FROM large")
            driver.query("DELETE FROM arrays")
            run(driver)
            print(case, "ok", sep="\t", flush=True)
        except Exception as error:
            failed = True
            traceback.print_exc()
            print(case, "FAILED", " ".join(repr(error).split())[:300], sep="\t", flush=True)
        driver.close()
    if not failed:
        print("ok")
    return failed


if __name__ == "__main__":
    sys.exit(main())
