"""Servers that give up what they have, in every order of bind(), listen() and the rest: all who call
get in, as many as there are ports, and none without the library. steps_server.c has the words."""

import concurrent.futures
import pathlib
import subprocess
import time

import pytest

import clients
from programs import (SCRATCH, SETTLING, Preload, fresh_peer_ports, fresh_port, is_listening,
                      wait_until)
from topology import PEER
from trials import NO_ANSWER, PATIENCE, at_once, peers


pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.needs("cc"), pytest.mark.other_users]

CALLS = 20
AT_A_TIME = 5  # servers

ORDERS = {
    "users": """
        socket bind listen setuid
        socket bind setuid listen
        socket bind setresuid listen
        socket bind listen setresuid
        socket bind setreuid listen
        socket bind seteuid listen
        socket bind listen seteuid
        socket seteuid bind listen
        socket setresuid bind listen
        socket bind setfsuid listen
        seteuid socket back bind listen
        socket bind initgroups setuid listen
        socket bind listen initgroups setuid
        socket bind raw-setresuid listen
        socket bind listen raw-setresuid
        socket bind capset listen
        socket bind listen capset
        socket bind keep-capset listen
        socket keep-capset bind listen
    """,
    "forks": """
        socket bind listen fork setuid
        socket bind fork setuid listen
        socket bind fork listen setuid
        socket bind listen setuid fork
        socket bind setuid listen fork
        socket bind setuid fork listen
        fork socket bind setuid listen
        socket bind listen fork fork setuid
        socket bind listen vanish setuid
        socket bind vanish setuid listen
        socket bind listen child setuid
        socket bind child setuid listen
        socket bind daemon setuid listen
        socket bind listen daemon setuid
        socket bind listen raw-fork setuid
        socket bind raw-fork setuid listen
        socket bind listen _Fork setuid
        socket bind setuid _Fork listen
    """,
    "limits": """
        nproc setuid socket bind listen
        nproc nofile chroot setuid socket bind listen
        socket bind listen nproc setuid
        socket bind nproc setuid listen
        socket bind setuid nproc listen
        socket bind listen fork chroot nproc nofile setuid
        socket bind listen nofile
        socket bind nofile listen
        nofile socket bind listen
    """,
    "chroot": """
        socket bind listen fork setsid fork chroot setuid
        socket bind listen chroot setuid
        socket bind chroot setuid listen
        chroot socket bind setuid listen
        chroot setuid socket bind listen
        chroot fork setuid fork socket bind listen
        socket bind listen chroot
    """,
    "forbidden": """
        socket bind listen filter
        socket bind filter-exec listen
        socket bind listen setuid filter
        socket bind listen fork chroot setuid nproc filter
        socket bind listen dumpable setuid
        socket bind dumpable setuid listen
        no-new-privs socket bind setuid listen
        socket bind cleanenv setuid listen
        socket bind late-options listen
        socket bind listen late-options
        socket bind listen child setuid late-options
        socket bind unshare-net setns listen
        unshare-net setns socket bind listen
    """,
    "executed": """
        socket bind listen exec
        socket bind listen setuid exec
        socket bind listen exec setuid
        socket bind exec listen
        socket bind listen exec-as-nobody
        socket bind listen child exec setuid
        socket bind listen high exec
        socket bind listen high exec setuid
        socket bind listen pass
        socket bind listen pass setuid
        socket bind pass listen setuid
    """,
}


@pytest.fixture(scope="session")
def steps_server():
    """Built without the library: a program as any other."""
    SCRATCH.mkdir(mode=0o755, exist_ok=True)
    program = SCRATCH / "steps_server"
    if not program.exists():
        subprocess.run(["cc", "-O1", "-o", program,
                        pathlib.Path(__file__).with_name("steps_server.c")], check=True)
    time.sleep(SETTLING)
    return program


def talk(stand, source_port, port, patience=PATIENCE):
    with clients.tcp_client(stand, 6, source_port, port, patience) as client:
        client.send(f"hello from {source_port}\n")
        answer = client.receive_until(f"hello from {source_port}\n")
        assert answer.startswith(f"{PEER[6]} {source_port} "), answer


def start(stand, steps_server, steps, port, preload):
    """Until it listens; who it was that was started may have ended by then."""
    program = stand.start("A", [steps_server, port, *steps.split()], user="root", preload=preload)
    wait_until(lambda: is_listening(stand.path, "A", "tcp", port), PATIENCE, f"port {port}")
    time.sleep(SETTLING)
    return program


def test_strangers(stand, steps_server):
    """The control for all of them: what lets the peers in is the library."""
    (source_port,), port = fresh_peer_ports(1), fresh_port()
    start(stand, steps_server, "socket bind listen setuid", port, None)
    with pytest.raises(TimeoutError):
        talk(stand, source_port, port, NO_ANSWER)


def check(stand, steps_server, steps):
    source_ports, port = fresh_peer_ports(CALLS), fresh_port()
    preload = Preload(peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops)
    program = start(stand, steps_server, steps, port, preload)
    talk(stand, source_ports[0], port)
    at_once(lambda source_port: talk(stand, source_port, port), source_ports[1:])
    assert "nothing is punched" not in program.stderr()


@pytest.mark.complains
@pytest.mark.parametrize("group", ORDERS)
def test_orders(stand, steps_server, group):
    orders = [line.strip() for line in ORDERS[group].strip().splitlines()]

    def problem(steps):
        try:
            check(stand, steps_server, steps)
        except (OSError, AssertionError) as error:
            return f"{steps}: {error!r}"
        return None

    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        assert [found for found in pool.map(problem, orders) if found] == []


@pytest.mark.complains
@pytest.mark.parametrize("steps, why", (
    ("socket bind setuid exec listen", "user 0 made this listener"),
    ("socket bind exec-as-nobody listen", "user 0 made this listener"),
    ("socket bind unshare-net listen", "another network namespace"),
))
def test_what_cannot_be_is_said(stand, steps_server, steps, why):
    (source_port,), port = fresh_peer_ports(1), fresh_port()
    program = start(stand, steps_server, steps, port,
                    Preload(peers=peers(6, source_port), hops=stand.path.hops))
    program.wait_for(why, 2)
    with pytest.raises(TimeoutError):
        talk(stand, source_port, port, NO_ANSWER)
