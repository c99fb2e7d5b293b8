"""A client that does in TLS what no driver does. Arguments: port, and what to do; prints what comes of it."""

import socket
import ssl
import struct
import sys

port, scene = int(sys.argv[1]), sys.argv[2]
SSL_REQUEST = struct.pack("!II", 8, 80877103)


def connect() -> socket.socket:
    return socket.create_connection(("127.0.0.1", port))


def context(alpn: list[str] | None = None) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if alpn:
        made.set_alpn_protocols(alpn)
    return made


def requested() -> socket.socket:
    """Where the server has said S."""
    raw = connect()
    raw.sendall(SSL_REQUEST)
    assert raw.recv(1) == b"S"
    return raw


def client_hello(alpn: list[str] | None = None) -> bytes:
    outgoing = ssl.MemoryBIO()
    client = context(alpn).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def startup() -> bytes:
    body = struct.pack("!I", 196608) + b"user\0app\0database\0" + sys.argv[3].encode() + b"\0\0"
    return struct.pack("!I", len(body) + 4) + body


def answer_to(raw: socket.socket, alpn: list[str] | None) -> str:
    """The first record that comes back."""
    raw.sendall(client_hello(alpn))
    head = raw.recv(7, socket.MSG_WAITALL)
    return f"alert {head[6]}" if head[0] == 0x15 else "handshake" if head[0] == 0x16 else repr(head)


def until_closed(raw) -> bytes:
    answer = b""
    try:
        while part := raw.recv(65536):
            answer += part
    except ConnectionResetError:
        pass
    return answer


if scene == "direct":
    for alpn in (["postgresql"], ["http/1.1"], ["h2", "postgresql"], None):
        print(alpn, answer_to(connect(), alpn))
elif scene == "alpn-requested":
    for alpn in (["postgresql"], ["http/1.1"], None):
        print(alpn, answer_to(requested(), alpn))
elif scene == "stall":
    # Each must be closed by client_login_timeout, whatever it has sent by then.
    hello = client_hello()
    stalled = [requested() for _ in range(3)]
    stalled[1].sendall(hello[:20])
    stalled[2].sendall(hello)
    for raw in stalled:
        until_closed(raw)
    direct = connect()
    direct.sendall(hello[:5])
    until_closed(direct)
    print("closed")
elif scene == "garbage":
    raw = requested()
    raw.sendall(client_hello() + b"garbage" * 100)
    until_closed(raw)
    raw = requested()
    raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
    print("closed" if until_closed(raw) == b"" else "answered")
elif scene == "stuffed":
    # Sent with SSLRequest in one piece: by somebody in between, before the handshake.
    raw = connect()
    raw.sendall(SSL_REQUEST + startup())
    print(until_closed(raw))
elif scene == "goodbye":
    # close_notify behind a query, and the socket stays open: the server must not wait for more.
    raw = requested()
    secured = context().wrap_socket(raw, server_hostname="localhost")
    secured.sendall(startup())
    while not secured.recv(65536).endswith(b"Z\0\0\0\x05I"):
        pass
    try:
        secured.unwrap()
    except ssl.SSLError:
        pass
    print("over")
elif scene == "bytewise":
    # Each byte of TLS a segment of its own.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    raw = requested()
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    secured = context().wrap_bio(incoming, outgoing, server_hostname="localhost")

    def run(step):
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                result = None
            for byte in outgoing.read():
                raw.sendall(bytes([byte]))
            if result is not None:
                return result
            incoming.write(raw.recv(1))

    run(lambda: secured.do_handshake() or True)
    run(lambda: secured.write(startup()))
    answer = b""
    while not answer.endswith(b"Z\0\0\0\x05I"):
        answer += run(lambda: secured.read(65536))
    run(lambda: secured.write(b"Q\0\0\0\x0dSELECT 1\0"))
    answer = b""
    while not answer.endswith(b"Z\0\0\0\x05I"):
        answer += run(lambda: secured.read(65536))
    print("answered" if b"SELECT 1\0" in answer else answer)
else:
    raise SystemExit(f"no scene {scene}")
