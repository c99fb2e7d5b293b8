"""Many clients of many users write and read counters while shares move; checks what each user is promised.

A user's counter only grows. Whoever of a user reads after a write of that user was acknowledged must see it (read your
writes); whoever of a user reads after a read of that user was answered must not see less (monotonic reads); and so must
one connection, whoever it reads of.

argv: conninfo, seed, users, clients of each, least operations of each client: it goes on until standard input ends, or
for ten times as many. Prints operations and violations.
"""

import random
import sys
import threading

import psycopg

conninfo, seed, users, clients, least = sys.argv[1], *(int(word) for word in sys.argv[2:6])
is_told = threading.Event()


class Promise:
    """What a user has been told so far."""

    def __init__(self):
        self.lock, self.told, self.written = threading.Lock(), 0, 0

    def tell(self, value):
        with self.lock:
            self.told = max(self.told, value)


promises = [Promise() for _ in range(users)]
violations, failures, operations = [], [], [0] * (users * clients)


def work(user: int, number: int):
    dice = random.Random(seed * 1_000_003 + number)
    promise, seen = promises[user], {}
    try:
        connection = psycopg.connect(conninfo, autocommit=True)
        if dice.random() < 0.5:
            connection.execute(f"SET godwit.user = '{user}'")
            mark = ""
        else:
            mark = f"/* user_id={user} */ "
        for turn in range(10 * least):
            if turn >= least and is_told.is_set():
                break
            operations[number] += 1
            kind = dice.random()
            if kind < 0.15:
                text = mark + f"UPDATE counter SET n = n + 1 WHERE who = {user} RETURNING n"
                if dice.random() < 0.3:
                    with connection.transaction():
                        value = connection.execute(text).fetchone()[0]
                else:
                    value = connection.execute(text).fetchone()[0]
                promise.tell(value)
                continue
            other = user if kind < 0.9 else dice.randrange(users)
            promised = max(promise.told if other == user else 0, seen.get(other, 0))
            text = mark + f"SELECT n FROM counter WHERE who = {other}"
            if dice.random() < 0.2:
                with connection.transaction():
                    value = connection.execute(text).fetchone()[0]
            else:
                value = connection.execute(text).fetchone()[0]
            if value < promised:
                violations.append((user, other, promised, value))
            seen[other] = max(seen.get(other, 0), value)
            if other == user:
                promise.tell(value)
        connection.close()
    except Exception as error:
        failures.append((user, repr(error)))


threads = [threading.Thread(target=work, args=(n % users, n)) for n in range(users * clients)]
for thread in threads:
    thread.start()
# Not waited for: who ends by the number of operations does not need it.
threading.Thread(target=lambda: (sys.stdin.read(), is_told.set()), daemon=True).start()
for thread in threads:
    thread.join()
assert not failures, failures[:5]
print(f"{sum(operations)} operations, {len(violations)} violations, first {violations[:5]}, seed {seed}")
print("ok" if not violations else "violated")
