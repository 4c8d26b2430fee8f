"""What firewalls and kernels do with the ways there are to open a hole for SCTP, measured without
the library. A kernel that has SCTP is needed: scripts/test-uml starts one."""

import errno
import socket
import struct
import subprocess
import threading
import time

import pytest

import firewall
import namespace
import sctp
from programs import fresh_peer_ports, fresh_port, wait_listening, wait_until
from sctp import AF, NORMAL_HOP_LIMIT, ONE_TO_MANY, ONE_TO_ONE, Wire, set_hop_limit
from test_facts import ERROR_HAS_COME
from topology import PEER, SERVER

families = pytest.mark.parametrize("family", (6, 4))

IP_RECVERR, IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h

# The kernel sends an INIT again after this time; its timer may be late by an eighth.
REPETITION_MS = 2000


@pytest.fixture(autouse=True)
def kernel_with_sctp():
    sctp.skip_if_missing()


class Hole:
    """A listener on A, and for a one-to-one listener a socket beside it for the punch. A listener
    of the other kind punches itself."""

    def __init__(self, stand, family, kind=ONE_TO_ONE):
        self.path, self.family, self.kind = stand.path, family, kind
        self.port, (peer_port,) = fresh_port(), fresh_peer_ports(1)
        self.peer = (PEER[family], peer_port)
        self.listener = sctp.open_socket(self.path, "A", family, kind)
        self.listener.bind((SERVER[family], self.port))
        self.listener.listen(5)
        self.puncher = self.listener if kind == ONE_TO_MANY else self.beside()
        self.association = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        self.puncher.close()

    def beside(self):
        """The order that works after listen(): see test_binding_beside_a_listener."""
        sock = sctp.open_socket(self.path, "A", self.family, ONE_TO_ONE)
        sock.setblocking(False)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((SERVER[self.family], self.port))
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        return sock

    def punch(self, hop_limit=None, then=NORMAL_HOP_LIMIT):
        set_hop_limit(self.puncher, self.family, hop_limit or self.path.hops)
        if self.kind == ONE_TO_ONE:
            sctp.set_timeouts(self.puncher, REPETITION_MS, REPETITION_MS)
            sctp.set_init(self.puncher, 65535, REPETITION_MS)
            assert self.puncher.connect_ex(self.peer) == errno.EINPROGRESS
        else:
            # It must not repeat the INIT by itself: the socket has other peers to serve, with the
            # normal hop limit. It is taken back and begun again instead, long before this.
            sctp.set_timeouts(self.puncher, 6000, 6000)
            with sctp.without_waiting(self.puncher):
                self.association, problem = sctp.connectx(self.puncher, self.family, self.peer)
            assert problem == errno.EINPROGRESS
            sctp.set_timeouts(self.puncher, 3000, 60000)
        set_hop_limit(self.puncher, self.family, then)

    def state(self):
        """None where a one-to-one socket has no association yet: the kernel does not say more."""
        try:
            return sctp.status(self.puncher, self.association).state
        except OSError as error:
            assert error.errno == errno.EINVAL
            return None

    def peer_calls(self, timeout=2.0):
        sock = sctp.open_socket(self.path, "B", self.family, ONE_TO_ONE)
        sock.bind(self.peer)
        sock.settimeout(timeout)
        try:
            sock.connect((SERVER[self.family], self.port))
        except OSError:
            sock.close()
            raise
        return sock

    def peer_talks(self, timeout=2.0):
        """Whether the peer gets in and both hear each other, within less than the kernel's 3 s
        after which the peer would send its INIT again."""
        try:
            peer = self.peer_calls(timeout)
        except OSError as error:
            print(f"the peer's connect: {error!r}")
            return False
        with peer:
            peer.send(b"from the peer")
            self.puncher.settimeout(timeout)
            data, who = self.puncher.recvfrom(100)
            assert data == b"from the peer"
            if self.kind == ONE_TO_MANY:
                self.puncher.sendto(b"from the server", who)
            else:
                self.puncher.send(b"from the server")
            assert peer.recv(100) == b"from the server"
        return True

    def entries(self, node="fwa"):
        return [entry for entry in firewall.connections(self.path, node, self.family)
                if f"dport={self.peer[1]} " in entry]


@families
@pytest.mark.parametrize("kind", (ONE_TO_ONE, ONE_TO_MANY), ids=("one-to-one", "one-to-many"))
@pytest.mark.parametrize("profile", ("strict", "lax"))
def test_simultaneous_init_connects(stand, profile, kind, family):
    firewall.set_profile(stand.path, profile)
    for trial in range(5):
        with Hole(stand, family, kind) as hole:
            if trial == 0 and kind == ONE_TO_MANY:
                assert not hole.peer_talks(0.3)
            hole.punch()
            time.sleep(ERROR_HAS_COME)
            assert hole.peer_talks()


@families
def test_two_firewalls(stand_with_two_firewalls, family):
    stand = stand_with_two_firewalls
    with Hole(stand, family) as hole:
        hole.punch()
        assert hole.peer_talks()
    with Hole(stand, family) as hole:
        hole.punch(stand.path.hops - 1)  # dies at the second of them
        assert not hole.peer_talks()


@families
def test_error_does_not_hurt(stand, family):
    """No guard is needed, as with TCP. The error is only noted, for who asks."""
    with Hole(stand, family) as hole:
        hole.punch()
        time.sleep(ERROR_HAS_COME)
        assert hole.puncher.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EHOSTUNREACH
        assert hole.puncher.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert hole.puncher.connect_ex(hole.peer) == errno.EALREADY
        assert hole.peer_talks()


@families
def test_a_prohibition_is_told_by_an_errno_alone(stand, family):
    """In IPv4 by that of a punch's end (icmp_err_convert[]). For SCTP the kernel puts nothing in the
    error queue (IP_RECVERR), where type, code and sender would be."""
    too_far = 5
    firewall.set_profile(stand.path, "prohibited")
    for hop_limit, told in ((None, errno.EHOSTUNREACH),
                            (too_far, errno.EACCES if family == 6 else errno.EHOSTUNREACH)):
        for asks in (False, True):
            with Hole(stand, family) as hole:
                if asks:
                    hole.puncher.setsockopt(*{6: (socket.IPPROTO_IPV6, IPV6_RECVERR),
                                              4: (socket.IPPROTO_IP, IP_RECVERR)}[family], 1)
                hole.punch(hop_limit)
                time.sleep(ERROR_HAS_COME)
                with pytest.raises(BlockingIOError):
                    hole.puncher.recvmsg(100, 1000, socket.MSG_ERRQUEUE)
                assert hole.puncher.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == told


@families
def test_init_thrown_away_opens_nothing(stand, family):
    with Hole(stand, family) as hole, Wire(stand.path, "r1", "fwa") as wire:
        hole.punch()
        hole.puncher.close()  # silently
        time.sleep(ERROR_HAS_COME)
        assert len(hole.entries()) == 1
        assert not hole.peer_talks()
    assert [packet.chunks for packet in wire.packets] == [(sctp.INIT,)]


def crc32c(data):
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


@families
def test_forged_init_opens_nothing(stand, family):
    """Though it is a good one, down to the checksum: the listener answers with another tag."""
    with Hole(stand, family) as hole:
        def packet(checksum):
            return struct.pack("!HHI", hole.port, hole.peer[1], 0) + struct.pack("<I", checksum) \
                + struct.pack("!BBHIIHHI", sctp.INIT, 0, 20, 0x12345678, 65536, 10, 10, 1)
        with namespace.open_socket(stand.path.namespace("A"), AF[family], socket.SOCK_RAW,
                                   sctp.SCTP) as raw:
            raw.bind((SERVER[family], 0))
            set_hop_limit(raw, family, stand.path.hops)
            raw.sendto(packet(crc32c(packet(0))), (PEER[family], 0))
        time.sleep(ERROR_HAS_COME)
        assert len(hole.entries()) == 1
        assert not hole.peer_talks()


@families
@pytest.mark.parametrize("listener_first", (True, False))
def test_binding_beside_a_listener(stand, family, listener_first):
    """SO_REUSEPORT does it, set on the listener even after listen(). The others do not."""
    def attempt(level, option, on_listener):
        with sctp.open_socket(stand.path, "A", family, ONE_TO_ONE) as listener, \
                sctp.open_socket(stand.path, "A", family, ONE_TO_ONE) as other:
            address = (SERVER[family], fresh_port())
            try:
                if listener_first:
                    listener.bind(address)
                    listener.listen(5)
                if on_listener:
                    listener.setsockopt(level, option, 1)
                if not listener_first:
                    listener.bind(address)
                    listener.listen(5)
                other.setsockopt(level, option, 1)
                other.bind(address)
                return 0
            except OSError as error:
                return error.errno

    assert attempt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True) == 0
    assert attempt(socket.SOL_SOCKET, socket.SO_REUSEPORT, False) == errno.EADDRINUSE
    assert attempt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True) == errno.EADDRINUSE
    # SCTP's own option is for before bind(), and for sockets that do not listen.
    assert attempt(sctp.SCTP, sctp.REUSE_PORT, True) \
        == (errno.EFAULT if listener_first else errno.EADDRINUSE)


def test_a_one_to_one_socket_cannot_begin_again(stand):
    """So it stays in its one attempt, and the kernel repeats that."""
    with Hole(stand, 6) as hole:
        hole.punch()
        with pytest.raises(OSError):
            sctp.take_back(hole.puncher, hole.peer)
        assert hole.puncher.connect_ex(hole.peer) == errno.EALREADY
        with pytest.raises(OSError):
            hole.puncher.shutdown(socket.SHUT_RDWR)


@families
def test_repetitions_keep_tag_and_distance(stand, family):
    """The kernel repeats the INIT in time for the 3 s for which some trackers hold the hole, with
    the same tag; this tracker holds it 10 s from the first, and only then from the next."""
    with Hole(stand, family) as hole, Wire(stand.path, "r1", "fwa") as wire, \
            Wire(stand.path, "r2", "r1") as beyond:
        hole.punch(then=stand.path.hops)
        time.sleep(6 * REPETITION_MS / 1000 * 1.1)
        set_hop_limit(hole.puncher, family, NORMAL_HOP_LIMIT)
        assert hole.peer_talks()
    inits = [packet for packet in wire.packets if packet.source_port == hole.port
             and sctp.INIT in packet.chunks]
    gaps = [after.time - before.time for before, after in zip(inits, inits[1:])]
    print("INIT again after", *(f"{gap:.3f}" for gap in gaps), "s")
    assert len({packet.tag for packet in inits}) == 1
    assert 5 <= len(gaps) <= 6
    assert all(REPETITION_MS / 1000 - 0.1 < gap < REPETITION_MS / 1000 * 1.125 + 0.1
               for gap in gaps)
    assert not any(packet.source_port == hole.port and sctp.INIT in packet.chunks
                   for packet in beyond.packets)


def test_answer_with_a_low_hop_limit_is_late_by_one_repetition(stand):
    """The peer's INIT meets the socket while its hop limit is low: the answer dies."""
    with Hole(stand, 6) as hole:
        hole.punch(then=stand.path.hops)
        high = threading.Timer(0.3, set_hop_limit, (hole.puncher, 6, NORMAL_HOP_LIMIT))
        high.start()
        started = time.monotonic()
        hole.peer_calls(timeout=5).close()
        assert 1 < time.monotonic() - started < 4
        high.join()


def run_on(path, node, command):
    with namespace.inside(path.namespace(node)):
        subprocess.run(command, check=True)


class Notified:
    """The notifications that a one-to-many socket's owner asked for and got."""

    def __init__(self, sock):
        self.sock = sock
        sock.setsockopt(sctp.SCTP, sctp.EVENTS, bytes([1] * 8))

    def all(self):
        found = []
        while True:
            try:
                data, _, flags, _ = self.sock.recvmsg(2000, 200, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            is_notification = flags & sctp.MSG_NOTIFICATION
            found.append(struct.unpack_from("=H", data)[0] if is_notification else data)


@families
def test_one_to_many_begins_again_unnoticed(stand, family):
    """Taking it back sends nothing and tells the owner nothing, and the tracker takes the next
    INIT's tag for the hole's."""
    with Hole(stand, family, ONE_TO_MANY) as hole, Wire(stand.path, "r1", "fwa") as wire:
        notified = Notified(hole.listener)
        for _ in range(3):
            hole.punch()
            assert hole.state() == sctp.COOKIE_WAIT
            time.sleep(0.3)
            sctp.take_back(hole.listener, hole.peer)
        hole.punch()
        assert notified.all() == []
        assert hole.listener.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EHOSTUNREACH
        # Its first notification is of the connection itself.
        with hole.peer_calls() as peer:
            peer.send(b"hello")
            wait_until(lambda: hole.state() == sctp.ESTABLISHED, 2, "the association")
            time.sleep(0.1)
            told = notified.all()
            assert told[0] == sctp.ASSOC_CHANGE and b"hello" in told
    mine = [packet for packet in wire.packets if packet.hop_limit == 1]
    assert [packet.chunks for packet in mine] == [(sctp.INIT,)] * 4
    assert len({packet.tag for packet in mine}) == 4


def test_one_to_many_must_not_begin_again_while_the_peer_is_answered(stand):
    """Between the answer to the peer's INIT and its COOKIE ECHO nothing is to be seen but that a
    control chunk has come. Who begins again then, shuts the peer out for long."""
    path = stand.path
    with Hole(stand, 6, ONE_TO_MANY) as hole:
        hole.punch()
        time.sleep(ERROR_HAS_COME)
        assert sctp.control_chunks_in(hole.listener, hole.association) == 0
        # The peer's cookie is held up, as on a long way.
        rule = ["ip6tables", "-I", "FORWARD", "-p", "sctp", "-m", "sctp", "--chunk-types", "any",
                "COOKIE_ECHO", "-j", "DROP"]
        with namespace.inside(path.namespace("r2")):
            subprocess.run(rule, check=True)
        outcome = []

        def call():
            try:
                hole.peer_calls(timeout=9).close()
                outcome.append("in")
            except OSError as error:
                outcome.append(error)
        peer = threading.Thread(target=call)
        peer.start()
        wait_until(lambda: sctp.control_chunks_in(hole.listener, hole.association) == 1, 2,
                   "the peer's INIT")
        assert hole.state() == sctp.COOKIE_WAIT
        sctp.take_back(hole.listener, hole.peer)
        hole.punch()
        rule[1] = "-D"
        with namespace.inside(path.namespace("r2")):
            subprocess.run(rule, check=True)
        peer.join()
        assert isinstance(outcome[0], OSError)


def test_owner_of_a_one_to_many_socket_waits_undisturbed(stand):
    """Punching does not end or shorten a receive call that blocks, nor one that begins."""
    with Hole(stand, 6, ONE_TO_MANY) as hole:
        outcome = []

        def receive():
            try:
                outcome.append(hole.listener.recv(100))
            except OSError as error:
                outcome.append(error)
        owner = threading.Thread(target=receive)
        owner.start()
        for _ in range(10):
            hole.punch()
            time.sleep(0.05)
            sctp.take_back(hole.listener, hole.peer)
        hole.punch()
        assert hole.listener.getblocking() and not outcome
        with hole.peer_calls() as peer:
            peer.send(b"hello")
            owner.join(3)
            assert outcome == [b"hello"]


@pytest.fixture(name="hasty")
def hasty_tracker(stand):
    """The tracker's 10 s cut down to 3, so that nobody has to wait for them."""
    sctp.set_tracker(stand.path, "fwa", closed=3)
    yield stand
    sctp.set_tracker(stand.path, "fwa", closed=10)


@pytest.mark.parametrize("patience", (3, 30))
def test_lost_cookie_is_not_made_up_for(stand, patience):
    """No punch here, and the server's port is open. The kernel repeats a COOKIE ECHO after 3 s; by
    then the trackers, which wait 3 s for that too, take it for INVALID, and the peer's own firewall
    drops it."""
    path = stand.path
    firewall.set_profile(path, "open")
    for node in path.firewalls:
        sctp.set_tracker(path, node, cookie_wait=patience, cookie_echoed=patience)
    rule = ["ip6tables", "-I", "FORWARD", "-p", "sctp", "-m", "sctp", "--chunk-types", "any",
            "COOKIE_ECHO", "-j", "DROP"]
    with Hole(stand, 6) as hole:
        hole.puncher.close()
        run_on(path, "r2", rule)
        over = threading.Timer(1, run_on, (path, "r2", ["ip6tables", "-D", *rule[2:]]))
        over.start()
        if patience == 3:
            with pytest.raises(TimeoutError):
                hole.peer_calls(timeout=11)  # again after 3 s, after 9, and after 21
        else:
            hole.peer_calls(timeout=20).close()
        over.join()
    for node in path.firewalls:
        sctp.set_tracker(path, node, cookie_wait=3, cookie_echoed=3)


@families
def test_idle_association_is_forgotten(hasty, family):
    """The tracker takes what the simultaneous set-up has made for CLOSED. Once it is forgotten
    the peer's data is dropped, until something comes from our side; from then on it is known."""
    with Hole(hasty, family) as hole:
        hole.punch()
        with hole.peer_calls() as peer:
            assert all("CLOSED" in entry for entry in hole.entries())
            wait_until(lambda: not hole.entries(), 6, "the firewall to forget it")
            peer.send(b"late")
            hole.puncher.settimeout(2)
            with pytest.raises(TimeoutError):
                hole.puncher.recv(100)
            sctp.set_heartbeat(hole.puncher, sctp.HEARTBEAT_NOW)
            time.sleep(0.3)
            assert any("ESTABLISHED" in entry
                       for entry in firewall.connections(hasty.path, "fwa", family))
            hole.puncher.settimeout(20)
            assert hole.puncher.recv(100) == b"late"


@families
def test_heartbeat_keeps_idle_association(hasty, family):
    """The kernel's heartbeats are a retransmission time-out (1 s at least, ± half) further apart
    than what is set."""
    with Hole(hasty, family) as hole, Wire(hasty.path, "r1", "fwa") as wire:
        hole.punch()
        with hole.peer_calls() as peer:
            # Until a round trip was measured the time-out is what the punch had for a repetition.
            assert sctp.status(hole.puncher).rto_ms == REPETITION_MS
            sctp.set_heartbeat(hole.puncher, sctp.HEARTBEAT_ON, 500)
            sctp.set_heartbeat(hole.puncher, sctp.HEARTBEAT_NOW)
            time.sleep(0.5)
            assert sctp.status(hole.puncher).rto_ms < REPETITION_MS
            time.sleep(8)
            peer.send(b"late")
            hole.puncher.settimeout(0.5)
            assert hole.puncher.recv(100) == b"late"
    beats = [packet.time for packet in wire.packets
             if packet.source_port == hole.port and sctp.HEARTBEAT in packet.chunks]
    print("heartbeats after", *(f"{b - a:.1f}" for a, b in zip(beats, beats[1:])), "s")


@pytest.mark.parametrize("wildcard", (False, True))
def test_doorbell_makes_the_listener_readable(stand, wildcard):
    """accept() gives a connection from this host, even where the bell is let go before it."""
    path = stand.path
    with sctp.open_socket(path, "A", 6, ONE_TO_ONE) as listener, \
            sctp.open_socket(path, "A", 6, ONE_TO_ONE) as bell:
        port = fresh_port()
        address = "::1" if wildcard else SERVER[6]
        listener.bind(("::" if wildcard else address, port))
        listener.listen(5)
        listener.settimeout(1)
        bell.setblocking(False)
        bell.bind((address, 0))  # one address is enough: it would offer all
        assert bell.connect_ex((address, port)) == errno.EINPROGRESS
        rings_from = bell.getsockname()[:2]
        time.sleep(0.1)
        bell.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        bell.close()
        accepted, who = listener.accept()
        assert who[:2] == rings_from
        accepted.close()


def test_ipv4_peer_of_a_wildcard_listener(stand):
    with sctp.open_socket(stand.path, "A", 6, ONE_TO_ONE) as puncher, \
            sctp.open_socket(stand.path, "B", 4, ONE_TO_ONE) as peer:
        port, (peer_port,) = fresh_port(), fresh_peer_ports(1)
        puncher.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        puncher.bind(("::", port))
        puncher.setblocking(False)
        set_hop_limit(puncher, 4, stand.path.hops)  # takes IPv4's option, though it is of IPv6
        with Wire(stand.path, "r2", "r1") as beyond:
            assert puncher.connect_ex((f"::ffff:{PEER[4]}", peer_port)) == errno.EINPROGRESS
        assert beyond.packets == []
        set_hop_limit(puncher, 4, NORMAL_HOP_LIMIT)
        peer.bind((PEER[4], peer_port))
        peer.settimeout(2)
        peer.connect((SERVER[4], port))
        assert puncher.getpeername()[:2] == (f"::ffff:{PEER[4]}", peer_port)


def talk(stand, server, client, source_port):
    client.write("to the server\n")
    server.wait_for("to the server", 4)
    server.write("to the peer\n")
    client.wait_for("to the peer", 4)


@pytest.mark.needs("ncat")
@pytest.mark.parametrize("profile", ("open", "strict"))
def test_ncat(stand, profile):
    """The program works where an administrator opens the port, and only there."""
    firewall.set_profile(stand.path, profile)
    port, (source_port,) = fresh_port(), fresh_peer_ports(1)
    server = stand.start("A", ["ncat", "-6", "-n", "-v", "--sctp", "-l", port])
    wait_listening(server, "sctp", port)
    client = stand.start("B", ["ncat", "-6", "-n", "--sctp", "-p", source_port, SERVER[6], port])
    if profile == "open":
        talk(stand, server, client, source_port)
        server.wait_for(rf"Connection from {PEER[6]}:{source_port}\b")
    else:
        with pytest.raises(TimeoutError):
            talk(stand, server, client, source_port)


@pytest.mark.needs("sctp_darn")
@pytest.mark.parametrize("profile", ("open", "strict"))
def test_sctp_darn(stand, profile):
    """One-to-many at both ends."""
    firewall.set_profile(stand.path, profile)
    port, (source_port,) = fresh_port(), fresh_peer_ports(1)
    # It keeps what it shows to itself while nobody at a terminal looks.
    server = stand.start(
        "A", ["stdbuf", "-oL", "sctp_darn", "-H", SERVER[6], "-P", port, "-l"])
    wait_listening(server, "sctp", port)
    client = stand.start("B", ["sctp_darn", "-H", PEER[6], "-P", source_port, "-h", SERVER[6],
                               "-p", port, "-s"])
    client.write("hello\n")
    if profile == "open":
        server.wait_for("hello", 4)
    else:
        with pytest.raises(TimeoutError):
            server.wait_for("hello", 4)
