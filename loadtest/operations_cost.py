"""What operations cost: scrapes of /metrics, and a NEW that swallows everything, for the reads of OLD.

    .build/venv/bin/python loadtest/operations_cost.py [--seconds 10] [--clients 200] [--rounds 3]

Scrapes: CPU seconds of Godwit while nobody asks anything and 10 scrapes a second come, less those without scrapes, in
percent of one core; over one connection, as Prometheus does it, and by a new one each time. Blackhole: p99 of reads that OLD answers, one share of the users reading on NEW, with NEW behind a
relay that passes everything, and that swallows everything; rounds take turns, medians are compared.
"""

import argparse
import http.client
import json
import socket
import statistics
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))
sys.path.insert(0, str(ROOT / "loadtest"))

import psycopg  # noqa: E402
from contenders import cpu_seconds  # noqa: E402
from parts import GODWIT, OLD_PROGRAMS, Postgres, Stage, free_port, new_programs, spawn, wait_until  # noqa: E402

DATABASE = "shop"


class Relay:
    """Between Godwit and NEW; `swallows`: bytes of both directions vanish, and new connections are taken and left alone."""

    def __init__(self, target: int):
        self.target, self.swallows = target, False
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.target))
            for source, sink in ((client, server), (server, client)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket):
        try:
            while data := source.recv(65_536):
                if not self.swallows:
                    sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.close()
            except OSError:
                pass


def start(stage: Stage, old: Postgres, new_port: int, percent: int):
    port, http = free_port(), free_port()
    config = stage.directory / f"godwit-{port}.yaml"
    config.write_text(f"""\
listen: {{address: 127.0.0.1, port: {port}, clients_max: 5000}}
auth: {{method: trust}}
admin: {{http: {{port: {http}}}}}
state: {{path: {stage.directory}/godwit-{port}.sqlite}}
databases:
  {DATABASE}:
    old: "host=127.0.0.1 port={old.port} dbname={DATABASE} sslmode=disable"
    new: "host=127.0.0.1 port={new_port} dbname={DATABASE} sslmode=disable"
    pool: {{size: 20}}
    reads: {{percent: {percent}, key: [{{comment: user_id}}]}}
    breaker: {{rollback: "off", memory: 0}}
""")
    log_path = stage.directory / f"godwit-{port}.log"
    process = spawn(GODWIT, "serve", "--config", config, stdout=open(log_path, "wb"), stderr=open(log_path, "ab"))
    stage.at_end(process.kill)
    wait_until(lambda: b"listening on" in log_path.read_bytes(), "Godwit listens", seconds=10)
    return process, port, http


def scrapes(stage: Stage, old: Postgres, new: Postgres, seconds: int, clients: int) -> dict:
    process, port, http_port = start(stage, old, new.port, 50)
    held = [psycopg.connect(f"host=127.0.0.1 port={port} dbname={DATABASE} user=app sslmode=disable", autocommit=True)
            for _ in range(clients)]
    for index, client in enumerate(held):
        client.execute(f"/* user_id={index} */ SELECT {index}")
    kept = http.client.HTTPConnection("127.0.0.1", http_port)

    def by_kept() -> bytes:
        kept.request("GET", "/metrics")
        return kept.getresponse().read()

    def by_new() -> bytes:
        return urllib.request.urlopen(f"http://127.0.0.1:{http_port}/metrics").read()

    used = {}
    for name, scrape in (("idle", bytes), ("kept", by_kept), ("new", by_new)):
        before, until, size = cpu_seconds(process.pid), time.monotonic() + seconds, 0
        while time.monotonic() < until:
            began = time.monotonic()
            size = len(scrape())
            time.sleep(max(0, 0.1 - (time.monotonic() - began)))
        used[name] = (cpu_seconds(process.pid) - before) / seconds * 100
    for client in (*held, kept):
        client.close()
    process.kill()
    return {"clients": clients, "idle_percent": round(used["idle"], 2),
            "cost_percent": round(used["kept"] - used["idle"], 2),
            "cost_with_a_connection_each_percent": round(used["new"] - used["idle"], 2), "bytes": size}


def reads(port: int, users: list[int], seconds: float) -> list[float]:
    """Milliseconds of single reads, one after the other on each of four connections."""
    times, lock = [], threading.Lock()

    def one():
        with psycopg.connect(f"host=127.0.0.1 port={port} dbname={DATABASE} user=app sslmode=disable", autocommit=True,
                             prepare_threshold=None) as client:
            own, until, turn = [], time.monotonic() + seconds, 0
            while time.monotonic() < until:
                began = time.perf_counter()
                client.execute(f"/* user_id={users[turn % len(users)]} */ SELECT abalance FROM sample WHERE aid = 1")
                own.append((time.perf_counter() - began) * 1000)
                turn += 1
        with lock:
            times.extend(own)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def blackhole(stage: Stage, old: Postgres, new: Postgres, seconds: int, rounds: int) -> dict:
    relay = Relay(new.port)
    _, port, _ = start(stage, old, relay.port, 50)
    import hashlib
    bucket = {user: int(hashlib.md5(str(user).encode()).hexdigest(), 16) % 100 for user in range(200)}
    on_old = [user for user, place in bucket.items() if place >= 50]
    on_new = [user for user, place in bucket.items() if place < 50]
    figures = {"passing": [], "swallowing": []}
    for _ in range(rounds):
        for name in figures:
            relay.swallows = name == "swallowing"
            # Users of NEW go on asking all the while.
            other = threading.Thread(target=reads, args=(port, on_new, seconds))
            other.start()
            figures[name].append(p99(reads(port, on_old, seconds)))
            other.join()
            relay.swallows = False
    passing, swallowing = (statistics.median(figures[name]) for name in figures)
    return {"p99_ms_of_each_round": {name: [round(value, 3) for value in values] for name, values in figures.items()},
            "p99_passing_ms": round(passing, 3), "p99_swallowing_ms": round(swallowing, 3),
            "cost_percent": round((swallowing / passing - 1) * 100, 1)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with Stage() as stage:
        old, new = Postgres(stage, "old", OLD_PROGRAMS), Postgres(stage, "new", new_programs())
        for server in (old, new):
            server.sql(f"CREATE DATABASE {DATABASE}")
            server.sql("CREATE ROLE app LOGIN SUPERUSER")
            server.sql("CREATE TABLE sample AS SELECT g AS aid, g AS abalance FROM generate_series(1, 1000) g; "
                       "CREATE INDEX ON sample (aid); ANALYZE sample", DATABASE)
        print(json.dumps({"scrapes": scrapes(stage, old, new, options.seconds, options.clients)}), flush=True)
        print(json.dumps({"blackhole": blackhole(stage, old, new, options.seconds, options.rounds)}), flush=True)


if __name__ == "__main__":
    main()
