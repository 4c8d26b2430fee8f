"""A path with delay, jitter, loss and reordering, as the internet is: all who call get in, each
within the time that a client gives it. What dies on a router is reported by that router's own
kernel, and the report has to cross the bad link like everything else."""

import concurrent.futures
import dataclasses
import socket
import struct
import time

import pytest

import clients
import firewall
import namespace
import netem
import programs
import sctp
import servers
from programs import Preload, fresh_peer_ports, fresh_port
from test_path import TIME_EXCEEDED, probe
from topology import PEER, SERVER, Path
from trials import peers

pytestmark = pytest.mark.needs("tc")

DELAY, JITTER, LOSS, REORDER = 20, 10, 5, 1
COUNT = 50
# The kernel's own time-out of a connection is two minutes. Nobody would wait as long.
PATIENCE = 30

SO_TIMESTAMPNS = 35


@pytest.fixture(scope="module", name="path")
def bad_path():
    """No responder and no mute routers here. The link is the one next to the server's firewall, so
    that the reports of dead punches cross it."""
    netem.skip_if_missing()
    path = Path("bad")
    netem.set_netem_both_ways(path, "fwa", "r1", delay_ms=DELAY, jitter_ms=JITTER, loss=LOSS,
                              reorder=REORDER)
    return path


@pytest.fixture(name="stand")
def stand_on_bad_path(path):
    firewall.set_profile(path, "strict")
    firewall.forget_connections(path)
    stand = programs.Stand(path)
    yield stand
    stand.clear()


@dataclasses.dataclass
class Arrival:
    number: int
    took_ms: float


def arrivals(path, count):
    """Datagrams from B to A, and how each fared. When one came is the kernel's word: we may be
    late to look."""
    firewall.set_profile(path, "open")
    port = fresh_port()
    with namespace.open_socket(path.namespace("A"), socket.AF_INET6, socket.SOCK_DGRAM) as here, \
            namespace.open_socket(path.namespace("B"), socket.AF_INET6, socket.SOCK_DGRAM) as there:
        here.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        here.bind((SERVER[6], port))
        here.setblocking(False)
        there.bind((PEER[6], 0))
        # Where what resolves an address is lost, as anything may be, it is sent again after a second.
        for _ in range(50):
            there.sendto(struct.pack("!Id", 0, time.time()), (SERVER[6], port))
            time.sleep(0.1)
            if received(here):
                break
        time.sleep(0.3)
        received(here)
        arrived = []
        for number in range(count):
            there.sendto(struct.pack("!Id", number, time.time()), (SERVER[6], port))
            time.sleep(0.003)
            arrived += received(here)
        time.sleep(0.3)
        return arrived + received(here)


def received(sock):
    found = []
    while True:
        try:
            data, control, _, _ = sock.recvmsg(100, 100)
        except BlockingIOError:
            return found
        number, sent = struct.unpack("!Id", data)
        seconds, nanoseconds = struct.unpack("qq", control[0][2])
        found.append(Arrival(number, (seconds + nanoseconds / 1e9 - sent) * 1000))


def test_link_is_as_bad_as_it_is_said_to_be(path):
    count = 800
    arrived = arrivals(path, count)
    took = sorted(arrival.took_ms for arrival in arrived)
    lost = 100 * (count - len(arrived)) / count
    median = took[len(took) // 2]
    overtaking = sum(after.number < before.number for before, after in zip(arrived, arrived[1:]))
    at_once = sum(ms < DELAY - JITTER for ms in took)
    print(f"{lost:.1f} % lost, {took[0]:.1f} .. {median:.1f} .. {took[-1]:.1f} ms,"
          f" {overtaking} overtaken, {at_once} of them past the delay altogether")
    assert LOSS / 2 < lost < LOSS * 2
    assert abs(median - DELAY) < JITTER / 2
    # A tenth at either end is the jitter's, and is far from the middle.
    assert took[len(took) // 10] < DELAY - JITTER / 2 < DELAY + JITTER / 2 < took[-len(took) // 10]
    assert overtaking > 0 and at_once > 0


@pytest.mark.parametrize("family", (6, 4))
def test_error_comes_late_and_from_the_kernel(path, family):
    firewall.set_profile(path, "strict")
    # The middle one of several: the bad link can also lose what resolves a router's address, which
    # is asked for again after a second, and lets a few packets past the delay.
    found = [probe(path, family, path.hops, fresh_port()) for _ in range(9)]
    found = sorted((answer for answer in found if answer is not None), key=lambda answer: answer[2])
    assert len(found) >= 5  # the others, or their errors, were lost
    nearest = path.addresses("r1")[0][1][family]
    assert all(answer[:2] == (nearest, TIME_EXCEEDED[family]) for answer in found)
    assert 2 * (DELAY - JITTER) / 1000 <= found[len(found) // 2][2] < 0.15


def all_get_in(stand, server):
    """Fifty at the same time, each from its own port; gives how long each took."""
    port, source_ports = fresh_port(), fresh_peer_ports(COUNT)
    program = server.start(stand, port, Preload(
        peers=peers(server.family, source_ports[0], source_ports[-1]), hops=stand.path.hops))

    def one(source_port):
        started = time.monotonic()
        server.talk(stand, server, program, source_port, port, PATIENCE)
        return time.monotonic() - started

    failures, took = {}, []
    with concurrent.futures.ThreadPoolExecutor(COUNT) as pool:
        work = {source_port: pool.submit(one, source_port) for source_port in source_ports}
        for source_port, result in work.items():
            try:
                took.append(result.result())
            except OSError as error:
                failures[source_port] = repr(error)
    took.sort()
    if took:
        print(f"{len(took)} of {COUNT}; half within {took[len(took) // 2]:.1f} s,"
              f" the slowest took {took[-1]:.1f} s")
    assert not failures
    assert len(took) == COUNT


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("family", (6, 4))
def test_tcp(stand, family):
    all_get_in(stand, servers.own_tcp("::" if family == 6 else SERVER[4], family))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("family", (6, 4))
def test_udp(stand, family):
    all_get_in(stand, servers.own_udp("::" if family == 6 else SERVER[4], "recvfrom", family))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("family", (6, 4))
@pytest.mark.parametrize("kind", ("one-to-one", "one-to-many"))
def test_sctp(stand, kind, family):
    """With firewalls that wait longer than 3 s for a handshake to go on: see
    test_facts_sctp.test_lost_cookie_is_not_made_up_for, which has nothing to do with punching."""
    sctp.skip_if_missing()
    for node in stand.path.firewalls:
        sctp.set_tracker(stand.path, node, cookie_wait=30, cookie_echoed=30)
    all_get_in(stand, servers.own_sctp("::" if family == 6 else SERVER[4], kind, family))


@pytest.mark.usefixtures("library")
def test_nobody_gets_in_without(stand):
    port, (source_port,) = fresh_port(), fresh_peer_ports(1)
    servers.own_tcp("::").start(stand, port, None)
    with pytest.raises(TimeoutError):
        clients.tcp_client(stand, 6, source_port, port, 4)
