"""The lab itself: distances, delays, and what each firewall profile lets through."""

import errno
import socket
import struct
import time

import pytest

import firewall
import namespace
from topology import PEER, SERVER

FAMILIES = {6: socket.AF_INET6, 4: socket.AF_INET}
IP_RECVERR, IPV6_RECVERR = 11, 25
LEVEL = {6: socket.IPPROTO_IPV6, 4: socket.IPPROTO_IP}
HOP_LIMIT = {6: socket.IPV6_UNICAST_HOPS, 4: socket.IP_TTL}
TIME_EXCEEDED = {6: (3, 0), 4: (11, 0)}


def probe(path, family, hop_limit, port):
    """One step of a traceroute: (who reported the probe, ICMP type and code, after how long)."""
    with namespace.open_socket(path.namespace("A"), FAMILIES[family], socket.SOCK_DGRAM) as sock:
        sock.setsockopt(LEVEL[family], IPV6_RECVERR if family == 6 else IP_RECVERR, 1)
        sock.setsockopt(LEVEL[family], HOP_LIMIT[family], hop_limit)
        sock.bind((SERVER[family], 0))
        started = time.monotonic()
        sock.sendto(b"probe", (PEER[family], port))
        while True:
            try:
                _, control, _, _ = sock.recvmsg(512, 512, socket.MSG_ERRQUEUE)
                break
            except BlockingIOError:
                if time.monotonic() - started > 2:
                    return None
                time.sleep(0.001)
        took = time.monotonic() - started
    # struct sock_extended_err, and after it the address of whom the error is from.
    _, _, kind, code, _, _, _ = struct.unpack_from("=IBBBBII", control[0][2])
    offender = control[0][2][16:]
    packed = offender[8:24] if family == 6 else offender[4:8]
    return socket.inet_ntop(FAMILIES[family], packed), (kind, code), took


@pytest.mark.parametrize("family", (6, 4))
@pytest.mark.parametrize("kind", ("stand", "stand_with_two_firewalls"))
def test_every_hop_reports_late(request, kind, family):
    path = request.getfixturevalue(kind).path
    for node in path.routers:
        address, error, took = probe(path, family, path.hop(node), 33434 + path.hop(node))
        nearest = path.addresses(node)[0][1][family]
        assert (address, error) == (nearest, TIME_EXCEEDED[family]), node
        assert 0.030 <= took < 0.060, f"{node} took {took * 1000:.1f} ms"


def connect(path, source, target, port, timeout):
    """Errno of a TCP connection to a listener in the target's namespace, 0 for success."""
    ends = {"A": SERVER, "B": PEER}
    tcp = (socket.AF_INET6, socket.SOCK_STREAM)
    with namespace.open_socket(path.namespace(target), *tcp) as ear, \
            namespace.open_socket(path.namespace(source), *tcp) as sock:
        ear.bind((ends[target][6], port))
        ear.listen()
        sock.settimeout(timeout)
        try:
            sock.connect((ends[target][6], port))
            return 0
        except TimeoutError:
            return errno.ETIMEDOUT
        except OSError as error:
            return error.errno


@pytest.mark.parametrize("profile, into_a, into_b", (
    ("strict", errno.ETIMEDOUT, errno.ETIMEDOUT),
    ("lax", errno.ETIMEDOUT, errno.ETIMEDOUT),
    ("reset", errno.ETIMEDOUT, errno.ECONNREFUSED),
    ("open", 0, 0),
))
def test_profiles(stand, profile, into_a, into_b):
    firewall.set_profile(stand.path, profile)
    assert connect(stand.path, "B", "A", 3001, 0.3) == into_a
    assert connect(stand.path, "A", "B", 3002, 0.3) == into_b


@pytest.mark.parametrize("family, prohibited", ((6, (1, 1)), (4, (3, 13))))
def test_prohibition_is_reported(stand, family, prohibited):
    # Not by a connection: this firewall's error comes while connect() still holds the socket,
    # which then takes it for a passing trouble.
    firewall.set_profile(stand.path, "prohibited")
    assert probe(stand.path, family, 64, 3003)[1] == prohibited
    assert connect(stand.path, "B", "A", 3001, 0.3) == errno.ETIMEDOUT


def test_second_firewall_drops_too(stand_with_two_firewalls):
    path = stand_with_two_firewalls.path
    assert connect(path, "B", "A", 3001, 0.3) == errno.ETIMEDOUT
    firewall.set_profile(path, "open")
    assert connect(path, "B", "A", 3002, 0.3) == 0
