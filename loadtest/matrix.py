"""Godwit beside PgBouncer, HAProxy and PostgreSQL itself: `make bench`. The method is in README.md beside this file.

    .build/venv/bin/python loadtest/matrix.py [--all] [--rounds 3] [--seconds 3] [--json FILE] [--check] [CELL ...]
    .build/venv/bin/python loadtest/matrix.py --of FILE ...     tables of what earlier runs have written

CELL: names of cells, or their beginnings (`tls` is all of TLS); without any a selection of a few minutes. Exit status:
0, or with --check 1 when a target of thresholds/matrix.toml is missed.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent))

from contenders import (  # noqa: E402
    GODWIT, PASSWORD, PIPELINED, READ, SERVERS_MAX, WRITE, Contender, Starter, haproxy_program, idle_client,
    make_certificate, make_database, make_servers)
from parts import Stage, run  # noqa: E402

THRESHOLDS = Path(__file__).resolve().parent / "thresholds/matrix.toml"
# Transactions of each client under callgrind, and before what counts.
CALLGRIND_TRANSACTIONS = 300
TRANSFERS = ("sendto", "recvfrom", "read", "write", "sendmsg", "recvmsg", "readv", "writev", "splice")

SCRIPTS = {
    "read": [(READ, 1)],
    "write": [(WRITE, 1)],
    "mixed": [(READ, 9), (WRITE, 1)],
    "pipelined": [("\\startpipeline\n" + READ * PIPELINED + "\\endpipeline\n", 1)],
}


@dataclass(frozen=True)
class Cell:
    name: str
    # The contenders, which are started together.
    group: str
    protocol: str = "simple"
    # Of pgbench: with one transaction after the other, or together so many a second.
    clients: int = 32
    rate: int = 0
    # Clients beside them that have logged in and ask nothing.
    idle: int = 0
    script: str = "read"
    # A connection for each transaction.
    reconnects: bool = False
    is_quick: bool = False


CELLS = (
    Cell("simple-1", "plain", clients=1, is_quick=True),
    Cell("simple-10", "plain", clients=10),
    Cell("simple-32", "plain", is_quick=True),
    Cell("simple-100", "plain", clients=100),
    Cell("simple-1000", "plain", clients=1000),
    Cell("simple-10000", "plain", clients=1000, idle=9000),
    Cell("extended-1", "plain", "extended", clients=1),
    Cell("extended-32", "plain", "extended", is_quick=True),
    Cell("extended-1000", "plain", "extended", clients=1000),
    Cell("prepared-1", "plain", "prepared", clients=1),
    Cell("prepared-32", "plain", "prepared", is_quick=True),
    Cell("prepared-1000", "plain", "prepared", clients=1000),
    Cell("pipelined-32", "plain", "pipelined", script="pipelined", is_quick=True),
    Cell("reconnect-8", "plain", clients=8, reconnects=True),
    Cell("idle-1000", "idle", clients=0, idle=1000, is_quick=True),
    Cell("idle-10000", "idle", clients=0, idle=10_000),
    Cell("reactors-32", "reactors"),
    Cell("reactors-extended-32", "reactors", "extended"),
    Cell("tls-simple-32", "tls", is_quick=True),
    Cell("tls-extended-32", "tls", "extended"),
    Cell("tls-prepared-32", "tls", "prepared"),
    Cell("tls-reconnect-8", "tls", clients=8, reconnects=True),
    Cell("tls-idle-1000", "tls-idle", clients=0, idle=1000),
    Cell("tls-idle-10000", "tls-idle", clients=0, idle=10_000),
    Cell("scram-reconnect-8", "scram", clients=8, reconnects=True),
    Cell("half-simple-32", "half", is_quick=True),
    Cell("half-extended-32", "half", "extended"),
    Cell("half-prepared-32", "half", "prepared"),
    Cell("own-writes-simple-32", "own-writes", script="mixed"),
    Cell("own-writes-extended-32", "own-writes", "extended", script="mixed"),
    Cell("mirror-8", "mirror", clients=8, rate=400, script="write"),
    Cell("mirror-full-8", "mirror", clients=8, script="write"),
)


class Groups:
    """Starts the contenders of a group of cells."""

    def __init__(self, starter: Starter):
        self.starter = starter
        self.databases: set[str] = set()

    def start(self, group: str) -> list[Contender]:
        starter = self.starter
        match group:
            case "plain":
                bare = [starter.haproxy()] if haproxy_program() else []
                return [starter.godwit(), starter.pgbouncer(), *bare, starter.postgres()]
            case "reactors":
                return [starter.godwit("Godwit, one"), starter.godwit("Godwit, two", listen=", threads: 2")]
            case "tls": return [starter.godwit(tls=True), starter.pgbouncer(tls=True), starter.postgres(tls=True)]
            case "idle": return [starter.godwit(), starter.pgbouncer()]
            case "tls-idle": return [starter.godwit(tls=True), starter.pgbouncer(tls=True)]
            case "scram": return [starter.godwit(scram=True), starter.pgbouncer(scram=True)]
            case "half": return [starter.godwit(percent=50), starter.pgbouncer()]
            case "own-writes":
                self._mirrored("bench_own")
                return [starter.godwit(percent=50, mirror="async", database="bench_own"), starter.pgbouncer()]
            case "mirror":
                modes = ("off", "async", "sync")
                for mode in modes:
                    self._mirrored(f"bench_{mode}")
                return [*(starter.godwit(f"Godwit, {mode}", mirror=mode, database=f"bench_{mode}") for mode in modes),
                        starter.pgbouncer(database="bench_off")]
        raise ValueError(group)

    def again(self, cell: Cell, contender: Contender, under: tuple) -> Contender | None:
        """One of the group's proxies once more, beneath another program."""
        options = {"tls": True} if cell.group == "tls" else {}
        match contender.name:
            case "Godwit":
                percent = 50 if cell.group == "half" else 0
                return self.starter.godwit(
                    **options, percent=percent, under=under, binary=bare_godwit(self.starter.stage))
            case "PgBouncer": return self.starter.pgbouncer(**options, under=under)
            case "HAProxy": return self.starter.haproxy(under=under)
        return None

    def _mirrored(self, name: str):
        """A database to be mirrored: NEW has its tables, and no rows."""
        if name in self.databases:
            return
        self.databases.add(name)
        make_database(self.starter.old, name)
        make_database(self.starter.new, name, steps="dtp")
        for server in (self.starter.old, self.starter.new):
            server.sql("DROP TABLE pgbench_history", name)  # it has no key


@dataclass
class Figures:
    """Of one contender in one cell, a value of each round; times are microseconds, all but tps are of one transaction."""
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **values: float):
        for name, value in values.items():
            self.values.setdefault(name.replace("_", " "), []).append(value)

    def middle(self, name: str) -> float | None:
        if name == "p99/p50":
            ratios = [late / usual for late, usual in zip(self.values.get("p99", []), self.values.get("p50", []))]
            return median(ratios) if ratios else None
        return median(self.values[name]) if name in self.values else None


Results = dict[str, dict[str, Figures]]


class Load:
    """pgbench for a cell."""

    def __init__(self, cell: Cell, stage: Stage):
        self.cell, self.stage = cell, stage
        self.scripts = []
        for number, (text, weight) in enumerate(SCRIPTS[cell.script]):
            path = stage.directory / f"{cell.script}-{number}.sql"
            path.write_text(text)
            self.scripts += ["-f", f"{path}@{weight}"]

    def command(self, contender: Contender, *length) -> list:
        cell = self.cell
        protocol = "extended" if cell.protocol == "pipelined" else cell.protocol
        words = ["pgbench", "-n", "-M", protocol, "-c", cell.clients, "-j", 1, *self.scripts, *length]
        if cell.rate:
            words += ["-R", cell.rate]
        if cell.reconnects:
            words += ["-C"]
        return [str(word) for word in (*words, contender.conninfo())]

    def length(self, seconds: int) -> tuple:
        """pgbench's time begins before its clients are connected."""
        return "-T", seconds + self.cell.clients // 300

    @staticmethod
    def transactions(output: str) -> int:
        failed = int(output.split("number of failed transactions: ")[1].split()[0])
        if failed:
            raise RuntimeError(f"{failed} transactions failed")
        count = int(output.split("number of transactions actually processed: ")[1].split("/")[0].split()[0])
        if count == 0:
            raise RuntimeError(f"no transaction came to its end; --seconds may be too few:\n{output}")
        return count

    def measure(self, contender: Contender, seconds: float, figures: Figures) -> int:
        """The number of transactions."""
        prefix = self.stage.directory / "latencies"
        before = contender.usage() if contender.process else None
        peak = Peak(contender)
        output = run(*self.command(contender, *self.length(seconds), "-l", "--log-prefix", prefix))
        highest = peak.end()
        after = contender.usage() if contender.process else None
        count = self.transactions(output)
        if before and after:
            per = 1e6 / count
            figures.add(cpu=(after.cpu - before.cpu) * per, kernel=(after.kernel - before.kernel) * per,
                        data_plane=(after.data_plane - before.data_plane) * per,
                        switches=(after.switches - before.switches) / count)
            if self.cell.clients >= 1000:
                figures.add(rss=(highest - contender.rss_at_start) / (self.cell.clients + self.cell.idle))
        figures.add(tps=float(output.split("tps = ")[1].split()[0]))
        latencies = []
        for path in self.stage.directory.glob("latencies.*"):
            with open(path) as lines:
                latencies += [int(line.split()[2]) for line in lines]
            path.unlink()
        latencies.sort()
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)):
            figures.values.setdefault(name, []).append(latencies[min(len(latencies) - 1, int(len(latencies) * share))])
        return count

    def count_calls(self, contender: Contender, seconds: float, figures: Figures):
        """System calls, by the kernel's own counters."""
        events = ["raw_syscalls:sys_enter", *(f"syscalls:sys_enter_{name}" for name in TRANSFERS)]
        made = subprocess.run(
            ["perf", "stat", "-x", ";", "-e", ",".join(events), "-p", str(contender.pid), "--",
             *self.command(contender, *self.length(seconds))], capture_output=True, text=True, cwd="/", check=True)
        count = self.transactions(made.stdout)
        calls = {}
        for line in made.stderr.splitlines():
            parts = line.split(";")
            if len(parts) > 2 and parts[0].isdigit():
                calls[parts[2].rsplit(":", 1)[1]] = int(parts[0]) / count
        figures.add(calls=calls.pop("sys_enter"), transfers=sum(calls.values()))

    def count_instructions(self, contender: Contender, figures: Figures, before_dump: Callable = lambda: None):
        """Of one that runs under callgrind, warmed up: in user space."""
        run(*self.command(contender, "-t", CALLGRIND_TRANSACTIONS))
        control_callgrind(contender, "--zero")
        count = self.transactions(run(*self.command(contender, "-t", CALLGRIND_TRANSACTIONS)))
        before_dump()
        control_callgrind(contender, "--dump")
        dumps = sorted((self.stage.directory / "counts").glob(f"callgrind.{contender.pid}.*"), key=lambda path: path.stat().st_mtime)
        total = next(line for line in dumps[-1].read_text().splitlines() if line.startswith(("totals:", "summary:")))
        figures.add(instructions=int(total.split()[1]) / count)


class Peak:
    """The highest VmRSS of a process until `end`."""

    def __init__(self, contender: Contender):
        self.contender, self.highest = contender, 0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _watch(self):
        while self.contender.process:
            self.highest = max(self.highest, self.contender.rss_kib())
            if self.is_over.wait(0.1):
                return

    def end(self) -> int:
        self.is_over.set()
        self.thread.join()
        return self.highest


def measure_idle(cell: Cell, contender: Contender, figures: Figures):
    """Memory and CPU of clients that log in, and ask nothing."""
    used, began = contender.usage().cpu, time.monotonic()
    clients = [idle_client(contender) for _ in range(cell.idle)]
    seconds, spent = time.monotonic() - began, contender.usage().cpu - used
    figures.add(rss=(contender.rss_kib() - contender.rss_at_start) / cell.idle, cpu=spent / cell.idle * 1e6,
                tps=cell.idle / seconds)
    for client in clients:
        client.close()


def callgrind(stage: Stage) -> tuple:
    """What stands before a command that is to be run under it."""
    return "valgrind", "--tool=callgrind", f"--callgrind-out-file={stage.directory}/counts/callgrind.%p"


def control_callgrind(contender: Contender, order: str):
    """As whoever the process belongs to: nobody else, not even root, gets an answer from it."""
    words = ["callgrind_control", order, contender.pid]
    if os.geteuid() == 0:
        owner = os.stat(f"/proc/{contender.pid}")
        words = ["setpriv", "--reuid", owner.st_uid, "--regid", owner.st_gid, "--clear-groups", "--", *words]
    run(*words, timeout=60)


def bare_godwit(stage: Stage, binary: Path = GODWIT) -> Path:
    """Without debug information, which valgrind 3.19 cannot read."""
    bare = stage.directory / f"bare-{binary.name}"
    if not bare.exists():
        run("objcopy", "--strip-debug", binary, bare)
    return bare


class Matrix:
    def __init__(self, arguments, stage: Stage):
        self.arguments, self.stage = arguments, stage
        certificate = make_certificate(stage)
        self.starter = Starter(stage, *make_servers(stage, certificate), certificate)
        self.groups = Groups(self.starter)
        self.results: Results = {}

    def run(self, cells: list[Cell]):
        for group in dict.fromkeys(cell.group for cell in cells):
            contenders = self.groups.start(group)
            for one in contenders:
                if one.process:
                    run("psql", "-XAtc", "SELECT 1", one.conninfo())
                    one.rss_at_start = one.rss_kib()
            for cell in cells:
                if cell.group == group:
                    self._measure(cell, self._suited(cell, contenders))
                    self.save()
            self.starter.stop()
            if self.arguments.instructions and can_count_instructions():
                for cell in cells:
                    if cell.group == group and cell.clients == 32 and cell.script == "read":
                        self._count_instructions(cell, self._suited(cell, contenders))
                        self.save()

    def save(self):
        """As far as it is: a run that is broken off has measured something."""
        if self.arguments.json:
            self.arguments.json.write_text(json.dumps({
                cell: {name: figures.values for name, figures in contenders.items()}
                for cell, contenders in self.results.items()}, indent=1))

    @staticmethod
    def _suited(cell: Cell, contenders: list[Contender]) -> list[Contender]:
        """Who knows the protocol, and can have so many clients."""
        return [one for one in contenders if cell.protocol in one.protocols and (
            not one.is_bare or 0 < cell.clients + cell.idle <= SERVERS_MAX // 2)]

    def _measure(self, cell: Cell, contenders: list[Contender]):
        results = self.results[cell.name] = {one.name: Figures() for one in contenders}
        if cell.clients == 0:
            for one in contenders:
                measure_idle(cell, one, results[one.name])
                self._say(cell, one, f"{results[one.name].middle('rss'):.2f} KiB a client")
            return
        load = Load(cell, self.stage)
        idle = {one.name: [idle_client(one) for _ in range(cell.idle)] for one in contenders} if cell.idle else {}
        for one in contenders:
            run(*load.command(one, *load.length(2)))    # opens the pool, warms caches
        for number in range(self.arguments.rounds):
            for one in contenders[number % len(contenders):] + contenders[:number % len(contenders)]:
                figures = results[one.name]
                load.measure(one, self.arguments.seconds, figures)
                cpu = f"{figures.values['cpu'][-1]:.2f} us, " if one.process else ""
                self._say(cell, one, f"round {number + 1}: {cpu}{figures.values['tps'][-1]:.0f} a second")
        if shutil.which("perf"):
            for one in contenders:
                if one.process:
                    load.count_calls(one, 1, results[one.name])
        for clients in idle.values():
            for client in clients:
                client.close()

    def _count_instructions(self, cell: Cell, contenders: list[Contender]):
        for one in contenders:
            again = self.groups.again(cell, one, callgrind(self.stage))
            if again:
                Load(cell, self.stage).count_instructions(again, self.results[cell.name][one.name])
                self._say(cell, one, f"{self.results[cell.name][one.name].middle('instructions'):.0f} instructions")
            self.starter.stop()

    @staticmethod
    def _say(cell: Cell, contender: Contender, words: str):
        print(f"{cell.name}, {contender.name}: {words}", file=sys.stderr, flush=True)


def can_count_instructions() -> bool:
    return all(shutil.which(name) for name in ("valgrind", "callgrind_control", "objcopy"))


# Reports.

COLUMNS = (
    ("CPU µs", "cpu", 2), ("in the kernel", "kernel", 2), ("data plane", "data plane", 2), ("tps", "tps", 0),
    ("p50", "p50", 0), ("p95", "p95", 0),
    ("p99", "p99", 0), ("p99.9", "p99.9", 0), ("switches", "switches", 2), ("calls", "calls", 2),
    ("transfers", "transfers", 2), ("instructions", "instructions", 0), ("RSS KiB", "rss", 2),
)


def spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def table(results: Results) -> str:
    """Markdown: a line for each contender in each cell."""
    lines = ["| cell | | " + " | ".join(title for title, _, _ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for cell, contenders in results.items():
        for name, figures in contenders.items():
            words = []
            for _, figure, digits in COLUMNS:
                values = figures.values.get(figure)
                if not values:
                    words.append("-")
                elif figure == "cpu" and len(values) > 1:
                    words.append(spread(values))
                else:
                    words.append(f"{median(values):.{digits}f}")
            lines.append(f"| {cell} | {name} | " + " | ".join(words) + " |")
    return "\n".join(lines)


@dataclass
class Judged:
    cell: str
    what: str
    wanted: str
    measured: float
    is_met: bool


def judge(results: Results) -> list[Judged]:
    """The targets whose cells and figures were measured."""
    judged = []
    for target in tomllib.loads(THRESHOLDS.read_text())["target"]:
        contenders, figure = results.get(target["cell"]), target["figure"]
        if contenders is None:
            continue
        name = target.get("of", "Godwit")
        other = target.get("beside") or target.get("above")
        ours = contenders[name].middle(figure)
        theirs = contenders[other].middle(figure) if other in contenders else None
        if ours is None or (other and not theirs):
            continue
        if "beside" in target:
            what, measured = f"{figure}, {name} / {other}", ours / theirs
        elif "above" in target:
            what, measured = f"{figure}, {name} - {other}", ours - theirs
        else:
            what, measured = f"{figure}, {name}", ours
        if "at_most" in target:
            wanted, is_met = f"<= {target['at_most']:g}", measured <= target["at_most"]
        else:
            wanted, is_met = f">= {target['at_least']:g}", measured >= target["at_least"]
        judged.append(Judged(target["cell"], what, wanted, measured, is_met))
    return judged


def verdicts(judged: list[Judged]) -> str:
    lines = ["| cell | figure | wanted | measured | |", "|---|---|---|---|---|"]
    for one in judged:
        lines.append(f"| {one.cell} | {one.what} | {one.wanted} | {one.measured:.2f} | {'met' if one.is_met else 'MISSED'} |")
    return "\n".join(lines)


def chosen(arguments) -> list[Cell]:
    if arguments.cells:
        names = {cell.name for cell in CELLS}
        found = set()
        for word in arguments.cells:
            some = {word} if word in names else {name for name in names if name.startswith(word)}
            if not some:
                raise SystemExit(f"no cell is called {word}; there are {', '.join(cell.name for cell in CELLS)}")
            found |= some
        return [cell for cell in CELLS if cell.name in found]
    return [cell for cell in CELLS if arguments.all or cell.is_quick]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="CELL")
    parser.add_argument("--all", action="store_true", help="every cell")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each cell and contender (3)")
    parser.add_argument("--seconds", type=int, default=3, help="length of one run (3)")
    parser.add_argument("--instructions", action=argparse.BooleanOptionalAction,
                        help="counted by callgrind, half a minute for each (with --all; else not)")
    parser.add_argument("--json", type=Path, help="every value of every round")
    parser.add_argument("--of", type=Path, nargs="+", default=[], help="measure nothing: what --json has written")
    parser.add_argument("--check", action="store_true", help="exit status 1 when a target is missed")
    arguments = parser.parse_args()
    if arguments.of:
        return tell(earlier(arguments.of), arguments.check)
    cells = chosen(arguments)
    if arguments.instructions is None:
        arguments.instructions = arguments.all
    # Beside a load Godwit and PgBouncer both have their idle clients, which are ours, at once.
    needed = 500 + max(max(cell.clients + cell.idle, cell.idle * (2 if cell.clients else 1)) for cell in cells)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        raise SystemExit(f"so many clients need {needed} open files, {hard} are allowed: raise `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    os.environ["PGPASSWORD"] = PASSWORD
    if not haproxy_program():
        print("HAProxy is left out: apt-get install haproxy", file=sys.stderr)
    if not shutil.which("perf"):
        print("system calls are not counted: no perf", file=sys.stderr)
    with Stage() as stage:
        matrix = Matrix(arguments, stage)
        matrix.run(cells)
    print(f"\nMedians of {arguments.rounds} rounds of {arguments.seconds} s; CPU with the smallest and the largest\n")
    return tell(matrix.results, arguments.check)


def earlier(files: list[Path]) -> Results:
    """Of one cell that is in several the figures of the last."""
    results: Results = {}
    for file in files:
        for cell, contenders in json.loads(file.read_text()).items():
            for name, values in contenders.items():
                results.setdefault(cell, {}).setdefault(name, Figures()).values.update(values)
    return results


def tell(results: Results, checks: bool) -> int:
    judged = judge(results)
    print(table(results))
    print("\n" + verdicts(judged))
    return 1 if checks and not all(one.is_met for one in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
