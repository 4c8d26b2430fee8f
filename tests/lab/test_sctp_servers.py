"""Unmodified SCTP servers, one-to-one and one-to-many, reached through the firewalls. A kernel that
has SCTP is needed: scripts/test-uml starts one."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import re
import resource
import socket
import subprocess
import time

import pytest

import clients
import firewall
import namespace
import sctp
import servers
from programs import STAGE, Preload, fresh_peer_ports, fresh_port, wait_listening
from sctp import Wire
from topology import PEER, SERVER
from trials import PATIENCE, check, peers

pytestmark = pytest.mark.usefixtures("library")

kinds = pytest.mark.parametrize("kind", ("one-to-one", "one-to-many"))


@pytest.fixture(autouse=True)
def kernel_with_sctp():
    sctp.skip_if_missing()


@pytest.mark.parametrize("server", (
    servers.NCAT_SCTP, servers.SCTP_DARN,
    servers.own_sctp(SERVER[6], "one-to-one"), servers.own_sctp(SERVER[6], "one-to-many"),
), ids=("ncat", "sctp_darn", "one-to-one", "one-to-many"))
def test_strict(stand, server):
    # The second kernel has one slow processor: it takes a second to start a program.
    check(stand, server, at_a_time=2)


@kinds
def test_two_firewalls_in_a_row(stand_with_two_firewalls, kind):
    check(stand_with_two_firewalls, servers.own_sctp(SERVER[6], kind), count=5)


@kinds
@pytest.mark.parametrize("address, family", (
    ("::", 6), ("::", 4), (f"::ffff:{SERVER[4]}", 4), ("0.0.0.0", 4), (SERVER[4], 4),
), ids=("wildcard", "v4-mapped", "v4-mapped-specific", "ipv4-wildcard", "ipv4-specific"))
def test_addresses(stand, address, family, kind):
    check(stand, servers.own_sctp(address, kind, family), count=5)


def start(stand, kind, source_port, family=6, more=()):
    port = fresh_port()
    command = servers.own_sctp(SERVER[family], kind, family).command(port)
    program = stand.serve([*command, *more], "sctp", port,
                          preload=Preload(peers=peers(family, source_port), hops=stand.path.hops))
    return program, port


def greet(client, timeout=None):
    """A message and its answer."""
    client.received = b""
    client.send("hello")
    client.receive_until("hello", timeout)


@dataclasses.dataclass
class Watched:
    """A hole that was watched for a while before its peer called."""

    inits: list  # those that came to the first router behind the server's firewall
    beyond: list  # what came to the second
    problem: str = None  # that the peer met


def watch_holes(stand, cases, seconds):
    """{(kind, family): Watched}, all at the same time."""
    sctp.skip_if_missing()
    found, source_ports = {}, dict(zip(cases, fresh_peer_ports(len(cases))))
    with Wire(stand.path, "r2", "r1") as beyond, Wire(stand.path, "r1", "fwa") as wire:
        ports = {case: start(stand, case[0], source_ports[case], case[1])[1] for case in cases}
        time.sleep(seconds)
    for case, port in ports.items():
        mine = [[packet for packet in packets if packet.source_port == port]
                for packets in (wire.packets, beyond.packets)]
        found[case] = Watched([packet for packet in mine[0] if sctp.INIT in packet.chunks], mine[1])
        try:
            with clients.sctp_client(stand, case[1], source_ports[case], port, 5) as client:
                greet(client)
        except OSError as error:
            found[case].problem = repr(error)
    return found


def holes(stand):
    return watch_holes(stand, [(kind, family) for kind in ("one-to-one", "one-to-many")
                               for family in (6, 4)], 15)


@pytest.mark.quiet
@pytest.mark.background("holes", holes)
@pytest.mark.parametrize("family", (6, 4))
@kinds
def test_hole_stays_open(background, kind, family):
    """The peer that comes later gets in, by its first repetition at the latest, and no packet of
    all those before went further than it should."""
    hole = background.result()[kind, family]
    gaps = [after.time - before.time for before, after in zip(hole.inits, hole.inits[1:])]
    print("INIT again after", *(f"{gap:.3f}" for gap in gaps), "s")
    assert hole.beyond == []
    assert gaps and max(gaps) < 3
    assert not hole.problem


def without_errors(stand):
    with namespace.inside(stand.path.namespace("A")):
        subprocess.run(["ip6tables", "-I", "INPUT", "-p", "ipv6-icmp", "-m", "icmp6",
                        "--icmpv6-type", "time-exceeded", "-j", "DROP"], check=True)
    return watch_holes(stand, [("one-to-one", 6)], 20)


@pytest.mark.complains  # of what keeps the errors out
@pytest.mark.background("without-errors", without_errors)
def test_hole_stays_open_without_errors(background):
    """Routers need not report what dies there: nothing tells then when the INIT has left."""
    hole = background.result()["one-to-one", 6]
    assert hole.beyond == []
    assert len({packet.tag for packet in hole.inits}) > 1
    assert not hole.problem


def expiry(stand, source_port):
    """Seconds that the server's firewall still gives to an association."""
    entry, = [line for line in firewall.connections(stand.path, "fwa")
              if f"port={source_port} " in line]
    return int(re.match(r"sctp\s+132\s+(\d+)", entry)[1])


FORGOTTEN_AFTER = 5  # seconds; nf_conntrack_sctp_timeout_closed is 10 of itself
RESTS = (2, 6, 10)  # such times


def idle_associations(stand):
    """One of each kind for each rest, side by side. Gives what was left of an association's time
    when there was least, and when most; raises what the peers met."""
    sctp.skip_if_missing()
    for node in stand.path.firewalls:
        sctp.set_tracker(stand.path, node, closed=FORGOTTEN_AFTER)
    left = []

    def rest(case):
        kind, lifetimes = case
        source_port, = fresh_peer_ports(1)
        _, port = start(stand, kind, source_port)
        with clients.sctp_client(stand, 6, source_port, port, PATIENCE) as client:
            greet(client)
            end = time.monotonic() + lifetimes * FORGOTTEN_AFTER
            while time.monotonic() < end:
                time.sleep(1)
                left.append(expiry(stand, source_port))
            greet(client, 0.9)
        beats = [packet.time for packet in list(wire.packets)
                 if packet.destination_port == source_port and sctp.HEARTBEAT in packet.chunks]
        gaps = sorted(after - before for before, after in zip(beats, beats[1:]))
        stand.say(f"{kind}: {len(beats)} heartbeats, {gaps[0]:.1f} to {gaps[-1]:.1f} s apart")

    cases = list(itertools.product(("one-to-one", "one-to-many"), RESTS))
    with Wire(stand.path, "r1", "fwa") as wire, \
            concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        list(pool.map(rest, cases))
    return min(left), max(left)


@pytest.mark.slow
@pytest.mark.background("idle", idle_associations)
def test_idle_association_lives(background):
    """For ten times as long as the firewall would remember it: the peer is heard at once, and not
    by a repetition only."""
    least, most = background.result()
    print(f"{least} to {most} s from being forgotten")
    assert most <= FORGOTTEN_AFTER, "the firewall takes it for more than it is: nothing to keep up"


@kinds
def test_peer_comes_again(stand, kind):
    source_port, = fresh_peer_ports(1)
    _, port = start(stand, kind, source_port)
    for _ in range(4):
        with clients.sctp_client(stand, 6, source_port, port, 8) as client:
            greet(client)
        time.sleep(0.5)


def test_beside_an_ordinary_connection(stand):
    """What the listener has accepted from others holds its port as well."""
    source_port, = fresh_peer_ports(1)
    program, port = start(stand, "one-to-one", source_port)
    with sctp.open_socket(stand.path, "A", 6, sctp.ONE_TO_ONE) as neighbour:
        neighbour.connect((SERVER[6], port))
        for _ in range(3):
            with clients.sctp_client(stand, 6, source_port, port, 8) as client:
                greet(client)
            time.sleep(0.5)
        neighbour.send(b"hello")
        assert neighbour.recv(100).endswith(b"hello")
    assert program.stderr() == ""  # no complaint that the port is in use


def test_connection_that_lives_is_not_punched_into(stand):
    """Other than TCP, the kernel would allow a second association of the same two ends."""
    source_port, = fresh_peer_ports(1)
    _, port = start(stand, "one-to-one", source_port)
    with clients.sctp_client(stand, 6, source_port, port, 5) as client, \
            Wire(stand.path, "r1", "fwa") as wire:
        for _ in range(10):
            greet(client)
            time.sleep(0.5)
    assert not any(sctp.INIT in packet.chunks for packet in wire.packets)


def test_one_to_many_server_that_peels_off(stand):
    """While an association has a socket of its own, the other one can begin none with its peer; and
    that is nothing to complain of."""
    (source_port,) = fresh_peer_ports(1)
    _, port = start(stand, "one-to-many", source_port, more=["--peel-off"])
    for _ in range(2):
        with clients.sctp_client(stand, 6, source_port, port, PATIENCE) as client:
            greet(client)
            time.sleep(1.5)  # by then it is looked for, and is not the server's socket's any more
            greet(client)


BELL_PORTS = range(61700, 63748)


@pytest.mark.other_users
def test_bells_whose_ports_another_user_takes(stand):
    """All that are free once there is a listener: bells have some of their own by then."""
    (source_port,) = fresh_peer_ports(1)
    _, port = start(stand, "one-to-one", source_port)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    try:
        with namespace.inside(stand.path.namespace("A")), contextlib.ExitStack() as stack:
            taken = 0
            for bell_port in BELL_PORTS:
                sock = stack.enter_context(
                    socket.socket(socket.AF_INET6, socket.SOCK_STREAM, sctp.SCTP))
                with contextlib.suppress(OSError):
                    sock.bind(("::", bell_port))
                    taken += 1
            assert len(BELL_PORTS) - 4 < taken < len(BELL_PORTS)
            with clients.sctp_client(stand, 6, source_port, port, PATIENCE) as client:
                greet(client)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@kinds
def test_notifications(stand, kind):
    """A server that asked for them is told of the peer's association, and of no punch."""
    source_port, = fresh_peer_ports(1)
    program, port = start(stand, kind, source_port, more=["--events"])
    time.sleep(7)
    assert program.stdout() == ""
    with clients.sctp_client(stand, 6, source_port, port, 5) as client:
        greet(client)
    program.wait_for(r"notification 0x8005")  # SCTP_SHUTDOWN_EVENT
    assert program.stdout().startswith(f"notification {sctp.ASSOC_CHANGE:#x}\n")


CALLS_FIRST = """
import socket, sys, time
with socket.socket(socket.AF_INET6, socket.SOCK_SEQPACKET, socket.IPPROTO_SCTP) as sock:
    sock.bind((sys.argv[1], int(sys.argv[2])))
    sock.listen(5)
    sock.sendto(b"first", (sys.argv[3], int(sys.argv[4])))
    print("sent", flush=True)
    time.sleep(60)
"""


def test_one_to_many_server_sends_first(stand):
    """What it sends to a peer that has not come yet is not lost by punching."""
    port, (source_port,) = fresh_port(), fresh_peer_ports(1)
    program = stand.start(
        "A", [servers.PYTHON, "-c", CALLS_FIRST, SERVER[6], port, PEER[6], source_port],
        preload=Preload(peers=peers(6, source_port), hops=stand.path.hops))
    program.wait_for("sent")
    time.sleep(4.5)
    with clients.sctp_client(stand, 6, source_port, port, 5) as client:
        client.receive_until("first")


@pytest.mark.parametrize("family", (6, 4))
def test_listendemo(stand, family):
    port, (source_port,) = fresh_port(), fresh_peer_ports(1)
    command = [STAGE / "src/listendemo", "sctp", SERVER[family], port, PEER[family], source_port,
               stand.path.hops]
    program = stand.serve(command, "sctp", port)
    with clients.sctp_client(stand, family, source_port, port, PATIENCE) as client:
        client.send("to the server\n")
        program.wait_for("to the server\n")
        program.write("to the peer\n")
        client.receive_until("to the peer\n")
    assert program.wait_exit() == 0
