"""CPU seconds and memory of Godwit beside PgBouncer: `make bench`. The method is in README.md beside this file."""

import argparse
import os
import resource
import shutil
import socket
import ssl
import statistics
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))

from parts import GODWIT, OLD_PROGRAMS, Postgres, Stage, free_port, new_programs, run, spawn, wait_until  # noqa: E402

DATABASE, USER, POOL_SIZE, CLIENTS = "bench", "app", 20, 32
# More than the idle clients of any run.
CLIENTS_MAX = 50_000
TICKS = os.sysconf("SC_CLK_TCK")
# PgBouncer before 1.21 has no prepared statements in transaction mode; Godwit is then measured alone.
MODES = ("simple", "extended", "prepared")


@dataclass
class Contender:
    name: str
    port: int
    process: subprocess.Popen
    modes: tuple[str, ...] = MODES
    sslmode: str = "disable"
    seconds_per_100k: dict[str, list[float]] = field(default_factory=dict)
    tps: dict[str, list[float]] = field(default_factory=dict)

    def cpu_seconds(self) -> float:
        """utime + stime of the process, all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_kib(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise RuntimeError(f"{self.name} has no VmRSS")

    def measure(self, mode: str, seconds: int):
        before = self.cpu_seconds()
        output = run("pgbench", "-n", "-S", "-M", mode, "-c", CLIENTS, "-j", 1, "-T", seconds, "-s", 5,
                     "-h", "127.0.0.1", "-p", self.port, "-U", USER,
                     f"dbname={DATABASE} sslmode={self.sslmode}")
        used = self.cpu_seconds() - before
        transactions = int(output.split("number of transactions actually processed: ")[1].split()[0])
        self.seconds_per_100k.setdefault(mode, []).append(used / transactions * 100_000)
        self.tps.setdefault(mode, []).append(transactions / seconds)


@dataclass
class Certificate:
    """What both show to their clients."""
    certificate: Path
    key: Path


def make_certificate(stage: Stage) -> Certificate:
    made = Certificate(stage.directory / "server.crt", stage.directory / "server.key")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-keyout", made.key, "-out", made.certificate)
    return made


def start_pgbouncer(stage: Stage, server: Postgres, tls: Certificate | None) -> Contender:
    port = free_port()
    directory = stage.directory / "pgbouncer"
    directory.mkdir()
    encryption = ""
    if tls:
        for name, source in (("crt", tls.certificate), ("key", tls.key)):
            copy = directory / f"server.{name}"
            copy.write_bytes(source.read_bytes())
            copy.chmod(0o600)
            shutil.chown(copy, "postgres")
        encryption = (f"client_tls_sslmode = require\nclient_tls_cert_file = {directory}/server.crt\n"
                      f"client_tls_key_file = {directory}/server.key\n")
    (directory / "users.txt").write_text(f'"{USER}" ""\n')
    (directory / "pgbouncer.ini").write_text(f"""\
[databases]
{DATABASE} = host=127.0.0.1 port={server.port} dbname={DATABASE}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {directory}/users.txt
pool_mode = transaction
default_pool_size = {POOL_SIZE}
max_client_conn = {CLIENTS_MAX}
ignore_startup_parameters = extra_float_digits
logfile =
{encryption}""")
    program = "/usr/sbin/pgbouncer"
    log = open(stage.directory / "pgbouncer.log", "wb")
    process = spawn(program, "-q", directory / "pgbouncer.ini", user="postgres", stdout=log, stderr=log)
    stage.at_end(process.kill)
    version = tuple(int(part) for part in run(program, "--version").split()[1].split(".")[:2])
    wait_until(lambda: listens(port), "PgBouncer listens", seconds=10)
    name = f"PgBouncer {version[0]}.{version[1]}"
    return Contender(
        name, port, process, MODES if version >= (1, 21) else MODES[:2], "require" if tls else "disable")


def start_godwit(
    stage: Stage, old: Postgres, new: Postgres, tls: Certificate | None, listen: str = "", sections: str = ""
) -> Contender:
    """`listen`: further keys of that section, each behind a comma; `sections`: further sections, a line each."""
    port = free_port()
    encryption = f", tls: {{mode: require, certificate: {tls.certificate}, key: {tls.key}}}" if tls else ""
    config = stage.directory / "godwit.yaml"
    config.write_text(f"""\
listen: {{address: 127.0.0.1, port: {port}, clients_max: {CLIENTS_MAX}{encryption}{listen}}}
auth: {{method: trust}}
admin: {{users: [godwit], http: {{port: 0}}}}
state: {{path: {stage.directory}/godwit.sqlite}}
{sections}
databases:
  {DATABASE}:
    old: "host=127.0.0.1 port={old.port} dbname={DATABASE} sslmode=disable"
    new: "host=127.0.0.1 port={new.port} dbname={DATABASE} sslmode=disable"
    pool: {{size: {POOL_SIZE}}}
    reads: {{percent: 0}}
""")
    log = open(stage.directory / "godwit.log", "wb")
    process = spawn(GODWIT, "serve", "--config", config, stdout=log, stderr=log)
    stage.at_end(process.kill)
    wait_until(lambda: listens(port), "Godwit listens", seconds=10)
    return Contender("Godwit", port, process, sslmode="require" if tls else "disable")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def idle_client(port: int, context: ssl.SSLContext | None) -> socket.socket:
    """A client that has logged in and asks nothing."""
    client = socket.create_connection(("127.0.0.1", port))
    if context:
        client.sendall(struct.pack("!II", 8, 80_877_103))
        if client.recv(1) != b"S":
            raise RuntimeError("no TLS")
        client = context.wrap_socket(client, server_hostname="localhost")
    body = struct.pack("!I", 196_608) + f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
    client.sendall(struct.pack("!I", len(body) + 4) + body)
    answer = b""
    while not answer.endswith(b"Z\0\0\0\x05I"):
        part = client.recv(65_536)
        if not part:
            raise RuntimeError(f"closed while logging in: {answer!r}")
        answer += part
    return client


def idle_memory(contender: Contender, count: int) -> tuple[int, int]:
    """VmRSS in KiB before and with this many idle clients."""
    context = None
    if contender.sslmode == "require":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    before = contender.rss_kib()
    clients = [idle_client(contender.port, context) for _ in range(count)]
    after = contender.rss_kib()
    for client in clients:
        client.close()
    return before, after


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def report(contenders: list[Contender], memory: dict[str, tuple[int, int]], idle: int):
    godwit, other = contenders
    if godwit.seconds_per_100k:
        report_load(godwit, other)
    print(f"\nVmRSS with {idle} idle clients (before they came; after one load)")
    for contender in contenders:
        before, after = memory[contender.name]
        print(f"{contender.name:16}{after / 1024:8.1f} MiB ({before / 1024:.1f} MiB)  "
              f"{(after - before) / idle:.2f} KiB a client")


def report_load(godwit: Contender, other: Contender):
    print(f"\nCPU seconds per 100,000 transactions of pgbench -S -c {CLIENTS} -j 1, median (smallest-largest)\n")
    print(f"{'mode':10}{godwit.name:>22}{other.name:>22}{'ratio':>8}    transactions a second")
    for mode in MODES:
        ours = godwit.seconds_per_100k[mode]
        line = f"{mode:10}{spread(ours):>22}"
        tps = f"{statistics.median(godwit.tps[mode]):.0f}"
        if mode in other.modes:
            theirs = other.seconds_per_100k[mode]
            line += f"{spread(theirs):>22}{statistics.median(ours) / statistics.median(theirs):8.2f}"
            tps += f" against {statistics.median(other.tps[mode]):.0f}"
        else:
            line += f"{'not supported':>22}{'-':>8}"
        print(f"{line}    {tps}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="runs of each mode and contender (4)")
    parser.add_argument("--seconds", type=int, default=6, help="length of one run (6)")
    parser.add_argument("--idle", type=int, default=1000, help="idle clients for the memory (1000)")
    parser.add_argument("--tls", action="store_true", help="clients come by TLS")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))

    with Stage() as stage:
        old, new = Postgres(stage, "old", OLD_PROGRAMS), Postgres(stage, "new", new_programs())
        for server in (old, new):
            server.sql(f"CREATE ROLE {USER} LOGIN; CREATE DATABASE {DATABASE}; "
                       f"ALTER DATABASE {DATABASE} OWNER TO {USER}")
            run("pgbench", "-iq", "-s", 5, "-h", "127.0.0.1", "-p", server.port, "-U", USER, DATABASE)
        tls = make_certificate(stage) if arguments.tls else None
        contenders = [start_godwit(stage, old, new, tls), start_pgbouncer(stage, old, tls)]
        for contender in contenders:
            contender.measure("simple", 2)      # opens the pool, warms PostgreSQL's caches
            contender.seconds_per_100k.clear()
            contender.tps.clear()
        for number in range(arguments.rounds):
            for mode in MODES:
                for contender in contenders:
                    if mode in contender.modes:
                        contender.measure(mode, arguments.seconds)
                        print(f"round {number + 1}, {mode}, {contender.name}: "
                              f"{contender.seconds_per_100k[mode][-1]:.2f} s", flush=True)
        memory = {contender.name: idle_memory(contender, arguments.idle) for contender in contenders}
    report(contenders, memory, arguments.idle)
    return 0


if __name__ == "__main__":
    sys.exit(main())
