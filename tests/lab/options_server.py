"""A server with socket options of its choice, which tells each client every option that the
client's connection has.

    options_server.py JSON

JSON is a list of listeners: {"address": ..., "port": ..., "protocol": ..., "before": [[level, name, hex], ...],
"after": [...], "unseen": [...]}, options set before and after listen(), and after it by a system
call that no library sees. The latter two are set when a line comes on standard input. A client gets one line of JSON: its address,
and the value of every option by "level/name", in hexadecimal, or what errno says. Then it may ask:
"answer" for a line in two pieces, "send N" for N bytes.
"""

import contextlib
import ctypes
import errno
import json
import platform
import selectors
import socket
import struct
import sys
import threading

LEVELS = {socket.SOL_SOCKET: 110, socket.IPPROTO_TCP: 110, socket.IPPROTO_IP: 64,
          socket.IPPROTO_IPV6: 80, socket.IPPROTO_SCTP: 140}
SO_ATTACH_FILTER = 26
SO_ORIGINAL_DST = 80  # of IP and IPv6
SIZE = 104  # of what is read, at most: struct tcp_info up to the retransmissions
LIBC = ctypes.CDLL(None, use_errno=True)
SYS_SETSOCKOPT = 54 if platform.machine() == "x86_64" else 208


def set_option(sock, level, name, value):
    if (level, name) == (socket.SOL_SOCKET, SO_ATTACH_FILTER):
        program = ctypes.create_string_buffer(value)
        value = struct.pack("HxxxxxxP", len(value) // 8, ctypes.addressof(program))
    try:
        sock.setsockopt(level, name, value)
    except OSError as error:
        sys.exit(f"level {level}, option {name}: {error}")


def read_option(sock, level, name):
    """SCTP's options are asked for with a structure that is all zeros."""
    value, length = ctypes.create_string_buffer(SIZE), ctypes.c_uint(SIZE)
    if LIBC.getsockopt(sock.fileno(), level, name, value, ctypes.byref(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, "getsockopt")
    return value.raw[:length.value]


def options_of(sock):
    options = {}
    for level, end in LEVELS.items():
        for name in (*range(end), SO_ORIGINAL_DST):
            try:
                options[f"{level}/{name}"] = read_option(sock, level, name).hex()
            except OSError as error:
                options[f"{level}/{name}"] = errno.errorcode[error.errno]
    return options


def listening(listener):
    family = socket.AF_INET6 if ":" in listener["address"] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, listener.get("protocol", 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for level, name, value in listener["before"]:
        set_option(sock, level, name, bytes.fromhex(value))
    sock.bind((listener["address"], listener["port"]))
    sock.listen(20)
    return sock


def set_late(sock, listener):
    for level, name, value in listener["after"]:
        set_option(sock, level, name, bytes.fromhex(value))
    for level, name, value in listener["unseen"]:
        data = bytes.fromhex(value)
        if LIBC.syscall(SYS_SETSOCKOPT, sock.fileno(), level, name, data, len(data)) != 0:
            raise OSError(ctypes.get_errno(), "setsockopt")


def serve(connection):
    with contextlib.suppress(ConnectionError), connection, connection.makefile("rb") as stream:
        for line in stream:
            what, size = (*line.split(), 0)[:2]
            if what == b"send":
                connection.sendall(bytes(int(size)))
            else:
                connection.sendall(b"ans")
                connection.sendall(b"wer\n")


def main():
    selector = selectors.DefaultSelector()
    listeners = json.loads(sys.argv[1])
    sockets = [listening(listener) for listener in listeners]
    for sock in sockets:
        selector.register(sock, selectors.EVENT_READ)
    print("listens", flush=True)
    sys.stdin.readline()
    for sock, listener in zip(sockets, listeners):
        set_late(sock, listener)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            connection, peer = key.fileobj.accept()
            answer = json.dumps({"peer": peer[:2], "options": options_of(connection)}) + "\n"
            # In pieces, since SCTP may have been told not to divide messages.
            with contextlib.suppress(ConnectionError):  # it has heard enough
                for at in range(0, len(answer), 500):
                    connection.sendall(answer[at:at + 500].encode())
            threading.Thread(target=serve, args=[connection], daemon=True).start()


main()
