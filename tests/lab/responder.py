"""Reports packets that die on a router, as late as a real path would.

A router in a namespace on the same machine reports within microseconds, while the sender is
still inside connect(): much survives that, which dies of the same error a round trip later. So
the kernel's own report is filtered (firewall.py), and this program sends it, DELAY ms late: a
genuine ICMP Time Exceeded, from the router's own address, quoting the packet as it came in.

    responder.py DELAY_MS '{"namespace": ["own address", ...], ...}'
"""

import contextlib
import ctypes
import heapq
import ipaddress
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import time

import namespace
from firewall import LATE_ERROR_MARK

ETHERTYPE = {6: 0x86DD, 4: 0x0800}
SO_ATTACH_FILTER = 26
SOL_PACKET = 263
PACKET_AUXDATA = 8
CHECKSUM_NOT_READY = 1 << 3  # TP_STATUS_CSUMNOTREADY
SO_MARK = 36
LONGEST_QUOTE = {6: 1280 - 40 - 8, 4: 576 - 20 - 8}  # RFC 4443 3.3, RFC 1812 4.3.2.3
HOP_LIMIT_OFFSET = {6: 7, 4: 8}

# Classic BPF, in <linux/filter.h>'s terms.
LOAD_WORD, LOAD_BYTE, JUMP_IF_EQUAL, RETURN = 0x20, 0x30, 0x15, 0x06
PACKET_TYPE = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE
PACKET_HOST = 0


class Responder:
    """The program below, running for all routers of a path."""

    def __init__(self, path, delay_ms=30, silent=()):
        own = {
            path.namespace(node): [
                address for _, pair in path.addresses(node) for address in pair.values()
            ]
            for node in path.routers if node not in silent
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(delay_ms), json.dumps(own)],
            stdout=subprocess.PIPE, text=True,
        )
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("the responder did not start")

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def attach_filter(sock, instructions):
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def listen_for_dying(family):
    """A socket that sees nothing but packets for this host's link address with one hop left. The
    kernel looks at two fields, so bulk data passes at full speed."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETHERTYPE[family]))
    attach_filter(sock, [
        (LOAD_WORD, 0, 0, PACKET_TYPE),
        (JUMP_IF_EQUAL, 0, 3, PACKET_HOST),
        (LOAD_BYTE, 0, 0, HOP_LIMIT_OFFSET[family]),
        (JUMP_IF_EQUAL, 0, 1, 1),
        (RETURN, 0, 0, 0xFFFF),
        (RETURN, 0, 0, 0),
    ])
    sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    return sock


def sender(family):
    if family == 6:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.setsockopt(socket.SOL_SOCKET, SO_MARK, LATE_ERROR_MARK)
    attach_filter(sock, [(RETURN, 0, 0, 0)])  # it only sends
    return sock


def internet_checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Packet:
    """As much of a packet as is needed for reporting it."""

    def __init__(self, family, data):
        self.family = family
        self.data = data
        if family == 6:
            self.protocol, self.header = data[6], 40
            self.source, self.destination = data[8:24], data[24:40]
        else:
            self.protocol, self.header = data[9], (data[0] & 15) * 4
            self.source, self.destination = data[12:16], data[16:20]

    def is_error(self):
        """Errors are not reported by errors (RFC 4443 2.4 e, RFC 1122 3.2.2)."""
        kind = self.data[self.header] if len(self.data) > self.header else 0
        if self.family == 6:
            return self.protocol == socket.IPPROTO_ICMPV6 and kind < 128
        return self.protocol == socket.IPPROTO_ICMP and kind in (3, 4, 5, 11, 12)

    def fill_in_checksum(self):
        """On a virtual link the checksum is left to the network card that is not there."""
        offset = {socket.IPPROTO_TCP: 16, socket.IPPROTO_UDP: 6}.get(self.protocol)
        if offset is None:
            return
        segment = bytearray(self.data[self.header:])
        segment[offset:offset + 2] = b"\0\0"
        form = "!II" if self.family == 6 else "!HH"
        order = (len(segment), self.protocol) if self.family == 6 else (self.protocol, len(segment))
        pseudo = self.source + self.destination + struct.pack(form, *order)
        checksum = internet_checksum(pseudo + segment) or 0xFFFF
        segment[offset:offset + 2] = struct.pack("!H", checksum)
        self.data = self.data[:self.header] + bytes(segment)

    def time_exceeded(self):
        quote = self.data[:LONGEST_QUOTE[self.family]]
        if self.family == 6:
            return struct.pack("!BBHI", 3, 0, 0, 0) + quote  # the kernel fills in the checksum
        checksum = internet_checksum(struct.pack("!BBHI", 11, 0, 0, 0) + quote)
        return struct.pack("!BBHI", 11, 0, checksum, 0) + quote


class Router:
    def __init__(self, own_addresses, family):
        self.family = family
        self.own = {
            address.packed for address in map(ipaddress.ip_address, own_addresses)
            if address.version == family
        }
        self.ears = listen_for_dying(family)
        self.voice = sender(family)

    def hear(self):
        """A dead packet that is to be reported, or None."""
        data, control, _, _ = self.ears.recvmsg(65536, 256)
        packet = Packet(self.family, data)
        for level, kind, value in control:
            if level == SOL_PACKET and kind == PACKET_AUXDATA:
                if struct.unpack_from("I", value)[0] & CHECKSUM_NOT_READY:
                    packet.fill_in_checksum()
        return None if packet.destination in self.own or packet.is_error() else packet

    def report(self, packet):
        to = str(ipaddress.ip_address(packet.source))
        try:
            self.voice.sendto(packet.time_exceeded(), (to, 0))
        except OSError as error:
            print(f"responder: {to}: {error}", file=sys.stderr, flush=True)


def be_punctual():
    """The routers are no part of the machine that the tests keep busy: their errors come when they
    are due, before anything else is done. As far as one may."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def main(delay_ms, own_by_namespace):
    be_punctual()
    delay = float(delay_ms) / 1000
    selector = selectors.DefaultSelector()
    for name, own in json.loads(own_by_namespace).items():
        with namespace.inside(name):
            for family in (6, 4):
                router = Router(own, family)
                selector.register(router.ears, selectors.EVENT_READ, router)
    print("ready", flush=True)

    due = []  # (when, number, router, packet), the earliest first
    number = 0
    while True:
        wait = max(0, due[0][0] - time.monotonic()) if due else None
        for key, _ in selector.select(wait):
            packet = key.data.hear()
            if packet is not None:
                number += 1
                heapq.heappush(due, (time.monotonic() + delay, number, key.data, packet))
        while due and due[0][0] <= time.monotonic():
            _, _, router, packet = heapq.heappop(due)
            router.report(packet)


if __name__ == "__main__":
    main(*sys.argv[1:])
