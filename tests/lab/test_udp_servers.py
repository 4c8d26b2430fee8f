"""Unmodified UDP servers: the first datagram of whoever calls gets in, and none without the
library."""

import dataclasses
import platform
import re
import time

import pytest

import clients
import servers
from programs import (Preload, fresh_peer_ports, fresh_port, script, wait_listening, wait_until)
from topology import PEER, SERVER
from trials import PATIENCE, check, peers

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


def test_where_there_is_no_ipv6(stand):
    own = servers.own_udp("0.0.0.0", "recvfrom", 4)
    check(stand, dataclasses.replace(
        own, name=f"{own.name}, without IPv6",
        command=lambda port: [servers.PYTHON, script("without_family.py"), "AF_INET6", *own.command(port)]), count=5)


def start_recverr(stand, family, preload, first="queue", *kind):
    port = fresh_port()
    program = stand.start(
        "A", ["/usr/bin/python3", script("recverr_server.py"), family, port, first, *kind],
        preload=preload)
    wait_listening(program, "udp", port)
    return program, port


def punched_without_a_word(stand, family, first, *kind):
    """Each punch dies on its way, and the kernel gives the error to whoever has the port."""
    (source_port,) = fresh_peer_ports(1)
    punches = 4
    program, port = start_recverr(
        stand, family,
        Preload(peers=peers(family, source_port), hops=2, refresh=1, log="debug"), first, *kind)
    wait_until(lambda: program.stderr().count("punched") >= punches, PATIENCE, "punches", program)
    time.sleep(0.3)  # the last one's error is on its way
    assert not re.search("queued|failed", program.stdout())
    woken = program.stdout().count("woken"), program.stderr().count("punched")

    program.write(f"{PEER[family]} 9\n")
    program.wait_for(r"queued EHOSTUNREACH \d+ \d+ \d+ b'mine'")
    assert "sending failed" not in program.stdout()
    with clients.udp_client(stand, family, source_port, port, PATIENCE) as client:
        client.send("hello\n")
        program.wait_for(r"received b'hello")
    return woken


@pytest.mark.parametrize("kind", ("", "late"))
@pytest.mark.parametrize("family", (4, 6))
def test_server_that_wants_errors_gets_its_own_and_is_not_woken_for_punchs(stand, family, kind):
    woken, punched = punched_without_a_word(stand, family, "queue", kind)
    release = tuple(map(int, platform.release().split(".")[:2]))
    # (On a busy machine the responder may be later than any router.) See ErrorsAside for kernels.
    assert woken < punched / 2 or release < (6, 2)


@pytest.mark.parametrize("first", ("queue", "recvmsg", "recv", "read"))
@pytest.mark.parametrize("family", (4, 6))
def test_server_with_a_group_of_its_own_is_woken_for_nothing(stand, family, first):
    """What says that the errors are there, for the one above: once for each punch."""
    woken, punched = punched_without_a_word(stand, family, first, "shared")
    assert 0 < woken <= punched


@pytest.mark.parametrize("family", (4, 6))
def test_server_that_wants_errors_gets_them_without_the_library(stand, family):
    """The control for the one above: what it sends itself comes back to it."""
    program, _ = start_recverr(stand, family, None)
    program.write(f"{PEER[family]} 9\n")
    program.wait_for(r"queued EHOSTUNREACH \d+ \d+ \d+ b'mine'")
