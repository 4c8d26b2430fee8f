"""What firewalls and kernels do with the ways there are to open a hole, measured without the
library: why it opens them as it does, and whether the lab can tell a good way from a bad one."""

import concurrent.futures
import ctypes
import errno
import socket
import struct
import time

import pytest

import firewall
import namespace
from programs import fresh_port
from topology import PEER, SERVER

AF = {6: socket.AF_INET6, 4: socket.AF_INET}
IP_MINTTL, IPV6_MINHOPCOUNT = 21, 73
LEVEL = {6: socket.IPPROTO_IPV6, 4: socket.IPPROTO_IP}
HOP_LIMIT = {6: socket.IPV6_UNICAST_HOPS, 4: socket.IP_TTL}
# IPv6 hears nothing that has crossed a router; IPv4 nothing with a TTL of 1 within the error.
GUARD = {6: (IPV6_MINHOPCOUNT, 255, 0), 4: (IP_MINTTL, 2, 0)}
NORMAL_HOP_LIMIT = 64
ERROR_HAS_COME = 0.1  # the routers report after 30 ms

families = pytest.mark.parametrize("family", (6, 4))
profiles = pytest.mark.parametrize("profile", ("strict", "lax"))


class Hole:
    """A listener on A, and a socket beside it on the same port for the punch."""

    def __init__(self, path, family, peer_port):
        self.path, self.family, self.peer = path, family, (PEER[family], peer_port)
        self.port = fresh_port()
        self.listener = self._bound()
        self.listener.listen()
        self.puncher = self._bound()
        self.puncher.setblocking(False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        self.puncher.close()

    def _bound(self):
        sock = namespace.open_socket(self.path.namespace("A"), AF[self.family], socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((SERVER[self.family], self.port))
        return sock

    def punch(self, hop_limit, guarded):
        option, deaf, _ = GUARD[self.family]
        self.puncher.setsockopt(LEVEL[self.family], HOP_LIMIT[self.family], hop_limit)
        if guarded:
            self.puncher.setsockopt(LEVEL[self.family], option, deaf)
        assert self.puncher.connect_ex(self.peer) == errno.EINPROGRESS

    def open_up(self):
        """The end of the guard: what the puncher sends from now on is to arrive."""
        option, _, hearing = GUARD[self.family]
        self.puncher.setsockopt(LEVEL[self.family], HOP_LIMIT[self.family], NORMAL_HOP_LIMIT)
        self.puncher.setsockopt(LEVEL[self.family], option, hearing)

    def guarded_punch(self, hop_limit):
        self.punch(hop_limit, guarded=True)
        time.sleep(ERROR_HAS_COME)
        self.open_up()

    def throw_syn_away(self, hop_limit):
        self.punch(hop_limit, guarded=False)
        self.puncher.close()
        time.sleep(ERROR_HAS_COME)

    def go_back(self):
        """The same socket, for another SYN."""
        nobody = struct.pack("H14x", socket.AF_UNSPEC)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.connect(self.puncher.fileno(), nobody, len(nobody)) == 0

    def begin_anew(self):
        """Another socket, whose number is the clock's."""
        self.puncher.close()
        self.puncher = self._bound()
        self.puncher.setblocking(False)

    def error(self):
        return self.puncher.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def peer_talks(self, timeout=0.6):
        """Whether the peer gets in and both hear each other. The timeout is less than the second
        after which either kernel would send its SYN again."""
        with namespace.open_socket(self.path.namespace("B"), AF[self.family],
                                   socket.SOCK_STREAM) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            peer.bind(self.peer)
            peer.settimeout(timeout)
            try:
                peer.connect((SERVER[self.family], self.port))
            except OSError as error:
                print(f"the peer's connect: {error!r}")
                return False
            served = self._served()
            peer.sendall(b"from the peer")
            served.settimeout(timeout)
            assert served.recv(100) == b"from the peer"
            served.sendall(b"from the server")
            assert peer.recv(100) == b"from the server"
            served.close()
            return True

    def _served(self):
        """The server's end, be it the listener's or the puncher itself."""
        self.listener.settimeout(0.05)
        try:
            return self.listener.accept()[0]
        except TimeoutError:
            return self.puncher


def forged_syn(family, source, target):
    """A SYN as written by hand: sequence number 0 and no checksum."""
    return struct.pack("!HHIIBBHHH", source, target, 0, 0, 5 << 4, 2, 65535, 0, 0)


@families
@profiles
def test_forged_syn_opens_nothing(stand, profile, family):
    firewall.set_profile(stand.path, profile)
    with Hole(stand.path, family, 5001) as hole:
        with namespace.open_socket(stand.path.namespace("A"), AF[family], socket.SOCK_RAW,
                                   socket.IPPROTO_TCP) as raw:
            raw.setsockopt(LEVEL[family], HOP_LIMIT[family], stand.path.hops)
            raw.sendto(forged_syn(family, hole.port, 5001), (PEER[family], 0))
        time.sleep(ERROR_HAS_COME)
        assert not hole.peer_talks()
    assert not firewall.connections(stand.path, "fwa", family)


@families
@pytest.mark.parametrize("profile, gets_in", (("strict", False), ("lax", True)))
def test_syn_thrown_away(stand, profile, gets_in, family):
    firewall.set_profile(stand.path, profile)
    with Hole(stand.path, family, 5002) as hole:
        hole.throw_syn_away(stand.path.hops)
        assert len(firewall.connections(stand.path, "fwa", family)) == 1
        assert hole.peer_talks() == gets_in


@families
def test_late_error_kills_unguarded_socket(stand, family):
    with Hole(stand.path, family, 5003) as hole:
        hole.punch(stand.path.hops, guarded=False)
        time.sleep(0.01)
        assert hole.error() == 0
        time.sleep(ERROR_HAS_COME)
        assert hole.error() == errno.EHOSTUNREACH


@families
def test_guarded_socket_survives_late_error(stand, family):
    with Hole(stand.path, family, 5004) as hole:
        hole.guarded_punch(stand.path.hops)
        assert hole.error() == 0
        assert hole.puncher.connect_ex(hole.peer) == errno.EALREADY


@families
@profiles
def test_guarded_simultaneous_open_connects(stand, profile, family):
    firewall.set_profile(stand.path, profile)
    for port in range(5010, 5015):
        with Hole(stand.path, family, port) as hole:
            assert not hole.peer_talks(0.1) if port == 5010 else True
            hole.guarded_punch(stand.path.hops)
            assert hole.peer_talks()


@families
def test_guarded_simultaneous_open_through_two_firewalls(stand_with_two_firewalls, family):
    path = stand_with_two_firewalls.path
    with Hole(path, family, 5020) as hole:
        hole.guarded_punch(path.hops)
        assert hole.peer_talks()
    with Hole(path, family, 5021) as hole:
        hole.guarded_punch(path.hops - 1)  # dies at the second of them
        assert not hole.peer_talks()


@families
@profiles
def test_punch_that_dies_at_the_firewall_opens_nothing(stand, profile, family):
    firewall.set_profile(stand.path, profile)
    with Hole(stand.path, family, 5005) as hole:
        hole.guarded_punch(stand.path.hop("fwa"))
        assert not firewall.connections(stand.path, "fwa", family)
        assert not hole.peer_talks()


@families
def test_punch_that_is_reset_closes_the_hole(stand, family):
    firewall.set_profile(stand.path, "reset")
    with Hole(stand.path, family, 5006) as hole:
        hole.guarded_punch(stand.path.hop("r2"))  # the last that does not reach the firewall there
        assert hole.peer_talks()
    with Hole(stand.path, family, 5007) as hole:
        hole.guarded_punch(stand.path.hop("fwb") + 1)
        assert not any("dport=5007" in entry
                       for entry in firewall.connections(stand.path, "fwa", family))
        assert not hole.peer_talks()


@families
def test_prohibition_does_not_close_the_hole(stand, family):
    firewall.set_profile(stand.path, "prohibited")
    with Hole(stand.path, family, 5008) as hole:
        hole.guarded_punch(stand.path.hop("fwb") + 1)
        assert hole.peer_talks()


@families
@pytest.mark.parametrize("again, gets_in", ((Hole.go_back, True), (Hole.begin_anew, False)))
def test_second_number_after_the_firewall_has_seen_the_peers_syn(stand, family, again, gets_in):
    """One that comes right after the first is within the window that the firewall takes from the
    peer's second SYN on; the clock's is not."""
    hears_nothing = 255
    with Hole(stand.path, family, 5009) as hole, concurrent.futures.ThreadPoolExecutor(1) as pool:
        hole.guarded_punch(stand.path.hops)
        hole.puncher.setsockopt(LEVEL[family], GUARD[family][0], hears_nothing)
        talks = pool.submit(hole.peer_talks, 3.5)
        time.sleep(0.3)
        again(hole)
        hole.guarded_punch(stand.path.hops)
        assert talks.result() == gets_in
