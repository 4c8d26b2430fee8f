"""A UDP server that wants to know of errors (IP_RECVERR): recverr_server.py 4|6 PORT queue|
recvmsg|recv|read [late|shared], where it looks first; it asks for them when it has its port already, or shares that by a
group of its own. It prints what it sees, and for a line "ADDRESS PORT" on its standard input sends there by a hop limit of 2."""

import errno
import os
import select
import socket
import struct
import sys

RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
LIMIT = {4: (socket.IPPROTO_IP, socket.IP_TTL), 6: (socket.IPPROTO_IPV6, 52)}  # IPV6_HOPLIMIT


def say(*words):
    print(*words, flush=True)


def main(version, port, first, kind=""):
    server = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    if kind == "shared":
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if kind != "late":
        server.setsockopt(*RECVERR[version], 1)
    server.bind(("", port))
    server.setsockopt(*RECVERR[version], 1)
    server.setblocking(False)
    waits = select.epoll()
    waits.register(server, select.EPOLLIN)
    waits.register(0, select.EPOLLIN)
    while True:
        for descriptor, events in waits.poll():
            if descriptor == 0:
                line = sys.stdin.readline()
                if not line:
                    return
                address, to = line.split()
                send(server, version, (address, int(to)))
            else:
                look(server, events, first)


def send(server, version, to):
    """As often as it takes: an error that waits is given to whoever calls next."""
    for _ in range(3):
        try:
            server.sendmsg([b"mine"], [(*LIMIT[version], struct.pack("i", 2))], 0, to)
            return
        except OSError as error:
            say("sending failed", errno.errorcode[error.errno])


def look(server, events, first):
    if events & select.EPOLLERR:
        say("woken")
        if first != "queue":
            receive(server, first)
        while True:
            try:
                data, ancillary, _, name = server.recvmsg(100, 500, socket.MSG_ERRQUEUE)
            except BlockingIOError:
                break
            for _, _, content in ancillary:
                number, origin, kind, code = struct.unpack("IBBB", content[:7])
                say("queued", errno.errorcode[number], origin, kind, code, data, name[:2])
    receive(server)


def receive(server, how="recvmsg"):
    try:
        if how == "recvmsg":
            data, _, _, name = server.recvmsg(100)
            say("received", data, name[:2])
        else:
            say("received", server.recv(100) if how == "recv" else os.read(server.fileno(), 100))
    except BlockingIOError:
        pass
    except OSError as error:
        say("failed", errno.errorcode[error.errno])


main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
