"""A server whose limit of open files is lowered while it runs: each peer's connection is there as
soon as there is room for it."""

import concurrent.futures
import dataclasses
import pathlib
import subprocess
import time

import pytest

import servers
from programs import Preload, as_user, fresh_peer_ports, fresh_port
from trials import PATIENCE, peers

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.complains]

# Without room for a second connection, accept() fails as soon as it is called.
ONE_AT_A_TIME = dataclasses.replace(
    servers.own_tcp("::", 6), name="tcp_server.py, one connection at a time",
    command=lambda port: [*servers.own_tcp("::", 6).command(port), "--one-at-a-time"])

# A bell that nobody answers is given up after less.
WHILE = 11


def leave_room(program, count, is_final=False):
    """So many descriptors may be opened from now on; the server can't raise a final limit."""
    taken = {int(entry.name) for entry in pathlib.Path(f"/proc/{program.pid}/fd").iterdir()}
    free = [number for number in range(max(taken) + 2 + count) if number not in taken]
    limit = f"{free[count]}:{free[count] if is_final else ''}"
    # Its own user may do so.
    subprocess.run([*as_user("nobody"), "prlimit", f"--pid={program.pid}", f"--nofile={limit}"],
                   check=True)


@pytest.fixture(name="serve")
def a_server(stand):
    """serve(server) starts one, and gives the program, its peers' ports, and how one talks."""
    def serve(server):
        source_ports = fresh_peer_ports(3)
        port = fresh_port()
        program = server.start(stand, port, Preload(
            peers=peers(6, source_ports[0], source_ports[-1]), hops=2, log="info"))
        program.wait_for("opens")

        def talk(source_port, patience=PATIENCE):
            server.talk(stand, server, program, source_port, port, patience)

        return program, source_ports, talk
    yield serve
    assert "error" not in stand.programs[0].stderr()


@pytest.mark.parametrize("server, count, is_final", [
    (servers.HTTP_SERVER, 2, True),  # the connection, and the file that it asks for
    (ONE_AT_A_TIME, 1, False),
], ids=("two", "one"))
def test_hardly_any_left(serve, server, count, is_final):
    program, source_ports, talk = serve(server)
    leave_room(program, count, is_final)
    for source_port in source_ports:
        talk(source_port)


def test_none_for_a_while(serve):
    program, source_ports, talk = serve(servers.HTTP_SERVER)
    leave_room(program, 0)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(talk, source_port, WHILE + PATIENCE) for source_port in source_ports]
        time.sleep(WHILE)
        assert not any(call.done() for call in calls)
        leave_room(program, 10)
        begin = time.monotonic()
        for call in calls:
            call.result()
        assert time.monotonic() - begin < PATIENCE / 2
