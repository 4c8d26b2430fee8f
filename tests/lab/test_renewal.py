"""Holes stay open as long as the server is there, whatever the firewall forgets, and no longer."""

import concurrent.futures
import contextlib
import errno
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import time

import pytest

import clients
import firewall
import namespace
import servers
from capture import UDP, Capture
from programs import (SETTLING, Preload, fresh_peer_ports, fresh_port, slowness,
                      wait_until)
from topology import PEER, SERVER
from trials import PATIENCE, peers

pytestmark = pytest.mark.usefixtures("library")

TCP_TIMERS = "net/netfilter/nf_conntrack_tcp_timeout_{}"
UDP_TIMERS = ("net/netfilter/nf_conntrack_udp_timeout",
              "net/netfilter/nf_conntrack_udp_timeout_stream")


def serve(stand, server, source_ports, **settings):
    port = fresh_port()
    program = server.start(stand, port, Preload(
        peers=peers(server.family, source_ports[0], source_ports[-1]), hops=stand.path.hops,
        **settings))
    return port, program


def call(stand, source_port, port, patience=PATIENCE):
    """Gives how long it took to get in by TCP."""
    started = time.monotonic()
    with clients.tcp_client(stand, 6, source_port, port, patience) as client:
        took = time.monotonic() - started
        client.send("hello\n")
        client.receive_until("hello\n")
    return took


def ask(stand, source_port, port, datagrams=1):
    """By UDP, a datagram a second; how many it took."""
    with clients.udp_client(stand, 6, source_port, port, 1) as client:
        for number in range(1, datagrams + 1):
            client.send("hello\n")
            with contextlib.suppress(TimeoutError):
                client.receive_until("hello\n")
                return number
    raise TimeoutError(f"no answer to {datagrams} datagrams")


def forgetful(stand, seconds):
    """Both firewalls forget a half-open connection, or a datagram, after so many seconds."""
    for node in stand.path.firewalls:
        namespace.sysctl(stand.path.namespace(node), {
            TCP_TIMERS.format("syn_sent"): seconds, **{timer: seconds for timer in UDP_TIMERS}})


FORGETS_AFTER, RENEWED_EVERY, CALLERS = 5, 4, 60


def at_any_moment(stand):
    """Each from a port of its own, one a second over a minute; and for comparison some to servers
    whose renewals come too seldom for such a firewall."""
    forgetful(stand, FORGETS_AFTER)
    tcp, udp = servers.own_tcp("::"), servers.own_udp("::", "recvfrom")
    results = {}

    def each_second(name, ask_one, count, first_after=0):
        def one(index, source_port, port):
            time.sleep(first_after + index * 1.013)
            try:
                return ask_one(stand, source_port, port)
            except TimeoutError:
                return None
        server = tcp if name[0] == "tcp" else udp
        source_ports = fresh_peer_ports(count)
        port, _ = serve(stand, server, source_ports, refresh=name[1])
        work = [pool.submit(one, index, source_port, port)
                for index, source_port in enumerate(source_ports)]
        results[name] = work

    with concurrent.futures.ThreadPoolExecutor(3 * CALLERS) as pool:
        each_second(("tcp", RENEWED_EVERY), lambda *where: call(*where, 9), CALLERS)
        each_second(("udp", RENEWED_EVERY), lambda *where: ask(*where, 2), CALLERS)
        each_second(("tcp", 60), lambda *where: call(*where, 9), 5, 44)
        each_second(("udp", 60), lambda *where: ask(*where, 2), 5, 44)
    return {name: [item.result() for item in work] for name, work in results.items()}


@pytest.mark.slow
@pytest.mark.background("timers", at_any_moment)
def test_firewall_with_short_timers(background):
    found = background.result()
    took = sorted(time or 99 for time in found["tcp", RENEWED_EVERY])
    print(f"TCP: half within {took[len(took) // 2]:.2f} s, the slowest {took[-1]:.2f} s;"
          f" datagrams needed: {sorted(found['udp', RENEWED_EVERY], key=str)}")
    assert None not in found["tcp", RENEWED_EVERY] and took[-1] <= 8
    assert None not in found["udp", RENEWED_EVERY]
    assert found["udp", 60] == [None] * 5, "there was nothing to renew"
    # (On a busy machine a hole may have lost its socket, and have been opened anew for that.)
    assert found["tcp", 60].count(None) >= 3, "there was nothing to renew"


HALF_OPEN = 120  # nf_conntrack_tcp_timeout_syn_sent
KEPT_FROM_RUNNING = 5


def keeper_of(program):
    """A keeper has its server's environment."""
    wanted = pathlib.Path(f"/proc/{program.pid}/environ").read_bytes()
    peers_of = re.compile(rb"SYNERGY_PEERS=[^\0]*")
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if not (process / "cmdline").read_bytes().startswith(b"synergy-keeper\0"):
                continue
            # (Another test's may have its peers by a file.)
            found = peers_of.search((process / "environ").read_bytes())
            if found and found[0] in wanted:
                return int(process.name)
    raise AssertionError("no keeper")


def around_the_end(stand):
    """Calls in the seconds around the one at which a firewall forgets the first SYN; also where
    that SYN's socket was lost, since its keeper was kept from running."""
    moments = [HALF_OPEN - 2 + 0.5 * index for index in range(24)]
    source_ports = fresh_peer_ports(2 * len(moments))
    started = time.monotonic() + SETTLING
    ports = []
    for its_ports in (source_ports[:len(moments)], source_ports[len(moments):]):
        port, program = serve(stand, servers.own_tcp("::"), its_ports)
        ports += [port] * len(moments)
    keeper = keeper_of(program)
    os.kill(keeper, signal.SIGSTOP)
    time.sleep(KEPT_FROM_RUNNING)
    os.kill(keeper, signal.SIGCONT)

    def one(moment, source_port, port):
        time.sleep(max(0, started + moment - time.monotonic()))
        try:
            return call(stand, source_port, port)
        except TimeoutError:
            return None

    with concurrent.futures.ThreadPoolExecutor(len(source_ports)) as pool:
        return list(zip(2 * moments, pool.map(one, 2 * moments, source_ports, ports)))


@pytest.mark.slow
@pytest.mark.background("two-minutes", around_the_end)
def test_hole_that_the_firewall_does_not_prolong(background):
    found = background.result()
    print([(moment, took and round(took, 2)) for moment, took in found])
    assert max(took or PATIENCE for _, took in found) < 4


CALLS, WITHIN = 200, 30  # s: the short intervals, and two renewals


def first_syns(stand):
    """How often each of many peers, of which each calls once and at another moment from the start
    on, had to repeat its SYN."""
    source_ports = fresh_peer_ports(CALLS)
    port, _ = serve(stand, servers.own_tcp("::"), source_ports)
    moments = [index * WITHIN / CALLS for index in range(CALLS)]

    def repetitions(moment, source_port):
        time.sleep(moment)
        with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
            info = client.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            return struct.unpack_from("I", info, 100)[0]  # tcpi_total_retrans

    with concurrent.futures.ThreadPoolExecutor(CALLS) as pool:
        return dict(zip(moments, pool.map(repetitions, moments, source_ports)))


@pytest.mark.slow
@pytest.mark.quiet
@pytest.mark.background("first-syns", first_syns)
def test_first_syn_is_heard(background):
    """The time for which a socket is deaf follows the round trip, which is 30 ms here, and what is
    known of the kernel's timers: the share of those that had to repeat the SYN is the share of the
    time for which the holes, all opened at once, are deaf."""
    counts = background.result()
    repeated = [(round(moment, 1), count) for moment, count in counts.items() if count]
    print(f"{len(repeated)} of {CALLS} repeated their SYN: {repeated}")
    assert len(repeated) <= CALLS / 20
    assert max(counts.values()) <= 1, "a hole was deaf for longer than a second"


def punches_to(stand, port, source_ports):
    """Tells them from the server's other packets."""
    return lambda packet: (packet.source_port == port and packet.destination_port in source_ports
                           and packet.hop_limit <= stand.path.hops)


SHORT_INTERVALS = 5  # between the first SYNs of a hole (guard.h)


@pytest.mark.parametrize("how", ("flushed", "reloaded"))
def test_firewall_forgets_everything(stand, how):
    """Its table is gone: in again after one renewal at most, and not before."""
    tcp_ports, udp_ports = fresh_peer_ports(4), fresh_peer_ports(4)
    with Capture(stand.path, "fwa", "r1") as capture:
        tcp_port, _ = serve(stand, servers.own_tcp("::"), tcp_ports, refresh=3)
        udp_port, _ = serve(stand, servers.own_udp("::", "recvfrom"), udp_ports, refresh=3)
        # It counts as started when its port is bound, which is before its bind() has returned.
        capture.wait_for(punches_to(stand, udp_port, udp_ports[:1]), PATIENCE, "the first punch", 1)
        call(stand, tcp_ports[0], tcp_port)
        ask(stand, udp_ports[0], udp_port)
        # The worst moment: the first renewals, which come sooner, are just over.
        for port in tcp_ports[1:]:
            capture.wait_for(punches_to(stand, tcp_port, [port]), PATIENCE, "a hole's SYNs",
                             SHORT_INTERVALS + 1)
    firewall.forget_connections(stand.path)
    if how == "reloaded":
        firewall.set_profile(stand.path, "lax")
        firewall.set_profile(stand.path, "strict")
    for index in (1, 2, 3):
        assert call(stand, tcp_ports[index], tcp_port) < 5
        assert ask(stand, udp_ports[index], udp_port, 4) <= 4


CLOSED = 5  # nf_conntrack_tcp_timeout_close, which is 10 of itself


@pytest.fixture(name="hasty")
def firewalls_that_soon_forget_a_reset(stand):
    def keep_closed(seconds):
        for node in stand.path.firewalls:
            namespace.sysctl(stand.path.namespace(node), {TCP_TIMERS.format("close"): seconds})
    keep_closed(CLOSED)
    yield stand
    keep_closed(10)


def test_peer_resets_and_calls_again(hasty):
    """For as long as the firewall remembers a connection that the peer has reset, it takes no new
    one from its inside; right after that the peer is in, though renewals come seldom."""
    source_ports = fresh_peer_ports(5)
    port, _ = serve(hasty, servers.own_tcp("::"), source_ports, refresh=60)
    with concurrent.futures.ThreadPoolExecutor(len(source_ports)) as pool:
        connected = list(pool.map(
            lambda source_port: clients.tcp_client(hasty, 6, source_port, port, PATIENCE),
            source_ports))
        for client in connected:
            client.send("hello\n")
            client.receive_until("hello\n")
        for client in connected:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        took = list(pool.map(lambda source_port: call(hasty, source_port, port, 30), source_ports))
    print([round(time, 1) for time in took])
    assert min(took) > CLOSED - 1, "the firewall is kinder than it was"
    assert max(took) < CLOSED + 7


def ip(stand, node, *words):
    with namespace.inside(stand.path.namespace(node)):
        subprocess.run(["ip", *words], check=True)


def wait_for_punches(stand, port, source_ports):
    with Capture(stand.path, "fwa", "r1") as capture:
        for source_port in source_ports:
            capture.wait_for(punches_to(stand, port, [source_port]), PATIENCE, "the punches again")


@pytest.mark.complains
def test_router_and_address_come_back(stand):
    """The way out is gone for a while, then the address itself: reported, and recovered from."""
    source_ports = fresh_peer_ports(6)
    port, program = serve(stand, servers.own_tcp("::"), source_ports, refresh=1, log="info")
    call(stand, source_ports[0], port)
    try:
        ip(stand, "A", "route", "del", "2001:db8:b::/64")
        program.wait_for("nreachable|Cannot assign")
        time.sleep(2.5)  # as many renewals that fail
    finally:
        ip(stand, "A", "route", "add", "2001:db8:b::/64", "via", "2001:db8:a::1")
    wait_for_punches(stand, port, source_ports[1:])
    call(stand, source_ports[1], port)
    try:
        ip(stand, "A", "address", "del", f"{SERVER[6]}/64", "dev", "to-fwa")
        time.sleep(2.5)
    finally:
        ip(stand, "A", "address", "add", f"{SERVER[6]}/64", "dev", "to-fwa", "nodad")
        ip(stand, "A", "route", "replace", "2001:db8:b::/64", "via", "2001:db8:a::1")
    wait_for_punches(stand, port, source_ports[2:])
    for source_port in source_ports[2:]:
        call(stand, source_port, port)


def test_address_is_replaced(stand):
    """A new prefix at night: the holes are from the new address after one renewal, with nothing of a
    punch beyond its hop, and the first call finds them."""
    others, refresh = "2001:db8:a::77", 3
    source_ports = fresh_peer_ports(3)
    port, program = serve(stand, servers.own_tcp("::"), source_ports, refresh=refresh)
    call(stand, source_ports[0], port)
    ip(stand, "A", "address", "add", f"{others}/64", "dev", "to-fwa", "nodad")
    ip(stand, "A", "address", "del", f"{SERVER[6]}/64", "dev", "to-fwa")
    try:
        ip(stand, "A", "route", "replace", "2001:db8:b::/64", "via", "2001:db8:a::1")
        with Capture(stand.path, "fwa", "r1") as capture, Capture(stand.path, "r1", "r2") as behind:
            for source_port in source_ports[1:]:
                is_punch = punches_to(stand, port, [source_port])
                capture.wait_for(lambda packet: is_punch(packet) and packet.source == others,
                                 2 * refresh, "the punches from the new address")
            capture.wait_for(lambda packet: is_punch(packet) and packet.source == others,
                             2 * refresh, "the next one", count=2)
        assert [packet for packet in behind.packets if packet.source_port == port] == []
        with namespace.open_socket(stand.path.namespace("B"), socket.AF_INET6,
                                   socket.SOCK_STREAM) as peer:
            peer.bind((PEER[6], source_ports[1]))
            peer.settimeout(PATIENCE)
            peer.connect((others, port))
            peer.sendall(b"hello\n")
            assert b"hello" in peer.recv(100)
    finally:
        ip(stand, "A", "address", "add", f"{SERVER[6]}/64", "dev", "to-fwa", "nodad")
        ip(stand, "A", "address", "del", f"{others}/64", "dev", "to-fwa")
        ip(stand, "A", "route", "replace", "2001:db8:b::/64", "via", "2001:db8:a::1")
    assert program.is_running()


OFTEN = 2  # seconds between renewals


def test_traffic_saves_renewals(stand):
    """Two peers of one server; with one it speaks."""
    talking, silent = fresh_peer_ports(2)
    refresh = 4
    port, program = serve(stand, servers.own_udp("::", "recvfrom"), [talking, silent],
                          refresh=refresh)
    time.sleep(SETTLING)  # the first punches are out

    def sent(to, is_punch):
        return [packet.time for packet in list(capture.packets)
                if packet.protocol == UDP and packet.source_port == port
                and packet.destination_port == to and (packet.hop_limit < 10) == is_punch]

    end = time.monotonic() + 3 * PATIENCE
    with Capture(stand.path, "fwa", "r1") as capture:
        while len(sent(silent, True)) < 3 and time.monotonic() < end:
            ask(stand, talking, port)
            time.sleep(OFTEN / 5)
    program.stop()
    answers, punches = sent(talking, False), sent(talking, True)
    print(f"{len(answers)} answers, {len(punches)} punches; {len(sent(silent, True))} to the other")
    assert len(sent(silent, True)) >= 3 and len(answers) >= 10
    # Where this program was late with a question, a renewal is in order. The server's side counts
    # whole seconds, by a clock that may be one behind.
    assert not [punch for punch in punches
                if any(0 < punch - answer < refresh - 2 for answer in answers)]


def bind_plainly(stand, kind, port):
    with namespace.open_socket(stand.path.namespace("A"), socket.AF_INET6, kind) as sock:
        sock.bind(("::", port))


def can_bind_plainly(stand, kind, port):
    try:
        bind_plainly(stand, kind, port)
    except OSError as error:
        assert error.errno == errno.EADDRINUSE
        return False
    return True


# The sockets beside a listener go when the keeper is told of the server's end: within a fraction
# of a millisecond if a processor is free.
AT_ONCE = 0.05


@pytest.mark.parametrize("server", (servers.own_tcp("::"), servers.own_udp("::", "recvfrom")),
                         ids=("tcp", "udp"))
@pytest.mark.parametrize("how", (signal.SIGKILL, signal.SIGTERM), ids=("killed", "ended"))
def test_nothing_is_left_of_a_server(stand, server, how):
    """Its port is free at once, with no option set, and no packet leaves any more. Another server
    lives on, and what it sends tells when there would have been something to see."""
    source_ports, others_ports = fresh_peer_ports(10), fresh_peer_ports(10)
    port, program = serve(stand, server, source_ports, refresh=1)
    others, _ = serve(stand, server, others_ports, refresh=1)
    kind = socket.SOCK_STREAM if server.transport == "tcp" else socket.SOCK_DGRAM
    with pytest.raises(OSError) as taken:
        bind_plainly(stand, kind, port)
    assert taken.value.errno == errno.EADDRINUSE

    def wait_for_renewals(capture, of_port, to, count, when):
        for peer in to:
            is_punch = punches_to(stand, of_port, [peer])
            capture.wait_for(lambda packet: is_punch(packet) and packet.time > when, PATIENCE,
                             f"the punches to {peer}", count)

    with Capture(stand.path, "fwa", "r1") as capture:
        wait_for_renewals(capture, port, source_ports, 2, 0)
        os.kill(program.pid, how)
        program.wait_exit()
        killed = time.monotonic()
        wait_until(lambda: can_bind_plainly(stand, kind, port), AT_ONCE * slowness(), "the port")
        stand.say(f"the port is free after {(time.monotonic() - killed) * 1000:.1f} ms")
        ended = time.time()
        wait_for_renewals(capture, others, others_ports, 3, ended)
    assert not [packet for packet in capture.packets
                if packet.source_port == port and packet.time > ended]
