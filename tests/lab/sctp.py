"""Kernel SCTP as Python's socket module does not know it (RFC 6458, <linux/sctp.h>), and a way to
see its packets."""

import contextlib
import ctypes
import dataclasses
import os
import socket
import struct
import threading
import time

import pytest

import namespace

SCTP = socket.IPPROTO_SCTP
RTOINFO, INITMSG, EVENTS, PEER_ADDR_PARAMS, STATUS = 0, 2, 11, 9, 14
REUSE_PORT, CONNECTX3, GET_ASSOC_STATS = 36, 111, 112
SNDRCV, EOF = 1, 0x200
HEARTBEAT_ON, HEARTBEAT_NOW = 1, 4  # SPP_HB_ENABLE, SPP_HB_DEMAND
ASSOC_CHANGE, MSG_NOTIFICATION = 0x8001, 0x8000

AF = {6: socket.AF_INET6, 4: socket.AF_INET}
LEVEL = {6: socket.IPPROTO_IPV6, 4: socket.IPPROTO_IP}
HOP_LIMIT = {6: socket.IPV6_UNICAST_HOPS, 4: socket.IP_TTL}
NORMAL_HOP_LIMIT = 64
ONE_TO_ONE, ONE_TO_MANY = socket.SOCK_STREAM, socket.SOCK_SEQPACKET

_libc = ctypes.CDLL(None, use_errno=True)


def is_there():
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM, SCTP).close()
    except OSError:
        return False
    return True


def skip_if_missing():
    if not is_there():
        pytest.skip("no SCTP in this kernel: see scripts/test-uml")


def open_socket(path, node, family, kind):
    return namespace.open_socket(path.namespace(node), AF[family], kind, SCTP)


def get_option(sock, option, asked):
    """An option whose question is written into the buffer for the answer."""
    buffer = ctypes.create_string_buffer(asked, len(asked))
    length = ctypes.c_uint32(len(asked))
    if _libc.getsockopt(sock.fileno(), SCTP, option, buffer, ctypes.byref(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw[:length.value]


def set_hop_limit(sock, family, limit):
    sock.setsockopt(LEVEL[family], HOP_LIMIT[family], limit)


def set_timeouts(sock, initial_ms, maximum_ms, minimum_ms=1000):
    """Of the associations to come; those that are there keep theirs."""
    sock.setsockopt(SCTP, RTOINFO, struct.pack("iIII", 0, initial_ms, maximum_ms, minimum_ms))


def set_init(sock, attempts, longest_ms):
    sock.setsockopt(SCTP, INITMSG, struct.pack("HHHH", 0, 0, attempts, longest_ms))


def set_heartbeat(sock, flags, interval_ms=0):
    parameters = struct.pack("=i128xIHIIIIBx", 0, interval_ms, 0, 0, 0, flags, 0, 0)
    sock.setsockopt(SCTP, PEER_ADDR_PARAMS, parameters)


def set_tracker(path, node, **seconds):
    """How long a firewall keeps an association in a state of its own."""
    namespace.sysctl(path.namespace(node), {
        f"net/netfilter/nf_conntrack_sctp_timeout_{state}": value
        for state, value in seconds.items()})


@dataclasses.dataclass
class Status:
    state: int
    rto_ms: int


COOKIE_WAIT, ESTABLISHED = 2, 4


def status(sock, association=0):
    answer = get_option(sock, STATUS, struct.pack("=i172x", association))
    # struct sctp_status, and in it the primary address's struct sctp_paddrinfo.
    return Status(*struct.unpack_from("=i", answer, 4), *struct.unpack_from("=I", answer, 168))


def control_chunks_in(sock, association):
    """How many have come in this association: the last number of struct sctp_assoc_stats."""
    answer = get_option(sock, GET_ASSOC_STATS, struct.pack("=i252x", association))
    return struct.unpack_from("=Q", answer, len(answer) - 8)[0]


def connectx(sock, family, address):
    """connect() that tells the association's number even where it is only begun."""
    packed = socket.inet_pton(AF[family], address[0])
    if family == 6:
        to = struct.pack("=H", AF[6]) + struct.pack("!HI", address[1], 0) + packed + bytes(4)
    else:
        to = struct.pack("=H", AF[4]) + struct.pack("!H", address[1]) + packed + bytes(8)
    where = ctypes.create_string_buffer(to, len(to))
    asked = struct.pack("iiP", 0, len(to), ctypes.addressof(where))
    buffer, length = ctypes.create_string_buffer(asked, len(asked)), ctypes.c_uint32(len(asked))
    result = _libc.getsockopt(sock.fileno(), SCTP, CONNECTX3, buffer, ctypes.byref(length))
    number = ctypes.get_errno() if result != 0 else 0
    return struct.unpack_from("i", buffer.raw)[0], number


def take_back(sock, peer):
    """Ends what is begun with the peer: nothing is sent, and no notification comes of it."""
    information = struct.pack("=HHHxxIIIIIi", 0, 0, EOF, 0, 0, 0, 0, 0, 0)
    sock.sendmsg([], [(SCTP, SNDRCV, information)], socket.MSG_DONTWAIT, peer)


@contextlib.contextmanager
def without_waiting(sock):
    """connect() in the block returns at once. O_NONBLOCK would do it too, and is the application's:
    a receive call that begins meanwhile would return. A negative SO_SNDTIMEO means no time at all
    to the kernel (socket(7) does not say so; it logs that, ten times from boot to boot)."""
    before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("qq", -1, 0))
    try:
        yield
    finally:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, before)


@dataclasses.dataclass(frozen=True)
class Packet:
    time: float
    source_port: int
    destination_port: int
    hop_limit: int
    chunks: tuple  # their types
    tag: int  # of an INIT or INIT ACK


DATA, INIT, INIT_ACK, HEARTBEAT, ABORT, COOKIE_ECHO = 0, 1, 2, 4, 6, 10


class Wire:
    """The SCTP packets that come to a node from a neighbour while the block runs."""

    def __init__(self, path, node, neighbour):
        self.packets = []
        self.sock = namespace.open_socket(
            path.namespace(node), socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self.sock.bind((f"to-{neighbour}", 3))
        self.sock.settimeout(0.05)
        self.over = False
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        time.sleep(0.1)
        self.over = True
        self.thread.join()
        self.sock.close()

    def _watch(self):
        while not self.over:
            try:
                data, (_, ethertype, kind, _, _) = self.sock.recvfrom(4096)
            except TimeoutError:
                continue
            if kind != socket.PACKET_OUTGOING:
                packet = parse(ethertype, data)
                if packet is not None:
                    self.packets.append(packet)


def parse(ethertype, data):
    if ethertype == 0x86DD:
        protocol, hop_limit, body = data[6], data[7], data[40:]
    elif ethertype == 0x0800:
        protocol, hop_limit, body = data[9], data[8], data[(data[0] & 15) * 4:]
    else:
        return None
    if protocol != SCTP:
        return None
    source, destination = struct.unpack_from("!HH", body)
    chunks, tag, offset = [], 0, 12
    while offset + 4 <= len(body):
        kind, _, length = struct.unpack_from("!BBH", body, offset)
        chunks.append(kind)
        if kind in (INIT, INIT_ACK):
            tag, = struct.unpack_from("!I", body, offset + 4)
        offset += max(4, (length + 3) & ~3)
    return Packet(time.monotonic(), source, destination, hop_limit, tuple(chunks), tag)
