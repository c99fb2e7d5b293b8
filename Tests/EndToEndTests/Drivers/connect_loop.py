"""Connects, asks, and goes, again and again over several ways at once, until standard input ends.

Arguments: a conninfo for each loop. Says "going" when each has done one round. At the end one line of JSON: rounds, and
the errors, which make the exit status 1.
"""

import json
import sys
import threading

import psycopg

stop = threading.Event()
going = [threading.Event() for _ in sys.argv[1:]]
rounds = [0 for _ in sys.argv[1:]]
errors = []


def loop(index: int, conninfo: str) -> None:
    while not stop.is_set():
        try:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                for number in range(3):
                    answer = connection.execute("SELECT %s::int + 1", (number,)).fetchone()
                    if answer != (number + 1,):
                        errors.append(f"loop {index}: {answer} is not {number + 1}")
            rounds[index] += 1
            going[index].set()
        except psycopg.Error as error:
            errors.append(f"loop {index}: {type(error).__name__}: {error}")
            if len(errors) > 20:
                return


threads = [threading.Thread(target=loop, args=(i, text)) for i, text in enumerate(sys.argv[1:])]
for thread in threads:
    thread.start()
for event in going:
    event.wait(60)
print("going", flush=True)
for line in sys.stdin:
    # A word asks for how far it is.
    print(json.dumps({"rounds": rounds, "errors": len(errors)}), flush=True)
stop.set()
for thread in threads:
    thread.join()
print(json.dumps({"rounds": rounds, "errors": errors}), flush=True)
sys.exit(1 if errors or not all(rounds) else 0)
