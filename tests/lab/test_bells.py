"""A bell is no client: no program that has the library sees one, whatever becomes of the connection
that the bell stands for."""

import json
import os
import pathlib
import re
import signal
import time

import pytest

import clients
import servers
from programs import SETTLING, Preload, fresh_peer_ports, fresh_port, script
from topology import PEER
from trials import PATIENCE, peers

pytestmark = pytest.mark.usefixtures("library")

WITHIN = 2.0  # seconds to a reset, where nobody can serve


def start(stand, who, source_ports):
    port = fresh_port()
    settings = Preload(peers=peers(6, source_ports[0], source_ports[-1]),
                       hops=stand.path.hops).environment()
    library = settings.pop("LD_PRELOAD")
    program = stand.start(
        "A", [servers.PYTHON, script("passed_listener.py"), port, library, json.dumps(settings),
              *who.split()], user="root")
    program.wait_for("keeps\n")
    return port, program


def children_of(pid):
    return [int(child) for child in
            pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def outcome(stand, source_port, port):
    """`served`, or `refused` after so many seconds."""
    began = None
    try:
        with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
            began = time.monotonic()  # before, its call may have met a deaf socket
            client.send("hello\n")
            said = client.receive_until("hello\n").split()
            assert said[:2] == [PEER[6], str(source_port)]
            return "served"
    except ConnectionError:
        assert not began or time.monotonic() - began < WITHIN
        return "refused"


def seen_by(program):
    return re.findall(r"client (.*)", program.stdout())


SERVING = ("set address", "set", "bare address", "bare", "set nobody", "bare nobody address",
           "bare nobody", "set process", "bare process address", "set chroot", "bare chroot address",
           "bare nobody poll", "set poll address", "set landlock")
REFUSING = ("set network", "bare network address", "bare network", "bare landlock", "bare landlock address", "bare nobody chroot network process landlock poll")


@pytest.mark.other_users
@pytest.mark.parametrize("who", SERVING + REFUSING)
def test_who_waited_before_the_keeper_came(stand, who):
    source_ports = fresh_peer_ports(3)
    port, program = start(stand, who, source_ports)
    outcomes = [outcome(stand, source_port, port) for source_port in source_ports[:1]]
    if who in SERVING:
        outcomes += [outcome(stand, source_port, port) for source_port in source_ports[1:]]
        assert outcomes == ["served"] * 3
        assert seen_by(program) == [f"{PEER[6]} {source_port}" for source_port in source_ports]
    else:
        assert outcomes == ["refused"]
        assert seen_by(program) == []
        program.wait_for("nothing is punched any more: who accepts .* can't reach synergy-keeper")
        with pytest.raises(TimeoutError):  # the firewall is shut again, for who had not come yet
            clients.tcp_client(stand, 6, fresh_peer_ports(1)[0], port, 1.3)


@pytest.mark.needs("strace")
def test_who_is_stopped_with_a_bell_in_hand(stand):
    """Stopped by the first system call that follows accept(), for three seconds."""
    source_ports = fresh_peer_ports(2)
    preload = Preload(peers=peers(6, *source_ports), hops=stand.path.hops)
    given = [word for pair in preload.environment().items() for word in ("-E", "=".join(pair))]
    port = fresh_port()
    program = stand.serve(
        ["strace", "-qq", "-o", "/dev/null", "-e", "trace=getpeername",
         "-e", "inject=getpeername:signal=SIGSTOP:when=1", *given,
         *servers.own_tcp("::").command(port)], "tcp", port, user="root")
    time.sleep(SETTLING)
    (server,) = children_of(program.pid)
    with clients.tcp_client(stand, 6, source_ports[0], port, PATIENCE) as client:
        client.send("hello\n")
        with pytest.raises(TimeoutError):
            client.receive_until("hello\n", 3)
        os.kill(server, signal.SIGCONT)
        assert client.receive_until("hello\n") == f"{PEER[6]} {source_ports[0]} hello\n"
    with clients.tcp_client(stand, 6, source_ports[1], port, PATIENCE) as client:
        client.send("hello\n")
        client.receive_until("hello\n")
    program.stop()
    assert program.stderr() == ""


def test_a_listener_that_is_shut_down_and_listens_again(stand):
    """At once, later, and what was shut down for good is not connected to."""
    source_ports = fresh_peer_ports(6)
    port = fresh_port()
    program = stand.serve([servers.PYTHON, script("again_listening.py"), port], "tcp", port,
                          preload=Preload(peers=peers(6, source_ports[0], source_ports[-1]),
                                          hops=stand.path.hops))
    for index, source_port in enumerate(source_ports[:5]):
        assert outcome(stand, source_port, port) == "served"
        program.write(f"{0.2 * (index % 2)}\n")
        program.wait_for(f"listens again {index}\n")
        time.sleep(SETTLING)
    program.write("for good\n")
    program.wait_for("does not listen\n")
    with pytest.raises((ConnectionRefusedError, TimeoutError)):
        clients.tcp_client(stand, 6, source_ports[5], port, 1.5)


@pytest.mark.other_users
def test_who_has_no_library_sees_a_bell(stand):
    """The control, and the limit: it is refused, and that is said."""
    (source_port,) = fresh_peer_ports(1)
    port, program = start(stand, "none address", [source_port])
    assert outcome(stand, source_port, port) == "refused"
    assert {client.split()[0] for client in seen_by(program)} == {"::1"}
    program.wait_for("nothing is punched any more: connections were accepted by a call")
