"""Packets on a link. A socket of our own and not tcpdump, which gives up its privileges in a way
that a user namespace does not allow; nor is there anything to wait for before it listens."""

import dataclasses
import ipaddress
import select
import socket
import struct
import threading
import time

import namespace
from programs import wait_until

TCP, UDP = 6, 17
ETHERTYPES = {socket.htons(0x86DD): 6, socket.htons(0x0800): 4}
ETH_P_ALL = 3
PACKET_STATISTICS = 6
SOL_PACKET = 263
ENOUGH = 128  # bytes of a packet: its headers
LAST_ARRIVALS = 0.1  # seconds
SO_TIMESTAMPNS, SO_RCVBUFFORCE = 35, 33
ROOM = 1 << 23  # for thousands of them, of which each counts as all that it carries


@dataclasses.dataclass(frozen=True)
class Packet:
    time: float  # when the kernel saw it, as time.time() counts: our thread may be late
    source: str
    destination: str
    hop_limit: int
    protocol: int
    source_port: int
    destination_port: int
    traffic_class: int
    has_label: bool  # a flow label (IPv6); or that it may be divided (IPv4)
    segment: bytes  # TCP's header with its options, or UDP's


def parse(when, family, data):
    """None for what is neither TCP nor UDP."""
    if family == 6:
        protocol, hop_limit, payload = data[6], data[7], data[40:]
        source, destination = data[8:24], data[24:40]
        traffic_class, has_label = (data[0] & 15) << 4 | data[1] >> 4, bool(data[1] & 15 or any(data[2:4]))
    else:
        protocol, hop_limit, payload = data[9], data[8], data[(data[0] & 15) * 4:]
        source, destination = data[12:16], data[16:20]
        traffic_class, has_label = data[1], not data[6] & 0x40
    if protocol not in (TCP, UDP):
        return None
    ports = struct.unpack_from("!HH", payload)
    return Packet(when, str(ipaddress.ip_address(source)), str(ipaddress.ip_address(destination)),
                  hop_limit, protocol, *ports, traffic_class, has_label,
                  payload[:(payload[12] >> 4) * 4 if protocol == TCP else 8])


class Capture:
    """All TCP and UDP, both ways, on the link between a node and its neighbour while the block
    runs. `packets` is what was seen so far, and complete after the block."""

    def __init__(self, path, node, neighbour):
        self.packets = []
        self._over = threading.Event()
        with namespace.inside(path.namespace(node)):
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
            self._socket.bind((f"to-{neighbour}", ETH_P_ALL))
        self._thread = threading.Thread(target=self._collect, daemon=True)

    def __enter__(self):
        # What other links had to tell between the socket's creation and its binding.
        while select.select([self._socket], [], [], 0)[0]:
            self._socket.recv(ENOUGH)
        self._thread.start()
        return self

    def __exit__(self, *_):
        time.sleep(LAST_ARRIVALS)
        self._over.set()
        self._thread.join()
        _, lost = struct.unpack(
            "II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self._socket.close()
        if lost:
            raise RuntimeError(f"the capture missed {lost} packets")

    def wait_for(self, is_meant, timeout, what, count=1):
        """Gives those packets so far that are meant, once there are so many of them."""
        def look():
            found = [packet for packet in list(self.packets) if is_meant(packet)]
            return found if len(found) >= count else None
        return wait_until(look, timeout, f"{count} of {what}")

    def _collect(self):
        while not self._over.is_set():
            if not select.select([self._socket], [], [], 0.05)[0]:
                continue
            data, control, _, (_, ethertype, *_) = self._socket.recvmsg(ENOUGH, 64)
            seconds, nanoseconds = struct.unpack("qq", control[0][2])
            family = ETHERTYPES.get(socket.htons(ethertype))
            packet = parse(seconds + nanoseconds / 1e9, family, data) if family else None
            if packet:
                self.packets.append(packet)
