"""Connections one after another and at the same time, from one peer."""

import concurrent.futures
import errno
import time

import pytest

import clients
import servers
from programs import Preload, fresh_peer_ports, fresh_port, script, wait_until
from topology import PEER
from trials import NO_ANSWER, PATIENCE, peers

pytestmark = pytest.mark.usefixtures("library")

TIME_WAIT = 60  # of Linux, and no option of a socket's shortens it


def echo_server(stand, port, source_ports, *options):
    command = [servers.PYTHON, script("tcp_server.py"), "::", port, "echo", *options]
    return stand.serve(command, "tcp", port, preload=Preload(
        peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops))


def ask(client, text):
    client.send(text)
    assert client.receive_until(text).startswith(PEER[6])


def test_six_at_once(stand):
    port, source_ports = fresh_port(), fresh_peer_ports(6)
    echo_server(stand, port, source_ports)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        connections = list(pool.map(
            lambda source: clients.tcp_client(stand, 6, source, port, PATIENCE), source_ports))
    for text in ("all are there\n", "and all stay\n"):
        for client in connections:
            ask(client, text)
    for client in connections:
        client.close()


def test_seventh_is_no_peer(stand):
    """The range is meant: whoever calls from the next port has no hole."""
    port, source_ports = fresh_port(), fresh_peer_ports(3)
    echo_server(stand, port, source_ports[:2])
    with clients.tcp_client(stand, 6, source_ports[1], port, PATIENCE) as client:
        ask(client, "within the range\n")
    with pytest.raises(TimeoutError):
        clients.tcp_client(stand, 6, source_ports[2], port, NO_ANSWER)


@pytest.mark.parametrize("closes_first", ("client", "server"))
def test_sixty_in_a_row(stand, closes_first):
    port, source_ports = fresh_port(), fresh_peer_ports(60)
    echo_server(stand, port, source_ports,
                *(["--close-first"] if closes_first == "server" else []))
    for source_port in source_ports:
        with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
            client.send(f"hello from {source_port}\n")
            if closes_first == "server":
                answer = client.receive_all()
            else:
                answer = client.receive_until(f"hello from {source_port}\n")
        assert answer == f"{PEER[6]} {source_port} hello from {source_port}\n"


def test_whenever_the_peer_calls(stand):
    """The guard of a punch, in which the peer's SYN is not heard, must not fall in step with
    the repetitions of that SYN: callers at all moments of the first seconds get in, and soon."""
    phases = [index * 0.04 for index in range(50)]
    waited = {}

    def call(phase):
        port, (source_port,) = fresh_port(), fresh_peer_ports(1)
        server = echo_server(stand, port, [source_port])
        time.sleep(phase)
        started = time.monotonic()
        try:
            with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
                ask(client, "hello\n")
            waited[phase] = time.monotonic() - started
        except TimeoutError:
            pass
        server.stop()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(call, phases))
    never = [f"{phase:.2f}" for phase in phases if phase not in waited]
    assert not never, f"{len(never)} of {len(phases)} never got in, who called after s: {never}"
    slow = {f"{phase:.2f}": round(took, 1) for phase, took in waited.items() if took > 3.5}
    assert not slow, f"the peer's SYN was not heard three times in a row (after s: took s): {slow}"


def connect_again(stand):
    """For each who may close first: a connection, and the next of the same ports at both ends
    once the kernel of whoever closed first lets it. When that was over, in s after the first."""

    def one(closes_first):
        port, source_ports = fresh_port(), fresh_peer_ports(1)
        server = echo_server(stand, port, source_ports,
                             *(["--close-first"] if closes_first == "server" else []))

        def connection(timeout):
            with clients.tcp_client(stand, 6, source_ports[0], port, timeout) as client:
                client.send("hello\n")
                if closes_first == "server":
                    assert "hello" in client.receive_all()
                else:
                    client.receive_until("hello\n")

        connection(PATIENCE)
        closed = time.monotonic()
        time.sleep(TIME_WAIT)

        def again():
            try:
                connection(PATIENCE)
                return True
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:  # the peer's own kernel: it still rests
                    raise
                time.sleep(0.1)
                return False

        wait_until(again, PATIENCE, f"the same port to serve again ({closes_first} first)")
        assert server.is_running()
        return time.monotonic() - closed

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return dict(zip(("client", "server"), pool.map(one, ("client", "server"))))


@pytest.mark.slow
@pytest.mark.background("rest", connect_again)
def test_same_port_again_after_time_wait(background):
    took = background.result()
    print(f"after {took['client']:.1f} s (client closed first), {took['server']:.1f} s (server)")
    for closes_first, seconds in took.items():
        assert seconds < TIME_WAIT + 6, closes_first
