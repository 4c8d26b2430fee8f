"""Once accepted, a connection is the kernel's own: as fast as one that needed no punch."""

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
