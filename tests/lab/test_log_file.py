"""A log file on a file system that does not answer: whoever calls gets in as ever, and what was said
stands there when it answers again."""

import contextlib
import os
import signal
import socket

import pytest

import clients
import namespace
from hanging_files import HangingFiles
from programs import SCRATCH, Preload, fresh_peer_ports, fresh_port, script, wait_until
from servers import PYTHON
from test_killed import keepers, standby_of
from trials import peers

pytestmark = pytest.mark.usefixtures("library")


class Served:
    """A server whose log hangs from its first line on, and who may call it."""

    def __init__(self, stand, files, user):
        self.stand, self.port, self.source_ports = stand, fresh_port(), fresh_peer_ports(4)
        SCRATCH.mkdir(mode=0o755, exist_ok=True)
        preload = Preload(peers=peers(6, self.source_ports[0], self.source_ports[-1]), hops=stand.path.hops, log="debug",
                          log_file=files.log)
        self.program = stand.serve([PYTHON, script("tcp_server.py"), "::", self.port, "echo"], "tcp",
                                   self.port, preload=preload, user=user)
        assert files.held.wait(10), "nothing is written"

    def call(self, source_port, patience=5):
        with clients.tcp_client(self.stand, 6, source_port, self.port, patience) as client:
            client.send("hello\n")
            client.receive_until("hello\n")


@pytest.fixture(name="files")
def hanging_files():
    SCRATCH.mkdir(mode=0o755, exist_ok=True)
    with HangingFiles(SCRATCH / "hanging") as files:
        yield files


@pytest.mark.parametrize("user", ("nobody", "root"))
def test_who_calls_gets_in(files, stand, user):
    served = Served(stand, files, user)
    for source_port in served.source_ports[:3]:
        served.call(source_port)
    assert files.text() == ""
    files.go_on()
    for source_port in served.source_ports[:3]:
        wait_until(lambda: f":{source_port}: connected" in files.text(), 10, "what was said")
    served.call(served.source_ports[3])


def test_port_is_free_when_the_server_has_ended(files, stand):
    """Though its keeper is still in the midst of a line."""
    served = Served(stand, files, "nobody")
    served.call(served.source_ports[0])
    os.kill(served.program.pid, signal.SIGKILL)
    served.program.process.wait()
    wait_until(lambda: is_free(stand, served.port), 10, "the port")


def is_free(stand, port):
    with namespace.open_socket(stand.path.namespace("A"), socket.AF_INET6, socket.SOCK_STREAM) as one:
        with contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("::", port))
            return True
    return False


def test_killed_keeper_is_followed(files, stand):
    """Who takes its place does not wait until it has written its line."""
    served = Served(stand, files, "nobody")
    killed, waiting = keepers(stand.path)[0], standby_of(stand)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: waiting in keepers(stand.path), 10, "who takes its place")
