"""Unmodified TCP servers, reached through the firewalls: all who call get in, and none without
the library."""

import dataclasses

import pytest

import clients
import servers
from topology import SERVER
from trials import check

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
