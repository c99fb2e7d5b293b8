"""Reads the marker for users of both sides, again and again, until standard input ends.

Four users whose reads belong on NEW, four whose reads belong on OLD, each on a connection of its own. Each line on standard
input is answered by one line of JSON about what has happened since the line before:

    errors      reads that failed, and the first of them in words (over the whole run)
    back        whether every user of NEW has been answered by NEW, and its latest answer was NEW's
    away        whether every user of NEW has been answered by OLD
    first_old   milliseconds until all users of NEW had an answer of OLD; first_new: of NEW
    new_max     milliseconds of the slowest read of a user of NEW; old_p99: of those of OLD
    reads       how many
"""

import json
import sys
import threading
import time

import psycopg

conninfo, statement = sys.argv[1:]
EACH = 4
stop = threading.Event()
lock = threading.Lock()
errors = []


class Since:
    def __init__(self, last=None):
        self.began = time.monotonic()
        self.first = {"old": {}, "new": {}}
        self.last = dict(last or {})
        self.times = {"old": [], "new": []}

    def note(self, user, home, side, took):
        self.times[home].append(took)
        if home == "new":
            self.first[side].setdefault(user, time.monotonic() - self.began)
            self.last[user] = side

    def all_had(self, side):
        return len(self.first[side]) == EACH

    def until(self, side):
        return round(1000 * max(self.first[side].values()), 1) if self.all_had(side) else None

    def told(self):
        new, old = sorted(self.times["new"]), sorted(self.times["old"])
        return {
            "errors": len(errors), "error": errors[0] if errors else "",
            "back": self.all_had("new") and set(self.last.values()) == {"new"},
            "away": self.all_had("old"), "first_old": self.until("old"), "first_new": self.until("new"),
            "new_max": round(1000 * new[-1], 1) if new else None,
            "old_p99": round(1000 * old[int(len(old) * 0.99)], 1) if old else None, "reads": len(old) + len(new),
        }


def text(user):
    return f"/* user_id={user} */ {statement}"


def home_of():
    """Where the first users' reads belong; asked while both sides are well."""
    homes, user = {"old": [], "new": []}, 0
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while min(len(users) for users in homes.values()) < EACH:
            user += 1
            homes[connection.execute(text(user)).fetchone()[0]].append(user)
    return [(user, home) for home, users in homes.items() for user in users[:EACH]]


def work(user, home):
    global since
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            while not stop.wait(0.003):
                began = time.monotonic()
                side = connection.execute(text(user)).fetchone()[0]
                with lock:
                    since.note(user, home, side, time.monotonic() - began)
    except Exception as error:
        with lock:
            errors.append(f"user {user} of {home}: {error!r}")


since = Since()
threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in home_of()]
for thread in threads:
    thread.start()
for line in sys.stdin:
    with lock:
        print(json.dumps(since.told()), flush=True)
        if line.strip() == "mark":
            since = Since(since.last)
stop.set()
for thread in threads:
    thread.join(10)
sys.exit(1 if errors else 0)
