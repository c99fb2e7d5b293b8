"""Reads the marker over four connections until standard input ends; prints each change of side, and the errors."""

import sys
import threading

import psycopg

conninfo, mode = sys.argv[1:]
stop = threading.Event()
lock = threading.Lock()
errors, reads, last = [], 0, None


def work(number: int):
    global reads, last
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            turn = 0
            while not stop.is_set():
                turn += 1
                if mode == "prepared":
                    text = "SELECT side FROM side_marker WHERE id = %s"
                    side = connection.execute(text, (1,), prepare=True).fetchone()[0]
                else:
                    side = connection.execute(f"/* user_id={turn} */ SELECT side FROM side_marker").fetchone()[0]
                with lock:
                    reads += 1
                    if side != last:
                        last = side
                        print(f"side {side} after {reads} reads", flush=True)
    except Exception as error:
        with lock:
            errors.append(repr(error))
            print(f"error {error!r}", flush=True)


threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join()
print(f"errors {len(errors)}", flush=True)
sys.exit(1 if errors else 0)
