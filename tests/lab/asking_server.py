"""A server that asks the kernel all that programs ask of a connection, and gives each line back after the
peer's address.

    asking_server.py tcp|sctp ADDRESS PORT
"""

import contextlib
import socket
import sys

OF_SOCKETS = (socket.SO_ERROR, socket.SO_TYPE, socket.SO_DOMAIN, socket.SO_PROTOCOL,
              socket.SO_ACCEPTCONN, socket.SO_REUSEADDR, socket.SO_KEEPALIVE, socket.SO_LINGER,
              socket.SO_SNDBUF, socket.SO_RCVBUF, socket.SO_PRIORITY, socket.SO_MARK)
OF_TCP = (socket.TCP_NODELAY, socket.TCP_MAXSEG, socket.TCP_DEFER_ACCEPT, socket.TCP_CONGESTION)
SCTP_NODELAY, SCTP_EVENTS = 3, 11


def ask(connection, transport):
    family = connection.family
    connection.getsockname()
    connection.getpeername()
    asked = [(socket.SOL_SOCKET, OF_SOCKETS),
             (socket.IPPROTO_IPV6, (socket.IPV6_V6ONLY, socket.IPV6_UNICAST_HOPS))
             if family == socket.AF_INET6 else (socket.IPPROTO_IP, (socket.IP_TOS, socket.IP_TTL))]
    asked.append((socket.IPPROTO_TCP, OF_TCP) if transport == "tcp" else
                 (socket.IPPROTO_SCTP, (SCTP_NODELAY, SCTP_EVENTS)))
    for level, names in asked:
        for name in names:
            with contextlib.suppress(OSError):
                connection.getsockopt(level, name, 64)


def main(transport, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    protocol = socket.IPPROTO_SCTP if transport == "sctp" else socket.IPPROTO_TCP
    with socket.socket(family, socket.SOCK_STREAM, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, int(port)))
        listener.listen(20)
        while True:
            connection, peer = listener.accept()
            with connection:
                ask(connection, transport)
                while line := connection.recv(1000):
                    connection.send(f"{peer[0]} {peer[1]} ".encode() + line)


main(*sys.argv[1:])
