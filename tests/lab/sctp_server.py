"""An SCTP server that knows nothing of firewalls: every message back, after the peer's address.

    sctp_server.py ADDRESS PORT one-to-one|one-to-many [--events|--peel-off]

With --events it asks for all notifications and shows their types; with --peel-off each association gets a
socket of its own with its first message.
"""

import ctypes
import socket
import struct
import sys
import threading

SCTP_EVENTS, PEEL_OFF = 11, 102
ASSOCIATION_PLACE = 28  # in struct sctp_sndrcvinfo
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


def peeled_off(sock, information):
    """A socket that has the association alone."""
    argument = ctypes.create_string_buffer(information[ASSOCIATION_PLACE:] + bytes(4), 8)
    length = ctypes.c_uint32(len(argument))
    return socket.socket(fileno=ctypes.CDLL(None).getsockopt(
        sock.fileno(), socket.IPPROTO_SCTP, PEEL_OFF, argument, ctypes.byref(length)))


def peel_off(sock):
    """With what came first."""
    data, [(_, _, information)], _, peer = sock.recvmsg(65536, 512)
    connection = peeled_off(sock, information)
    connection.send(f"{peer[0]} {peer[1]} ".encode() + data)
    threading.Thread(target=echo, args=(connection, peer), daemon=True).start()


def main(address, port, kind, more=None):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if kind == "one-to-one" else socket.SOCK_SEQPACKET
    with socket.socket(family, kind, socket.IPPROTO_SCTP) as sock:
        if more:
            wanted = [1] * 8 if more == "--events" else [1] + [0] * 7
            sock.setsockopt(socket.IPPROTO_SCTP, SCTP_EVENTS, bytes(wanted))
        if address == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, int(port)))
        sock.listen(100)
        while True:
            if kind == socket.SOCK_STREAM:
                threading.Thread(target=echo, args=sock.accept(), daemon=True).start()
            elif more == "--peel-off":
                peel_off(sock)
            else:
                data, peer = receive(sock)
                sock.sendto(f"{peer[0]} {peer[1]} ".encode() + data, peer)


main(*sys.argv[1:])
