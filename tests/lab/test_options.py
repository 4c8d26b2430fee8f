"""What the listener has, the connection has: options and protections."""

import json
import socket
import struct

import pytest

import clients
import firewall
import servers
from programs import Preload, fresh_peer_ports, fresh_port, script
from topology import PEER
from trials import NO_ANSWER, PATIENCE, at_once, peers

pytestmark = pytest.mark.usefixtures("library")

SOCKET, TCP, IP, IPV6 = (socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP,
                         socket.IPPROTO_IPV6)


def number(value):
    return struct.pack("i", value)


# (level, name): a value that no new socket has. Numbers that Python does not know are those of
# linux/tcp.h, linux/in6.h and asm-generic/socket.h.
BUFFERS = {(SOCKET, socket.SO_RCVBUF): number(150000), (SOCKET, socket.SO_SNDBUF): number(90000)}
SEGMENT = {(TCP, socket.TCP_MAXSEG): number(1000)}
WINDOW = {(TCP, socket.TCP_WINDOW_CLAMP): number(20000)}
CONGESTION = {(TCP, socket.TCP_CONGESTION): b"reno"}
OF_A_USER = {
    (SOCKET, 5): number(0), (SOCKET, 6): number(1), (SOCKET, 9): number(1), (SOCKET, 10): number(1),
    (SOCKET, 13): struct.pack("ii", 1, 9), (SOCKET, 20): struct.pack("qq", 70, 500000),
    (SOCKET, 21): struct.pack("qq", 80, 500000), (SOCKET, 29): number(1), (SOCKET, 35): number(1),
    (SOCKET, 37): number(0x18), (SOCKET, 40): number(1), (SOCKET, 45): number(1),
    (SOCKET, 47): struct.pack("Q", 50000000), (SOCKET, 60): number(1), (SOCKET, 74): number(0),
    (TCP, 1): number(1), (TCP, 4): number(77), (TCP, 5): number(11), (TCP, 6): number(3),
    (TCP, 7): number(4), (TCP, 8): number(20), (TCP, 16): number(1), (TCP, 18): number(12345),
    (TCP, 25): number(100000), (TCP, 36): number(1),
    (IP, 1): number(0x10), (IP, 2): number(99), (IP, 6): number(1), (IP, 8): number(1),
    (IP, 10): number(2), (IP, 11): number(1), (IP, 12): number(1), (IP, 13): number(1),
    (IP, 15): number(1), (IP, 20): number(1), (IP, 21): number(3),
}
OF_IPV6 = {
    (IPV6, 16): number(98), (IPV6, 23): number(2), (IPV6, 25): number(1), (IPV6, 49): number(1),
    (IPV6, 51): number(1), (IPV6, 66): number(1), (IPV6, 67): number(0x20), (IPV6, 73): number(3),
}
OF_ROOT = {(SOCKET, 12): number(9), (SOCKET, 36): number(1234), (SOCKET, 46): number(30),
           (SOCKET, 75): number(1), (IP, 19): number(1)}
# A SYN that came may have asked for less than what was set: nothing to compare with.
SETS = {"none": {}, "many": OF_A_USER, "buffers": BUFFERS, "segment": SEGMENT, "window": WINDOW,
        "congestion": CONGESTION}

# What a connection says of itself and of its moment, and not of its listener.
OWN_AFFAIR = {
    *((SOCKET, name) for name in (4, 28, 49, 55, 56, 57)),
    *((TCP, name) for name in (11, 24, 26, 30, 35)),
    *((IP, name) for name in (9, 14, 32, 33, 41, 48, 52)),
    *((IPV6, name) for name in (1, 6, 17, 18, 24, 61, 64, 65)),
}


def listener(address, port, before=None, after=None):
    return {"address": address, "port": port,
            "before": [[*key, value.hex()] for key, value in (before or {}).items()],
            "after": [[*key, value.hex()] for key, value in (after or {}).items()]}


def serve(stand, listeners, preload, user="nobody"):
    program = stand.start("A", [servers.PYTHON, script("options_server.py"), json.dumps(listeners)],
                          preload=preload, user=user)
    program.wait_for("ready")
    return program


def options_seen(stand, family, source_port, port, timeout=PATIENCE):
    with clients.tcp_client(stand, family, source_port, port, timeout) as client:
        answer = json.loads(client.receive_until("\n"))
    address = PEER[family]
    assert answer["peer"][0].removeprefix("::ffff:") == address
    assert answer["peer"][1] == source_port
    return answer["options"]


@pytest.mark.other_users
@pytest.mark.parametrize("user", ("nobody", "root"))
@pytest.mark.parametrize("kind", (("::", 6), ("0.0.0.0", 4), ("::", 4)),
                         ids=("IPv6", "IPv4", "v4-mapped"))
def test_options(stand, kind, user):
    """Every option that there is, of a punched connection and of an ordinary one."""
    address, family = kind
    sets = dict(SETS)
    if ":" in address:
        sets["many"] = {**sets["many"], **OF_IPV6}
    if user == "root":
        sets["many"] = {**sets["many"], **OF_ROOT}
    cases = [(name, when) for name in sets for when in ("before", "after")]
    listeners = [listener(address, fresh_port(), **{when: sets[name]}) for name, when in cases]
    source_ports, others = fresh_peer_ports(len(cases)), fresh_peer_ports(len(cases))
    program = serve(stand, listeners, Preload(
        peers=peers(family, source_ports[0], source_ports[-1]), hops=stand.path.hops), user)

    def seen(ports):
        return at_once(lambda pair: options_seen(stand, family, pair[0], pair[1]["port"]),
                       list(zip(ports, listeners)))

    punched = seen(source_ports)
    firewall.set_profile(stand.path, "open")
    ordinary = seen(others)
    assert "nothing is punched" not in program.stderr()

    # The settings mean something: an ordinary connection has them.
    default = ordinary[cases.index(("none", "before"))]
    changed = {key for case in ordinary for key in case if case[key] != default[key]}
    assert len(changed) > 30
    different = {}
    for case, one, other in zip(cases, punched, ordinary):
        for key in one:
            level, _, name = key.partition("/")
            if (int(level), int(name)) not in OWN_AFFAIR and one[key] != other[key]:
                different[(*case, key)] = (one[key], other[key])
    assert different == {}
