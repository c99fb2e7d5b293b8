"""Prints the keepalive and user time-out options of another process's TCP connections, one line each.

usage: socket_options.py PID    prints: LOCAL-PORT PEER-PORT KEEPALIVE COUNT IDLE INTERVAL USER-TIMEOUT
"""
import ctypes
import os
import socket
import sys

PIDFD_GETFD = 438  # the same number on all of Linux's machines; glibc got a function for it late

libc = ctypes.CDLL(None, use_errno=True)
process = os.pidfd_open(int(sys.argv[1]))
for name in os.listdir(f"/proc/{sys.argv[1]}/fd"):
    copy = libc.syscall(PIDFD_GETFD, process, int(name), 0)
    if copy < 0:
        continue  # closed meanwhile
    try:
        connection = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        continue  # not a socket
    with connection:
        if connection.family != socket.AF_INET or connection.type != socket.SOCK_STREAM:
            continue
        try:
            ports = connection.getsockname()[1], connection.getpeername()[1]
        except OSError:
            continue  # it listens
        tcp = socket.IPPROTO_TCP
        options = [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE), (tcp, socket.TCP_KEEPCNT), (tcp, socket.TCP_KEEPIDLE),
            (tcp, socket.TCP_KEEPINTVL), (tcp, socket.TCP_USER_TIMEOUT),
        ]
        print(*ports, *(connection.getsockopt(*option) for option in options))
