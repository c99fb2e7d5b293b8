#!/usr/bin/env python3
"""Whether the time of a failed login tells that a user exists.

Logs in by turns as a user that exists and as one that does not, with a wrong proof, over the method that the server
asks for, and prints the medians and what a rank test (Mann-Whitney) says of the difference.

    loadtest/login_timing.py PORT DATABASE KNOWN UNKNOWN [ROUNDS]
"""
import math
import socket
import statistics
import struct
import sys
import time


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise SystemExit("closed too early")
        data += chunk
    return data


def read(connection: socket.socket) -> tuple[bytes, bytes]:
    kind, length = struct.unpack("!cI", exactly(connection, 5))
    return kind, exactly(connection, length - 4)


def attempt(port: int, database: str, user: str) -> tuple[float, int]:
    """Seconds from the startup packet to the refusal, and the bytes received."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    parameters = f"user\0{user}\0database\0{database}\0\0".encode()
    begin = time.perf_counter()
    connection.sendall(struct.pack("!II", len(parameters) + 8, 196608) + parameters)
    received = 0
    while True:
        kind, body = read(connection)
        received += len(body) + 5
        if kind == b"E":
            elapsed = time.perf_counter() - begin
            connection.close()
            return elapsed, received
        code = struct.unpack("!I", body[:4])[0]
        if code == 10:
            first = b"n,,n=,r=abcdefghijklmnopqrstuvwx"
            answer = b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first
        elif code == 11:
            nonce = body[4:].split(b",")[0]
            answer = b"c=biws," + nonce + b",p=" + b"A" * 43 + b"="
        else:
            answer = b"md5" + b"0" * 32 + b"\0"
        connection.sendall(message(b"p", answer))


def main() -> None:
    port, database, known, unknown = int(sys.argv[1]), *sys.argv[2:5]
    rounds = int(sys.argv[5]) if len(sys.argv) > 5 else 2000
    times: dict[str, list[float]] = {known: [], unknown: []}
    sizes: dict[str, set[int]] = {known: set(), unknown: set()}
    for number in range(rounds):
        for user in (known, unknown) if number % 2 else (unknown, known):
            elapsed, received = attempt(port, database, user)
            times[user].append(elapsed)
            sizes[user].add(received - len(user))
    for user in (known, unknown):
        quartiles = statistics.quantiles(times[user], n=4)
        print(f"{user}: median {quartiles[1] * 1e6:.1f} us, quartiles {quartiles[0] * 1e6:.1f} and "
              f"{quartiles[2] * 1e6:.1f} us, bytes without the name {sorted(sizes[user])}")
    ranked = sorted([(value, 0) for value in times[known]] + [(value, 1) for value in times[unknown]])
    ranks = sum(rank for rank, (_, group) in enumerate(ranked, 1) if group == 0)
    u = ranks - rounds * (rounds + 1) / 2
    z = (u - rounds * rounds / 2) / math.sqrt(rounds * rounds * (2 * rounds + 1) / 12)
    print(f"rank test: z = {z:.2f} (beyond 3 the times differ)")


if __name__ == "__main__":
    main()
