"""What a capture costs: CPU of Godwit per transaction while one is taken, beside that while none is.

    .build/venv/bin/python loadtest/capture_cost.py [--rounds 6] [--seconds 5] [--options "DIGEST"] [--modes simple ...]

pgbench -S through Godwit (one reactor), a run with a capture and one without by turns, each round the other way about;
CPU is that of the whole process, the capture's writer included. The ratio is that of the medians.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))
sys.path.insert(0, str(ROOT / "loadtest"))

from beside_pgbouncer import CLIENTS, DATABASE, MODES, USER, Contender, spread, start_godwit  # noqa: E402
from parts import OLD_PROGRAMS, Postgres, Stage, new_programs, run  # noqa: E402
from statistics import median  # noqa: E402


def console(godwit: Contender, command: str) -> str:
    return run("psql", "-XAt", "-h", "127.0.0.1", "-p", godwit.port, "-U", "godwit", "-d", "pgbouncer", "-c", command)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--options", default="", help="of CAPTURE, such as DIGEST or REDACT")
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    arguments = parser.parse_args()
    with Stage() as stage:
        old, new = Postgres(stage, "old", OLD_PROGRAMS), Postgres(stage, "new", new_programs())
        for server in (old, new):
            server.sql(f"CREATE ROLE {USER} LOGIN; CREATE DATABASE {DATABASE}; "
                       f"ALTER DATABASE {DATABASE} OWNER TO {USER}")
            run("pgbench", "-iq", "-s", 5, "-h", "127.0.0.1", "-p", server.port, "-U", USER, DATABASE)
        directory = stage.directory / "captures"
        directory.mkdir()
        godwit = start_godwit(
            stage, old, new, None, listen=", threads: 1", sections=f"capture: {{directory: {directory}}}")
        for mode in arguments.modes:
            godwit.measure(mode, 2)  # opens the pool, warms PostgreSQL's caches
        results: dict[str, dict[bool, list[float]]] = {mode: {False: [], True: []} for mode in arguments.modes}
        rates: dict[str, dict[bool, list[float]]] = {mode: {False: [], True: []} for mode in arguments.modes}
        dropped, size, records = 0, 0, 0
        for number in range(arguments.rounds):
            for mode in arguments.modes:
                for captures in (number % 2 == 0, number % 2 != 0):
                    godwit.seconds_per_100k.clear()
                    godwit.tps.clear()
                    before = godwit.cpu_seconds()
                    if captures:
                        console(godwit, f"CAPTURE {DATABASE} TO 'run.cap' {arguments.options}")
                    godwit.measure(mode, arguments.seconds)
                    used = godwit.seconds_per_100k[mode][0]
                    if captures:
                        # What the writer still had to do belongs to it.
                        transactions = godwit.tps[mode][0] * arguments.seconds
                        console(godwit, f"CAPTURE {DATABASE} STOP")
                        used = (godwit.cpu_seconds() - before) / transactions * 100_000
                        shown = console(godwit, "SHOW CAPTURE").split("|")
                        dropped += int(shown[7])
                        records, size = records + int(shown[8]), size + int(shown[10])
                        os.unlink(stage.directory / "captures" / "run.cap")
                    results[mode][captures].append(used)
                    rates[mode][captures].append(godwit.tps[mode][0])
                print(f"round {number + 1}, {mode}: {results[mode][False][-1]:.2f} s without, "
                      f"{results[mode][True][-1]:.2f} s with", flush=True)
    print(f"\nCPU seconds per 100,000 transactions of pgbench -S -c {CLIENTS} -j 1, median (smallest-largest)\n")
    print(f"{'mode':10}{'without':>22}{'with a capture':>22}{'ratio':>8}    transactions a second")
    for mode, used in results.items():
        print(f"{mode:10}{spread(used[False]):>22}{spread(used[True]):>22}{median(used[True]) / median(used[False]):8.3f}"
              f"    {median(rates[mode][False]):.0f} and {median(rates[mode][True]):.0f}")
    print(f"\n{records} records, {size / max(1, records):.1f} bytes each in the files, {dropped} connections dropped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
