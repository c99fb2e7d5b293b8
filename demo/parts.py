"""What the demo puts on its stage: PostgreSQL servers, Godwit and pgbench, each a process that ends with ours."""

import csv
import io
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
GODWIT = Path(os.environ.get("GODWIT_BINARY") or ROOT / ".build/release/godwit")
OLD_PROGRAMS = Path("/usr/lib/postgresql/15/bin")
DATABASE = "shop"
USER = "app"
SCALE = 5


class DemoFailure(Exception):
    """Something that the demo promises did not hold."""


def new_programs() -> Path:
    named = os.environ.get("GODWIT_PG18_BIN") or (ROOT / ".build/pg18-bin").read_text().strip()
    return Path(named)


def free_port() -> int:
    """Below the range that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def run(*command, **options) -> str:
    """Runs a program to its end; its standard output."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd="/", **options)
    if result.returncode != 0:
        raise DemoFailure(f"{command[0]} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
    return result.stdout


def spawn(*command, user: str | None = None, death_signal: str = "KILL", **options) -> subprocess.Popen:
    """Starts a program that the kernel ends when we end, in whatever way, and that Ctrl-C does not reach."""
    wrapper = ["setpriv", f"--pdeathsig={death_signal}"]
    if user is not None and os.geteuid() == 0:
        wrapper += ["--reuid", user, "--regid", user, "--init-groups"]
    words = wrapper + ["--"] + [str(word) for word in command]
    return subprocess.Popen(words, start_new_session=True, cwd="/", stdin=subprocess.DEVNULL, **options)


class Stage:
    """The temporary directory, and what is to be ended in which order."""

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="godwit-demo-"))
        self.directory.chmod(0o755)
        self.ends = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave half of it behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for end in reversed(self.ends):
            try:
                end()
            except Exception as error:  # the rest is to be ended all the same
                print(f"demo: while ending: {error}")
        shutil.rmtree(self.directory, ignore_errors=True)

    def at_end(self, action):
        self.ends.append(action)


class Postgres:
    """One server in the stage's directory, run as the user postgres where we are root."""

    def __init__(self, stage: Stage, name: str, programs: Path):
        self.name, self.programs, self.port = name, programs, free_port()
        self.directory = stage.directory / name
        self.directory.mkdir()
        if os.geteuid() == 0:
            shutil.chown(self.directory, "postgres", "postgres")
        self.process: subprocess.Popen | None = None
        self._as_owner(programs / "initdb", "-D", self.directory / "data", "-U", "postgres", "-A", "trust",
                       "--no-sync", "--no-instructions", "-E", "UTF8", "--locale", "C")
        (self.directory / "data/postgresql.conf").write_text(
            f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = '{self.directory}'\n"
            "shared_buffers = '128MB'\nmax_wal_size = '2GB'\nmax_connections = 100\nfsync = off\n"
            "log_min_messages = warning\n")
        stage.at_end(self.stop)
        self.start()

    def _as_owner(self, *command):
        words = [str(word) for word in command]
        if os.geteuid() == 0:
            words = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", "--", *words]
        run(*words)

    def start(self):
        """Returns when it takes connections. After a signal 9 the first tries may find the dead one's memory in use."""
        log = open(self.directory / "log", "ab")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            self.process = spawn(self.programs / "postgres", "-D", self.directory / "data", user="postgres",
                                 death_signal="QUIT", stdout=log, stderr=log)
            while self.process.poll() is None:
                if subprocess.run([self.programs / "pg_isready", "-q", "-h", self.directory, "-p", str(self.port)],
                                  check=False).returncode == 0:
                    return
                time.sleep(0.05)
        raise DemoFailure(f"{self.name} does not start:\n{(self.directory / 'log').read_text()}")

    def kill(self):
        """Signal 9 to the server and all its processes, as when the machine is lost."""
        postmaster = psutil.Process(self.process.pid)
        processes = postmaster.children(recursive=True)
        self.process.kill()
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self.process.wait()

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()

    def sql(self, text: str, database: str = "postgres") -> str:
        return run("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.directory, "-p", self.port, "-U", "postgres",
                   "-d", database, input=text).strip()

    def conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} dbname={DATABASE}"


class Godwit:
    """`godwit serve` and its console."""

    CONFIGURATION = """\
listen: {{address: 127.0.0.1, port: {port}}}
auth: {{method: trust}}
admin: {{users: [godwit], http: {{port: 0}}}}
state: {{path: {directory}/godwit.sqlite}}
databases:
  {database}:
    old: "{old}"
    new: "{new}"
    control: {{old: "{old} user=postgres", new: "{new} user=postgres"}}
    pool: {{size: 12, server_login_retry: 1}}
    reads:
      percent: {percent}
      key: [{{comment: user_id}}, {{session: user}}]
    mirror: {{mode: {mirror}}}
    breaker: {{failures: 3, held: 2, probes: 2, memory: 0, p95_factor: 20}}
"""

    def __init__(self, stage: Stage, old: Postgres, new: Postgres):
        self.directory, self.old, self.new = stage.directory, old, new
        self.port = free_port()
        self.path = stage.directory / "godwit.yaml"
        self.log_path = stage.directory / "godwit.log"
        self.process: subprocess.Popen | None = None
        self.configure(percent=0)
        stage.at_end(self.stop)

    def configure(self, percent: float, mirror: str = "async"):
        self.path.write_text(self.CONFIGURATION.format(
            port=self.port, directory=self.directory, database=DATABASE, percent=percent, mirror=mirror,
            old=self.old.conninfo(), new=self.new.conninfo()))

    def command(self, name: str, *arguments) -> str:
        return run(GODWIT, name, "--config", self.path, *arguments)

    def serve(self):
        log = open(self.log_path, "wb")
        self.process = spawn(GODWIT, "serve", "--config", self.path, stdout=log, stderr=log)
        while "listening on" not in self.log():
            if self.process.poll() is not None:
                raise DemoFailure(f"godwit serve ended:\n{self.log()}")
            time.sleep(0.02)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def reload(self, percent: float):
        """Edits the file and sends SIGHUP; returns when the log tells that it was taken."""
        seen = len(self.log())
        self.configure(percent)
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "->" in self.log()[seen:], "Godwit logs what SIGHUP changed", seconds=10)

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def console(self, command: str) -> list[dict[str, str]]:
        text = run("psql", "-Xq", "--csv", "-h", "127.0.0.1", "-p", self.port, "-U", "godwit", "-d", "godwit",
                   "-c", command)
        return list(csv.DictReader(io.StringIO(text)))

    def reads(self) -> tuple[int, int]:
        """Reads that went to OLD and to NEW since the start."""
        counts = {"old": 0, "new": 0}
        for row in self.console("SHOW ROUTES"):
            if row["database"] == DATABASE and row["kind"] == "read":
                counts[row["side"]] += int(row["units"])
        return counts["old"], counts["new"]

    def mirror(self) -> dict[str, str]:
        rows = [row for row in self.console("SHOW MIRROR") if row["database"] == DATABASE]
        if not rows:
            raise DemoFailure("SHOW MIRROR has no row")
        return rows[0]

    def buckets(self, users: list[int]) -> dict[int, float]:
        lines = run(GODWIT, "bucket", *users).split("\n")
        return {int(key): float(bucket) for key, bucket in (line.split("\t") for line in lines if line)}


class Load:
    """pgbench in its three protocol modes at once: keyed reads of many users, and TPC-B writes of others."""

    MODES = ("simple", "extended", "prepared")
    READERS = list(range(1, 101))
    WRITERS = [1001, 1002, 1003, 1004, 1005]

    WRITE = """\
\\set aid random(1, 100000 * {scale})
\\set bid random(1, {scale})
\\set tid random(1, 10 * {scale})
\\set delta random(-5000, 5000)
/* user_id={user} */ BEGIN;
/* user_id={user} */ UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
/* user_id={user} */ SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
/* user_id={user} */ UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
/* user_id={user} */ UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
/* user_id={user} */ INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) \
VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
/* user_id={user} */ END;
"""
    # pgbench makes a variable inside a comment a parameter, so each user has a file of its own.
    READ = """\
\\set aid random(1, 100000 * {scale})
/* user_id={user} */ SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
"""

    def __init__(self, stage: Stage, port: int, rate: int):
        """`rate`: transactions a second of each mode; one in ten is a write."""
        self.files = []
        for user in self.READERS:
            self.files.append((self._script(stage, f"read-{user}", self.READ, user), 9))
        for user in self.WRITERS:
            self.files.append((self._script(stage, f"write-{user}", self.WRITE, user), 20))
        self.outputs, self.processes = {}, {}
        self.port, self.rate, self.directory = port, rate, stage.directory
        stage.at_end(self.kill)

    @staticmethod
    def _script(stage: Stage, name: str, template: str, user: int) -> Path:
        path = stage.directory / f"{name}.sql"
        path.write_text(template.format(user=user, scale=SCALE))
        return path

    def start(self, seconds: int):
        scripts = [word for path, weight in self.files for word in ("-f", f"{path}@{weight}")]
        for mode in self.MODES:
            self.outputs[mode] = self.directory / f"pgbench-{mode}.log"
            output = open(self.outputs[mode], "wb")
            self.processes[mode] = spawn(
                "pgbench", "-n", "-M", mode, "-c", "4", "-j", "1", "-T", seconds, "-R", self.rate, *scripts,
                "-h", "127.0.0.1", "-p", self.port, "-U", USER, DATABASE, stdout=output, stderr=subprocess.STDOUT)

    def check_running(self):
        for mode, process in self.processes.items():
            if process.poll() is not None:
                raise DemoFailure(f"pgbench -M {mode} has ended:\n{self._tail(mode)}")

    def stop(self) -> tuple[int, int, list[str]]:
        """Waits for the end of the load: transactions, client errors and what pgbench said of them."""
        transactions, errors, complaints = 0, 0, []
        for mode, process in self.processes.items():
            status = process.wait()
            text = self.outputs[mode].read_text(errors="replace")
            found = [line for line in text.splitlines() if "error:" in line or "aborted" in line]
            errors += self._number(r"number of failed transactions: (\d+)", text) + len(found)
            if status != 0 and not found:
                found, errors = [f"pgbench -M {mode} ended with {status}"], errors + 1
            complaints += found
            transactions += self._number(r"number of transactions actually processed: (\d+)", text)
        return transactions, errors, complaints

    def kill(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def _tail(self, mode: str) -> str:
        return self.outputs[mode].read_text(errors="replace")[-2000:]

    @staticmethod
    def _number(pattern: str, text: str) -> int:
        found = re.search(pattern, text)
        return int(found.group(1)) if found else 0


def wait_until(condition, what: str, seconds: float):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DemoFailure(f"waited {seconds:.0f} s in vain until {what}")
        time.sleep(0.05)
