"""What a capture costs: CPU of Godwit per transaction while one is taken, beside that while none is.

    .build/venv/bin/python loadtest/capture_cost.py [--rounds 6] [--seconds 5] [--options "DIGEST"] [--modes simple ...]
        [--before GODWIT] [--instructions]

pgbench -S -c 32 through Godwit (one reactor), a run with a capture and one without by turns, each round the other way
about; CPU is that of the whole process, the capture's writer included. The ratio is that of the medians. --before: an
older program, which takes its turns between. --instructions: counted by callgrind as well, which no noise disturbs.
"""

import argparse
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent))

from contenders import DATABASE, GODWIT, Starter, console, make_servers  # noqa: E402
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
        self.dropped = self.records = self.size = 0

    def begin(self):
        console(self.contender, f"CAPTURE {DATABASE} TO 'run.cap' {self.options}")

    def end(self):
        """When it has ended all of it is in the file."""
        console(self.contender, f"CAPTURE {DATABASE} STOP")
        shown = console(self.contender, "SHOW CAPTURE").split("|")
        self.dropped += int(shown[7])
        self.records, self.size = self.records + int(shown[8]), self.size + int(shown[10])
        (self.directory / "run.cap").unlink()

    def measure(self, load: Load, seconds: int, captures: bool) -> tuple[float, float]:
        """Microseconds of a transaction: of the process, of its reactor."""
        before = self.contender.usage()
        if captures:
            self.begin()
        count = load.measure(self.contender, seconds, Figures())
        if captures:
            self.end()  # what the writer still has to do belongs to it
        after = self.contender.usage()
        return (after.cpu - before.cpu) / count * 1e6, (after.data_plane - before.data_plane) / count * 1e6


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
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=5)
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
        results = {}
        for number in range(-1, arguments.rounds):
            for mode, load in loads.items():
                for name, program in programs.items():
                    for captures in (number % 2 == 0, number % 2 != 0):
                        if number < 0:      # opens the pool, warms caches, counts for nothing
                            program.measure(load, 1, captures)
                            continue
                        used = program.measure(load, arguments.seconds, captures)
                        results.setdefault((mode, name, captures), []).append(used)
                        print(f"round {number + 1}, {mode}, {name}, {'with' if captures else 'without'}: "
                              f"{used[0]:.2f} us, reactor {used[1]:.2f} us", file=sys.stderr, flush=True)
        print("\nCPU microseconds per transaction of pgbench -S -c 32, median (smallest-largest)\n")
        print("| mode | | without | with a capture | ratio | ratio of the reactors |\n|---|---|---|---|---|---|")
        for mode in loads:
            for name in programs:
                without, captured = (results[mode, name, captures] for captures in (False, True))
                whole, reactor = ([[one[index] for one in some] for some in (without, captured)] for index in (0, 1))
                print(f"| {mode} | {name} | {spread(whole[0])} | {spread(whole[1])} "
                      f"| {median(whole[1]) / median(whole[0]):.3f} | {median(reactor[1]) / median(reactor[0]):.3f} |")
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
