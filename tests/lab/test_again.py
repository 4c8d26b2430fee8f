"""Servers that close their listener and listen again: whoever calls next gets in, and soon. A hole
that is open has always a punching socket in front of the listener, whose own answer to a peer's SYN
would close it for two minutes."""

import itertools
import time

import pytest

import clients
import servers
from programs import Preload, fresh_peer_ports, fresh_port, script, wait_listening
from topology import PEER
from trials import peers

pytestmark = pytest.mark.usefixtures("library")

CALLS = 20
PATIENCE = 4
SOON = 1.3  # a SYN that was not heard, and its first repetition


def again_server(stand, mode, source_ports):
    port = fresh_port()
    program = stand.start(
        "A", [servers.PYTHON, script("again_server.py"), port, mode], preload=Preload(
            peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops))
    wait_listening(program, "tcp", port)
    return port


def call(stand, source_port, port):
    """A connection to its end; how long it took to come about, or why it did not."""
    started = time.monotonic()
    try:
        with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
            took = time.monotonic() - started
            assert client.receive_until("\n") == f"{PEER[6]} {source_port}\n"
            return took
    except OSError as error:
        return repr(error)


# A listener that lets nobody else have its port has it again only when the last connection is quite
# over: who calls at once is refused, as without a firewall.
@pytest.mark.parametrize("mode, after_ms", [
    *itertools.product(("early", "late"), (0, 10, 100, 1000)),
    *itertools.product(("anew",), (0, 10, 100, 1000))])
def test_listening_again(stand, mode, after_ms):
    source_ports = fresh_peer_ports(CALLS)
    port = again_server(stand, mode, source_ports)
    results = []
    for source_port in source_ports:
        results.append(call(stand, source_port, port))
        time.sleep(after_ms / 1000)
    print([result if isinstance(result, str) else round(result, 3) for result in results])
    failed = [result for result in results if isinstance(result, str) or result > SOON]
    assert not failed
