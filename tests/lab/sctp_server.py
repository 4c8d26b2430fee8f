"""An SCTP server that knows nothing of firewalls: every message back, after the peer's address.

    sctp_server.py ADDRESS PORT one-to-one|one-to-many [--events]

With --events it asks for all notifications and shows their types.
"""

import socket
import struct
import sys
import threading

SCTP_EVENTS = 11
MSG_NOTIFICATION = 0x8000


def receive(sock):
    while True:
        data, _, flags, peer = sock.recvmsg(65536, 512)
        if not flags & MSG_NOTIFICATION:
            return data, peer
        print(f"notification {struct.unpack_from('=H', data)[0]:#x}", flush=True)


def echo(connection, peer):
    with connection:
        while data := receive(connection)[0]:
            connection.send(f"{peer[0]} {peer[1]} ".encode() + data)


def main(address, port, kind, events=None):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if kind == "one-to-one" else socket.SOCK_SEQPACKET
    with socket.socket(family, kind, socket.IPPROTO_SCTP) as sock:
        if events:
            sock.setsockopt(socket.IPPROTO_SCTP, SCTP_EVENTS, bytes([1] * 8))
        if address == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, int(port)))
        sock.listen(100)
        while True:
            if kind == socket.SOCK_STREAM:
                threading.Thread(target=echo, args=sock.accept(), daemon=True).start()
            else:
                data, peer = receive(sock)
                sock.sendto(f"{peer[0]} {peer[1]} ".encode() + data, peer)


main(*sys.argv[1:])
