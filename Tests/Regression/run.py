"""Runs PostgreSQL's regression SQL through Godwit and directly, on two fresh servers: run by `make regression`.

Ends with status 0 when psql prints the same for both, but for the files that docs/REGRESSION.md gives a reason for.
"""

import argparse
import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "demo"))

from parts import OLD_PROGRAMS, DemoFailure, Godwit, Postgres, Stage  # noqa: E402

FETCHED = ROOT / ".build/regression"
DIFFS = FETCHED / "diffs"
KNOWN = ROOT / "docs/REGRESSION.md"
DATABASE = "regression"
FILE_SECONDS_MAX = 900
# As pg_regress has it.
SETTINGS = {"lc_messages": "C", "lc_monetary": "C", "lc_numeric": "C", "lc_time": "C", "bytea_output": "hex",
            "timezone_abbreviations": "Default"}


class Through(Godwit):
    """Godwit before one database, without mirror; NEW is a database of the other server that nothing is asked of.

    It reads the catalog of another database: while somebody has a snapshot of this one, VACUUM marks no page as visible
    to all, and the plans that the files print are others.
    """

    def configure(self, percent: float, mirror: str = "off"):
        self.path.write_text(f"""\
listen: {{address: 127.0.0.1, port: {self.port}}}
auth: {{method: trust}}
admin: {{users: [godwit], http: {{port: 0}}}}
state: {{path: {self.directory}/godwit.sqlite}}
databases:
  {DATABASE}:
    old: "host=127.0.0.1 port={self.old.port} dbname={DATABASE}"
    new: "host=127.0.0.1 port={self.new.port} dbname=postgres"
    control: {{old: "host=127.0.0.1 port={self.old.port} dbname=postgres user=postgres", new: ""}}
    reads: {{percent: {percent}}}
    mirror: {{mode: {mirror}}}
""")


class Run:
    """One of the two: what its psql connects to, and where it leaves its files."""

    def __init__(self, name: str, stage: Stage, tests: Path, libraries: Path, port: int):
        self.folder = stage.directory / f"build-{name}"
        (self.folder / "results").mkdir(parents=True)
        for folder in (self.folder, self.folder / "results"):
            folder.chmod(0o777)
        self.environment = os.environ | {
            "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres", "PGDATABASE": DATABASE,
            "PGTZ": "PST8PDT", "PGDATESTYLE": "Postgres, MDY", "LC_ALL": "C", "PG_ABS_SRCDIR": str(tests),
            "PG_ABS_BUILDDIR": str(self.folder), "PG_LIBDIR": str(libraries), "PG_DLSUFFIX": ".so"}

    def start(self, test: str, sql: Path) -> subprocess.Popen:
        environment = self.environment | {"PGAPPNAME": f"pg_regress/{test}"}
        words = ["psql", "-X", "-a", "-q", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"]
        with open(sql, "rb") as source, open(self.output(test), "wb") as output:
            return subprocess.Popen(words, env=environment, cwd=self.folder, stdin=source, stdout=output,
                                    stderr=subprocess.STDOUT)

    def output(self, test: str) -> Path:
        return self.folder / "results" / f"{test}.out"


def schedule(tests: Path) -> list[str]:
    lines = (tests / "parallel_schedule").read_text().splitlines()
    return [test for line in lines if line.startswith("test:") for test in line.removeprefix("test:").split()]


def known_reasons() -> dict[str, str]:
    """The rows of the table of docs/REGRESSION.md, as `| numeric | reason |`."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", KNOWN.read_text(), re.MULTILINE)
    return dict(rows)


def prepare(server: Postgres):
    # Plans that the files print depend on statistics, which must not come at a time of the server's own choice.
    server.sql("ALTER SYSTEM SET autovacuum = off")
    server.sql("SELECT pg_reload_conf()")
    server.sql(f"CREATE DATABASE {DATABASE} TEMPLATE template0")
    for name, value in SETTINGS.items():
        server.sql(f"ALTER DATABASE {DATABASE} SET {name} TO '{value}'")


def wait(process: subprocess.Popen) -> bool:
    try:
        process.wait(FILE_SECONDS_MAX)
        return True
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def compare(test: str, direct: Run, through: Run) -> bool:
    outputs = [run.output(test).read_text(errors="replace").splitlines(keepends=True) for run in (direct, through)]
    if outputs[0] == outputs[1]:
        return True
    diff = "".join(difflib.unified_diff(*outputs, "directly", "through Godwit"))
    (DIFFS / f"{test}.diff").write_text(diff)
    return False


def play(stage: Stage, only: list[str]) -> bool:
    beside = Postgres(stage, "direct", OLD_PROGRAMS)
    behind = Postgres(stage, "behind", OLD_PROGRAMS)
    for server in (beside, behind):
        prepare(server)
    tests, libraries = stage.directory / "regress", stage.directory / "libraries"
    shutil.copytree(FETCHED / "src/test/regress", tests)
    libraries.mkdir()
    for library in (FETCHED / "regress.so", *(OLD_PROGRAMS.parent / f"lib/{name}.so" for name in ("refint", "autoinc"))):
        shutil.copy(library, libraries)
    godwit = Through(stage, behind, beside)
    godwit.serve()
    direct = Run("direct", stage, tests, libraries, beside.port)
    through = Run("through", stage, tests, libraries, godwit.port)

    shutil.rmtree(DIFFS, ignore_errors=True)
    DIFFS.mkdir()
    reasons, differing, unexpected = known_reasons(), [], 0
    names = [name for name in schedule(tests) if not only or name in only]
    for number, test in enumerate(names, 1):
        processes = [run.start(test, tests / f"sql/{test}.sql") for run in (direct, through)]
        ended = [wait(process) for process in processes]
        as_expected = direct.output(test).read_bytes() == (tests / f"expected/{test}.out").read_bytes()
        note = "" if as_expected else "   (directly not as PostgreSQL's file expects: another version of it may fit)"
        if not compare(test, direct, through) or not all(ended):
            differing.append(test)
            note = "   DIFFERS" if all(ended) else "   DOES NOT END"
        print(f"{number:4} of {len(names)}  {test}{note}", flush=True)
        if godwit.process.poll() is not None:
            raise DemoFailure(f"godwit has ended:\n{godwit.log()[-2000:]}")

    print(f"\n{len(names) - len(differing)} of {len(names)} files print the same through Godwit as directly")
    for test in differing:
        reason = reasons.get(test)
        unexpected += reason is None
        print(f"{test:24}{reason or 'UNKNOWN'}   (.build/regression/diffs/{test}.diff)")
    for test in reasons:
        if test in names and test not in differing:
            print(f"{test:24}is the same now: take it out of docs/REGRESSION.md")
    return unexpected == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="these files alone (what they need of others is not made)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Stage() as stage:
            return 0 if play(stage, arguments.only) else 1
    except DemoFailure as failure:
        print(f"FAILED: {failure}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
