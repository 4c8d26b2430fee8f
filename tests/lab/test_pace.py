"""As fast as an ordinary connection, and like one on the wire, whatever the options say that change
that."""

import concurrent.futures
import dataclasses
import socket
import statistics
import struct
import time

import pytest

import clients
import firewall
from capture import TCP, Capture
from programs import Preload, fresh_peer_ports, fresh_port
from test_options import BUFFERS, CONGESTION, IP, IPV6, SEGMENT, SOCKET, WINDOW, listener, number, serve
from trials import PATIENCE, peers

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.quiet]

SIZE = 300_000
PACE = 1_000_000  # bytes a second
FEW = 5
SYN, PUSH = 2, 8
SEGMENT_MOST = 1460

SETS = {
    "none": {}, "buffers": BUFFERS, "segment": SEGMENT, "window": WINDOW, "congestion": CONGESTION,
    "pace": {(SOCKET, 47): struct.pack("Q", PACE)},
    "no delay": {(socket.IPPROTO_TCP, socket.TCP_NODELAY): number(1)},
    "quick": {(socket.IPPROTO_TCP, socket.TCP_QUICKACK): number(1)},
    "unsent": {(socket.IPPROTO_TCP, 25): number(20000)},
}
IN_HEADERS = {
    6: {"class": {(IPV6, 67): number(0x48)}, "hop limit": {(IPV6, 16): number(99)},
        "no label": {(IPV6, 70): number(0)}, "discovery": {(IPV6, 23): number(0)}},
    4: {"class": {(IP, 1): number(0x48)}, "hop limit": {(IP, 2): number(99)},
        "discovery": {(IP, 10): number(0)}},
}


@dataclasses.dataclass
class Measured:
    """Seconds that took what the options change, and what the peer's link has seen of the server."""
    answer: float
    sent: float
    wire: dict
    windows: dict

    def is_delayed(self):
        """Until an acknowledgement comes that the peer keeps for 40 ms."""
        return self.answer > 0.02

    def is_paced(self):
        return self.sent > SIZE / PACE / 2


def options_in(segment):
    """What a SYN says of its sender (RFC 9293 3.2), but for the clock of its timestamps."""
    found, at = [], 20
    while at < len(segment) and segment[at] != 0:
        kind = segment[at]
        length = 1 if kind == 1 else segment[at + 1]
        if kind != 1:
            found.append((kind, b"" if kind == 8 else segment[at + 2:at + length]))
        at += length
    return sorted(found)


def on_the_wire(packets, family):
    """What does not depend on when they were sent."""
    syns = [packet for packet in packets if packet.segment[13] & SYN]
    data = [packet for packet in packets if packet.segment[13] & PUSH]
    (scale,) = [value[0] for kind, value in options_in(syns[0].segment) if kind == 3]

    def window(packet):
        return struct.unpack_from("!H", packet.segment, 14)[0]
    return {
        "options of its SYN": options_in(syns[0].segment),
        "hop limits": {packet.hop_limit for packet in packets},
        "classes": {packet.traffic_class for packet in packets},
        # (Of IPv4's, the kernel answers a SYN with one that is not to be divided.)
        "may be labelled or divided": {packet.has_label for packet in (packets if family == 6 else data)},
        "sizes of headers": {len(packet.segment) for packet in data},
    }, {
        "of its SYN": window(syns[0]),
        "first": next(window(packet) << scale for packet in packets if packet not in syns),
    }


def measure(stand, family, source_port, port):
    with clients.tcp_client(stand, family, source_port, port, PATIENCE) as client:
        sock = client.sock
        client.receive_until("}\n")

        def took(request, size):
            began = time.monotonic()
            sock.sendall(request)
            while size > 0:
                size -= len(sock.recv(min(size, 65536)))
            return time.monotonic() - began
        answers = [took(b"answer\n", len("answer\n")) for _ in range(FEW)]
        return statistics.median(answers), took(b"send %d\n" % SIZE, SIZE)


@pytest.mark.parametrize("kind", (("::", 6), ("::", 4)),
                         ids=("IPv6", "v4-mapped"))
def test_pace(stand, kind):
    address, family = kind
    sets = {**SETS, **IN_HEADERS[family]}
    listeners = [listener(address, fresh_port(), before=options) for options in sets.values()]
    source_ports, others = fresh_peer_ports(len(sets)), fresh_peer_ports(len(sets))
    program = serve(stand, listeners, Preload(
        peers=peers(family, source_ports[0], source_ports[-1]), hops=stand.path.hops))

    def measured(ports):
        with Capture(stand.path, "B", "fwb") as capture, \
                concurrent.futures.ThreadPoolExecutor(4) as pool:
            times = list(pool.map(lambda pair: measure(stand, family, pair[0], pair[1]["port"]),
                                  zip(ports, listeners)))
        return {name: Measured(*its, *on_the_wire(
            [packet for packet in capture.packets if packet.protocol == TCP and
             (packet.source_port, packet.destination_port) == (at["port"], source_port)], family))
            for name, its, at, source_port in zip(sets, times, listeners, ports)}

    punched = measured(source_ports)
    firewall.set_profile(stand.path, "open")
    ordinary = measured(others)
    assert "nothing is punched" not in program.stderr()
    for name in sets:
        stand.say(f"{name}: punched {punched[name]}\n    ordinary {ordinary[name]}")

    for name in sets:
        one, other = punched[name], ordinary[name]
        assert one.wire == other.wire, name
        # Whole segments: of which SYN the kernel takes the room for timestamps off is another matter.
        for window, its in other.windows.items():
            assert abs(one.windows[window] - its) < SEGMENT_MOST, (name, window)
        assert (one.is_delayed(), one.is_paced()) == (other.is_delayed(), other.is_paced()), name

    # The options mean something.
    plain = ordinary["none"]
    assert plain.is_delayed() and not ordinary["no delay"].is_delayed()
    assert ordinary["pace"].is_paced() and not plain.is_paced()
    for name in ("buffers", "segment", "window", "class", "hop limit"):
        assert plain.wire != ordinary[name].wire, name
