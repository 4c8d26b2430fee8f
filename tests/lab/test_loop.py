"""A shell's loop around a server that ends after one connection: the next one is another process.
Whoever calls in between meets nobody. Without firewalls he is refused; here he gets in when the
next one listens, and nobody's hole is closed by an answer that the firewall does not know."""

import itertools
import time

import pytest

import clients
import firewall
from programs import Preload, fresh_peer_ports, fresh_port, wait_listening
from trials import peers

pytestmark = pytest.mark.usefixtures("library")

CALLS = 20
PATIENCE = 4
SOON = 1.3  # a SYN that was not heard, and its first repetition

SERVERS = {
    "nc.openbsd": "nc.openbsd -6 -n -N -l {port}",
    "ncat": "ncat -6 -n -l {port}",
    "socat": "socat TCP6-LISTEN:{port},reuseaddr STDIO",
}


def start_loop(stand, name, source_ports=None):
    """Without `source_ports`, without the library."""
    port = fresh_port()
    command = SERVERS[name].format(port=port)
    preload = Preload(peers=peers(6, source_ports[0], source_ports[-1]),
                      hops=stand.path.hops) if source_ports else None
    program = stand.start("A", ["bash", "-c", f"while :; do echo served | {command}; done"],
                          preload=preload)
    wait_listening(program, "tcp", port)
    return port


def call(stand, source_port, port):
    """A conversation to its end; how long it took to begin, or why it did not."""
    started = time.monotonic()
    try:
        with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
            took = time.monotonic() - started
            assert client.receive_until("\n") == "served\n"
            return took
    except OSError as error:
        return repr(error)


def call_in_a_row(stand, port, source_ports, after_ms):
    results = []
    for source_port in source_ports:
        results.append(call(stand, source_port, port))
        time.sleep(after_ms / 1000)
    stand.say([result if isinstance(result, str) else round(result, 3) for result in results])
    return results


@pytest.mark.parametrize("name, after_ms", itertools.product(SERVERS, (0, 10, 100, 1000)))
def test_a_loop(stand, name, after_ms):
    source_ports = fresh_peer_ports(CALLS)
    port = start_loop(stand, name, source_ports)
    results = call_in_a_row(stand, port, source_ports, after_ms)
    assert not [result for result in results if isinstance(result, str) or result > SOON]


@pytest.mark.parametrize("name", SERVERS)
def test_the_same_loop_refuses_without_firewalls(stand, name):
    """What a peer that calls at once meets by itself: nobody."""
    firewall.set_profile(stand.path, "open")
    results = call_in_a_row(stand, start_loop(stand, name), fresh_peer_ports(CALLS), 0)
    assert [result for result in results if isinstance(result, str)]
