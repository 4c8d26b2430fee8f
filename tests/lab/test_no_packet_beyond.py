"""No packet of a punch goes further than its hop limit says, in half a minute of punches, their
retransmissions by the kernel and their renewals."""

import collections
import concurrent.futures
import contextlib
import functools
import os
import signal
import time

import pytest

import capture
import clients
import firewall
import servers
from programs import Preload, fresh_peer_ports, fresh_port, wait_until
from test_changing_peers import Config
from test_killed import keepers
from test_renewal import ip
from topology import PEER, SERVER
from trials import PATIENCE, peers

DURATION = 30
PEERS = 4
OFTEN, SELDOM = 3, 20  # seconds between renewals; 20 is the default


def watch(stand):
    """Servers of each kind, some punching as far as r1, the others, for the proof that the capture
    would have seen a packet too many, as far as r2. What crosses the links on both sides of r1."""
    path = stand.path
    ports = {}
    with capture.Capture(path, "fwa", "r1") as before, capture.Capture(path, "r1", "r2") as behind:
        for kind in (servers.own_tcp("::"), servers.own_udp("::", "recvfrom"),
                     servers.own_tcp("0.0.0.0", 4), servers.own_udp("0.0.0.0", "recvfrom", 4)):
            for hops in (path.hops, path.hops + 1):
                for refresh in (OFTEN, SELDOM):
                    port = ports[kind, hops, refresh] = fresh_port()
                    first, *_, last = fresh_peer_ports(PEERS)
                    kind.start(stand, port, Preload(
                        peers=peers(kind.family, first, last), hops=hops, refresh=refresh))
        time.sleep(DURATION)
        ended = time.time()  # the captures run on a little longer, one after the other
    return ports, ended, before.packets, behind.packets


def of_server(packets, port):
    return [packet for packet in packets
            if packet.source in SERVER.values() and packet.source_port == port]


def check_renewals(punches, refresh, case):
    """That there was something to see: every peer punched to, and again and again."""
    times = collections.defaultdict(list)
    for packet in punches:
        times[packet.destination_port].append(packet.time)
    assert len(times) == PEERS, f"{case}: punched to {sorted(times)} only"
    for at in times.values():
        assert len(at) >= DURATION // refresh, f"{case}: sent at {at}"
        assert max(at) - min(at) > DURATION / 2, f"{case}: sent at {at}"


@pytest.mark.background("capture", watch)
def test_no_packet_beyond_the_dying_hop(background):
    ports, ended, before, behind = background.result()
    for (kind, hops, refresh), port in ports.items():
        case = f"{kind.name}, hop limit {hops}, renewed every {refresh} s"
        punches = of_server(before, port)
        check_renewals(punches, refresh, case)
        far = of_server(behind, port)
        if hops == 2:
            assert far == [], case
            assert {packet.hop_limit for packet in punches} == {1}, case
        else:
            # One hop more, and the capture has every one of them.
            in_time = [packet for packet in punches if packet.time < ended]
            assert len(in_time) <= len(far) <= len(punches), case
            assert {packet.hop_limit for packet in far} == {1}, case


BEGIN = """
import os, socket, sys, time
def listener(*options):
    made = socket.socket(socket.AF_INET6)
    for option in (socket.SO_REUSEADDR, *options):
        made.setsockopt(socket.SOL_SOCKET, option, 1)
    while True:
        try:
            made.bind(("::", int(sys.argv[1])))
            break
        except OSError:
            time.sleep(0.001)
    made.listen(5)
    return made
def datagrams(*options):
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    for option in options:
        made.setsockopt(socket.SOL_SOCKET, option, 1)
    made.bind(("::", int(sys.argv[1])))
    return made
def go_far(one):
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
    one.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
    return one
"""
# What servers do with their listener, again and again.
WAYS = {
    "listens on": "listener(), time.sleep(60)",
    "closes it and listens again": "while True:\n    with listener(): time.sleep(0.7)",
    "shuts it down and listens again":
        "one = listener()\n"
        "while True: time.sleep(0.7), one.shutdown(socket.SHUT_RD), one.listen(5)",
    "leaves, and a loop starts the next": "listener(), time.sleep(0.7)",
    "is killed, and a loop starts the next": "listener(), time.sleep(0.7), os.kill(os.getpid(), 9)",
    "shares its port, and leaves by turns": "listener(socket.SO_REUSEPORT), time.sleep(0.7)",
    "sets its hop limit": "go_far(listener()), time.sleep(60)",
    "UDP: listens on": "datagrams(), time.sleep(60)",
    "UDP: sets its hop limit": "go_far(datagrams()), time.sleep(60)",
    "UDP: a group that is bound again":
        "while True:\n"
        "    with datagrams(socket.SO_REUSEPORT), datagrams(socket.SO_REUSEPORT): time.sleep(0.7)",
}
LOOPS = {"shares its port, and leaves by turns": 2}
BETWEEN_KILLS = 11  # seconds: one that is killed within 10 s has no successor


def both_families(path, first, last):
    return Preload(peers=f"{peers(6, first, last)} {peers(4, first, last)}", hops=path.hops)


def watch_ways(stand):
    """The same of servers whose listeners come and go, and of their keepers: all are killed, and killed
    again. `{way: (packets before r1, behind it)}`"""
    path, ports = stand.path, {}
    with capture.Capture(path, "fwa", "r1") as before, capture.Capture(path, "r1", "r2") as behind:
        for way, body in WAYS.items():
            port = ports[way] = fresh_port()
            first, *_, last = fresh_peer_ports(PEERS)
            for _ in range(LOOPS.get(way, 1)):
                stand.start("A", ["bash", "-c", 'while :; do "$@"; done', "-", servers.PYTHON, "-c",
                                  BEGIN + body, port], preload=both_families(path, first, last))
        for _ in range(2):
            time.sleep(BETWEEN_KILLS)
            for keeper in keepers(path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(keeper, signal.SIGKILL)
        time.sleep(DURATION - 2 * BETWEEN_KILLS)
    return {way: (of_server(before.packets, port), of_server(behind.packets, port))
            for way, port in ports.items()}


@pytest.mark.complains
@pytest.mark.background("ways", watch_ways)
@pytest.mark.parametrize("way", WAYS)
def test_no_packet_beyond_whatever_becomes_of_the_listener(background, way):
    punches, far = background.result()[way]
    print(len(punches), "punches")
    assert far == []
    assert {packet.hop_limit for packet in punches} == {1}
    assert {packet.source for packet in punches} == set(SERVER.values())
    # From the first moments to the last, after the keepers were killed.
    times = [packet.time for packet in punches]
    assert len(times) > 4 * PEERS and max(times) - min(times) > DURATION / 2


CALLED, NEVER_CALLED = 6, 6  # ports of a peer
BETWEEN_CALLS = 0.4
CHANGES = 7  # seconds between


def call_again_and_again(stand, port, source_ports, end):
    """Half of them by MPTCP. How many got in: the others met a firewall that remembers the last call."""
    got_in = 0
    while time.monotonic() < end:
        for index, source_port in enumerate(source_ports):
            protocol = clients.MPTCP if index % 2 else 0
            with contextlib.suppress(OSError), \
                    clients.prepared_client(stand, 6, source_port, protocol) as peer:
                peer.settimeout(BETWEEN_CALLS)
                peer.connect((SERVER[6], port))
                got_in += 1
    return got_in


def watch_changes(stand):
    """The same while there is more than a server and its holes: peers that call, so that holes rest, are
    deaf to a call and answer when it comes again; a config file that is written anew, and an interface
    that goes away and comes back."""
    clients.skip_without_mptcp(stand)
    path, cases = stand.path, {}
    config = Config("changes")

    def write_config(turn):
        first, *_, last = cases["config"][1]
        more = "" if turn % 2 else f', "[{PEER[6]}]:{last + 1}"'
        config.write("synergy.toml", f"""
            peers = ["[{PEER[6]}]:{first}-{last}"{more}]
            hops = {path.hops}
            refresh = {3 + turn % 3}
        """)

    with capture.Capture(path, "fwa", "r1") as before, capture.Capture(path, "r1", "r2") as behind:
        for case, settings in (("called", {"hops": path.hops}),
                               ("beyond", {"hops": path.hops + 1, "refresh": OFTEN}),
                               ("config", {"config": config.file})):
            port, source_ports = fresh_port(), fresh_peer_ports(CALLED + NEVER_CALLED)
            never_called = source_ports[CALLED:] if case == "called" else source_ports[:-1]
            cases[case] = port, never_called
            if case == "config":
                write_config(0)
            else:
                settings = {"peers": peers(6, source_ports[0], source_ports[-1]), **settings}
            for kind in (servers.own_tcp("::"), servers.own_udp("::", "recvfrom")):
                kind.start(stand, port, Preload(**settings))
            if case == "called":
                called = source_ports[:CALLED]
        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            calls = beside.submit(call_again_and_again, stand, cases["called"][0], called,
                                  time.monotonic() + 4 * CHANGES)
            for turn in range(1, 5):
                time.sleep(CHANGES)
                write_config(turn)
                if turn == 2:
                    ip(stand, "A", "link", "set", "to-fwa", "down")
                    time.sleep(0.5)
                    path.configure("A")
            got_in = calls.result()
    return got_in, {case: [[packet for packet in of_server(packets, port)
                            if packet.destination_port in never_called]
                           for packets in (before.packets, behind.packets)]
                    for case, (port, never_called) in cases.items()}


@pytest.mark.complains
@pytest.mark.background("changes", watch_changes)
def test_no_packet_beyond_whatever_changes(background):
    got_in, cases = background.result()
    print(got_in, "calls")
    assert got_in > 2 * CALLED
    for case, (punches, far) in cases.items():
        print(case, len(punches), "punches")
        for protocol in (capture.TCP, capture.UDP):
            times = [packet.time for packet in punches if packet.protocol == protocol]
            assert len(times) > 2 * NEVER_CALLED and max(times) - min(times) > 2 * CHANGES, case
        assert bool(far) == (case == "beyond"), case


LISTENERS, BETWEEN_LISTENERS = 8, 0.37  # seconds
STOPPED, GOES_ON = (100, 500), 0.03  # milliseconds, seconds
# A row of listeners, each with holes in their first second.
ROW = """
import socket, sys, time
made = []
for port in map(int, sys.argv[2:]):
    one = socket.socket(socket.AF_INET6)
    one.bind(("::", port))
    one.listen(5)
    made.append(one)
    time.sleep(float(sys.argv[1]))
time.sleep(60)
"""


def watch_late(stopped, stand):
    """The same with a keeper that runs for a moment each `stopped` milliseconds."""
    path, ports = stand.path, [fresh_port() for _ in range(LISTENERS)]
    first, *_, last = fresh_peer_ports(PEERS)
    with capture.Capture(path, "fwa", "r1") as before, capture.Capture(path, "r1", "r2") as behind:
        stand.start("A", [servers.PYTHON, "-c", ROW, BETWEEN_LISTENERS, *ports],
                    preload=Preload(peers=peers(6, first, last), hops=path.hops))
        (keeper,) = wait_until(lambda: keepers(path), PATIENCE, "the keeper")
        end = time.monotonic() + LISTENERS * (BETWEEN_LISTENERS + stopped / 1000) + 2
        while time.monotonic() < end:
            os.kill(keeper, signal.SIGSTOP)
            time.sleep(stopped / 1000)
            os.kill(keeper, signal.SIGCONT)
            time.sleep(GOES_ON)
    return [(of_server(before.packets, port), of_server(behind.packets, port)) for port in ports]


@pytest.mark.quiet
@pytest.mark.parametrize("stopped", [
    pytest.param(stopped, marks=pytest.mark.background(
        f"late-{stopped}", functools.partial(watch_late, stopped)))
    for stopped in STOPPED])
def test_no_packet_beyond_of_a_keeper_that_is_late(background, stopped):
    print(f"stopped for {stopped} ms, again and again")
    for punches, far in background.result():
        assert far == []
        assert {packet.hop_limit for packet in punches} == {1}
        # Each hole's first ones.
        assert len(punches) >= 2 * PEERS


@pytest.mark.usefixtures("library")
@pytest.mark.complains
@pytest.mark.parametrize("family", (6, 4))
def test_a_reset_is_no_call(stand, family):
    """Of a hop limit that is too high. What comes back is not heard by IPv6, and must not be taken
    for the peer: an answer to it would go all the way."""
    firewall.set_profile(stand.path, "reset")
    beyond = stand.path.hop("B")
    port, source_ports = fresh_port(), fresh_peer_ports(PEERS)
    kind = servers.own_tcp("::" if family == 6 else "0.0.0.0", family)
    with capture.Capture(stand.path, "r2", "fwb") as captured:
        program = kind.start(stand, port, Preload(
            peers=peers(family, source_ports[0], source_ports[-1]), hops=beyond, refresh=OFTEN))
        program.wait_for("go too far")
        time.sleep(6)
    hop_limits = collections.Counter(packet.hop_limit
                                     for packet in of_server(captured.packets, port))
    assert set(hop_limits) == {beyond - stand.path.hop("r2")}, hop_limits
    assert sum(hop_limits.values()) > 2 * PEERS
    # None is a peer's that gets in once the way is free.
    firewall.set_profile(stand.path, "open")
    firewall.forget_connections(stand.path)
    for source_port in source_ports:
        kind.talk(stand, kind, program, source_port, port, PATIENCE)
