"""A client that ends its side of a TLS connection and reads on. Arguments: port, database; prints what still comes."""

import socket
import ssl
import struct
import sys

port, database = int(sys.argv[1]), sys.argv[2]


class Client:
    """TLS over buffers, so that its goodbye and the socket's can be sent apart."""

    def __init__(self):
        self.raw = socket.create_connection(("127.0.0.1", port))
        self.raw.sendall(struct.pack("!II", 8, 80877103))
        assert self.raw.recv(1) == b"S"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.step(self.tls.do_handshake)
        body = struct.pack("!I", 196608) + f"user\0app\0database\0{database}\0\0".encode()
        self.write(struct.pack("!I", len(body) + 4) + body)
        self.buffer = b""
        self.read_to("Z")

    def step(self, action):
        """Does it with as many bytes from the socket as it needs; None when there are no more."""
        while True:
            try:
                return action()
            except ssl.SSLWantReadError:
                self.flush()
                part = self.raw.recv(65536)
                if not part:
                    return None
                self.incoming.write(part)
            except ssl.SSLZeroReturnError:
                return None
            finally:
                self.flush()

    def flush(self):
        if pending := self.outgoing.read():
            self.raw.sendall(pending)

    def write(self, content: bytes):
        self.tls.write(content)
        self.flush()

    def query(self, text: str):
        self.write(b"Q" + struct.pack("!I", len(text) + 5) + text.encode() + b"\0")

    def read_to(self, end: str | None) -> str:
        """Types of the messages up to one, or to the end of the connection."""
        types = ""
        while True:
            while len(self.buffer) < 5 or len(self.buffer) < 1 + struct.unpack("!I", self.buffer[1:5])[0]:
                part = self.step(lambda: self.tls.read(65536))
                if not part:
                    return types + " end"
                self.buffer += part
            size = 1 + struct.unpack("!I", self.buffer[1:5])[0]
            kind = chr(self.buffer[0])
            self.buffer = self.buffer[size:]
            # S: a setting may be told at any time.
            if kind != "S":
                types += kind
            if kind == end:
                return types

    def say_goodbye(self):
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()


client = Client()
client.query("SELECT pg_sleep(0.1)")
client.query("SELECT 2")
client.say_goodbye()
client.raw.shutdown(socket.SHUT_WR)
# OpenSSL reads on behind its own goodbye; Python's unwrap would wait for the peer's.
print("goodbye", client.read_to(None))

client = Client()
client.query("SELECT pg_sleep(0.1)")
client.query("SELECT 2")
client.raw.shutdown(socket.SHUT_WR)
print("cut", client.read_to(None))

client = Client()
client.query("BEGIN; SELECT txid_current()")
client.read_to("Z")
client.say_goodbye()
client.raw.shutdown(socket.SHUT_WR)
print("in transaction" + client.read_to(None))
