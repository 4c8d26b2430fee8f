"""Unmodified UDP servers: the first datagram of whoever calls gets in, and none without the
library."""

import dataclasses

import pytest

import servers
from topology import SERVER
from trials import check

pytestmark = pytest.mark.usefixtures("library")

IPV4_OPENBSD = dataclasses.replace(
    servers.OPENBSD_UDP, name="nc.openbsd-u-4", family=4,
    command=lambda port: ["nc.openbsd", "-4", "-n", "-v", "-u", "-l", port])


@pytest.mark.parametrize("server", (
    servers.OPENBSD_UDP, servers.SOCAT_RECVFROM, servers.own_udp("::", "recvfrom"),
    servers.own_udp("::", "recvmsg"),
), ids=("nc.openbsd", "socat-recvfrom", "recvfrom", "recvmsg"))
def test_strict(stand, server):
    check(stand, server)


@pytest.mark.parametrize("profile", ("lax", "reset", "prohibited"))
def test_other_firewalls(stand, profile):
    check(stand, servers.own_udp("::", "recvfrom"), profile=profile, count=5)


def test_two_firewalls_in_a_row(stand_with_two_firewalls):
    check(stand_with_two_firewalls, servers.own_udp("::", "recvfrom"), count=5)


@pytest.mark.parametrize("server", (
    IPV4_OPENBSD, servers.own_udp(SERVER[6], "recvfrom"), servers.own_udp("::", "recvfrom", 4),
    servers.own_udp("0.0.0.0", "recvfrom", 4), servers.own_udp(SERVER[4], "recvmsg", 4),
), ids=("ipv4-netcat", "specific", "v4-mapped", "ipv4-wildcard", "ipv4-specific"))
def test_addresses(stand, server):
    check(stand, server, count=5)
