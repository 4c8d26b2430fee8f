"""Unmodified TCP servers, reached through the firewalls: all who call get in, and none without
the library."""

import dataclasses
import time

import pytest

import clients
import firewall
import servers
from programs import Preload, fresh_peer_ports, fresh_port
from topology import SERVER
from trials import PATIENCE, at_once, check, peers

pytestmark = pytest.mark.usefixtures("library")

ALL = (servers.NCAT, servers.OPENBSD, servers.TRADITIONAL, servers.SOCAT, servers.SOCAT_FORK,
       servers.HTTP_SERVER, servers.NGINX, servers.SSHD)


def named(choice):
    return pytest.mark.parametrize("server", choice, ids=lambda server: server.name)


@named(ALL)
def test_strict(stand, server):
    # A login is the processor's work; and of ten that are under way sshd refuses some (MaxStartups).
    check(stand, server, at_a_time=5 if server is servers.SSHD else None)


@pytest.mark.parametrize("profile", ("lax", "reset", "prohibited"))
@named((servers.NCAT, servers.HTTP_SERVER))
def test_other_firewalls(stand, profile, server):
    check(stand, server, profile=profile, count=5)


@pytest.mark.parametrize("profile", ("strict", "reset"))
@named((servers.NCAT, servers.HTTP_SERVER))
def test_two_firewalls_in_a_row(stand_with_two_firewalls, profile, server):
    check(stand_with_two_firewalls, server, profile=profile, count=5)


IPV4_NCAT = dataclasses.replace(
    servers.NCAT, name="ncat-4", family=4,
    command=lambda port: ["ncat", "-4", "-n", "-v", "-l", SERVER[4], port])
SPECIFIC_NCAT = dataclasses.replace(
    servers.NCAT, name="ncat-specific",
    command=lambda port: ["ncat", "-6", "-n", "-v", "-l", SERVER[6], port])
IPV4_OPENBSD = dataclasses.replace(
    servers.OPENBSD, name="nc.openbsd-4", family=4, client=clients.openbsd_client,
    command=lambda port: ["nc.openbsd", "-4", "-n", "-v", "-l", port])


@named((IPV4_NCAT, IPV4_OPENBSD, SPECIFIC_NCAT))
def test_netcats_on_other_addresses(stand, server):
    check(stand, server, count=5)


@pytest.mark.parametrize("address, family", (
    ("::", 6), (SERVER[6], 6), ("::", 4), ("0.0.0.0", 4), (SERVER[4], 4),
), ids=("wildcard", "specific", "v4-mapped", "ipv4-wildcard", "ipv4-specific"))
def test_addresses(stand, address, family):
    check(stand, servers.own_tcp(address, family), count=5)


@pytest.mark.complains
@pytest.mark.parametrize("family", (6, 4))
@pytest.mark.parametrize("after", (0, 1.5))
def test_punches_that_are_prohibited(stand, family, after):
    """Those go too far, and are answered by the remote firewall: its holes open all the same, and
    the listener must not meet the peer's SYN between one punch and the next."""
    firewall.set_profile(stand.path, "prohibited")
    server = servers.own_tcp("::" if family == 6 else SERVER[4], family)
    port, ports = fresh_port(), fresh_peer_ports(6)
    program = server.start(stand, port, Preload(
        peers=peers(family, ports[0], ports[-1]), hops=6))
    time.sleep(after)  # the second SYN, and its error, come a second after the first

    def one(source_port):
        time.sleep((source_port - ports[0]) * 0.11)
        server.talk(stand, server, program, source_port, port, PATIENCE)

    assert at_once(one, ports) == [None] * len(ports)
