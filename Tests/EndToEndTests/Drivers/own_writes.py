"""Many users write a number and read it back at once, over one connection and over two, in several ways."""

import sys
import threading

import psycopg

conninfo = sys.argv[1]
USERS, TURNS = 16, 80
violations, failures = [], []


def work(user: int):
    try:
        with psycopg.connect(conninfo, autocommit=True) as one, psycopg.connect(conninfo, autocommit=True) as two:
            two.execute(f"SET godwit.user = '{user}'")
            comment = f"/* user_id={user} */"
            one.execute(f"{comment} INSERT INTO own VALUES ({user}, 0)")
            for turn in range(1, TURNS + 1):
                if turn % 3 == 0:
                    one.execute(f"{comment} BEGIN")
                    one.execute(f"{comment} UPDATE own SET n = {turn} WHERE who = {user}")
                    one.execute(f"{comment} COMMIT")
                elif turn % 3 == 1:
                    one.execute(f"{comment} UPDATE own SET n = %s WHERE who = %s", (turn, user), prepare=True)
                else:
                    two.execute("UPDATE own SET n = %s WHERE who = %s", (turn, user))
                for again in range(6):
                    connection = (one, two)[(turn + again) % 2]
                    text = "SELECT n FROM own WHERE who = %s"
                    text = f"{comment} {text}" if connection is one else text
                    found = connection.execute(text, (user,), prepare=again % 2 == 0).fetchone()
                    if found != (turn,):
                        violations.append((user, turn, again, found))
    except Exception as error:
        failures.append((user, repr(error)))


threads = [threading.Thread(target=work, args=(user,)) for user in range(1, USERS + 1)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
assert not violations, f"{len(violations)} stale reads, first {violations[:5]}"
print(f"{USERS * TURNS * 6} reads\nok")
