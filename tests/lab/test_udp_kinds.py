"""UDP servers that have more than one socket, or get it, or their datagrams, in other ways than by
bind() and recvfrom(). udp_kinds.c has them."""

import ctypes
import os
import pathlib
import subprocess

import pytest

import clients
import servers
from programs import SCRATCH, Preload, fresh_peer_ports, fresh_port, script
from topology import PEER
from trials import NO_ANSWER, PATIENCE, at_once, check, peers

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.needs("cc")]


def udp_kinds():
    SCRATCH.mkdir(mode=0o755, exist_ok=True)
    program = SCRATCH / "udp_kinds"
    if not program.exists():
        subprocess.run(["cc", "-O1", "-o", program,
                        pathlib.Path(__file__).with_name("udp_kinds.c")], check=True)
    return program


def talk(stand, server, program, source_port, port, timeout):
    """Many times, so that each of a group's sockets is met by some."""
    with clients.udp_client(stand, 6, source_port, port, timeout) as client:
        for number in range(5):
            text = f"{PEER[6]} {source_port} {number}\n"
            servers.ask_by_udp(client, text, timeout)
            client.received = b""


SYS_IO_URING_SETUP = 425  # on every processor


def skip_without_io_uring():
    ring = ctypes.CDLL(None).syscall(SYS_IO_URING_SETUP, 1, ctypes.create_string_buffer(256))
    if ring < 0:
        pytest.skip("no io_uring here")
    os.close(ring)


@pytest.mark.parametrize("kind", ("connected", "group", "offload", "source", "timed", "uring"))
def test_kind(stand, kind):
    if kind == "uring":
        skip_without_io_uring()
    check(stand, servers.Server(kind, talk, lambda port: [udp_kinds(), kind, port],
                                transport="udp"))


@pytest.mark.parametrize("how", ("recv", "read"))
def test_socket_from_outside(stand, how):
    """Who binds has no library; who serves has it, and asks for no peer's address."""
    source_ports, port = fresh_peer_ports(10), fresh_port()
    preload = Preload(peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops)
    environment = [f"{name}={value}" for name, value in preload.environment().items()]
    for before in ([], ["env", *environment]):
        program = stand.serve(
            [servers.PYTHON, script("family_server.py"), port, "start-udp", *before, udp_kinds(),
             how, port], "udp", port)
        if not before:
            with pytest.raises(TimeoutError):
                talk(stand, None, program, source_ports[0], port, NO_ANSWER)
            stand.clear()
    at_once(lambda source_port: talk(stand, None, program, source_port, port, PATIENCE),
            source_ports[1:])


SECOND = "2001:db8:a::12"


def test_second_address(stand):
    """A server on all addresses of a host that has two, of which the peer calls the second: the
    administrator names it."""
    add = ["ip", "-n", stand.path.namespace("A"), "address", "add", f"{SECOND}/64", "dev",
           "to-fwa", "nodad"]
    subprocess.run(add, check=True)
    try:
        source_ports, port = fresh_peer_ports(5), fresh_port()
        stand.serve([udp_kinds(), "source", port], "udp", port,
                    preload=Preload(peers=peers(6, source_ports[0], source_ports[-1]),
                                    hops=stand.path.hops, local=SECOND))
        for source_port in source_ports:
            with clients.udp_client(stand, 6, source_port, port, PATIENCE) as client:
                client.sock.connect((SECOND, port))
                servers.ask_by_udp(client, f"hello from {source_port}\n", PATIENCE)
    finally:
        subprocess.run([word.replace("add", "del") if word == "add" else word for word in add
                        if word != "nodad"], check=True)
