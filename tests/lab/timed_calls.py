"""A TCP and UDP server that makes each call of its own once for each line that it reads, and shows what
came of it and how long it took: "NAME RESULT MILLISECONDS", and "done".

    timed_calls.py PORT OTHER_PORT
"""

import errno
import os
import select
import socket
import sys
import time


def listener_on(port):
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", port))
    return listener


def forked():
    child = os.fork()
    if child == 0:
        os._exit(0)
    return os.waitpid(child, 0)[1]


def main(port, other_port):
    served = listener_on(port)
    served.listen(10)
    served.setblocking(False)
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.bind(("::", port))
    datagrams.setblocking(False)
    print("ready", flush=True)
    for _ in sys.stdin:
        other = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        calls = {
            "accept": served.accept,
            "setsockopt": lambda: served.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            "recvfrom": lambda: datagrams.recvfrom(100),
            "sendto": lambda: datagrams.sendto(b"", ("::1", 9)),
            "poll": lambda: select.poll().poll(0),
            "select": lambda: select.select([served], [], [], 0),
            "fork": forked,
            "bind": lambda other=other: other.bind(("::", other_port)),
            "listen": lambda other=other: other.listen(10),
            "dup2": lambda other=other: os.dup2(served.fileno(), other.fileno()),
            "close": other.close,
        }
        for name, call in calls.items():
            begun = time.monotonic()
            try:
                call()
                result = "0"
            except OSError as error:
                result = errno.errorcode[error.errno]
            print(name, result, (time.monotonic() - begun) * 1000)
        print("done", flush=True)


main(*map(int, sys.argv[1:]))
