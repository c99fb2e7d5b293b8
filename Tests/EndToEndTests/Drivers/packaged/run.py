"""The drivers of other languages, as Debian has them, through Godwit: run by `make test-drivers` (scripts/test-drivers).

Each program of this folder does the cases of driver_cases.py with PostgreSQL 15 as OLD alone, then with a mirror to
PostgreSQL 18 and every read that may go there on NEW. Prints a table; ends with status 0 when nothing failed.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
sys.path.insert(0, str(ROOT / "demo"))

from parts import DATABASE, OLD_PROGRAMS, USER, DemoFailure, Godwit, Postgres, Stage, new_programs, run, \
    wait_until  # noqa: E402

CASES = ["connect", "simple", "parameterised", "prepared", "rollback", "savepoints", "copy", "large", "arrays", "errors",
         "cancel", "pipeline", "executemany", "orm", "set", "disconnect"]
PROGRAM_SECONDS_MAX = 300
PYTHON = ["PsycopgSimple", "SQLAlchemyPg8000", "DjangoServerSide"]  # `make test` has the others


class Runner:
    def __init__(self, stage: Stage):
        self.stage = stage
        self.build = stage.directory / "programs"
        self.build.mkdir()

    def commands(self) -> dict[str, list]:
        """Each language's program, compiled where it must be."""
        java = self.build / "java"
        run("javac", "-cp", "/usr/share/java/postgresql.jar", "-d", java, HERE / "jdbc.java")
        run("go", "build", "-o", self.build / "go_sql", HERE / "go_sql.go", env=os.environ | {
            "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(self.build / "cache")})
        return {
            "jdbc": ["java", "-cp", f"{java}:/usr/share/java/postgresql.jar", "jdbc"],
            "go": [self.build / "go_sql"],
            "ruby": ["ruby", HERE / "ruby_pg.rb"],
            "perl": ["perl", HERE / "dbd_pg.pl"],
            "php": ["php", HERE / "pdo.php"],
            "node": ["node", HERE / "node_pg.js"],
        }

    def attempt(self, name: str, command: list, godwit: Godwit, old: Postgres, new: Postgres):
        """Rows of (mode, case, outcome, reason)."""
        words = [str(word) for word in [*command, godwit.port, DATABASE, USER, old.port, new.port]]
        return self.rows(name, words)

    def python(self, driver: str, godwit: Godwit, old: Postgres, new: Postgres):
        conninfos = [f"host=127.0.0.1 port={port} dbname={DATABASE} user={USER}"
                     for port in (godwit.port, old.port, new.port)]
        rows = self.rows(driver, [sys.executable, str(HERE.parent / "driver_cases.py"), driver, *conninfos], "Python ")
        return rows

    def rows(self, name: str, words: list[str], prefix: str | None = None):
        try:
            result = subprocess.run(words, capture_output=True, text=True, timeout=PROGRAM_SECONDS_MAX, check=False)
            output, errors = result.stdout, result.stderr
        except subprocess.TimeoutExpired as timeout:
            output = (timeout.stdout or b"").decode()
            errors = f"it did not end in {PROGRAM_SECONDS_MAX} s"
        rows = []
        for line in output.splitlines():
            parts = line.split("\t")
            if prefix is not None and len(parts) > 1:
                parts.insert(0, prefix + name)
            if len(parts) > 2 and parts[1] in CASES:
                rows.append((*parts[:3], parts[3] if len(parts) > 3 else ""))
        failed = any(outcome == "FAILED" for _, _, outcome, _ in rows)
        if not rows or "did not end" in errors:
            rows.append((prefix + name if prefix else name, "connect", "FAILED", errors.strip()[-500:]))
        elif failed:
            print(errors[-2000:], file=sys.stderr)
        return rows


def table(title: str, rows) -> bool:
    print(f"\n{title}\n")
    print(f"{'':26}" + "".join(f"{case[:9]:>10}" for case in CASES))
    modes = list(dict.fromkeys(row[0] for row in rows))
    short = {"ok": "ok", "not applicable": "-", "FAILED": "FAILED"}
    for mode in modes:
        found = {case: short.get(outcome, outcome) for name, case, outcome, _ in rows if name == mode}
        print(f"{mode:26}" + "".join(f"{found.get(case, '.'):>10}" for case in CASES))
    for mode, case, outcome, reason in rows:
        if outcome == "FAILED":
            print(f"FAILED  {mode}, {case}: {reason}")
    return not any(outcome == "FAILED" for _, _, outcome, _ in rows)


def reasons(rows):
    print("\n-: not applicable   .: not a case of this program")
    for mode, case, reason in sorted({(mode, case, reason) for mode, case, outcome, reason in rows
                                      if outcome == "not applicable"}):
        print(f"    {mode}, {case}: {reason}")


def play(stage: Stage, only: list[str]) -> bool:
    old, new = Postgres(stage, "old", OLD_PROGRAMS), Postgres(stage, "new", new_programs())
    schema = (HERE.parent / "schema.sql").read_text()
    for server in (old, new):
        server.sql(f"CREATE ROLE {USER} LOGIN; CREATE DATABASE {DATABASE} OWNER {USER}")
        server.sql(f"SET ROLE {USER};\n{schema}", DATABASE)
    runner = Runner(stage)
    commands = runner.commands()
    godwit = Godwit(stage, old, new)
    # One for each connection of the case connect: Django with bound parameters sets its time zone by a parameter, which
    # keeps a server for each.
    godwit.CONFIGURATION = Godwit.CONFIGURATION.replace("size: 12", "size: 8")
    good, everything = True, []
    for title, percent, mirror in (("OLD alone", 0, "off"), ("with a mirror, and all reads on NEW", 100, "async")):
        godwit.stop()
        godwit.configure(percent, mirror)
        if mirror != "off":
            godwit.command("prepare", DATABASE)
        godwit.serve()
        if mirror != "off":
            wait_until(lambda: godwit.mirror()["readable"] == "yes", "NEW can be read", seconds=60)
        rows = []
        for name, command in commands.items():
            if not only or name in only:
                rows += runner.attempt(name, command, godwit, old, new)
        for driver in PYTHON:
            if not only or "python" in only:
                rows += runner.python(driver, godwit, old, new)
        if godwit.process.poll() is not None:
            raise DemoFailure(f"godwit has ended:\n{godwit.log()[-2000:]}")
        good &= table(title, rows)
        everything += rows
        if mirror != "off":
            print(f"\nreads on NEW: {godwit.reads()[1]}; verify: {godwit.command('verify', DATABASE).splitlines()[-1]}")
            good &= godwit.reads()[1] > 0
    reasons(everything)
    return good


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Stage() as stage:
            return 0 if play(stage, sys.argv[1:]) else 1
    except DemoFailure as failure:
        print(f"FAILED: {failure}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
