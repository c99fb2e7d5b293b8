"""Godwit, PgBouncer, HAProxy and PostgreSQL itself, started side by side to be measured, and what a process has used."""

import functools
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))

from parts import GODWIT, OLD_PROGRAMS, Postgres, Stage, free_port, new_programs, run, spawn, wait_until  # noqa: E402

DATABASE, USER, PASSWORD = "bench", "app", "secret"
POOL_SIZE = 20
# pgbench's scale, and the rows of pgbench_accounts.
SCALE = 5
ROWS = SCALE * 100_000
# More than the idle clients of any run.
CLIENTS_MAX = 50_000
# HAProxy and PostgreSQL itself have a server for each client.
SERVERS_MAX = 300
PROTOCOLS = ("simple", "extended", "prepared", "pipelined")
READ = f"\\set aid random(1, {ROWS})\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"
WRITE = f"\\set aid random(1, {ROWS})\nUPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n"
# Of one transaction in the protocol "pipelined".
PIPELINED = 10


def cpu_seconds(pid: int) -> float:
    """To the nanosecond, by the process's clock (clock_getcpuclockid): /proc counts in hundredths of a second."""
    return time.clock_gettime((~pid << 3) | 2)


def kernel_seconds(pid: int) -> float:
    """Of those what the kernel has taken, in hundredths."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[12]) / os.sysconf("SC_CLK_TCK")


def status_number(pid: int, name: str, task: int | None = None) -> int:
    path = f"/proc/{pid}/task/{task}/status" if task else f"/proc/{pid}/status"
    found = re.search(rf"^{name}:\s+(\d+)", Path(path).read_text(), re.MULTILINE)
    if not found:
        raise RuntimeError(f"{path} has no {name}")
    return int(found.group(1))


@dataclass
class Usage:
    """Of a process, since it started."""
    cpu: float
    # In the kernel: what forwarding takes whoever does it.
    kernel: float
    # Of those of its threads that pass traffic.
    data_plane: float
    switches: int


@dataclass
class Contender:
    name: str
    port: int
    # None: PostgreSQL itself, which is a process for each client.
    process: subprocess.Popen | None
    protocols: tuple[str, ...] = PROTOCOLS
    sslmode: str = "disable"
    database: str = DATABASE
    # It has a server for each client.
    is_bare: bool = False
    # With its servers' greeting, and no client.
    rss_at_start: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} user={USER} dbname={self.database} sslmode={self.sslmode}"

    def usage(self) -> Usage:
        data_plane, switches = 0.0, 0
        for task in os.listdir(f"/proc/{self.pid}/task"):
            name = Path(f"/proc/{self.pid}/task/{task}/comm").read_text().strip()
            switches += status_number(self.pid, "voluntary_ctxt_switches", task)
            # Godwit's reactors are godwit-0, godwit-1 ...; the others have one thread.
            if not self.name.startswith("Godwit") or re.fullmatch(r"godwit-\d+", name):
                data_plane += int(Path(f"/proc/{self.pid}/task/{task}/schedstat").read_text().split()[0]) / 1e9
        return Usage(cpu_seconds(self.pid), kernel_seconds(self.pid), data_plane, switches)

    def rss_kib(self) -> int:
        return status_number(self.pid, "VmRSS")


@dataclass
class Certificate:
    """What all show to their clients."""
    certificate: Path
    key: Path

    def copy_for(self, directory: Path) -> "Certificate":
        """Files of the user postgres, which only they may read."""
        copies = Certificate(directory / "server.crt", directory / "server.key")
        for source, copy in ((self.certificate, copies.certificate), (self.key, copies.key)):
            copy.write_bytes(source.read_bytes())
            copy.chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(copy, "postgres")
        return copies


def make_certificate(stage: Stage) -> Certificate:
    made = Certificate(stage.directory / "server.crt", stage.directory / "server.key")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-keyout", made.key, "-out", made.certificate)
    return made


def make_servers(stage: Stage, tls: Certificate | None = None) -> tuple[Postgres, Postgres]:
    """OLD and NEW with pgbench's tables, the same rows on both. OLD alone speaks TLS, to those who ask for it."""
    servers = Postgres(stage, "old", OLD_PROGRAMS), Postgres(stage, "new", new_programs())
    for server in servers:
        settings = [f"max_connections = {SERVERS_MAX}", "wal_level = logical"]
        if tls and server is servers[0]:
            files = tls.copy_for(server.directory)
            settings += ["ssl = on", f"ssl_cert_file = '{files.certificate}'", f"ssl_key_file = '{files.key}'"]
        for setting in settings:
            server.sql(f"ALTER SYSTEM SET {setting}")
        server.stop()
        server.start()
        server.sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
        make_database(server, DATABASE)
    return servers


def make_database(server: Postgres, name: str, steps: str = "dtgvp"):
    """`steps`: of pgbench's initialization; without "g" there are no rows."""
    server.sql(f"CREATE DATABASE {name} OWNER {USER}")
    run("pgbench", "-iq", "-I", steps, "-s", SCALE, "-h", "127.0.0.1", "-p", server.port, "-U", USER, name)


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


class Starter:
    """Starts contenders, ends them when the group of cells that they were started for is done."""

    def __init__(self, stage: Stage, old: Postgres, new: Postgres, certificate: Certificate | None = None):
        self.stage, self.old, self.new, self.certificate = stage, old, new, certificate
        # Of what the contenders write themselves, PgBouncer as another user.
        (stage.directory / "counts").mkdir(mode=0o777)
        (stage.directory / "counts").chmod(0o777)
        self.number = 0
        self.running: list[subprocess.Popen] = []

    def stop(self):
        for process in self.running:
            process.kill()
            process.wait()
        self.running = []

    def _directory(self, name: str) -> Path:
        self.number += 1
        directory = self.stage.directory / f"{name}-{self.number}"
        directory.mkdir()
        if os.geteuid() == 0:
            shutil.chown(directory, "postgres")
        return directory

    def _spawn(self, name: str, port: int, directory: Path, *command, user: str | None = None) -> subprocess.Popen:
        log = open(directory / "log", "wb")
        process = spawn(*command, user=user, stdout=log, stderr=log)
        self.running.append(process)
        self.stage.at_end(process.kill)

        def is_up() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{name} has ended:\n{(directory / 'log').read_text()}")
            return listens(port)
        # valgrind takes its time.
        wait_until(is_up, f"{name} listens", seconds=60)
        return process

    def _scram_secret(self) -> str:
        return self.old.sql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{USER}'")

    def pgbouncer(self, tls: bool = False, scram: bool = False, database: str = DATABASE, under=()) -> Contender:
        port, directory = free_port(), self._directory("pgbouncer")
        encryption = ""
        if tls:
            files = self.certificate.copy_for(directory)
            encryption = (f"client_tls_sslmode = require\nclient_tls_cert_file = {files.certificate}\n"
                          f"client_tls_key_file = {files.key}\n")
        (directory / "users.txt").write_text(f'"{USER}" "{self._scram_secret() if scram else ""}"\n')
        (directory / "pgbouncer.ini").write_text(f"""\
[databases]
{database} = host=127.0.0.1 port={self.old.port} dbname={database} {f"user={USER}" if scram else ""}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = {"scram-sha-256" if scram else "trust"}
auth_file = {directory}/users.txt
pool_mode = transaction
default_pool_size = {POOL_SIZE}
max_client_conn = {CLIENTS_MAX}
ignore_startup_parameters = extra_float_digits
logfile =
{encryption}""")
        program = "/usr/sbin/pgbouncer"
        version = tuple(int(part) for part in run(program, "--version").split()[1].split(".")[:2])
        process = self._spawn(
            "PgBouncer", port, directory, *under, program, "-q", directory / "pgbouncer.ini", user="postgres")
        # Before 1.21 it has no prepared statements in transaction mode.
        protocols = PROTOCOLS if version >= (1, 21) else tuple(name for name in PROTOCOLS if name != "prepared")
        return Contender("PgBouncer", port, process, protocols, "require" if tls else "disable", database)

    def godwit(
        self, name: str = "Godwit", tls: bool = False, scram: bool = False, percent: int = 0, mirror: str = "off",
        database: str = DATABASE, listen: str = "", sections: str = "", under=(), binary: Path = GODWIT,
        new_host: str = "127.0.0.1"
    ) -> Contender:
        """`listen`: further keys of that section, each behind a comma; `sections`: further sections, a line each."""
        port, directory = free_port(), self._directory("godwit")
        encryption = ""
        if tls:
            # Godwit runs as we do.
            encryption = (f", tls: {{mode: require, certificate: {self.certificate.certificate}, "
                          f"key: {self.certificate.key}}}")
        auth = "{method: trust}"
        if scram:
            (directory / "users.txt").write_text(f'"{USER}" "{self._scram_secret()}"\n')
            auth = f"{{method: scram-sha-256, users_file: {directory}/users.txt}}"
        old, new = (f"host={host} port={server.port} dbname={database} sslmode=disable"
                    for host, server in (("127.0.0.1", self.old), (new_host, self.new)))
        config = directory / "godwit.yaml"
        config.write_text(f"""\
listen: {{address: 127.0.0.1, port: {port}, clients_max: {CLIENTS_MAX}{encryption}{listen}}}
auth: {auth}
admin: {{users: [godwit], http: {{port: 0}}}}
state: {{path: {directory}/godwit.sqlite}}
{sections}
databases:
  {database}:
    old: "{old}"
    new: "{new}"
    control: {{old: "{old} user=postgres", new: "{new} user=postgres"}}
    pool: {{size: {POOL_SIZE}}}
    reads: {{percent: {percent}{", key: [{column: aid}]" if percent else ""}}}
    mirror: {{mode: {mirror}}}
    breaker: {{rollback: "off", memory: 0}}
""")
        if mirror != "off":
            run(binary, "prepare", "--config", config, database)
        process = self._spawn(name, port, directory, *under, binary, "serve", "--config", config)
        made = Contender(name, port, process, sslmode="require" if tls else "disable", database=database)
        if mirror != "off":
            wait_until(lambda: console(made, "SHOW MIRROR").split("|")[1:2] == ["mirroring"], f"{name} mirrors", 120)
        return made

    def haproxy(self, under=()) -> Contender:
        """TCP mode: bytes there and back, a server for each client. It does not know PostgreSQL's way into TLS."""
        port, directory = free_port(), self._directory("haproxy")
        (directory / "haproxy.cfg").write_text(f"""\
global
    nbthread 1
    maxconn {CLIENTS_MAX // 8}
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
frontend clients
    bind 127.0.0.1:{port}
    default_backend servers
backend servers
    server old 127.0.0.1:{self.old.port}
""")
        process = self._spawn("HAProxy", port, directory, *under, haproxy_program(), "-db", "-f",
                              directory / "haproxy.cfg")
        return Contender("HAProxy", port, process, is_bare=True)

    def postgres(self, tls: bool = False) -> Contender:
        return Contender("PostgreSQL", self.old.port, None, sslmode="require" if tls else "disable", is_bare=True)


def haproxy_program() -> str | None:
    return shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def console(godwit: Contender, command: str) -> str:
    return run("psql", "-XAt", "-h", "127.0.0.1", "-p", godwit.port, "-U", "godwit", "-d", "pgbouncer", "-c", command)


@functools.cache
def tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def idle_client(contender: Contender) -> socket.socket:
    """A client that has logged in and asks nothing."""
    client = socket.create_connection(("127.0.0.1", contender.port))
    # As libpq does. Without it a client's first words wait for the acknowledgement of its handshake.
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if contender.sslmode == "require":
        client.sendall(struct.pack("!II", 8, 80_877_103))
        if client.recv(1) != b"S":
            raise RuntimeError("no TLS")
        client = tls_context().wrap_socket(client, server_hostname="localhost")
    body = struct.pack("!I", 196_608) + f"user\0{USER}\0database\0{contender.database}\0\0".encode()
    client.sendall(struct.pack("!I", len(body) + 4) + body)
    answer = b""
    while not answer.endswith(b"Z\0\0\0\x05I"):
        part = client.recv(65_536)
        if not part:
            raise RuntimeError(f"closed while logging in: {answer!r}")
        answer += part
    return client
