"""Writers that keep account of what was acknowledged to them, until standard input ends.

Arguments: conninfo, number of clients, number of the first. Prints `written N` each time another 100 transactions were acknowledged; at the end
one line of JSON: acked (per client the numbers whose COMMIT was answered), errors (SQLSTATE and message of each failure).
A client whose connection is lost connects again, and where nobody listens any more it is done; a transaction of unknown
outcome is not counted.
"""

import json
import sys
import threading

import psycopg

conninfo, count, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
stop = threading.Event()
lock = threading.Lock()
acked: dict[int, list[int]] = {client: [] for client in range(first, first + count)}
errors: list[str] = []


def note(error: psycopg.Error) -> None:
    with lock:
        errors.append(f"{error.sqlstate or '-'} {str(error).strip().splitlines()[0] if str(error) else error!r}")


def write(client: int) -> None:
    number, connection = 0, None
    while not stop.is_set():
        number += 1
        try:
            if connection is None:
                connection = psycopg.connect(conninfo, connect_timeout=10)
            with connection.transaction():
                connection.execute("UPDATE accounts SET balance = balance + 1 WHERE id = %s", [client])
                connection.execute("INSERT INTO entries (client, n) VALUES (%s, %s)", [client, number])
        except psycopg.Error as error:
            note(error)
            if connection is None:
                return
            connection.close()
            connection = None
            continue
        with lock:
            acked[client].append(number)
            total = sum(map(len, acked.values()))
        if total % 100 == 0:
            print(f"written {total}", flush=True)


threads = [threading.Thread(target=write, args=[client]) for client in acked]
for thread in threads:
    thread.start()
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join()
print(json.dumps({"acked": acked, "errors": errors}), flush=True)
