"""What a capture costs: CPU of Godwit per transaction while one is taken, beside that while none is.

    .build/venv/bin/python loadtest/capture_cost.py [--pairs 30] [--seconds 1] [--options "DIGEST"] [--modes simple ...]
        [--before GODWIT] [--instructions]

One run of pgbench -S -c 32 through Godwit (one reactor) for each mode, in slices without a capture and with one by turns; CPU
is that of the whole process, the capture's writer included. Each pair of neighbours gives a ratio, so that what else the
machine does falls on both. --before: an older program, measured after. --instructions: counted by callgrind as well,
which no noise disturbs.
"""

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent))

from contenders import DATABASE, GODWIT, Starter, make_servers  # noqa: E402
from matrix import Cell, Figures, Load, bare_godwit, callgrind, spread  # noqa: E402
from parts import Stage  # noqa: E402

MODES = ("simple", "extended", "prepared")


class Capturing:
    """Godwit, and its captures."""

    def __init__(self, starter: Starter, name: str, options: str, **how):
        self.directory = starter.stage.directory / f"captures-{starter.number}"
        self.directory.mkdir()
        self.options = options
        self.contender = starter.godwit(
            name, listen=", threads: 1", sections=f"capture: {{directory: {self.directory}}}", **how)
        self.console = psycopg.connect(
            f"host=127.0.0.1 port={self.contender.port} dbname=pgbouncer user=godwit", autocommit=True,
            cursor_factory=psycopg.ClientCursor)
        self.dropped = self.records = self.size = 0

    def ask(self, command: str) -> dict:
        cursor = self.console.execute(command)
        if cursor.description is None:
            return {}
        row = next((row for row in cursor.fetchall() if row[0] == DATABASE), ())
        return dict(zip((column.name for column in cursor.description), row))

    def begin(self):
        self.ask(f"CAPTURE {DATABASE} TO 'run.cap' {self.options}")

    def end(self):
        """When it has ended all of it is in the file."""
        self.ask(f"CAPTURE {DATABASE} STOP")
        shown = self.ask("SHOW CAPTURE")
        self.dropped += int(shown["dropped"])
        self.records, self.size = self.records + int(shown["records"]), self.size + int(shown["file_bytes"])
        (self.directory / "run.cap").unlink()

    def transactions(self) -> int:
        return int(self.ask("SHOW STATS_TOTALS")["xact_count"])

    def slice(self, seconds: float, captures: bool) -> tuple[float, float]:
        """Microseconds of a transaction: of the process, of its reactor."""
        before, first = self.contender.usage(), self.transactions()
        if captures:
            self.begin()
        time.sleep(seconds)
        if captures:
            self.end()  # what the writer still has to do belongs to it
        after, last = self.contender.usage(), self.transactions()
        per = 1e6 / (last - first)
        return (after.cpu - before.cpu) * per, (after.data_plane - before.data_plane) * per

    def pairs(self, load: Load, pairs: int, seconds: float):
        """Slices without and with, by turns which comes first, all in one run of pgbench."""
        # Longer than all of them: it is ended.
        with subprocess.Popen(load.command(self.contender, "-T", 3600), stdout=subprocess.DEVNULL, cwd="/") as pgbench:
            try:
                self.slice(seconds, True)   # opens the pool, warms caches, counts for nothing
                for number in range(pairs):
                    used = {}
                    for captures in (number % 2 == 0, number % 2 != 0):
                        used[captures] = self.slice(seconds, captures)
                    if pgbench.poll() is not None:
                        raise RuntimeError("pgbench has ended before its time")
                    yield used[False], used[True]
            finally:
                pgbench.terminate()


def middle_of_ratios(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """The median of the pairs' ratios, and between what 95 of 100 medians of such pairs would be (bootstrap)."""
    ratios = [captured / without for without, captured in pairs]
    chance = random.Random(1)
    medians = sorted(median(chance.choices(ratios, k=len(ratios))) for _ in range(2000))
    return median(ratios), medians[50], medians[-51]


def instructions(starter: Starter, name: str, binary: Path, options: str, modes: list[str]):
    capturing = Capturing(starter, name, options, binary=bare_godwit(starter.stage, binary),
                          under=callgrind(starter.stage))
    for mode in modes:
        load = Load(Cell(mode, "plain", mode), starter.stage)
        without, with_capture = Figures(), Figures()
        load.count_instructions(capturing.contender, without)
        capturing.begin()
        load.count_instructions(capturing.contender, with_capture, before_dump=capturing.end)
        one, other = (figures.middle("instructions") for figures in (without, with_capture))
        print(f"{name}, {mode}: {one:.0f} instructions without, {other:.0f} with a capture, {other / one:.3f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30, help="of slices, one without and one with")
    parser.add_argument("--seconds", type=float, default=1, help="of a slice")
    parser.add_argument("--options", default="", help="of CAPTURE, such as DIGEST or REDACT")
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--before", type=Path, help="an older program to stand beside")
    parser.add_argument("--instructions", action="store_true")
    arguments = parser.parse_args()
    binaries = {"Godwit": GODWIT}
    if arguments.before:
        binaries["before"] = arguments.before
    with Stage() as stage:
        starter = Starter(stage, *make_servers(stage))
        programs = {name: Capturing(starter, name, arguments.options, binary=binary) for name, binary in binaries.items()}
        loads = {mode: Load(Cell(mode, "plain", mode), stage) for mode in arguments.modes}
        print("CPU microseconds per transaction of pgbench -S -c 32: medians, and of the pairs' ratios the median and its "
              "interval of 95 %\n")
        print("| mode | | without | with a capture | ratio | ratio of the reactors |\n|---|---|---|---|---|---|")
        for mode, load in loads.items():
            for name, program in programs.items():
                pairs = list(program.pairs(load, arguments.pairs, arguments.seconds))
                columns = [spread([pair[index][0] for pair in pairs]) for index in (0, 1)]
                for thread in (0, 1):
                    middle = middle_of_ratios([(without[thread], captured[thread]) for without, captured in pairs])
                    columns.append("{:.3f} ({:.3f}-{:.3f})".format(*middle))
                print(f"| {mode} | {name} |", " | ".join(columns), "|", flush=True)
        print()
        for name, program in programs.items():
            print(f"{name}: {program.records} records, {program.size / max(1, program.records):.1f} bytes each in the "
                  f"files, {program.dropped} connections dropped")
        starter.stop()
        if arguments.instructions:
            for name, binary in binaries.items():
                instructions(starter, name, binary, arguments.options, arguments.modes)
                starter.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
