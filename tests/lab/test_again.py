"""Servers that close their listener and listen again: whoever calls next gets in, and soon. A hole
that is open has always a punching socket in front of the listener, whose own answer to a peer's SYN
would close it for two minutes."""

import itertools
import os
import signal
import time

import pytest

import clients
import firewall
import sctp
import servers
from programs import (
    Preload, fresh_peer_ports, fresh_port, script, slowness, wait_listening)
from test_killed import keepers
from topology import PEER
from trials import peers

pytestmark = pytest.mark.usefixtures("library")

CALLS = 20
PATIENCE = 4
REPEATED_AFTER = 1  # second: a SYN or INIT that was not heard
SOON = REPEATED_AFTER + 0.3 * slowness()  # what that takes; of SCTP the next comes after 3 s


def again_server(stand, mode, source_ports, transport, with_library):
    port = fresh_port()
    program = stand.start(
        "A", [servers.PYTHON, script("again_server.py"), port, mode, transport], preload=Preload(
            peers=peers(6, source_ports[0], source_ports[-1]),
            hops=stand.path.hops) if with_library else None)
    wait_listening(program, transport, port)
    return program, port


def sctp_client(*call):
    """It repeats its INIT as soon as TCP does a SYN (RFC 9260 16; Linux of itself after 3 s)."""
    return clients.sctp_client(*call, prepare=lambda sock: sctp.set_timeouts(
        sock, REPEATED_AFTER * 1000, 60 * 1000))


CLIENTS = {"tcp": clients.tcp_client, "sctp": sctp_client}


def call_once(stand, source_port, port, transport, started):
    try:
        with CLIENTS[transport](stand, 6, source_port, port, PATIENCE) as client:
            took = time.monotonic() - started
            assert client.receive_until("\n") == f"{PEER[6]} {source_port}\n"
            return took
    except OSError as error:
        return repr(error)


def call(stand, source_port, port, transport):
    """A connection to its end; how long it took to come about, or why it did not."""
    started = time.monotonic()
    result = call_once(stand, source_port, port, transport, started)
    # An SCTP server that does not listen yet says so at once, or takes nobody any more whom its last
    # listener let in, without a firewall too.
    while transport == "sctp" and "Connection" in str(result) and time.monotonic() < started + SOON:
        time.sleep(0.002)
        result = call_once(stand, source_port, port, transport, started)
    return result


def check(stand, mode, after_ms, transport, with_library=True):
    source_ports = fresh_peer_ports(CALLS)
    _, port = again_server(stand, mode, source_ports, transport, with_library)
    results = []
    for source_port in source_ports:
        results.append(call(stand, source_port, port, transport))
        time.sleep(after_ms / 1000)
    print([result if isinstance(result, str) else round(result, 3) for result in results])
    assert not [result for result in results if isinstance(result, str) or result > SOON]
    return results


@pytest.mark.parametrize("mode, after_ms", [
    *itertools.product(("early", "late", "anew"), (0, 10, 100, 1000))])
def test_listening_again(stand, mode, after_ms):
    check(stand, mode, after_ms, "tcp")


def test_listening_again_while_the_keeper_does_not_run(stand):
    """The server waits for its answer then, to listen again: longer than a server that has
    something else to do is waited for. (Without the library nobody gets in: test_strict.)"""
    source_ports = fresh_peer_ports(6)
    _, port = again_server(stand, "anew", source_ports, "tcp", True)
    (keeper,) = keepers(stand.path)
    for source_port in source_ports:
        try:
            with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
                client.receive_until("\n")  # the listener is closed by now
                os.kill(keeper, signal.SIGSTOP)
            time.sleep(0.07)
        finally:
            os.kill(keeper, signal.SIGCONT)


@pytest.mark.complains
@pytest.mark.parametrize("after_ms", (0, 10, 100, 1000))
@pytest.mark.parametrize("mode", ("early", "late"))
def test_listening_again_for_sctp(stand, mode, after_ms):
    """Nine of ten are heard at once. A machine that is late makes longer what is else next to
    nothing: the firewall's 10 s are over and the next INIT has not left, or one socket is closed
    and the next one has sent none. (test_heard.py has how many it is on a machine in time.)"""
    sctp.skip_if_missing()
    firewall.set_profile(stand.path, "open")
    check(stand, mode, after_ms, "sctp", with_library=False)
    firewall.set_profile(stand.path, "strict")
    results = check(stand, mode, after_ms, "sctp")
    assert sum(took < REPEATED_AFTER for took in results) >= 0.9 * CALLS


@pytest.mark.parametrize("with_library", (False, True), ids=("bare", "library"))
def test_a_port_in_use_is_no_more_to_be_had(stand, with_library):
    """By a connection that is there, and by one that rests."""
    firewall.set_profile(stand.path, "strict" if with_library else "open")
    ports = fresh_peer_ports(2)
    program, port = again_server(stand, "in-use", ports, "tcp", with_library)
    assert isinstance(call(stand, ports[0], port, "tcp"), float)
    program.wait_exit()
    assert program.stdout().split() == ["EADDRINUSE", "EADDRINUSE"]
