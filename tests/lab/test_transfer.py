"""Once accepted, a connection is the kernel's own: as fast as one that needed no punch."""

import socket
import statistics
import time

import pytest

import clients
import firewall
import servers
from programs import Preload, fresh_peer_ports, fresh_port, script
from trials import PATIENCE, peers

pytestmark = pytest.mark.usefixtures("library")

MEGABYTE = 1 << 20
ROUNDS = 5
# Two runs of the very same transfer differ by a tenth on a busy machine, a median of five less.
# What a copy through another process costs is a factor of two.
LEAST_RATIO = 0.75


def throughput(stand, size, preload_for):
    """Bytes per second, from the server to the peer."""
    port, source_ports = fresh_port(), fresh_peer_ports(1)
    server = stand.serve(
        [servers.PYTHON, script("tcp_server.py"), "::", port, "send", size], "tcp", port,
        preload=preload_for(source_ports[0]))
    with clients.tcp_client(stand, 6, source_ports[0], port, PATIENCE) as client:
        client.sock.settimeout(60)
        buffer = bytearray(MEGABYTE)
        received = 0
        started = time.monotonic()
        while count := client.sock.recv_into(buffer):
            received += count
        took = time.monotonic() - started
    server.stop()
    assert received == size
    return size / took


@pytest.mark.quiet
def test_as_fast_as_direct(stand):
    def direct(size):
        firewall.set_profile(stand.path, "open")
        return throughput(stand, size, lambda _: None)

    def punched(size):
        firewall.set_profile(stand.path, "strict")
        return throughput(stand, size, lambda source: Preload(
            peers=peers(6, source), hops=stand.path.hops))

    rates = {direct: [], punched: []}
    for size in [256 * MEGABYTE] * ROUNDS + [1024 * MEGABYTE]:
        for way, measured in rates.items():
            measured.append(way(size))
    ratio = statistics.median(rates[punched]) / statistics.median(rates[direct])
    for way, measured in rates.items():
        print(f"{way.__name__}: MB/s", *(f"{rate / 1e6:.0f}" for rate in measured))
    print(f"punched / direct = {ratio:.2f}")
    assert ratio > LEAST_RATIO


# What a listener hands down that changes how fast its connections are: a limit to the rate (the
# queueing discipline's or TCP's own), and whether a small piece waits for the one before it.
SO_MAX_PACING_RATE, PACE, SIZE = 47, 40_000_000, 16 * MEGABYTE
SERVES_AS_TOLD = """
import socket, sys
port, level, name, value, size = map(int, sys.argv[1:])
with socket.socket(socket.AF_INET6) as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if name:
        listener.setsockopt(level, name, value)
    listener.bind(("::", port))
    listener.listen()
    with listener.accept()[0] as peer:
        while peer.recv(1):
            for piece in (size, 1):
                peer.sendall(bytes(piece))
"""


def seconds_for_an_answer(stand, is_punched, option, size, rounds):
    """The median: a question of a byte, an answer in two pieces."""
    port, (source_port,) = fresh_port(), fresh_peer_ports(1)
    firewall.set_profile(stand.path, "strict" if is_punched else "open")
    server = stand.serve(
        [servers.PYTHON, "-c", SERVES_AS_TOLD, port, *option, size], "tcp", port,
        preload=Preload(peers=peers(6, source_port), hops=stand.path.hops) if is_punched else None)
    took, buffer = [], bytearray(MEGABYTE)
    with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
        for _ in range(rounds):
            # An acknowledgement may wait for company, as it does for whoever has talked for a while.
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            started, left = time.monotonic(), size + 1
            client.send("?")
            while left:
                left -= client.sock.recv_into(buffer, min(left, MEGABYTE))
            took.append(time.monotonic() - started)
    server.stop()
    return statistics.median(took)


@pytest.mark.quiet
def test_what_makes_the_listeners_connections_slow_or_fast(stand):
    nothing = (0, 0, 0)
    pace = (socket.SOL_SOCKET, SO_MAX_PACING_RATE, PACE)
    no_delay = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found = {}
    for title, option, size, rounds in (
            ("not paced", nothing, SIZE, 3), ("paced", pace, SIZE, 3),
            ("delayed", nothing, 1, 9), ("not delayed", no_delay, 1, 9)):
        found[title] = [seconds_for_an_answer(stand, is_punched, option, size, rounds)
                        for is_punched in (False, True)]
    stand.say({title: [f"{each * 1000:.1f} ms" for each in took] for title, took in found.items()})
    for slow, fast in (("paced", "not paced"), ("delayed", "not delayed")):
        assert min(found[slow]) > 2 * max(found[fast])  # the control
        direct, punched = found[slow]
        assert 0.8 < punched / direct < 1.25
    assert max(found["not delayed"]) < 0.02
