"""A shell's loop around a server that ends after one connection: the next one is another process.
Whoever calls in between meets nobody. Without firewalls he is refused; with the library he gets in
when the next one listens, and nobody's hole is closed by an answer that the firewall does not know."""

import itertools
import os
import signal
import socket
import time

import pytest

import clients
import firewall
import namespace
import servers
from programs import (Preload, fresh_peer_ports, fresh_port, is_listening, script, wait_listening,
                      wait_until)
from test_killed import keepers
from trials import peers

pytestmark = pytest.mark.usefixtures("library")

CALLS = 20
PATIENCE = 4
SOON = 1.3  # a SYN that was not heard, and its first repetition

# The first three say something and end the connection, which then rests on their side; the others
# wait for the peer to end it, and nothing is left.
SERVERS = {
    "nc.openbsd": "echo served | nc.openbsd -6 -n -N -l {port}",
    "ncat": "echo served | ncat -6 -n -l {port}",
    "socat": "echo served | socat TCP6-LISTEN:{port},reuseaddr STDIO",
    "nc.openbsd-d": "nc.openbsd -6 -n -d -l {port}",
    "socat-u": "socat -u TCP6-LISTEN:{port},reuseaddr STDOUT",
    # One that has its listener until it ends.
    "python": "{python} {once} {port}",
}


class Loop:
    """Without `source_ports`, without the library."""

    def __init__(self, stand, name, source_ports=None, pause=""):
        self.stand, self.port, self.speaks = stand, fresh_port(), "served" in SERVERS[name]
        preload = Preload(peers=peers(6, source_ports[0], source_ports[-1]),
                          hops=stand.path.hops) if source_ports else None
        command = SERVERS[name].format(port=self.port, python=servers.PYTHON,
                                       once=script("once_server.py"))
        self.program = stand.start("A", [
            "bash", "-c", f"while :; do {command}; {pause} done"],
            preload=preload)
        wait_listening(self.program, "tcp", self.port)

    def call(self, source_port):
        """A conversation to its end; how long it took to begin, or why it did not."""
        started = time.monotonic()
        try:
            with clients.tcp_client(self.stand, 6, source_port, self.port, PATIENCE) as client:
                took = time.monotonic() - started
                if self.speaks:
                    assert client.receive_until("\n") == "served\n"
                else:
                    client.send(f"hello {source_port}\n")
                    client.sock.shutdown(socket.SHUT_WR)
                    client.receive_all()
            if not self.speaks:
                self.program.wait_for(f"hello {source_port}\n")
            return took
        except OSError as error:
            return repr(error)

    def call_in_a_row(self, source_ports, after_ms):
        results = []
        for source_port in source_ports:
            results.append(self.call(source_port))
            time.sleep(after_ms / 1000)
        self.stand.say(
            [result if isinstance(result, str) else round(result, 3) for result in results])
        return results


@pytest.mark.parametrize("name, after_ms", itertools.product(SERVERS, (0, 10, 100, 1000)))
def test_a_loop(stand, name, after_ms):
    source_ports = fresh_peer_ports(CALLS)
    results = Loop(stand, name, source_ports).call_in_a_row(source_ports, after_ms)
    assert not [result for result in results if isinstance(result, str) or result > SOON]


@pytest.mark.parametrize("name", SERVERS)
def test_the_same_loop_refuses_without_firewalls(stand, name):
    """What a peer that calls at once meets by itself: nobody."""
    firewall.set_profile(stand.path, "open")
    results = Loop(stand, name).call_in_a_row(fresh_peer_ports(CALLS), 0)
    assert [result for result in results if isinstance(result, str)]


def test_a_long_conversation(stand):
    """Who calls while the server is busy with one for long is refused, and soon; nobody is locked out
    by it."""
    ports = fresh_peer_ports(CALLS)
    loop = Loop(stand, "socat-u", ports)
    with clients.tcp_client(stand, 6, ports[0], loop.port, PATIENCE) as client:
        client.send(f"hello {ports[0]}\n")
        loop.program.wait_for(f"hello {ports[0]}\n")
        time.sleep(4)  # a server that listens again while it serves does so sooner
        for source_port in ports[1:6]:
            with pytest.raises(ConnectionError), \
                    clients.tcp_client(stand, 6, source_port, loop.port, PATIENCE) as other:
                other.receive_until("\n", 1)
    results = [loop.call(source_port) for source_port in ports[6:]]
    assert not [result for result in results if isinstance(result, str) or result > SOON]


def test_other_settings_have_another_keeper(stand):
    """What the one has kept is given up for the other, whose peers get in as well."""
    ports, port = fresh_peer_ports(CALLS), fresh_port()
    preload = Preload(hops=stand.path.hops)
    turns = " ".join(f"SYNERGY_PEERS='{peers(6, *turn)}' nc.openbsd -6 -n -d -l {port};"
                     for turn in ((ports[0], ports[9]), (ports[10], ports[19])))
    program = stand.start("A", ["bash", "-c", f"while :; do {turns} done"], preload=preload)
    wait_listening(program, "tcp", port)
    for source_port in itertools.chain.from_iterable(zip(ports[:10], ports[10:])):
        with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
            client.send(f"hello {source_port}\n")
            client.sock.shutdown(socket.SHUT_WR)
            client.receive_all()
        program.wait_for(f"hello {source_port}\n")
        wait_listening(program, "tcp", port)


def can_bind(stand, port):
    """Who would have the port for himself."""
    with namespace.open_socket(stand.path.namespace("A"), socket.AF_INET6,
                               socket.SOCK_STREAM) as sock:
        try:
            sock.bind(("::", port))
            return True
        except OSError:
            return False


PAUSE = 0.9


@pytest.mark.parametrize("name", ("nc.openbsd-d", "socat-u", "python"))
def test_a_loop_that_pauses(stand, name):
    """Whoever calls in a pause is served after it, but for the first pause, of which nobody knows how
    long it will be. When the loop is over, the port is everybody's again."""
    ports = fresh_peer_ports(4)
    loop = Loop(stand, name, ports, pause=f"sleep {PAUSE};")
    assert isinstance(loop.call(ports[0]), float)
    wait_until(lambda: not is_listening(stand.path, "A", "tcp", loop.port), 2, "the pause")
    wait_listening(loop.program, "tcp", loop.port)
    assert isinstance(loop.call(ports[1]), float)
    for source_port in ports[2:]:
        wait_until(lambda: not is_listening(stand.path, "A", "tcp", loop.port), 2, "the pause")
        time.sleep(PAUSE / 2)
        assert not is_listening(stand.path, "A", "tcp", loop.port)
        result = loop.call(source_port)
        assert isinstance(result, float) and result < SOON, result
    loop.program.stop()
    wait_until(lambda: can_bind(stand, loop.port), 3 * PAUSE + 1, "the port")


@pytest.mark.parametrize("end", ("left", "told", "killed"))
def test_the_port_is_free_soon(stand, end):
    """Of a server that left the holes are kept for a moment, unless the keeper is told to end; of one
    that was killed they are not."""
    (source_port, other), port = fresh_peer_ports(2), fresh_port()
    program = stand.start("A", [servers.PYTHON, script("once_server.py"), port], preload=Preload(
        peers=peers(6, source_port, other), hops=stand.path.hops))
    wait_listening(program, "tcp", port)
    (keeper,) = keepers(stand.path)
    if end == "killed":
        os.kill(program.pid, signal.SIGKILL)
    else:
        with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
            client.send("hello\n")
    program.wait_exit()
    ended = time.monotonic()
    is_kept = not can_bind(stand, port)
    if end == "told":
        os.kill(keeper, signal.SIGTERM)
    wait_until(lambda: can_bind(stand, port), 5, "the port")
    was_free = time.monotonic() - ended
    wait_until(lambda: not keepers(stand.path), 5, "the keeper to end")
    took = time.monotonic() - ended
    stand.say(f"free after {was_free:.3f} s, the keeper's end after {took:.3f} s")
    if end == "left":
        assert is_kept and 0.2 < was_free < 2
    else:
        assert took < 0.2
