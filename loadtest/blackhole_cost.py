#!/usr/bin/env python3
"""What a NEW that the network has swallowed costs the reads of OLD's users (root, for a network of its own).

NEW's address is in another network namespace. Half of the users are NEW's; once every packet to it is lost (its
neighbour has a wrong address from then on, so that nothing is refused) and the breaker is open, all reads are OLD's.
That is held against the same reads with the share set to 0, by turns: p50 and p99 of the users that are OLD's in any case.

    loadtest/blackhole_cost.py [ROUNDS] [SECONDS]
"""
import glob
import os
import statistics
import subprocess
import sys
import tempfile

if "GODWIT_OWN_NETWORK" not in os.environ:
    os.environ["GODWIT_OWN_NETWORK"] = "1"
    os.execvp("unshare", ["unshare", "-n", sys.executable, *sys.argv])

from contenders import (
    DATABASE, GODWIT, USER, Stage, Starter, console, listens, make_servers, run, spawn, wait_until,
)

NAMESPACE, LINK = f"godwit-{os.getpid()}", f"gw{os.getpid() % 1_000_000}"
HERE, THERE = "10.213.0.1", "10.213.0.2"
CLIENTS, KEYS = 8, 60
# From NEW's address in its namespace to its Unix socket, which all namespaces share.
FORWARDER = """
import asyncio, sys
async def pass_on(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def serve(reader, writer):
    ours, theirs = await asyncio.open_unix_connection(sys.argv[1])
    await asyncio.gather(pass_on(reader, theirs), pass_on(ours, writer), return_exceptions=True)
async def main():
    server = await asyncio.start_server(serve, sys.argv[2], int(sys.argv[3]))
    await server.serve_forever()
asyncio.run(main())
"""


def make_network(stage: Stage):
    run("ip", "link", "set", "lo", "up")
    run("ip", "netns", "add", NAMESPACE)
    stage.at_end(lambda: run("ip", "netns", "delete", NAMESPACE))
    run("ip", "link", "add", LINK, "type", "veth", "peer", "name", "there", "netns", NAMESPACE)
    for inside, link, address in ((), LINK, HERE), (("ip", "netns", "exec", NAMESPACE), "there", THERE):
        run(*inside, "ip", "address", "add", f"{address}/24", "dev", link)
        run(*inside, "ip", "link", "set", link, "up")


def swallow():
    run("ip", "neigh", "replace", THERE, "lladdr", "02:00:00:00:00:99", "dev", LINK, "nud", "permanent")


def scripts(directory: str) -> dict[str, list[str]]:
    """pgbench's scripts, one for each key, by the side that has its reads at a share of one half."""
    buckets = run(GODWIT, "bucket", *range(1, 10 * KEYS)).splitlines()
    found: dict[str, list[str]] = {"old": [], "new": []}
    for line in buckets:
        key, bucket = line.split()[0], float(line.split()[-1])
        side = found["new" if bucket < 50 else "old"]
        if len(side) < KEYS:
            path = f"{directory}/{key}.sql"
            with open(path, "w") as file:
                file.write(f"SELECT abalance FROM pgbench_accounts WHERE aid = {key};\n")
            side.append(path)
    return found


def measure(port: int, files: dict[str, list[str]], seconds: int, directory: str) -> tuple[float, float]:
    """p50 and p99 of OLD's users, in microseconds, while NEW's read as much."""
    def begin(side: str, *more) -> subprocess.Popen:
        words = ["pgbench", "-n", "-M", "prepared", "-c", CLIENTS, "-j", 1, "-T", seconds, *more]
        for path in files[side]:
            words += ["-f", path]
        words += ["-h", "127.0.0.1", "-p", port, "-U", USER, DATABASE]
        return subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, cwd=directory)
    both = [begin("old", "-l", "--log-prefix", "old"), begin("new")]
    if any(process.wait() for process in both):
        raise SystemExit("a read has failed")
    times = []
    for path in glob.glob(f"{directory}/old.*"):
        with open(path) as log:
            times += [int(line.split()[2]) for line in log]
        os.remove(path)
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    with Stage() as stage, tempfile.TemporaryDirectory() as directory:
        make_network(stage)
        old, new = make_servers(stage)
        forwarder = spawn("ip", "netns", "exec", NAMESPACE, sys.executable, "-c", FORWARDER,
                          f"{new.directory}/.s.PGSQL.{new.port}", THERE, str(new.port))
        stage.at_end(forwarder.kill)
        starter = Starter(stage, old, new)
        stage.at_end(starter.stop)
        wait_until(lambda: listens(new.port, THERE), "the forwarder listens", 10)
        godwit = starter.godwit(percent=50, new_host=THERE)
        files = scripts(directory)
        measure(godwit.port, files, seconds, directory)
        swallow()
        # Until it is found out: reads of NEW's users wait for it, and are run again on OLD.
        first = measure(godwit.port, files, seconds, directory)
        figures: dict[str, list[tuple[float, float]]] = {"share 0": [], "swallowed": []}
        for _ in range(rounds):
            for name, percent in ("share 0", 0), ("swallowed", 50):
                console(godwit, f"READS {DATABASE} {percent}")
                figures[name].append(measure(godwit.port, files, seconds, directory))
        breakers = console(godwit, "SHOW BREAKERS")
        print(f"{'OLD’s users':28} {'p50 µs':>8} {'p99 µs':>8}   "
              f"(medians of {rounds} rounds of {seconds} s; range of p99)")
        print(f"{'until it is found out':28} {first[0]:8.0f} {first[1]:8.0f}")
        for name, all_ in figures.items():
            p99s = [one[1] for one in all_]
            print(f"{name:28} {statistics.median(one[0] for one in all_):8.0f} {statistics.median(p99s):8.0f}   "
                  f"({min(p99s):.0f}-{max(p99s):.0f})")
        ratio = [statistics.median(one[index] for one in figures["swallowed"])
                 / statistics.median(one[index] for one in figures["share 0"]) for index in (0, 1)]
        print(f"{'swallowed / share 0':28} {ratio[0]:8.3f} {ratio[1]:8.3f}")
        print(breakers)


if __name__ == "__main__":
    main()
