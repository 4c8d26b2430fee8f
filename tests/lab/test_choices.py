"""What settings choose: the source address of wildcard sockets, the ports, the peers of each."""

import itertools
import socket
import subprocess
import time

import pytest

import firewall
import namespace
import servers
from capture import Capture
from programs import SCRATCH, Preload, fresh_peer_ports, fresh_port, wait_until
from topology import PEER, SERVER
from trials import NO_ANSWER, PATIENCE, at_once, peers

pytestmark = pytest.mark.usefixtures("library")

AF = {6: socket.AF_INET6, 4: socket.AF_INET}
KIND = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
SECOND_ADDRESS = {6: "2001:db8:a::12", 4: "198.51.100.12"}


@pytest.fixture(name="second_address")
def server_with_a_second_address(stand):
    """Not the one that the kernel would choose as a source."""
    for address, length, extra in ((SECOND_ADDRESS[6], 64, ["nodad"]), (SECOND_ADDRESS[4], 24, [])):
        subprocess.run(["ip", "-n", stand.path.namespace("A"), "address", "add",
                        f"{address}/{length}", "dev", "to-fwa", *extra], check=True)
    prefer_first_address(stand, ["src", SERVER[6]])
    yield SECOND_ADDRESS
    for address, length in ((SECOND_ADDRESS[6], 64), (SECOND_ADDRESS[4], 24)):
        subprocess.run(["ip", "-n", stand.path.namespace("A"), "address", "del",
                        f"{address}/{length}", "dev", "to-fwa"], check=True)
    prefer_first_address(stand, [])


def prefer_first_address(stand, source):
    """Which of several addresses the kernel would choose is not the same everywhere."""
    subprocess.run(["ip", "-n", stand.path.namespace("A"), "-6", "route", "replace",
                    "2001:db8:b::/64", "via", "2001:db8:a::1", *source], check=True)


def reaches(stand, transport, family, address, port, source_port, timeout):
    with namespace.open_socket(stand.path.namespace("B"), AF[family], KIND[transport]) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((PEER[family], source_port))
        sock.settimeout(timeout)
        try:
            sock.connect((address, port))
            sock.send(b"anybody there?\n")
            return b"anybody there?" in sock.recv(2000)
        except TimeoutError:
            return False


@pytest.mark.complains
@pytest.mark.parametrize("family", (6, 4))
def test_local_tcp(stand, second_address, family):
    """A wildcard server is reached at the address that SYNERGY_LOCAL names, and not without."""
    for settings, expected in (({"local": second_address[family]}, True), ({}, False)):
        port, (source_port,) = fresh_port(), fresh_peer_ports(1)
        server = servers.own_tcp("::").start(
            stand, port, Preload(peers=peers(family, source_port), hops=stand.path.hops, **settings))
        assert reaches(stand, "tcp", family, second_address[family], port, source_port,
                       PATIENCE if expected else NO_ANSWER) == expected
        server.stop()


@pytest.mark.complains
@pytest.mark.parametrize("family", (6, 4))
def test_local_udp(stand, second_address, family):
    """The same, seen at the firewall: what a wildcard server answers from is its own affair."""
    for settings, source in (({"local": second_address[family]}, second_address[family]),
                             ({}, SERVER[family])):
        port, (source_port,) = fresh_port(), fresh_peer_ports(1)
        servers.own_udp("::", "recvfrom").start(
            stand, port, Preload(peers=peers(family, source_port), hops=stand.path.hops, **settings))

        def entries():
            return [entry for entry in firewall.connections(stand.path, "fwa", family)
                    if f"sport={port} " in entry]
        wait_until(entries, PATIENCE, "the hole")  # its port is taken a moment before
        assert len(entries()) == 1
        assert f"src={source} " in entries()[0]


@pytest.mark.complains
def test_sections_of_the_file(stand):
    """Each [[listen]] section has its own peers; a port that none names is left alone."""
    ports, source_ports = [fresh_port() for _ in range(3)], fresh_peer_ports(2)
    SCRATCH.mkdir(mode=0o755, exist_ok=True)
    config = SCRATCH / "sections.toml"
    config.write_text(f"""
        hops = {stand.path.hops}
        [[listen]]
        port = {ports[0]}
        protocol = "tcp"
        peers = ["{peers(6, source_ports[0])}"]
        [[listen]]
        port = "{ports[1]}"
        peers = ["{peers(6, source_ports[1])}"]
    """, encoding="ascii")
    config.chmod(0o644)
    kind = servers.own_tcp("::")
    running = [kind.start(stand, port, Preload(config=config)) for port in ports]

    def is_let_in(where):
        (port, server), source_port = where
        try:
            kind.talk(stand, kind, server, source_port, port,
                      PATIENCE if where in welcome else NO_ANSWER)
            return True
        except TimeoutError:
            return False

    all_ways = list(itertools.product(zip(ports, running), source_ports))
    welcome = [all_ways[0], all_ways[3]]  # each peer to the server that means it
    assert [way for way, is_in in zip(all_ways, at_once(is_let_in, all_ways)) if is_in] == welcome


@pytest.mark.parametrize("transport", ("tcp", "udp"))
def test_neighbour_is_not_punched_for(stand, transport):
    """The firewall's own inner address is on the server's link; the peer beyond it is not."""
    near, far = "2001:db8:a::1", PEER[6]
    server = servers.own_tcp("::") if transport == "tcp" else servers.own_udp("::", "recvfrom")
    port, source_ports = fresh_port(), fresh_peer_ports(2)
    with Capture(stand.path, "A", "fwa") as capture:
        program = server.start(stand, port, Preload(
            peers=f"[{near}]:{source_ports[0]},[{far}]:{source_ports[1]}", hops=stand.path.hops,
            log="info"))
        time.sleep(0.5)
    said = program.stderr()
    assert said.count(f"{near}: not punched: the peer is on the same link") == 1
    punched = {packet.destination for packet in capture.packets if packet.source_port == port}
    assert punched == {far}
