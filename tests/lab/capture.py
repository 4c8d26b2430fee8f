"""Packets on a link, as tcpdump saw them."""

import dataclasses
import ipaddress
import re
import signal
import struct
import subprocess
import time

import namespace
from programs import SCRATCH, wait_until

TCP, UDP = 6, 17
ETHERNET_HEADER = 14


@dataclasses.dataclass(frozen=True)
class Packet:
    time: float
    source: str
    destination: str
    hop_limit: int
    protocol: int
    source_port: int
    destination_port: int
    flags: int  # of TCP, else 0

    @property
    def is_first_syn(self):
        return self.protocol == TCP and self.flags & 0x12 == 0x02


def parse_packet(when, frame):
    """None for what is neither TCP nor UDP."""
    ethertype, = struct.unpack_from("!H", frame, 12)
    data = frame[ETHERNET_HEADER:]
    if ethertype == 0x86DD:
        protocol, hop_limit, payload = data[6], data[7], data[40:]
        source, destination = data[8:24], data[24:40]
    elif ethertype == 0x0800:
        protocol, hop_limit, payload = data[9], data[8], data[(data[0] & 15) * 4:]
        source, destination = data[12:16], data[16:20]
    else:
        return None
    if protocol not in (TCP, UDP):
        return None
    ports = struct.unpack_from("!HH", payload)
    return Packet(when, str(ipaddress.ip_address(source)), str(ipaddress.ip_address(destination)),
                  hop_limit, protocol, *ports, payload[13] if protocol == TCP else 0)


def parse_file(data):
    """The packets of a capture file in the byte order of this machine."""
    packets = []
    offset = 24
    while offset + 16 <= len(data):
        seconds, fraction, length, _ = struct.unpack_from("=IIII", data, offset)
        frame = data[offset + 16:offset + 16 + length]
        if len(frame) < length:
            break
        packet = parse_packet(seconds + fraction / 1e6, frame)
        if packet:
            packets.append(packet)
        offset += 16 + length
    return packets


class Capture:
    """What crosses the link between a node and its neighbour while the block runs. Packets is
    to be read after the block."""

    def __init__(self, path, node, neighbour, expression="tcp or udp"):
        self.path, self.node, self.interface = path, node, f"to-{neighbour}"
        self.expression = expression
        self.packets = []
        self.process = None

    def __enter__(self):
        SCRATCH.mkdir(mode=0o755, exist_ok=True)
        name = f"{self.path.label}-{self.node}-{self.interface}-{time.monotonic_ns()}"
        self.file, said = SCRATCH / f"{name}.pcap", SCRATCH / f"{name}.err"
        with namespace.inside(self.path.namespace(self.node)), open(said, "wb") as stderr, \
                open(self.file, "wb") as stdout:
            # To standard output: a file by name it would give to another user.
            self.process = subprocess.Popen(
                ["tcpdump", "-n", "-p", "-U", "--immediate-mode", "-Z", "root", "-s", "128",
                 "-i", self.interface, "-w", "-", self.expression],
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )
        self.said = said
        try:
            wait_until(lambda: "listening on" in said.read_text(encoding="utf-8"), 10, "tcpdump")
        except TimeoutError as error:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(said.read_text(encoding="utf-8")) from error
        return self

    def __exit__(self, *_):
        time.sleep(0.1)
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        said = self.said.read_text(encoding="utf-8")
        lost = re.search(r"(\d+) packets dropped by kernel", said)
        if lost is None or lost[1] != "0":
            raise RuntimeError(f"tcpdump on {self.interface} of {self.node} saw not all: {said}")
        self.packets = parse_file(self.file.read_bytes())
