"""Whatever goes wrong has one line at the default log level that names it, and no other: each is
compared word for word. What the lines are to tell apart is made here by real firewalls, routes and
addresses."""

import contextlib
import ctypes
import ipaddress
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import threading
import time

import jsonschema
import pytest

import clients
import firewall
import namespace
import sctp
import servers
from capture import Capture
from conftest import stand_on
from names import Names
from programs import (ENVIRONMENT, SCRATCH, STAGE, Preload, fresh_peer_ports, fresh_port,
                      has_other_users, script, slowness, wait_listening, wait_until)
from responder import (ETHERTYPE, HOP_LIMIT_OFFSET, LONGEST_QUOTE, Packet, internet_checksum,
                       sender)
from servers import PYTHON
from topology import PEER, SERVER

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.complains]

FAMILIES = pytest.mark.parametrize("family", (6, 4))
OTHER = {6: 4, 4: 6}
ANY = {6: "::", 4: "0.0.0.0"}
FAR = {6: "2001:db8:b::/64", 4: "203.0.113.0/24"}
FIRST_ROUTER = {6: "2001:db8:a::1", 4: "198.51.100.1"}
FWB = {6: "2001:db8:ff:3::2", 4: "192.0.2.14"}


def shown(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Run:
    """A server with the library in front, and what is said for it."""

    def __init__(self, stand, address="::", family=6, transport="tcp", *, command=None,
                 arguments=(), wrap=(), user="nobody", environment=None, **settings):
        """`command` and `arguments` are what is run before and after the port, where that is not
        one of the lab's own servers; a setting that is None is left out."""
        self.stand, self.family, self.address = stand, family, address
        self.transport = transport
        self.port, (self.source_port,) = fresh_port(), fresh_peer_ports(1)
        settings = {"peers": shown(PEER[family], self.source_port), "hops": stand.path.hops,
                    **settings}
        self.server = servers.own_udp(address, "recvfrom", family) if transport == "udp" \
            else servers.own_sctp(address, "one-to-one", family) if transport == "sctp" \
            else servers.own_tcp(address, family)
        words = [*command, self.port, *arguments] if command else self.server.command(self.port)
        self.program = stand.start(
            "A", [*wrap, *words], user=user, environment=environment, preload=Preload(
                **{name: value for name, value in settings.items() if value is not None}))

    def listens(self):
        wait_listening(self.program, self.transport, self.port)

    @property
    def listener(self):
        return f"{self.transport} {shown(self.address, self.port)}"

    @property
    def way(self):
        return f"{self.listener} <- {PEER[self.family]}"

    def lines(self):
        return [line for line in self.program.stderr().splitlines() if line.startswith("synergy: ")]

    def says(self, *expected, timeout=10):
        """These lines, and no others."""
        for line in expected:
            self.program.wait_for(rf"(?m)^synergy: {re.escape(line)}$", timeout)
        assert self.lines() == [f"synergy: {line}" for line in expected]


def run_in(stand, node, *command):
    with namespace.inside(stand.path.namespace(node)):
        subprocess.run([str(word) for word in command], check=True)


def iptables(family):
    return {6: "ip6tables", 4: "iptables"}[family]


@contextlib.contextmanager
def rule(stand, node, family, *words):
    """A further rule of a node's own firewall."""
    run_in(stand, node, iptables(family), "-w", "-I", *words)
    try:
        yield
    finally:
        run_in(stand, node, iptables(family), "-w", "-D", *words)


@contextlib.contextmanager
def route(stand, family, *words):
    """Another way to the peer's network than there is; none: no words."""
    command = ["ip", f"-{family}", "route"]
    run_in(stand, "A", *command, "del", FAR[family])
    try:
        if words:
            run_in(stand, "A", *command, "add", *words)
        yield
    finally:
        if words:
            run_in(stand, "A", *command, "del", *words)
        run_in(stand, "A", *command, "add", FAR[family], "via", FIRST_ROUTER[family])


# Hop limits


@FAMILIES
@pytest.mark.parametrize("profile, does", (("reset", "refuses"), ("prohibited", "prohibits")))
@pytest.mark.parametrize("transport", ("tcp", "udp", "sctp"))
def test_too_high(stand, profile, does, family, transport):
    if transport == "sctp":
        sctp.skip_if_missing()
    firewall.set_profile(stand.path, profile)
    run = Run(stand, ANY[family], family, transport, hops=5)
    run.says(f"warning: {PEER[family]}: punches with hop limit 5 go too far: {FWB[family]} {does} "
             "them (hop 4). Set 3, or let it be automatic")


@FAMILIES
def test_one(stand, family):
    run = Run(stand, ANY[family], family, hops=1)
    run.says(f"warning: {PEER[family]}: punches with hop limit 1 die at the first router, "
             f"{FIRST_ROUTER[family]}, and open no firewall but one on this host: 2 is the least "
             "that crosses it")


def test_own_second_firewall(paths):
    """It is known for one of this side's by its address alone; where that says nothing, nor does the
    keeper, since a provider's router looks the same."""
    for stand in stand_on(paths.get("site", two_firewalls=True, has_site_addresses=True)):
        router = stand.path.addresses("fwa")[0][1][6]
        run = Run(stand, "::", hops=2)
        run.says(f"warning: {PEER[6]}: punches with hop limit 2 die at {router}, which is a router of "
                 "this side by its address: a firewall on it, or beyond, is not opened. Set a higher "
                 "one, or let it be automatic")
        right = Run(stand, "::", hops=3)
        right.server.talk(stand, right.server, right.program, right.source_port, right.port, 10)
        assert right.lines() == []


# Routes and addresses


@FAMILIES
@pytest.mark.parametrize("hops", (2, "auto"))
@pytest.mark.parametrize("words, cause", (
    ((), "Network is unreachable: this host has no route to it"),
    (("unreachable",), "this host's routing table has it as unreachable"),
    (("prohibit",), "this host's routing table prohibits it"),
    (("blackhole",), "this host's routing table drops it (a blackhole route)"),
), ids=("none", "unreachable", "prohibit", "blackhole"))
def test_routes(stand, words, cause, hops, family):
    with route(stand, family, *words, *([FAR[family]] if words else [])):
        run = Run(stand, ANY[family], family, hops=hops)
        run.says(f"warning: {run.way}: can't punch: {cause} "
                 f"(ip -{family} route get {PEER[family]})")


@FAMILIES
def test_rule_of_a_port(stand, check, family):
    """Who asks for the way without the port is shown another one."""
    run_in(stand, "A", "ip", f"-{family}", "rule", "add", "pref", 5, "ipproto", "tcp", "dport", "1-65534",
           "prohibit")
    command = f"ip -{family} route get {PEER[family]} ipproto tcp"
    cause = "can't punch: this host's routing table prohibits it"
    try:
        run = Run(stand, ANY[family], family)
        run.says(f"warning: {run.way}: {cause} ({command} sport {run.port} dport {run.source_port})")
        assert check(stand, peer_text(family), hops=2)[0] == [
            f"{peer_text(family)}: {cause} ({command} dport 5555)"]
        # Another transport's way is not that.
        other = Run(stand, ANY[family], family, "udp")
        other.server.talk(stand, other.server, other.program, other.source_port, other.port, 10)
        assert other.lines() == []
    finally:
        run_in(stand, "A", "ip", f"-{family}", "rule", "del", "pref", 5)


@pytest.mark.parametrize("transport", ("tcp", "udp"))
def test_ipsec_policy(stand, transport):
    policy = ["ip", "xfrm", "policy", "%s", "dst", FAR[6], "dir", "out"]
    run_in(stand, "A", *[word.replace("%s", "add") for word in policy], "action", "block")
    try:
        run = Run(stand, "::", 6, transport)
        run.says(f"warning: {run.way}: can't punch: an IPsec policy of this host forbids it (ip xfrm "
                 "policy), or a BPF program of its control group")
    finally:
        run_in(stand, "A", *[word.replace("%s", "del") for word in policy])


@FAMILIES
@pytest.mark.parametrize("transport", ("tcp", "udp"))
def test_router_that_does_not_answer(stand, family, transport):
    """A mistyped gateway, or one that is switched off, is no firewall."""
    gateway = {6: "2001:db8:a::77", 4: "198.51.100.77"}[family]
    with route(stand, family, FAR[family], "via", gateway):
        run = Run(stand, ANY[family], family, transport, refresh=4)
        run.says(f"warning: {run.way}: can't punch: the router {gateway} does not answer this host "
                 "(ip neigh)", timeout=20)
        time.sleep(5)
        run.says(*[line.removeprefix("synergy: ") for line in run.lines()[:1]])
    if transport == "tcp":
        run.server.talk(stand, run.server, run.program, run.source_port, run.port, 15)
        assert len([line for line in run.lines() if " info: " not in line]) == 1


@FAMILIES
@pytest.mark.parametrize("transport", ("tcp", "udp"))
def test_source_that_is_not_ours(stand, family, transport):
    local = {6: "2001:db8:a::99", 4: "198.51.100.99"}[family]
    run = Run(stand, ANY[family], family, transport, local=local)
    run.says(f"warning: {run.way}: can't punch: SYNERGY_LOCAL is {local}, which is no address of "
             "this host")


@FAMILIES
def test_second_address(stand, family):
    second, length = {6: ("2001:db8:a::12", 64), 4: ("198.51.100.12", 24)}[family]
    nodad = ["nodad"] if family == 6 else []
    run_in(stand, "A", "ip", "address", "add", f"{second}/{length}", "dev", "to-fwa", *nodad)
    try:
        run = Run(stand, ANY[family], family)
        run.program.wait_for("SYNERGY_LOCAL chooses")
        own = SERVER[family] if SERVER[family] in run.program.stderr().split("leave from")[1][:20] \
            else second
        other = second if own == SERVER[family] else SERVER[family]
        run.says(f"warning: {run.way}: punches leave from {own}, and only who calls that gets in; "
                 f"this host has {other} as well. SYNERGY_LOCAL chooses")
        # Who has chosen need not be told.
        chosen = Run(stand, ANY[family], family, local=second, log="info")
        chosen.program.wait_for(f"opens, hop limit 2, from {second}")
    finally:
        run_in(stand, "A", "ip", "address", "del", f"{second}/{length}", "dev", "to-fwa")


@pytest.mark.parametrize("family, source, length", (
    (4, "192.168.7.2", 24), (4, "10.1.2.3", 8), (4, "100.64.0.9", 10), (6, "fd00:1::2", 64)))
def test_nat_at_this_side(stand, family, source, length):
    nodad = ["nodad"] if family == 6 else []
    run_in(stand, "A", "ip", "address", "add", f"{source}/{length}", "dev", "to-fwa", *nodad)
    try:
        run = Run(stand, source, family)
        run.says(private_source_line(run, source))
    finally:
        run_in(stand, "A", "ip", "address", "del", f"{source}/{length}", "dev", "to-fwa")


def private_source_line(run, source):
    return (f"warning: {run.way}: this host's own address is {source}, which is private: where a NAT "
            "puts another in its place, that is the one to call, and who calls it comes in only if "
            "the NAT keeps the port")


@FAMILIES
def test_nat_that_keeps_the_port(stand, family):
    """Who calls the address that it puts there comes in, as the line has it."""
    source, length = {6: ("fd00:1::2", 64), 4: ("10.0.0.2", 24)}[family]
    run_in(stand, "A", "ip", "address", "add", f"{source}/{length}", "dev", "to-fwa",
           *(["nodad"] if family == 6 else []))
    back = ["ip", f"-{family}", "route", "%s", f"{source}/{128 if family == 6 else 32}", "dev", "to-A"]
    nat = [iptables(family), "-w", "-t", "nat", "%s", "POSTROUTING", "-s", source, "-j", "SNAT",
           "--to-source", FIRST_ROUTER[family]]
    run_in(stand, "fwa", *[word.replace("%s", "add") for word in back])
    run_in(stand, "fwa", *[word.replace("%s", "-A") for word in nat])
    try:
        run = Run(stand, source, family)
        run.says(private_source_line(run, source))
        with clients.prepared_client(stand, family, run.source_port) as caller:
            caller.settimeout(10)
            caller.connect((FIRST_ROUTER[family], run.port))
            caller.sendall(b"hello\n")
            assert caller.recv(100).endswith(b"hello\n")
    finally:
        run_in(stand, "fwa", *[word.replace("%s", "-D") for word in nat])
        run_in(stand, "fwa", *[word.replace("%s", "del") for word in back])
        run_in(stand, "A", "ip", "address", "del", f"{source}/{length}", "dev", "to-fwa")


@contextlib.contextmanager
def link_local_alone(stand, family):
    """What is left of a host that nobody has given an address yet, or any more."""
    length = {6: 64, 4: 24}[family]
    run_in(stand, "A", "ip", "address", "del", f"{SERVER[family]}/{length}", "dev", "to-fwa")
    if family == 4:
        run_in(stand, "A", "ip", "address", "add", "169.254.3.4/16", "dev", "to-fwa")
    via = {6: ["via", "fe80::ff:fe00:2"], 4: ["via", FIRST_ROUTER[4], "onlink"]}[family]
    run_in(stand, "A", "ip", f"-{family}", "route", "replace", FAR[family], *via, "dev", "to-fwa")
    try:
        yield
    finally:
        # Never without a route, which would be worth a line, too.
        stand.path.configure("A")
        run_in(stand, "A", "ip", f"-{family}", "route", "replace", FAR[family], "via",
               FIRST_ROUTER[family], "dev", "to-fwa")
        if family == 4:
            run_in(stand, "A", "ip", "address", "del", "169.254.3.4/16", "dev", "to-fwa")


@FAMILIES
@pytest.mark.parametrize("transport", ("tcp", "udp"))
def test_no_address_but_the_links_own(stand, check, family, transport):
    """And as soon as there is another one, a peer gets in."""
    with link_local_alone(stand, family):
        run = Run(stand, ANY[family], family, transport, refresh=1)
        source = run.program.wait_for(r"for it but (\S+), which").group(1)
        assert source == "169.254.3.4" or source.startswith("fe80::")
        end = (f"can't punch: this host has no address for it but {source}, which counts on its own "
               "link alone: nobody there can answer (ip address)")
        run.says(f"warning: {run.way}: {end}")
        assert hole_of(stand, run.program)["state"] == "failing"
        assert check(stand, peer_text(family), hops=2)[0] == [f"{peer_text(family)}: {end}"]
    run.server.talk(stand, run.server, run.program, run.source_port, run.port, 15)
    run.says(f"warning: {run.way}: {end}", f"info: that is over: {run.way}: {end}")


@contextlib.contextmanager
def without_address(stand, family, is_last):
    """It is taken away from A, with another one of its network left or none; and A gets it back."""
    length, other = {6: (64, "2001:db8:a::12"), 4: (24, "198.51.100.12")}[family]
    nodad = ["nodad"] if family == 6 else []
    address = ["ip", "address", "%s", f"{SERVER[family]}/{length}", "dev", "to-fwa"]
    way = ["ip", f"-{family}", "route", "replace", FAR[family], "via", FIRST_ROUTER[family]]

    def promote(how):
        namespace.sysctl(stand.path.namespace("A"), {"net/ipv4/conf/to-fwa/promote_secondaries": how})
    try:
        if not is_last:
            promote(1)
            run_in(stand, "A", "ip", "address", "add", f"{other}/{length}", "dev", "to-fwa", *nodad)
        run_in(stand, "A", *[word.replace("%s", "del") for word in address])
        if not is_last:  # with the last one of IPv4 the route has gone, too
            run_in(stand, "A", *way)
        yield
    finally:
        if not is_last:
            run_in(stand, "A", "ip", "address", "del", f"{other}/{length}", "dev", "to-fwa")
            promote(0)
        stand.path.configure("A")


@FAMILIES
@pytest.mark.parametrize("transport", ("tcp", "udp"))
@pytest.mark.parametrize("is_last", (True, False))
def test_address_that_goes(stand, family, transport, is_last):
    """While the server, which is bound to it, has its holes: to the kernel what leaves from there may
    have left (IPv6). When it is back, so are they."""
    run = Run(stand, SERVER[family], family, transport, log="info", refresh=1)
    run.program.wait_for("opens, hop limit 2")
    wait_until(lambda: hole_of(stand, run.program)["state"] == "open", 10, "the hole")
    cause = f"{SERVER[family]} is no address of this host"
    with without_address(stand, family, is_last):
        run.program.wait_for(f"(?m)^synergy: warning: {re.escape(run.way)}: can't punch: {re.escape(cause)}$")
        wait_until(lambda: hole_of(stand, run.program).get("error") == cause, 5, "the state")
    wait_until(lambda: hole_of(stand, run.program)["state"] == "open", 5, "the hole")
    run.server.talk(stand, run.server, run.program, run.source_port, run.port, 15)
    assert [said for said in run.lines() if "warning" in said] == [
        f"synergy: warning: {run.way}: can't punch: {cause}"]
    run.program.wait_for(f"(?m)^synergy: info: that is over: {re.escape(run.way)}: can't punch: {re.escape(cause)}$")


@FAMILIES
@pytest.mark.parametrize("transport", ("tcp", "udp"))
def test_address_that_goes_and_leaves_the_links_own(stand, family, transport):
    """Where the server is bound to none."""
    run = Run(stand, ANY[family], family, transport, log="info", refresh=1)
    run.program.wait_for("opens, hop limit 2")
    wait_until(lambda: hole_of(stand, run.program)["state"] == "open", 10, "the hole")
    with link_local_alone(stand, family):
        run.program.wait_for(r"can't punch: this host has no address for it but \S+, which counts on")
        wait_until(lambda: hole_of(stand, run.program)["state"] == "failing", 5, "the state")
    wait_until(lambda: hole_of(stand, run.program)["state"] == "open", 5, "the hole")
    run.server.talk(stand, run.server, run.program, run.source_port, run.port, 15)
    (line,) = [said for said in run.lines() if "warning" in said]
    run.program.wait_for(re.escape(line.replace("warning: ", "info: that is over: ")))


SECOND = {6: ("2001:db8:c::11", 64, "2001:db8:c::1"), 4: ("198.18.0.11", 28, "198.18.0.1")}


@contextlib.contextmanager
def second_link(stand, family):
    """An interface with an address of its own, and whose router knows no way."""
    address, length, _ = SECOND[family]
    run_in(stand, "A", "ip", "link", "add", "second", "type", "veth", "peer", "name", "beyond")
    try:
        for end in "second", "beyond":
            run_in(stand, "A", "ip", "link", "set", end, "up")
        run_in(stand, "A", "ip", "address", "add", f"{address}/{length}", "dev", "second",
               *(["nodad"] if family == 6 else []))
        yield address
    finally:
        run_in(stand, "A", "ip", "link", "del", "second")


@FAMILIES
@pytest.mark.parametrize("is_bound, hops", ((False, 2), (False, "auto"), (True, 2)))
def test_address_of_another_interface(stand, check, is_bound, hops, family):
    """Routers answer nothing that leaves from there. Where they do, nothing is said."""
    with second_link(stand, family) as own:
        run = Run(stand, own if is_bound else ANY[family], family, hops=hops,
                  local=None if is_bound else own)
        end = (f"no router answers what leaves from {own} by to-fwa, and {own} is an address of "
               "second's: what is not its own may be dropped on the way. Use an address of to-fwa's, "
               "or have it sent by second (ip rule)")
        run.says(f"warning: {PEER[family]}: {end}")
        if not is_bound:
            assert check(stand, peer_text(family), hops=hops, local=own)[0] == [
                f"{peer_text(family)}: {end}"]
        else:
            back = ["ip", f"-{family}", "route", "%s", own, "via", SERVER[family]]
            beyond = ["ip", f"-{family}", "route", "%s", own, "via",
                      stand.path.addresses("fwa")[1][1][family]]
            run_in(stand, "fwa", *[word.replace("%s", "add") for word in back])
            run_in(stand, "r1", *[word.replace("%s", "add") for word in beyond])
            try:
                good = Run(stand, own, family, hops=2, log="info")
                good.program.wait_for("punches with hop limit 2 die at")
                assert not any("warning" in line for line in good.lines())
            finally:
                run_in(stand, "fwa", *[word.replace("%s", "del") for word in back])
                run_in(stand, "r1", *[word.replace("%s", "del") for word in beyond])


@FAMILIES
@pytest.mark.parametrize("leads_there", (True, False))
def test_two_ways_out(stand, check, leads_there, family):
    """Cable and radio, say: the peer may call either's address. Another network of this host's is
    none of his business."""
    with second_link(stand, family) as other:
        if leads_there:
            run_in(stand, "A", "ip", f"-{family}", "route", "add", "default", "via",
                   SECOND[family][2], "dev", "second", "metric", 2000)
        run = Run(stand, ANY[family], family)
        run.listens()
        time.sleep(0.3)  # what is to be said of addresses is said a tenth of a second after
        end = (f"punches leave from {SERVER[family]}, and only who calls that gets in; this host has "
               f"{other} as well. SYNERGY_LOCAL chooses")
        run.says(*([f"warning: {run.way}: {end}"] if leads_there else []))
        assert check(stand, peer_text(family), hops=2)[0] == (
            [f"{peer_text(family)}: {end}"] if leads_there else [])


def test_broadcast_address_of_a_network(stand, check):
    end = ("can't punch: that is the broadcast address of a network of this host's, and no host's")
    for transport in "tcp", "udp":
        run = Run(stand, "0.0.0.0", 4, transport, peers="198.51.100.255:5555")
        run.says(f"warning: {run.listener} <- 198.51.100.255: {end}")
    assert check(stand, "198.51.100.255:5555", hops=2)[0] == [f"198.51.100.255:5555: {end}"]


@contextlib.contextmanager
def no_local_ports(stand):
    name = "net/ipv4/ip_local_port_range"
    with namespace.inside(stand.path.namespace("A")):
        before = {name: pathlib.Path("/proc/sys", name).read_text(encoding="ascii")}
        namespace.sysctl(stand.path.namespace("A"), {name: "40000 40000"})
        holders = [socket.socket(socket.AF_INET6, kind)
                   for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
        for holder in holders:
            holder.bind(("::", 40000))
    try:
        yield
    finally:
        for holder in holders:
            holder.close()
        namespace.sysctl(stand.path.namespace("A"), before)


@FAMILIES
def test_no_local_port_is_left(stand, check, family):
    """Punches need none, and the way can't be measured."""
    guess = ("hop limit 3: no local port is left to measure the way with "
             "(net.ipv4.ip_local_port_range): a guess. Where nobody gets in, set one that crosses the "
             "last firewall of this side")
    with no_local_ports(stand):
        for hops in 2, "auto":
            run = Run(stand, ANY[family], family, hops=hops)
            if hops == "auto":
                run.program.wait_for("a guess")
            run.server.talk(stand, run.server, run.program, run.source_port, run.port, 10)
            assert run.lines() == ([f"synergy: warning: {PEER[family]}: {guess}"]
                                   if hops == "auto" else [])
        untried = ("no local port is left (net.ipv4.ip_local_port_range), so the loopback interface "
                   "can't be tried out")
        assert check(stand, peer_text(family), hops=2)[0] == [untried]
        assert check(stand, peer_text(family))[0] == [untried, f"{peer_text(family)}: {guess}"]


@pytest.mark.parametrize("family, peer", ((4, "192.168.7.2"), (6, "fd00:1::2")))
def test_nat_at_the_peers_side(stand, family, peer):
    way = ["ip", f"-{family}", "route", "%s", peer, "via", FIRST_ROUTER[family]]
    run_in(stand, "A", *[word.replace("%s", "add") for word in way])
    try:
        run = Run(stand, ANY[family], family, peers=shown(peer, 5555))
        run.says(f"warning: {run.listener} <- {peer}: the address is private, and this host's "
                 f"({SERVER[family]}) is not: from here it can't be the peer's. Set the one that "
                 "others see it by")
    finally:
        run_in(stand, "A", *[word.replace("%s", "del") for word in way])


@FAMILIES
@pytest.mark.parametrize("is_loopback", (False, True), ids=("own", "loopback"))
def test_peer_that_is_this_host(stand, family, is_loopback):
    peer = {6: "::1", 4: "127.0.0.1"}[family] if is_loopback else SERVER[family]
    run = Run(stand, ANY[family], family, peers=shown(peer, 5555))
    run.says(f"warning: {run.listener} <- {peer}: that address is this host's own, and no peer's. "
             "Peers are at the other side; from here the port can be reached as it is")


# This host's firewall


@FAMILIES
@pytest.mark.parametrize("target", ("DROP", "REJECT"))
def test_output(stand, family, target):
    with rule(stand, "A", family, "OUTPUT", "-o", "to-fwa", "-p", "tcp", "--syn", "-j", target):
        run = Run(stand, ANY[family], family)
        run.says(f"warning: {run.way}: can't punch: no SYN leaves this host: a firewall on it lets "
                 "none out (OUTPUT)")


@FAMILIES
def test_output_for_datagrams(stand, family):
    with rule(stand, "A", family, "OUTPUT", "-o", "to-fwa", "-p", "udp", "-j", "DROP"):
        run = Run(stand, ANY[family], family, "udp")
        run.says(f"warning: {run.way}: can't punch: a firewall on this host lets it not out (OUTPUT)")


@pytest.mark.parametrize("kind, family", (("one-to-one", 6), ("one-to-one", 4), ("one-to-many", 6)))
def test_output_for_sctp(paths, kind, family):
    """In IPv4 the kernel tells a prohibition by the same errno as a punch's end: it is known by the time
    that the error takes, of a socket that has one peer alone."""
    sctp.skip_if_missing()
    server = [PYTHON, script("sctp_server.py"), ANY[family]]
    how = {6: "icmp6-adm-prohibited", 4: "icmp-admin-prohibited"}[family]
    for stand in stand_on(paths.get("sctp-output")):
        with rule(stand, "A", family, "OUTPUT", "-o", "to-fwa", "-p", "sctp", "-j", "REJECT",
                  "--reject-with", how):
            run = Run(stand, ANY[family], family, "sctp", command=server, arguments=[kind])
            run.says(f"warning: {run.way}: can't punch: a firewall on this host lets it not out "
                     "(OUTPUT)")


UNCOUNTED = re.compile(r"kept out \d+ packets?")


def uncounted(lines):
    """How many packets are kept out is a matter of routers and of rounds."""
    return [UNCOUNTED.sub("kept out N packets", line) for line in lines]


@FAMILIES
@pytest.mark.parametrize("hops", (2, "auto"))
def test_input_that_lets_no_answer_in(stand, check, family, hops):
    """What routers answer is felt to be missing, and this host's own kernel counts what it has dropped."""
    cause = ("routers' answers don't get in: a firewall on this host has kept out N packets meanwhile "
             "(INPUT)")
    if hops == "auto":
        cause = (f"hop limit 3: {cause}: a guess. Where nobody gets in, set one that crosses the last "
                 "firewall of this side")
    with rule(stand, "A", family, "INPUT", "-i", "to-fwa", "-j", "DROP"):
        run = Run(stand, ANY[family], family, hops=hops)
        run.program.wait_for("has kept out")
        assert uncounted(run.lines()) == [f"synergy: warning: {PEER[family]}: {cause}"]
        assert uncounted(check(stand, peer_text(family), hops=hops)[0]) == [
            f"{peer_text(family)}: {cause}"]


@contextlib.contextmanager
def answers_by_another_way(stand):
    """What leaves by the one interface is answered by the other."""
    own, router = "198.18.0.11", "198.18.0.1"
    back = ["ip", "route", "%s", "198.18.0.0/28", "via", stand.path.addresses("fwa")[1][1][4]]
    there = ["ip", "route", "%s", "192.0.2.0/24", "via", FIRST_ROUTER[4]]  # to who answers
    run_in(stand, "A", "ip", "link", "add", "second", "type", "veth", "peer", "name", "to-A2",
           "netns", stand.path.namespace("fwa"))
    try:
        for node, end, address in ("A", "second", own), ("fwa", "to-A2", router):
            run_in(stand, node, "ip", "link", "set", end, "up")
            run_in(stand, node, "ip", "address", "add", f"{address}/28", "dev", end)
        run_in(stand, "r1", *[word.replace("%s", "add") for word in back])
        run_in(stand, "A", *[word.replace("%s", "add") for word in there])
        yield own
    finally:
        run_in(stand, "A", "ip", "link", "del", "second")
        with contextlib.suppress(subprocess.CalledProcessError):
            run_in(stand, "r1", *[word.replace("%s", "del") for word in back])
            run_in(stand, "A", *[word.replace("%s", "del") for word in there])


@pytest.mark.parametrize("hops", (2, "auto"))
def test_answers_by_another_interface(stand, check, hops):
    """Strict about where packets come from, this host drops what a peer would send it as well. (Where it
    is not, the peer gets in.)"""
    cause = ("routers' answers don't get in: they come by another interface than the way there has, and "
             "this host drops what does (net.ipv4.conf.*.rp_filter is 1: 2 lets it in)")
    if hops == "auto":
        cause = (f"hop limit 3: {cause}: a guess. Where nobody gets in, set one that crosses the last "
                 "firewall of this side")
    with answers_by_another_way(stand) as own:
        namespace.sysctl(stand.path.namespace("A"), {"net/ipv4/conf/second/rp_filter": "1"})
        run = Run(stand, "0.0.0.0", 4, hops=hops, local=own)
        run.says(f"warning: {PEER[4]}: {cause}")
        assert check(stand, peer_text(4), hops=hops, local=own)[0] == [f"{peer_text(4)}: {cause}"]
        namespace.sysctl(stand.path.namespace("A"), {"net/ipv4/conf/second/rp_filter": "2"})
        loose = Run(stand, "0.0.0.0", 4, hops=2, local=own, log="info")
        loose.program.wait_for("punches with hop limit 2 die at")
        assert not any("warning" in line for line in loose.lines())


@FAMILIES
def test_proxy_that_takes_connections(stand, family):
    """On this host, or on the way: who answers the punch is not the peer."""
    to_proxy = [iptables(family), "-w", "-t", "nat", "%s", "OUTPUT", "-o", "to-fwa", "-p", "tcp", "-d",
                PEER[family], "-j", "REDIRECT", "--to-ports"]
    proxy = Run(stand, ANY[family], family, peers=None, hops=None)
    proxy.listens()
    run_in(stand, "A", *[word.replace("%s", "-A") for word in to_proxy], proxy.port)
    try:
        run = Run(stand, ANY[family], family)
        run.says(f"warning: {PEER[family]}: punches with hop limit 2 go too far: the peer itself, or a "
                 "proxy that answers for it, takes them: lower it, or let it be automatic")
    finally:
        run_in(stand, "A", *[word.replace("%s", "-D") for word in to_proxy], proxy.port)


# Listeners that get nothing


@FAMILIES
def test_listener_on_loopback(stand, family):
    address = {6: "::1", 4: "127.0.0.1"}[family]
    run = Run(stand, address, family)
    run.says(f"warning: {run.listener}: nothing is punched: it listens on {address}, where nobody "
             "but this host comes: let it listen on :: or on an address of this host")


LINKS_OWN = "fe80::ff:fe00:1%to-fwa"  # of A's interface, by the hardware address that topology.py gives it


def test_listener_on_an_address_of_the_links_own(stand):
    run = Run(stand, LINKS_OWN, 6)
    run.says(f"warning: {run.listener}: nothing is punched: it listens on {LINKS_OWN}, which counts on its "
             "own link alone, and no peer is there: let it listen on :: or on another address of this host")


@pytest.mark.parametrize("address, family", (("239.1.1.1", 4), ("255.255.255.255", 4), ("ff0e::1", 6)))
def test_socket_of_a_group(stand, address, family):
    run = Run(stand, address, family, transport="udp")
    run.says(f"warning: {run.listener}: nothing is punched: it is bound to {address}, which stands for many "
             "hosts: let it be bound to :: or to an address of this host")


@pytest.mark.parametrize("address, peer_family, advice", (
    ("0.0.0.0", 6, "let it listen on ::"),
    (SERVER[4], 6, "let it listen on :: or on an IPv6 address of this host"),
    (SERVER[6], 4, "let it listen on 0.0.0.0 or on an IPv4 address of this host"),
))
def test_wrong_family(stand, address, peer_family, advice):
    run = Run(stand, address, peer_family)
    own, others = ("IPv4", "IPv6") if peer_family == 6 else ("IPv6", "IPv4")
    run.says(f"warning: {run.listener}: nothing is punched: it speaks {own} alone, and the peer "
             f"{shown(PEER[peer_family], run.source_port)} has an {others} address: {advice}")


def test_name_that_resolves_to_the_other_family_alone(stand):
    names = Names()
    try:
        names.set(laptop=[PEER[6]])
        run = Run(stand, "0.0.0.0", 4, peers="laptop.example.net:5555")
        run.says(f"warning: {run.listener}: nothing is punched: it speaks IPv4 alone, and the peer "
                 f"laptop.example.net ({PEER[6]}) has an IPv6 address: let it listen on ::")
    finally:
        names.restore()


@FAMILIES
def test_port_that_is_left_out(stand, family):
    """By the environment, and by a section of the file."""
    run = Run(stand, ANY[family], family, ports="1-99,7777")
    run.says(f"warning: nothing is punched: port {run.port} is not among those of SYNERGY_PORTS: "
             "1-99,7777")
    config = written("ports.toml", f'''[[listen]]
port = 7777
peers = ["{shown(PEER[family], 5555)}"]
''')
    run = Run(stand, ANY[family], family, peers=None, hops=None, config=config)
    run.says(f"warning: {run.listener}: nothing is punched: port {run.port} is not among those of "
             f"{config}: 7777")


@pytest.mark.parametrize("address, ports", (("::1", None), ("0.0.0.0", None), ("::", "left out"),
                                            (LINKS_OWN, None)))
def test_further_listeners_are_no_mistake(stand, address, ports):
    """What a server has for purposes of its own."""
    port = fresh_port()
    run = Run(stand, address, 6, command=[PYTHON, script("awkward_server.py"), "two", address],
              arguments=["::", port], ports=port if ports else None, log="info")
    run.program.wait_for(rf"\[::\]:{port} <- .*: opens")
    time.sleep(1)  # what is to be said of a listener is said half a second after
    assert [line for line in run.lines() if " info: " not in line] == []


A_LISTENER_FOR_A_MOMENT = """
import socket, sys, time
with socket.create_server(("0.0.0.0", 0)):
    pass
time.sleep(1)  # what is to be said of a listener is said half a second after
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6)
time.sleep(60)
"""


def test_listener_for_a_moment_is_no_mistake(stand):
    """As varnishd finds out what the kernel has."""
    run = Run(stand, command=[PYTHON, "-c", A_LISTENER_FOR_A_MOMENT], log="info")
    run.program.wait_for(rf"\[::\]:{run.port} <- .*: opens")
    assert [line for line in run.lines() if " info: " not in line] == []


@pytest.mark.other_users
def test_listener_of_another_user(stand):
    """Made by root, and left to one who is not, as systemd's socket units do."""
    run = Run(stand, "::", command=[PYTHON, script("awkward_server.py"), "handed-down", "::"],
              user="root", wrap=["env", "-u", "LD_PRELOAD", f"LATER={STAGE}/preload/libsynergy.so"])
    run.says(f"error: {run.listener}: nothing is punched: user 0 made this listener, and no other "
             "user (this process is user 65534) can bind beside it")


@pytest.mark.other_users
def test_listener_of_a_user_who_has_no_number(stand):
    """In a user namespace all who have none look the same. Who is one of them, and made it, is served."""
    for maker, lines in ((1, [
            "error: {}: nothing is punched: a user of another user namespace made this listener, and "
            "no other user (this process is user 65534, as all are who have no number here) can "
            "bind beside it"]), (65534, [])):
        run = Run(stand, "::", command=[PYTHON, script("awkward_server.py"), "handed-into", "::"],
                  arguments=[maker], user="root",
                  wrap=["env", "-u", "LD_PRELOAD", f"LATER={STAGE}/preload/libsynergy.so"])
        if not lines:
            with clients.tcp_client(stand, 6, run.source_port, run.port, 10):
                pass
        run.says(*(line.format(run.listener) for line in lines))


# Settings


def written(name, text, mode=0o644):
    SCRATCH.mkdir(mode=0o755, exist_ok=True)
    file = SCRATCH / name
    file.write_text(text, encoding="ascii")
    file.chmod(mode)
    return file


ALL_VARIABLES = ("one of SYNERGY_CONFIG, SYNERGY_HOPS, SYNERGY_HOPS_MAX, SYNERGY_HOPS_MIN, "
                 "SYNERGY_LOCAL, SYNERGY_LOG, SYNERGY_LOG_FILE, SYNERGY_PEERS, SYNERGY_PORTS, "
                 "SYNERGY_REFRESH")


@pytest.mark.parametrize("name, nearest", (
    ("PEER", "SYNERGY_PEERS"), ("HOP", "SYNERGY_HOPS"), ("HOPLIMIT", "SYNERGY_HOPS"),
    ("LOGLEVEL", "SYNERGY_LOG"), ("HOPMAX", "SYNERGY_HOPS_MAX"), ("LOGFILE", "SYNERGY_LOG_FILE"),
    ("DIR", ALL_VARIABLES), ("ANYTHING", ALL_VARIABLES)))
def test_unknown_variable(stand, name, nearest):
    run = Run(stand, **{name.lower(): "2"})
    run.says(f"error: environment: 'SYNERGY_{name}': expected {nearest}")


@pytest.mark.parametrize("settings, line", (
    (dict(peers="[2001:db8:b::/64]:5555"),
     "SYNERGY_PEERS: '[2001:db8:b::/64]:5555': expected the address of one host: a hole is for one "
     "address, not a network"),
    (dict(peers="203.0.113.0/24:5555"),
     "SYNERGY_PEERS: '203.0.113.0/24:5555': expected the address of one host: a hole is for one "
     "address, not a network"),
    (dict(peers="203.0.113.5:1;203.0.113.5:2"),
     "SYNERGY_PEERS: '203.0.113.5:1;203.0.113.5:2': expected a comma or a space between peers"),
    (dict(peers="255.255.255.255:5555"),
     "SYNERGY_PEERS: '255.255.255.255:5555': expected the address of one host, neither wildcard, "
     "multicast nor broadcast"),
    (dict(peers="2001:db8:b::5:5555"),
     "SYNERGY_PEERS: '2001:db8:b::5:5555': expected an IPv6 address in brackets, as "
     "[2001:db8::5]:5555"),
    (dict(peers="[fe80::5]:5555"),
     "SYNERGY_PEERS: '[fe80::5]:5555': expected after a link-local address (fe80::) '%' and the "
     "interface that leads there, as fe80::5%eth0"),
    (dict(local="fe80::11"),
     "SYNERGY_LOCAL: 'fe80::11': expected after a link-local address (fe80::) '%' and the interface "
     "that leads there, as fe80::5%eth0"),
    (dict(peers="[fe80::5%nosuch]:5555"),
     "SYNERGY_PEERS: '[fe80::5%nosuch]:5555': expected after '%' a network interface of this host"),
    (dict(peers="[2001:db8:b::5%to-fwa]:5555"),
     "SYNERGY_PEERS: '[2001:db8:b::5%to-fwa]:5555': expected no '%' but after a link-local address "
     "(fe80::)"),
    (dict(peers="[2001:db8:b::5]:0"),
     "SYNERGY_PEERS: '[2001:db8:b::5]:0': expected a port from 1 to 65535, or a range as 5000-5010"),
    (dict(peers=" , "), "SYNERGY_PEERS: ',': expected at least one peer, or nothing"),
    (dict(local="::1"),
     "SYNERGY_LOCAL: '::1': expected an address that peers can reach: who is at it is this host alone"),
    (dict(log_file="/dev/stdout"),
     "SYNERGY_LOG_FILE: '/dev/stdout': expected a path that is the same for every process, stderr or "
     "syslog: the server's own is none"),
    (dict(peers="garbage"),
     "SYNERGY_PEERS: 'garbage': expected a host and a port, as [2001:db8::5]:5555, 198.51.100.5:5555 "
     "or laptop.example.net:5555"),
    (dict(log_file="stdout"),
     "SYNERGY_LOG_FILE: 'stdout': expected stderr, syslog or a path (./ before the name of a file that "
     "is called so)"),
    (dict(hops="auto,3"), "SYNERGY_HOPS: 'auto,3': expected a hop limit from 1 to 254, or auto"),
    (dict(hops="300"), "SYNERGY_HOPS: '300': expected a hop limit from 1 to 254, or auto"),
    (dict(local="[2001:db8:a::11]:4444"),
     "SYNERGY_LOCAL: '[2001:db8:a::11]:4444': expected an address without port, as 2001:db8::11 or "
     "198.51.100.11"),
    (dict(ports="http"),
     "SYNERGY_PORTS: 'http': expected a port from 1 to 65535, or a range as 5000-5010"),
    (dict(refresh="13s"), "SYNERGY_REFRESH: '13s': expected whole seconds from 1 to 3600"),
    (dict(log="warning"), "SYNERGY_LOG: 'warning': expected debug, info, warn, error or off"),
    (dict(peers=None, config="/nonexistent/synergy.toml"),
     "SYNERGY_CONFIG: '/nonexistent/synergy.toml': expected a file that can be read: No such file or "
     "directory"),
    (dict(peers=None, config="/proc"),
     "SYNERGY_CONFIG: '/proc': expected a file that can be read: Is a directory"),
), ids=lambda value: "-".join(value) if isinstance(value, dict) else "")
def test_mistaken_setting(stand, settings, line):
    run = Run(stand, "::", **settings)
    run.says(f"error: {line}")


def test_line_ends_of_another_system(stand):
    """As a file of variables has them that was written there: they are no part of any value."""
    run = Run(stand, "::", hops="2\r", log="info\r", refresh="13 ", log_file="stderr\r")
    run.program.wait_for("opens, hop limit 2")
    run.server.talk(stand, run.server, run.program, run.source_port, run.port, 10)
    assert [line for line in run.lines() if " info: " not in line] == []


@pytest.mark.other_users
def test_file_that_is_too_large(stand):
    file = written("too-large.toml", "peers = []\n" + "# all work and no play\n" * 100000)
    run = Run(stand, "::", peers=None, hops=None, config=file)
    run.listens()
    time.sleep(0.5)
    run.says(f"error: SYNERGY_CONFIG: '{file}': expected a file that can be read: File too large")


@pytest.mark.parametrize("local", ("fe80::99%to-fwa", "fd00:1::99"))
def test_source_that_is_not_ours_is_one_mistake(stand, local):
    """Whatever else could be said of such an address."""
    run = Run(stand, local=local)
    run.program.wait_for("which is no address")
    time.sleep(0.5)
    run.says(f"warning: {run.way}: can't punch: SYNERGY_LOCAL is {local}, which is no address of this host")


@FAMILIES
def test_address_that_is_not_ours_yet(stand, family):
    """As the one of two servers has it that stands by."""
    floating, length = {6: ("2001:db8:a::99", 64), 4: ("198.51.100.99", 24)}[family]
    name = {6: "net/ipv6/ip_nonlocal_bind", 4: "net/ipv4/ip_nonlocal_bind"}[family]
    namespace.sysctl(stand.path.namespace("A"), {name: "1"})
    try:
        run = Run(stand, floating, family, refresh=1)
        run.says(f"warning: {run.way}: can't punch: {floating} is no address of this host")
        time.sleep(2.5)  # for as long as it takes to find out that no bell gets there
        run_in(stand, "A", "ip", "address", "add", f"{floating}/{length}", "dev", "to-fwa",
               *(["nodad"] if family == 6 else []))
        wait_until(lambda: hole_of(stand, run.program)["state"] == "open", 10, "the hole")
        # Who takes an address over tells the link so.
        run_in(stand, "fwa", "ip", f"-{family}", "neigh", "flush", "dev", "to-A")
        with clients.prepared_client(stand, family, run.source_port) as caller:
            caller.settimeout(10)
            caller.connect((floating, run.port))
            caller.sendall(b"hello\n")
            assert caller.recv(100).endswith(b"hello\n")
        cause = f"{run.way}: can't punch: {floating} is no address of this host"
        run.says(f"warning: {cause}", f"info: that is over: {cause}")
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            run_in(stand, "A", "ip", "address", "del", f"{floating}/{length}", "dev", "to-fwa")
        namespace.sysctl(stand.path.namespace("A"), {name: "0"})


def test_stderr_by_its_path(stand):
    run = Run(stand, hops=1, log_file="/dev/stderr")
    run.says(f"warning: {PEER[6]}: punches with hop limit 1 die at the first router, {FIRST_ROUTER[6]}, "
             "and open no firewall but one on this host: 2 is the least that crosses it")


@pytest.mark.parametrize("address", ("127.0.1.1", "::1", "0.0.0.0"))
def test_name_that_stands_for_this_host(stand, address):
    """Debian's /etc/hosts has 127.0.1.1 for the host's own name; a blocking name server 0.0.0.0."""
    names = Names()
    try:
        names.set(laptop=[address])
        run = Run(stand, "::", peers="laptop.example.net:5555")
        run.says(f"warning: laptop.example.net resolves to {address}, which is no peer's address (does "
                 "a line of /etc/hosts say so, or a name server that blocks it?); nothing is punched "
                 "for it, and it is tried again every 13 s")
        names.set(laptop=[PEER[6]])
        unknown = Run(stand, "::", peers="nobody.example.net:5555")
        unknown.says("warning: nobody.example.net does not resolve: Temporary failure in name "
                     "resolution; nothing is punched for it, and it is tried again every 13 s")
    finally:
        names.restore()


def pipe(name):
    SCRATCH.mkdir(mode=0o755, exist_ok=True)
    os.mkfifo(SCRATCH / name)
    (SCRATCH / name).chmod(0o666)
    return SCRATCH / name


def test_file_that_is_a_pipe(stand):
    """The server does not wait for who writes to it."""
    file = pipe("settings.pipe")
    run = Run(stand, "::", peers=None, hops=None, config=file)
    run.says(f"error: SYNERGY_CONFIG: '{file}': expected a file that can be read: it is a pipe")


def test_unknown_variable_alone(stand):
    run = Run(stand, peers=None, hops=None, peer=shown(PEER[6], 5555))
    run.says("error: environment: 'SYNERGY_PEER': expected SYNERGY_PEERS")
    small = Run(stand, peers=None, hops=None, environment={"synergy_peers": shown(PEER[6], 5555)})
    small.says("error: environment: 'synergy_peers': expected SYNERGY_PEERS")


def test_no_peers(stand):
    """Where somebody wants to know, and not where a setting is for other programs."""
    silent, curious = (Run(stand, peers=None, hops=2, log=level) for level in ("warn", "info"))
    curious.says("info: no peers are set, in SYNERGY_PEERS or in a config file: nothing is punched")
    silent.listens()
    silent.says()


@pytest.mark.parametrize("make, reason", (
    (lambda: SCRATCH / "nowhere/log", "No such file or directory"),
    (lambda: written("log-of-root", "", 0o600), "Permission denied"),
    (lambda: "/dev/full", "No space left on device"),
    (lambda: pipe("log.pipe"), "nobody reads it"),
), ids=("nowhere", "forbidden", "full", "pipe"))
def test_log_file_that_cannot_be_written(stand, make, reason):
    file = make()
    run = Run(stand, hops=1, log_file=file)
    run.says(f"warning: {file} can't be written: {reason}; what belongs there comes here",
             f"warning: {PEER[6]}: punches with hop limit 1 die at the first router, "
             f"{FIRST_ROUTER[6]}, and open no firewall but one on this host: 2 is the least that "
             "crosses it")


@pytest.mark.other_users
def test_file_that_cannot_be_read(stand):
    file = written("of-root.toml", "peers = []\n", 0o600)
    run = Run(stand, peers=None, hops=None, config=file)
    run.says(f"error: SYNERGY_CONFIG: '{file}': expected a file that can be read: Permission denied")


def test_file_with_an_unknown_key(stand):
    file = written("unknown-key.toml", f'peer = ["{shown(PEER[6], 5555)}"]\n')
    run = Run(stand, peers=None, hops=None, config=file, log="info")
    run.program.wait_for("expected one of the keys")
    assert run.lines()[0] == (
        f"synergy: error: {file}:1:1: 'peer': expected one of the keys peers, hops, hops_min, hops_max, "
        "local, refresh, log, log_file, listen")


@pytest.mark.parametrize("key", ("hop", "hops"))
def test_section_with_an_unknown_key(stand, key):
    """It may stand for how far: nothing leaves. With the right one, a punch does."""
    file = written("section.toml", f'[[listen]]\nport = "1-65535"\n{key} = 2\n'
                   f'peers = ["{shown(PEER[6], 5555)}"]\n')
    with Capture(stand.path, "A", "fwa") as capture:
        run = Run(stand, peers=None, hops=None, config=file)
        run.listens()
        if key == "hops":
            wait_until(lambda: hole_of(stand, run.program)["state"] == "open", 10, "the hole")
            run.says()
        else:
            run.says(f"error: {file}:3:1: 'hop': expected one of the keys port, protocol, peers, hops")
            time.sleep(1)
    assert any(packet.source_port == run.port for packet in capture.packets) == (key == "hops")


def test_files_of_peers_that_are_passed_over(stand, check):
    """Said once, and what is mended is over."""
    place = SCRATCH / "place-of-peers"
    (place / "peers.d").mkdir(parents=True)
    (place / "synergy.toml").write_text(f"hops = {stand.path.hops}\n", encoding="ascii")
    upper = place / "peers.d/UPPER.TOML"
    upper.write_text(f'peers = ["{shown(PEER[6], 5555)}"]\n', encoding="ascii")
    (place / "peers.d/note").write_text("", encoding="ascii")
    (place / "peers.d/none.toml").write_text("port = 4444\n", encoding="ascii")
    lines = [f"{place}/peers.d/none.toml is passed over: it has no `peers`",
             f"{upper} is passed over: its name does not end in .toml, in small letters"]
    wrong, right = check(stand, config=place / "synergy.toml")
    assert wrong[:2] == lines and wrong[2].startswith("no peers are set")
    assert f"{place}/peers.d/note is passed over: its name does not end in .toml" in right
    run = Run(stand, peers=None, hops=None, config=place / "synergy.toml", refresh=1)
    run.says(*[f"warning: {line}" for line in lines])
    upper.rename(place / "peers.d/upper.toml")
    wait_until(lambda: states_of(stand, run.program) == ["open"], 10, "the hole")
    run.says(*[f"warning: {line}" for line in lines], f"info: that is over: {lines[1]}")


@pytest.mark.parametrize("encoding", ("utf-16", "utf-16-le", "utf-16-be"))
def test_file_of_another_encoding(stand, encoding):
    """As editors of another system save it."""
    file = written("utf16.toml", "")
    file.write_bytes(f'peers = ["{shown(PEER[6], 5555)}"]\n'.encode(encoding))
    run = Run(stand, peers=None, hops=None, config=file)
    run.says(f"error: SYNERGY_CONFIG: '{file}': expected a file that can be read: it is not text in "
             "UTF-8, but in UTF-16, as it seems")


@pytest.mark.other_users
def test_home_that_cannot_be_entered(stand):
    home = SCRATCH / "home-of-root"
    home.mkdir(mode=0o700, exist_ok=True)
    run = Run(stand, peers=None, hops=None, environment={"HOME": home})
    run.says(f"warning: no peers are set: whether {home}/.config/synergy/synergy.toml has any can't "
             "be told, since user 65534 may not look into that directory")
    # Where there are settings nothing is missing.
    good = Run(stand, environment={"HOME": home})
    good.listens()
    assert good.lines() == []


def test_file_that_was_broken_from_the_start(stand):
    file = written("broken-from-start.toml", "peers = [\n")
    run = Run(stand, peers=None, hops=None, config=file, log="info")
    first = rf"(?m)^synergy: error: {re.escape(str(file))}:\d+:\d+: .*expected valid TOML.*$"
    line = run.program.wait_for(first).group()
    run.listens()
    written("broken-from-start.toml", "peers = {\n")
    run.program.wait_for("(?m); nothing of the file is in force$")
    assert run.lines()[0] == line and len(run.lines()) == 2, run.lines()
    # And what was right stays in force when it is broken.
    written("broken-from-start.toml", f'peers = ["{shown(PEER[6], 5555)}"]\nhops = 2\n')
    run.program.wait_for("opens, hop limit 2")
    written("broken-from-start.toml", "peers = [\n")
    run.program.wait_for("(?m); what the file said before stays in force$")


# The server's process


@contextlib.contextmanager
def system_log():
    """A place for /dev in which the lab's is the only system's log; `run` sees it."""
    place = SCRATCH / "dev"
    place.mkdir(mode=0o755, exist_ok=True)
    for name, minor in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)):
        if not (place / name).exists():
            os.mknod(place / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
            (place / name).chmod(0o666)
    with contextlib.suppress(FileNotFoundError):
        (place / "log").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(place / "log"))
        (place / "log").chmod(0o666)
        log.settimeout(10)
        yield log, ["unshare", "-m", "sh", "-c",
                    f'mount --bind {place} /dev && exec "$@"', "sh"]


@pytest.mark.other_users
@pytest.mark.parametrize("order", ("first", "then"))
def test_daemon_without_stderr(stand, order):
    """What is said after it went to the background is for the system's log."""
    with system_log() as (log, within):
        run = Run(stand, "::", user="root", wrap=within, arguments=[order], hops=1, log="info",
                  command=[PYTHON, script("awkward_server.py"), "background", "::"])
        expected = (f"{PEER[6]}: punches with hop limit 1 die at the first router, "
                    f"{FIRST_ROUTER[6]}, and open no firewall but one on this host: 2 is the least "
                    "that crosses it")
        said = ""
        while not said.endswith(expected):
            said = log.recv(1000).decode()
        assert re.fullmatch(rf"<28>synergy\[\d+\]: {re.escape(expected)}", said), said
        assert not any("warning" in line for line in run.lines())


@FAMILIES
@pytest.mark.parametrize("free", (0, 1))
def test_server_without_descriptors(stand, family, free):
    run = Run(stand, SERVER[family], family, arguments=[free],
              command=[PYTHON, script("awkward_server.py"), "starved", SERVER[family]])
    run.program.wait_for("starved")
    with contextlib.suppress(TimeoutError):
        clients.tcp_client(stand, family, run.source_port, run.port, 1.5).close()
    run.says(f"warning: {run.listener}: a peer's connection waits: the server has no descriptor left "
             "for it. Raise its limit of open files (RLIMIT_NOFILE; LimitNOFILE= in a systemd unit)")


@pytest.mark.other_users
@pytest.mark.parametrize("without_proc", (False, True), ids=("anothers", "without-proc"))
def test_stderr_that_cannot_be_opened_anew(stand, without_proc):
    """Another user's pipe, as after su, and whatever there is where nothing is mounted on /proc."""
    nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    before = "umount -l /proc;" if without_proc else ""
    run = Run(stand, "::", user="root", hops=1, wrap=[
        "unshare", "-m", "sh", "-c", f'{before} {nobody} "$@" 2>&1 | cat >&2', "sh"])
    run.says(f"warning: {PEER[6]}: punches with hop limit 1 die at the first router, {FIRST_ROUTER[6]}, "
             "and open no firewall but one on this host: 2 is the least that crosses it")


@pytest.mark.other_users
@pytest.mark.parametrize("stderr", ("2>&-", "2>>full"), ids=("closed", "full"))
def test_stderr_that_takes_nothing(stand, stderr):
    """No descriptor at all, or a file for which there is no room (ulimit -f): the system's log."""
    full = SCRATCH / "full-stderr"
    full.write_bytes(bytes(2 << 20))
    with system_log() as (log, within):
        redirected = stderr.replace("full", str(full))
        run = Run(stand, "::", user="root", hops=1, command=[PYTHON, script("tcp_server.py"), "::"],
                  arguments=["echo"], wrap=[*within, "sh", "-c",
                                            f'ulimit -f 1000; exec "$@" {redirected}', "sh"])
        expected = f"{PEER[6]}: punches with hop limit 1 die at the first router"
        said = ""
        while expected not in said:
            said = log.recv(1000).decode()
        assert run.program.is_running()


def test_no_file_may_be_written(stand):
    """By ulimit -f 0. (The server's own standard error is a pipe.)"""
    run = Run(stand, "::", wrap=["sh", "-c", 'sh -c \'ulimit -f 0; exec "$@"\' sh "$@" 2>&1 | cat >&2',
                                 "sh"])
    run.program.wait_for("RLIMIT_FSIZE")
    run.says("error: nothing is punched: no page can be shared, by the limit on the size of files "
             "(RLIMIT_FSIZE, LimitFSIZE=): File too large")


def lone_library():
    place = SCRATCH / "alone"
    place.mkdir(mode=0o755, exist_ok=True)
    shutil.copy(STAGE / "preload/libsynergy.so", place)
    return {"LD_PRELOAD": place / "libsynergy.so"}


@pytest.mark.parametrize("log", ("off", "off\r", " off "))
def test_no_keeper_and_no_word(stand, log):
    """What the library says by itself is off where the keeper's lines would be."""
    run = Run(stand, "::", environment=lone_library(), log=log)
    run.listens()
    assert run.program.stderr() == ""


def test_no_keeper(stand):
    """A library that was copied somewhere alone."""
    run = Run(stand, "::", environment=lone_library())
    run.says("error: nothing is punched: synergy-keeper can't be started (not beside libsynergy.so): No "
             "such file or directory")


def test_no_process_is_left(stand):
    run = Run(stand, "::", wrap=["prlimit", "--nproc=1:1"])
    run.says("error: nothing is punched: synergy-keeper can't be started (RLIMIT_NPROC, TasksMax=): "
             "Resource temporarily unavailable")


def test_no_unix_sockets(stand):
    server = servers.own_tcp("::")
    run = Run(stand, "::", command=[
        PYTHON, script("awkward_server.py"), "without-unix", *server.command(1)[:-2]],
        arguments=["echo"])
    run.says("error: nothing is punched: Unix sockets are forbidden here (AF_UNIX is missing from "
             "RestrictAddressFamilies= of a systemd unit?)")


@pytest.mark.parametrize("right, line", (
    ("bind", "error: {0.listener}: nothing is punched: the server's sandbox lets nothing have the ports "
             "that bells come from, 61700 to 63747 (SocketBindAllow= of a systemd unit, Landlock)"),
    ("connect", "warning: {0.way}: can't punch: the server's sandbox lets nothing connect by tcp "
                "(Landlock, or another security module)")), ids=("bind", "connect"))
def test_sandbox_of_ports(stand, right, line):
    """It is neither the routing table nor a firewall."""
    create_ruleset, version, of_ports = 444, 1, 4
    if ctypes.CDLL(None).syscall(create_ruleset, None, ctypes.c_size_t(0), version) < of_ports:
        pytest.skip("this kernel's Landlock knows nothing of ports")
    run = Run(stand, "::", wrap=[PYTHON, script("awkward_server.py"), "confined", right])
    run.says(line.format(run))


# The loopback interface


def in_words_of(family, how):
    return [{"prohibited": {6: "icmp6-adm-prohibited", 4: "icmp-admin-prohibited"}[family]}.get(
        word, word) for word in how]


@FAMILIES
@pytest.mark.parametrize("how", (
    ("DROP",), ("REJECT",), ("REJECT", "--reject-with", "tcp-reset"),
    ("REJECT", "--reject-with", "prohibited")), ids=lambda how: how[-1])
def test_loopback_that_is_shut_for_a_moment(stand, family, how):
    """As while a firewall is loaded anew: nothing is lost, and nothing said."""
    run = Run(stand, ANY[family], family)
    run.listens()
    with rule(stand, "A", family, "INPUT", "-i", "lo", "-p", "tcp", "--dport", run.port, "-j",
              *in_words_of(family, how)):
        client = clients.tcp_client(stand, family, run.source_port, run.port, 3)
        time.sleep(0.2)
    with client:
        client.send("hello\n")
        client.receive_until("hello\n")
    assert run.lines() == []


@FAMILIES
@pytest.mark.parametrize("how", (
    ("DROP",), ("REJECT",), ("REJECT", "--reject-with", "prohibited")), ids=lambda how: how[-1])
def test_loopback_that_is_shut(stand, family, how):
    with rule(stand, "A", family, "INPUT", "-i", "lo", "-j", *in_words_of(family, how)):
        run = Run(stand, ANY[family], family)
        run.listens()
        with contextlib.suppress(OSError):
            clients.tcp_client(stand, family, run.source_port, run.port, 3).close()
        run.says(f"error: {run.listener}: nothing is punched any more: no connection from this host "
                 "reaches it: does a firewall forbid the loopback interface?")


@FAMILIES
@pytest.mark.parametrize("how", (
    ("-i", "lo", "-j", "DROP"), ("-i", "lo", "-j", "REJECT"), ("-p", "tcp", "--syn", "-j", "DROP"),
    ("-i", "lo", "-p", "tcp", "--syn", "-j", "REJECT", "--reject-with", "tcp-reset")),
    ids=("dropped", "refused", "host", "reset"))
def test_input_is_felt_before_anybody_calls(stand, family, how):
    """By what lets no bell in; the server is shown nothing."""
    with rule(stand, "A", family, "INPUT", *how):
        run = Run(stand, ANY[family], family)
        run.says(f"error: {run.listener}: nothing is punched any more: no connection from this host "
                 "reaches it: does a firewall forbid the loopback interface?", timeout=5)
        assert "accepted" not in run.program.stdout() + run.program.stderr()


@FAMILIES
def test_port_that_is_shut_for_sctp_on_the_loopback(stand, family):
    """Felt by the first bell alone; the peer is refused, and the next ones are not let in."""
    sctp.skip_if_missing()
    run = Run(stand, ANY[family], family, "sctp")
    run.listens()
    with rule(stand, "A", family, "INPUT", "-i", "lo", "-p", "sctp", "--dport", run.port, "-j", "DROP"):
        with pytest.raises((OSError, EOFError, AssertionError)):
            run.server.talk(stand, run.server, run.program, run.source_port, run.port, 10)
        run.says(f"error: {run.listener}: nothing is punched any more: no connection from this host "
                 "reaches it: does a firewall forbid the loopback interface?")


# What is right


@FAMILIES
@pytest.mark.parametrize("hops", (2, "auto"))
def test_nothing_is_said_where_nothing_is_wrong(stand, family, hops):
    run = Run(stand, ANY[family], family, hops=hops, log="info")
    run.program.wait_for(f"opens, hop limit \\d.*, from {SERVER[family]}")
    if hops == 2:
        run.program.wait_for(f"{PEER[family]}: punches with hop limit 2 die at "
                             f"{stand.path.addresses('r1')[0][1][family]}")
    run.server.talk(stand, run.server, run.program, run.source_port, run.port, 10)
    assert [line for line in run.lines() if " info: " not in line] == []


# `synergy check`


@pytest.fixture(name="schema", scope="session")
def described():
    source = pathlib.Path(__file__).parents[2] / "src/tools/check.schema.json"
    return json.loads(source.read_text(encoding="ascii"))


@pytest.fixture(name="check")
def checked(schema):
    def check(stand, *arguments, user="nobody", wrap=(), is_document_wanted=False,
              environment=None, **settings):
        """What is wrong, and what is not; the document for programs has the same."""
        as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] \
            if user != "root" and has_other_users() else []
        variables = {f"SYNERGY_{name.upper()}": str(value) for name, value in settings.items()}

        def run(*options):
            with namespace.inside(stand.path.namespace("A")):
                return subprocess.run(
                    [*as_user, *wrap, STAGE / "src/synergy", "check", *options, *arguments],
                    capture_output=True, text=True, timeout=30, check=False,
                    env={**ENVIRONMENT, **variables, **(environment or {})})
        result = run()
        print(result.stdout, result.stderr)
        lines = result.stdout.splitlines()
        found = [line.removeprefix("wrong: ") for line in lines if line.startswith("wrong: ")]
        assert [line for line in lines if not line.startswith(("wrong: ", "ok: "))] == []
        assert result.returncode == (1 if found else 0)
        right = [line.removeprefix("ok: ") for line in lines if line.startswith("ok: ")]
        if is_document_wanted:
            result = run("--json")
            document = json.loads(result.stdout)
            jsonschema.validate(document, schema)
            assert document["ok"] == (not found) == (result.returncode == 0)
            assert document["findings"] == [
                {"wrong": line.startswith("wrong: "), "text": line.partition(": ")[2]}
                for line in lines]
        return found, right
    return check


def peer_text(family):
    return shown(PEER[family], 5555)


@FAMILIES
@pytest.mark.parametrize("hops", (2, "auto"))
def test_check_finds_nothing(stand, check, family, hops):
    wrong, right = check(stand, "--", "ncat", "-l", "4444", peers=peer_text(family), hops=hops,
                         is_document_wanted=True)
    assert wrong == []
    router = stand.path.addresses("r1" if hops == 2 else "r2")[0][1][family]
    assert right[-1] == (f"{peer_text(family)}: punched from {SERVER[family]}, hop limit "
                         f"{2 if hops == 2 else 3}, dies at {router}")
    assert any(re.fullmatch(r"\S+/ncat can be preloaded", line) for line in right)


@FAMILIES
def test_check_hop_limits(stand, check, family):
    peers = peer_text(family)
    assert check(stand, peers=peers, hops=1, is_document_wanted=True)[0] == [
        f"{peers}: punches with hop limit 1 die at the first router, {FIRST_ROUTER[family]}, and "
        "open no firewall but one on this host: 2 is the least that crosses it"]
    firewall.set_profile(stand.path, "prohibited")
    assert check(stand, peers=peers, hops=5)[0] == [
        f"{peers}: punches with hop limit 5 go too far: {FWB[family]} prohibits them (hop 4). Set "
        "3, or let it be automatic"]


@FAMILIES
def test_check_own_second_firewall(stand_with_two_firewalls, check, family):
    stand, peers = stand_with_two_firewalls, peer_text(family)
    router = stand.path.addresses("fwa")[0][1][family]
    assert check(stand, peers=peers, hops=2)[0] == [
        f"{peers}: punches with hop limit 2 die at {router}, nearer than the middle of the way: a "
        "firewall of this side that stands there, or beyond, is not opened. 3 is half of the 6 hops "
        "to the peer, at the least: beyond hop 5 nothing answers"]
    assert check(stand, peers=peers, hops=3)[0] == []


@FAMILIES
@pytest.mark.parametrize("words, cause", (
    ((), "Network is unreachable: this host has no route to it"),
    (("unreachable",), "this host's routing table has it as unreachable"),
    (("prohibit",), "this host's routing table prohibits it"),
    (("blackhole",), "this host's routing table drops it (a blackhole route)"),
), ids=("none", "unreachable", "prohibit", "blackhole"))
def test_check_routes(stand, check, words, cause, family):
    with route(stand, family, *words, *([FAR[family]] if words else [])):
        assert check(stand, peer_text(family))[0] == [
            f"{peer_text(family)}: can't punch: {cause} (ip -{family} route get {PEER[family]})"]


@FAMILIES
def test_check_router_that_does_not_answer(stand, check, family):
    gateway = {6: "2001:db8:a::77", 4: "198.51.100.77"}[family]
    with route(stand, family, FAR[family], "via", gateway):
        assert check(stand, peer_text(family), hops=2)[0] == [
            f"{peer_text(family)}: can't punch: the router {gateway} does not answer this host "
            "(ip neigh)"]


@FAMILIES
def test_check_own_addresses(stand, check, family):
    own = shown(SERVER[family], 5555)
    end = ("that address is this host's own, and no peer's. Peers are at the other side; from here "
           "the port can be reached as it is")
    assert check(stand, own)[0] == [f"{own}: {end}"]
    loopback = shown({6: "::1", 4: "127.0.0.1"}[family], 5555)
    assert check(stand, loopback)[0] == [f"{loopback}: {end}"]
    local = {6: "2001:db8:a::99", 4: "198.51.100.99"}[family]
    assert check(stand, peer_text(family), local=local)[0] == [
        f"{peer_text(family)}: can't punch: SYNERGY_LOCAL is {local}, which is no address of this "
        "host"]


@FAMILIES
@pytest.mark.parametrize("target, reason", (
    ("DROP", "it is dropped"), ("REJECT", "Connection refused")))
def test_check_loopback(stand, check, family, target, reason):
    words = ["--reject-with", "tcp-reset"] if target == "REJECT" else []
    address = {6: "::1", 4: "127.0.0.1"}[family]
    with rule(stand, "A", family, "INPUT", "-i", "lo", "-p", "tcp", "--syn", "-j", target, *words):
        assert check(stand, peer_text(family), hops=2)[0] == [
            f"no connection from this host to {address} comes through ({reason}), so none can be "
            "handed to the server: let a firewall on this host accept what the loopback interface "
            "(lo) brings"]


@pytest.mark.parametrize("how, mend", (
    ("deleted", "ip address add ::1/128 dev lo"), ("disabled", "sysctl net.ipv6.conf.lo.disable_ipv6=0")))
def test_loopback_without_its_address(stand, check, how, mend):
    """A server that speaks IPv6 alone; and the command that the line names mends it."""
    line = ("the loopback interface has no ::1, by which connections are handed to a server that speaks "
            f"IPv6 alone: {mend}")
    if how == "deleted":
        run_in(stand, "A", "ip", "address", "del", "::1/128", "dev", "lo")
    else:
        namespace.sysctl(stand.path.namespace("A"), {"net/ipv6/conf/lo/disable_ipv6": 1})
    try:
        assert check(stand, peer_text(6), hops=2)[0] == [line]
        assert check(stand, peer_text(4), hops=2)[0] == []
        run = Run(stand, command=("ncat", "-6", "-k", "-e", "/bin/cat", "-l"))
        line = f"{run.listener}: nothing is punched: {line}"
        run.says(f"error: {line}")
    finally:
        run_in(stand, "A", *mend.split())
    wait_until(lambda: states_of(stand, run.program) == ["open"], 10, "the hole")
    run.says(f"error: {line}", f"info: that is over: {line}")
    with clients.prepared_client(stand, 6, run.source_port) as caller:
        caller.settimeout(10)
        caller.connect((SERVER[6], run.port))
        caller.sendall(b"hello\n")
        assert caller.recv(100) == b"hello\n"
    assert check(stand, peer_text(6), hops=2)[0] == []


def test_check_loopback_that_is_down(stand, check):
    run_in(stand, "A", "ip", "link", "set", "lo", "down")
    try:
        assert check(stand, peer_text(6), hops=2)[0] == [
            "the loopback interface is down, by which connections are handed to the server: ip link "
            "set lo up"]
    finally:
        run_in(stand, "A", "ip", "link", "set", "lo", "up")


@FAMILIES
def test_check_input_of_a_port(stand, check, family):
    """A host's firewall that drops what is for the server's port, from wherever it comes."""
    port = fresh_port()
    at = shown({6: "::1", 4: "127.0.0.1"}[family], port)
    with rule(stand, "A", family, "INPUT", "-p", "tcp", "--dport", port, "-j", "DROP"):
        # (A range too wide to be tried takes nothing from the ports that are named.)
        for ports in f"{port}-{port + 3}", f"1024-1100,{port}":
            assert check(stand, peer_text(family), hops=2, ports=ports)[0] == [
                f"no connection from this host to {at} comes through (it is dropped), so none can "
                "be handed to the server: let a firewall on this host accept what the loopback "
                "interface (lo) brings"]
        assert check(stand, peer_text(family), hops=2, ports=port + 1)[0] == []


@FAMILIES
@pytest.mark.parametrize("words, cause", (
    (["DROP"], "no SYN leaves this host: a firewall on it lets none out (OUTPUT)"),
    (["REJECT", "--reject-with", "tcp-reset"], "a firewall on this host refuses the SYN (OUTPUT)")))
def test_check_output(stand, check, family, words, cause):
    with rule(stand, "A", family, "OUTPUT", "-o", "to-fwa", "-p", "tcp", "--syn", "-j", *words):
        assert check(stand, peer_text(family), hops=2)[0] == [f"{peer_text(family)}: can't punch: {cause}"]


def test_check_files_that_are_passed_over(stand, check):
    home = SCRATCH / "home-of-files"
    place = home / ".config/synergy"
    (place / "peers.d").mkdir(parents=True)
    (place / "peers.d/laptop").write_text("peers = []\n", encoding="ascii")

    def said():
        (line,) = check(stand, environment={"HOME": home})[0]
        return line
    none_set = f"no peers are set, in SYNERGY_PEERS or in {place}/synergy.toml, "
    passed_over = (f". {place}/peers.d counts only beside {place}/synergy.toml: make that, if only "
                   "empty")
    assert said().startswith(none_set) and said().endswith(passed_over)
    (place / "synergy.toml").symlink_to("/nowhere")
    assert said().endswith(f". {place}/synergy.toml is a link to what is not there")


@pytest.mark.other_users
def test_check_settings(stand, check):
    peers = peer_text(6)
    assert check(stand, peers=peers, hops=2, hop=3)[0] == [
        "environment: 'SYNERGY_HOP': expected SYNERGY_HOPS"]
    assert check(stand, peers=f"[{PEER[6]}]:0", hops=2)[0] == [
        f"SYNERGY_PEERS: '[{PEER[6]}]:0': expected a port from 1 to 65535, or a range as 5000-5010"]
    assert check(stand, peers=f"{peers} [{PEER[6]}]:5557-5560", hops=2)[1][-1].startswith(
        f"[{PEER[6]}]:5555,5557-5560: punched from {SERVER[6]}, ")
    assert check(stand, peers=peers, hops=2, log_file="/nowhere/log")[0] == [
        "the log file /nowhere/log can't be written: No such file or directory"]
    config = written("of-others.toml", f'peers = ["{peers}"]\nhops = 2\n', 0o666)
    assert check(stand, config=config)[0] == [
        f"{config} can be written by others than its owner, who can let peers in: chmod go-w"]
    config.chmod(0o644)
    assert check(stand, config=config)[0] == []
    assert check(stand, config="/dev/null")[0] == ["no peers are set, in SYNERGY_PEERS or in /dev/null"]
    broken = written("broken.toml", "hops = 300\n")
    wrong, right = check(stand, config=broken)
    assert wrong == [f"{broken}:1:8: '300': expected a hop limit from 1 to 254, or auto"]
    assert not any(str(broken) in line for line in right)
    os.chown(config, 1, 1)
    assert check(stand, config=config)[0] == [
        f"{config} belongs to user 1, who can let peers in: chown it"]
    assert check(stand, "--", "no-such-command", peers=peers, hops=2)[0] == [
        "there is no command no-such-command"]
    run = Run(stand, "::", command=[PYTHON, script("awkward_server.py"), "handed-down", "::"],
              user="root", wrap=["env", "-u", "LD_PRELOAD", f"LATER={STAGE}/preload/libsynergy.so"])
    run.listens()
    assert check(stand, peers=peers, hops=2, ports=run.port)[0] == [
        f"tcp port {run.port}: user 0 made this listener, and no other user (this process is user "
        "65534) can bind beside it"]


def test_check_more_peers_than_there_can_be(stand, check):
    """One line, however many."""
    file = written("too-many.toml", "hops = 2\npeers = [\n" + "".join(
        f'"[{PEER[6]}]:{i + 1}",\n' for i in range(5000)) + "]\n")
    assert check(stand, config=file)[0] == [
        f"{file}:4099:1: '[{PEER[6]}]:4097': expected 4096 addresses and ports at most in all; what "
        "has no room is left out"]


def test_check_ports_of_another_section(stand, check):
    """Of two that have a port, the first counts: what the other has for it is not punched for."""
    file = written("sections.toml", f'hops = 2\n[[listen]]\nport = 4444\npeers = ["{peer_text(6)}"]\n'
                   f'[[listen]]\nport = "4444"\npeers = ["{peer_text(4)}"]\n')
    wrong, right = check(stand, config=file)
    assert wrong == [f"{file}:6:8: '4444': expected ports that no earlier [[listen]] section has: of two "
                     "that fit, the first counts"]
    assert [line.partition(": ")[0] for line in right if ": punched" in line] == [peer_text(6)]


def test_check_sandbox(stand, check):
    wrong, _ = check(stand, peers=peer_text(6), hops=2,
                     wrap=[PYTHON, script("awkward_server.py"), "without-unix"])
    assert wrong == ["Unix sockets are forbidden here (AF_UNIX is missing from "
                     "RestrictAddressFamilies= of a systemd unit?)"]


@pytest.mark.other_users
def test_check_few_descriptors(stand):
    """Before anything is said that is not so for want of them."""
    for command in "check", "probe", "status", "test":
        with namespace.inside(stand.path.namespace("A")):
            done = subprocess.run(
                ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "prlimit",
                 "--nofile=8:8", STAGE / "src/synergy", command,
                 *([] if command == "status" else [peer_text(6)])],
                capture_output=True, text=True, timeout=30, check=False, env=ENVIRONMENT)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == ("synergy: the limit of open files is 8, and 24 are the fewest that will "
                               "do (ulimit -n)\n")


@pytest.mark.other_users
@pytest.mark.needs("sudo")
def test_check_behind_sudo(stand, check):
    """sudo itself has rights of its own and hands no library on; what counts is what it starts that has."""
    sudo = ["--", "sudo", "-n"]
    wrong, _ = check(stand, *sudo, "cat", peers=peer_text(6), hops=2)
    assert wrong == ["sudo gives what it starts another environment, without LD_PRELOAD: put `synergy "
                     "run` behind it, as in `sudo ... synergy run --peer P -- COMMAND`"]
    behind = [*sudo, STAGE / "src/synergy", "run", "--peer", peer_text(6)]
    wrong, right = check(stand, *behind, "--", "cat", peers=peer_text(6), hops=2)
    assert wrong == [] and f"{shutil.which('cat')} can be preloaded" in right
    wrong, _ = check(stand, *behind, "--", "no-such-command", peers=peer_text(6), hops=2)
    assert wrong == ["there is no command no-such-command"]


@pytest.mark.other_users
def test_check_program_with_rights_of_its_own(stand, check):
    """File capabilities (capabilities(7)): the dynamic linker is told by AT_SECURE, and for whom it is
    not, the library is there."""
    program = SCRATCH / "cat-with-rights"
    shutil.copy(shutil.which("cat"), program)
    program.chmod(0o755)
    net_bind_service, effective, revision_2 = 1 << 10, 1, 0x02000000
    preloaded = {**ENVIRONMENT, "LD_PRELOAD": STAGE / "preload/libsynergy.so"}

    def maps(user):
        with namespace.inside(stand.path.namespace("A")):
            return subprocess.run(
                ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", program,
                 "/proc/self/maps"], capture_output=True, text=True, check=True, timeout=10,
                env=preloaded).stdout
    plain = check(stand, "--", program, peers=peer_text(6), hops=2)
    assert plain[0] == [] and "libsynergy.so" in maps(65534)
    os.setxattr(program, "security.capability",
                struct.pack("<IIIII", revision_2 | effective, net_bind_service, 0, 0, 0))
    assert "libsynergy.so" not in maps(65534)
    assert check(stand, "--", program, peers=peer_text(6), hops=2)[0] == [
        f"{program} is given capabilities by its file: the dynamic linker ignores LD_PRELOAD for it"]


def test_check_names(stand, check):
    names = Names()
    try:
        names.set(laptop=[PEER[6]])
        wrong, right = check(stand, "laptop.example.net:5555", hops=2)
        assert wrong == [] and right[-1].startswith(f"laptop.example.net ({peer_text(6)}): punched")
        # As the keeper has it, which punches for none of these.
        names.set(blocked=["127.0.0.1"])
        wrong, _ = check(stand, "blocked.example.net:5555", hops=2)
        assert wrong == ["blocked.example.net resolves to 127.0.0.1, which is no peer's address (does "
                         "a line of /etc/hosts say so, or a name server that blocks it?)"]
        wrong, _ = check(stand, "nobody.example.net:5555", hops=2)
        assert len(wrong) == 1 and wrong[0].startswith("nobody.example.net does not resolve: ")
    finally:
        names.restore()


# What ends again


NO_CARRIER = ("to-fwa, which leads there, has no carrier: a cable, or what is at its other end (ip "
              "link)")


@contextlib.contextmanager
def outage(stand, family, how):
    if how == "carrier":
        run_in(stand, "fwa", "ip", "link", "set", "to-A", "down")
        try:
            yield
        finally:
            stand.path.configure("fwa")
    elif how == "interface":
        run_in(stand, "A", "ip", "link", "set", "to-fwa", "down")
        try:
            yield
        finally:
            stand.path.configure("A")
    else:
        with rule(stand, "A", family, "OUTPUT", "-o", "to-fwa", "-p", "tcp", "--syn", "-j", "DROP"):
            yield


@FAMILIES
@pytest.mark.parametrize("how, cause", (
    ("interface", "Network is unreachable: this host has no route to it (ip -{family} route get "
     "{peer})"),
    ("firewall", "no SYN leaves this host: a firewall on it lets none out (OUTPUT)"),
), ids=("interface", "firewall"))
def test_outage(stand, family, how, cause):
    """It is named, and not taken for a bad clock; a peer gets in when it is over."""
    run = Run(stand, ANY[family], family, log="info", refresh=1)
    run.program.wait_for("opens, hop limit 2")
    with outage(stand, family, how):
        line = f"{run.way}: can't punch: {cause.format(family=family, peer=PEER[family])}"
        run.program.wait_for(f"(?m)^synergy: warning: {re.escape(line)}$")
        time.sleep(2)  # for as long as the kernel tries in vain
    run.server.talk(stand, run.server, run.program, run.source_port, run.port, 15)
    assert [said for said in run.lines() if " info: " not in said] == [f"synergy: warning: {line}"]
    assert "timers" not in run.program.stderr()
    run.program.wait_for(f"(?m)^synergy: info: that is over: {re.escape(line)}$")


@FAMILIES
def test_no_carrier(stand, family):
    run = Run(stand, ANY[family], family, log="info", refresh=1)
    run.program.wait_for("opens, hop limit 2")
    line = f"{run.way}: can't punch: {NO_CARRIER}"
    with outage(stand, family, "carrier"):
        run.program.wait_for(f"(?m)^synergy: warning: {re.escape(line)}$")
    run.program.wait_for(f"(?m)^synergy: info: that is over: {re.escape(line)}$", 15)
    assert [said for said in run.lines() if " info: " not in said] == [f"synergy: warning: {line}"]


@FAMILIES
def test_no_carrier_for_datagrams(stand, check, family):
    """Nobody is told by the kernel: to it they have left."""
    run = Run(stand, ANY[family], family, "udp", refresh=1)
    with outage(stand, family, "carrier"):
        run.says(f"warning: {run.way}: can't punch: {NO_CARRIER}")
        for hops in (2, "auto"):
            assert check(stand, peer_text(family), hops=hops)[0] == [
                f"{peer_text(family)}: can't punch: {NO_CARRIER}"]
    run.server.talk(stand, run.server, run.program, run.source_port, run.port, 15)


@FAMILIES
def test_what_is_over_is_said_where_the_cause_was(stand, family):
    """At the default level, once, and not before the next punch has left, too; and as well what is no
    matter of punches: a name that is unknown at first."""
    names = Names()
    try:
        with rule(stand, "A", family, "OUTPUT", "-o", "to-fwa", "-p", "tcp", "--syn", "-j", "DROP"):
            run = Run(stand, ANY[family], family, refresh=1)
            run.program.wait_for("lets none out")
            named = Run(stand, "::", peers="later.example.net:5555", refresh=1)
            named.program.wait_for("does not resolve")
            names.set(later=[PEER[6]])
        for each in run, named:
            each.program.wait_for("that is over")
            cause, over = each.lines()
            assert over == cause.replace("warning: ", "info: that is over: ")
    finally:
        names.restore()


@pytest.mark.parametrize("transport", ("tcp", "sctp"))
@FAMILIES
@pytest.mark.parametrize("how, line", (
    ("down", "nothing is punched: the loopback interface is down"),
    ("shut", "nothing is punched any more: no connection from this host reaches it: does a firewall "
     "forbid the loopback interface?")), ids=("down", "shut"))
def test_loopback_that_passes_later(stand, family, how, line, transport):
    """Found at listen(), by bells or before any rings, and looked at again."""
    if transport == "sctp":
        sctp.skip_if_missing()
    with contextlib.ExitStack() as shut:
        if how == "down":
            run_in(stand, "A", "ip", "link", "set", "lo", "down")
            shut.callback(run_in, stand, "A", "ip", "link", "set", "lo", "up")
        else:
            shut.enter_context(rule(stand, "A", family, "INPUT", "-i", "lo", "-p", transport, "-j", "DROP"))
        run = Run(stand, ANY[family], family, transport)
        run.program.wait_for(re.escape(line))
    line = f"{run.listener}: {line}"
    run.program.wait_for(f"(?m)^synergy: info: that is over: {re.escape(line)}$")
    wait_until(lambda: hole_of(stand, run.program)["state"] == "open", 10, "the hole")
    run.server.talk(stand, run.server, run.program, run.source_port, run.port, 10)
    run.says(f"error: {line}", f"info: that is over: {line}")


@contextlib.contextmanager
def refusal_here(stand, family, how, transport="tcp"):
    """By this host itself, of what is sent to the peer."""
    if how in ("prohibit", "unreachable"):
        run_in(stand, "A", "ip", f"-{family}", "route", "add", how, PEER[family])
        try:
            yield
        finally:
            run_in(stand, "A", "ip", f"-{family}", "route", "del", how, PEER[family])
    else:
        syn = ["--syn"] if transport == "tcp" else []
        with rule(stand, "A", family, "OUTPUT", "-o", "to-fwa", "-p", transport, *syn, "-j", "REJECT",
                  "--reject-with", how.format(icmp="icmp6" if family == 6 else "icmp")):
            yield


@FAMILIES
@pytest.mark.parametrize("transport, how", (
    *(("tcp", how) for how in ("{icmp}-port-unreachable", "{icmp}-ADM-prohibited", "{icmp}-HOST-unreachable",
                               "tcp-reset", "prohibit", "unreachable")),
    ("udp", "{icmp}-ADM-prohibited"), ("udp", "prohibit"), ("sctp", "{icmp}-port-unreachable"), ("sctp", "prohibit")))
def test_refusal_of_this_host(stand, transport, how, family):
    """It is this host's, whenever it comes: nothing is said or learned of a hop limit that is too high,
    and a peer gets in when it is over."""
    if transport == "sctp":
        sctp.skip_if_missing()
    how = how.replace("ADM", "adm" if family == 6 else "admin")
    how = how.replace("HOST", "addr" if family == 6 else "host")

    def start(hops):
        return Run(stand, ANY[family], family, transport, log="info", refresh=1, hops=hops)
    # (The second kernel is slow, and finds hop limits in the same way.)
    limits = (2,) if transport == "sctp" else (2, "auto")
    runs = [start(hops) for hops in limits]
    for run in runs:
        run.program.wait_for("opens, hop limit", 10 * slowness())
    time.sleep(0.3)
    with refusal_here(stand, family, how, transport):
        runs += [start(hops) for hops in limits]
        for run in runs:
            run.program.wait_for("can't punch: .*(OUTPUT|ip -. route get)", 10 * slowness())
        time.sleep(1)
    time.sleep(2)  # the next punch has left
    for run in runs:
        run.server.talk(stand, run.server, run.program, run.source_port, run.port, 15)
        assert "too far" not in run.program.stderr()
        assert len([said for said in run.lines() if " info: " not in said]) == 1


# Refusals that come late


class LateRefusals(threading.Thread):
    """The peer's firewall, which drops what comes unasked, says so a quarter of a second later: by
    an ICMP error of its own, or by a reset in the peer's name (to a datagram: port unreachable)."""

    DELAY = 0.25

    def __init__(self, path, family, how):
        super().__init__(daemon=True)
        self.family, self.how, self.is_over = family, how, False
        link = path.left_of("fwb")
        with namespace.inside(path.namespace("fwb")):
            self.ears = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM,
                                      socket.htons(ETHERTYPE[family]))
            self.ears.bind((f"to-{link}", ETHERTYPE[family]))
            self.voice = sender(family)
        self.ears.settimeout(0.05)
        self.back = (f"to-{link}", ETHERTYPE[family])

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.is_over = True
        self.join()
        self.ears.close()
        self.voice.close()

    def run(self):
        due = []
        while not self.is_over:
            with contextlib.suppress(TimeoutError):
                data, address = self.ears.recvfrom(65536)
                packet = Packet(self.family, data)
                protocol = packet.protocol
                asks = protocol == socket.IPPROTO_UDP or (
                    protocol == socket.IPPROTO_TCP and data[packet.header + 13] & 0x12 == 2)
                if address[2] == 0 and asks and data[HOP_LIMIT_OFFSET[self.family]] > 1:
                    due.append((time.monotonic() + self.DELAY, packet, address[4]))
            while due and due[0][0] <= time.monotonic():
                self.refuse(*due.pop(0)[1:])

    def refuse(self, packet, link_address):
        if self.how == "reset" and packet.protocol == socket.IPPROTO_TCP:
            self.ears.sendto(self.reset(packet), (*self.back, 0, 0, link_address))
            return
        kinds = {("prohibited", 6): (1, 1), ("reset", 6): (1, 4),
                 ("prohibited", 4): (3, 13), ("reset", 4): (3, 3),
                 ("unroutable", 6): (1, 0), ("unroutable", 4): (3, 0)}
        kind, code = kinds[self.how, self.family]
        quote = packet.data[:LONGEST_QUOTE[self.family]]
        error = struct.pack("!BBHI", kind, code, 0, 0) + quote
        if self.family == 4:
            error = struct.pack("!BBHI", kind, code, internet_checksum(error), 0) + quote
        self.voice.sendto(error, (str(ipaddress.ip_address(packet.source)), 0))

    def reset(self, packet):
        source_port, port, number = struct.unpack_from("!HHI", packet.data, packet.header)
        segment = struct.pack("!HHIIBBHHH", port, source_port, 0, number + 1 & 0xFFFFFFFF, 5 << 4,
                              0x14, 0, 0, 0)
        ends = packet.destination + packet.source
        if self.family == 6:
            pseudo = ends + struct.pack("!II", len(segment), socket.IPPROTO_TCP)
            header = struct.pack("!IHBB", 6 << 28, len(segment), socket.IPPROTO_TCP, 64) + ends
        else:
            pseudo = ends + struct.pack("!HH", socket.IPPROTO_TCP, len(segment))
            header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64,
                                 socket.IPPROTO_TCP, 0) + ends
            header = header[:10] + struct.pack("!H", internet_checksum(header)) + header[12:]
        checksum = internet_checksum(pseudo + segment)
        return header + segment[:16] + struct.pack("!H", checksum) + segment[18:]


@FAMILIES
@pytest.mark.parametrize("how, does", (("reset", "refuses"), ("prohibited", "prohibits")))
def test_too_high_and_told_late(stand, how, does, family):
    with LateRefusals(stand.path, family, how):
        run = Run(stand, ANY[family], family, hops=5)
        run.says(f"warning: {PEER[family]}: punches with hop limit 5 go too far: {FWB[family]} "
                 f"{does} them (hop 4). Set 3, or let it be automatic")


@FAMILIES
def test_router_that_knows_no_way_on(stand, family):
    """It is no failure of this host's, and whoever calls all the same comes in."""
    with LateRefusals(stand.path, family, "unroutable"):
        run = Run(stand, ANY[family], family, hops=5, refresh=1)
        line = (f"warning: {PEER[family]}: punches with hop limit 5 get no further than {FWB[family]}, "
                "which knows no way on (hop 4)")
        run.says(line)
        time.sleep(2.5)  # two renewals
        run.server.talk(stand, run.server, run.program, run.source_port, run.port, 15)
        run.says(line)


@pytest.mark.parametrize("is_late", (False, True), ids=("at-once", "late"))
def test_prohibition_leaves_no_gap(stand, is_late):
    """What a peer's IPv4 firewall prohibits, one punch after the other, keeps nobody from coming: 20 of
    20, each at a moment of its own."""
    firewall.set_profile(stand.path, "strict" if is_late else "prohibited")
    ports = fresh_peer_ports(20)
    with LateRefusals(stand.path, 4, "prohibited") if is_late else contextlib.nullcontext():
        run = Run(stand, "0.0.0.0", 4, hops=5, peers=f"{PEER[4]}:{ports[0]}-{ports[-1]}", refresh=2)
        run.listens()
        times = []
        for port in ports:
            started = time.monotonic()
            with clients.tcp_client(stand, 4, port, run.port, 5) as client:
                client.send("hello\n")
                client.receive_until("hello\n")
            times.append(time.monotonic() - started)
            time.sleep(0.13)
        stand.say("calls: " + ", ".join(f"{t:.2f}" for t in sorted(times)))
        assert max(times) < 1.3


@FAMILIES
def test_guess(paths, family):
    for stand in stand_on(paths.get("mute", silent=("fwa", "r1", "r2", "fwb"))):
        run = Run(stand, ANY[family], family, hops="auto")
        run.says(f"warning: {PEER[family]}: hop limit 3: no router answers: a guess. "
                 "Where nobody gets in, set one that crosses the last firewall of this side")


@FAMILIES
def test_way_in_a_circle(stand, check, family):
    """The router behind this side's firewall sends the packets back, say, and that one on."""
    back = stand.path.addresses("r1")[1][1][family]
    table = ["ip", f"-{family}", "route", "replace", FAR[family], "via"]
    run_in(stand, "r2", *table, back)
    try:
        r1, r2 = (stand.path.addresses(node)[0][1][family] for node in ("r1", "r2"))
        line = ("the way there goes round in a circle, and no packet arrives (traceroute shows it): by "
                f"{r1}, {r2}")
        Run(stand, ANY[family], family, hops="auto").says(f"warning: {PEER[family]}: {line}")
        for hops in (2, "auto"):
            assert check(stand, peer_text(family), hops=hops)[0] == [f"{peer_text(family)}: {line}"]
    finally:
        run_in(stand, "r2", *table, stand.path.addresses("fwb")[0][1][family])


@FAMILIES
def test_check_neighbours(stand, check, family):
    """One that is there is not punched for; one that is not may be a mistake about the network."""
    there, nowhere = (shown(address, 5555) for address in {
        6: ("2001:db8:a::1", "2001:db8:a::77"), 4: ("198.51.100.1", "198.51.100.77")}[family])
    wrong, right = check(stand, there)
    assert wrong == [] and right[-1] == (
        f"{there}: not punched: the peer is on the same link, with no router between")
    assert check(stand, nowhere)[0] == [
        f"{nowhere}: the address is one of this host's own link, where nobody answers for it (ip neigh): "
        "is that host on, and this host's network as small as it has it (ip address)?"]


@pytest.mark.parametrize("limit", (8, 12, 16, 23))
def test_keeper_without_enough_descriptors_for_one(stand, limit):
    """Said once, though each call of the server's could start another keeper; and nobody is let in whose
    connection can't be handed over."""
    run = Run(stand, "::", wrap=["prlimit", f"--nofile={limit}:{limit}"])
    run.listens()
    with contextlib.suppress(TimeoutError):
        clients.tcp_client(stand, 6, run.source_port, run.port, 1.5).close()
        pytest.fail("has come in")
    run.says(f"error: nothing is punched: the limit of open files is {limit}, and 24 are the fewest that "
             "will do (RLIMIT_NOFILE; LimitNOFILE= in a systemd unit)")


def test_keeper_without_descriptors(stand):
    """Fewer than there are peers; said once, and not for each of them."""
    run = Run(stand, "::", wrap=["prlimit", "--nofile=40:40"], peers=f"[{PEER[6]}]:5500-5560")
    run.says(f"warning: {run.way}: can't punch: no descriptor is left: raise the limit of open files "
             "(RLIMIT_NOFILE; LimitNOFILE= in a systemd unit)")


# Nobody comes


def silence(stand):
    """Of IPv6, and of IPv4 with a firewall on this host that keeps the caller out."""
    runs = {family: Run(stand, ANY[family], family, log="info") for family in (6, 4)}
    runs[4].listens()
    with rule(stand, "A", 4, "INPUT", "-i", "to-fwa", "-p", "tcp", "--dport", runs[4].port, "-j", "DROP"):
        with contextlib.suppress(TimeoutError):
            clients.tcp_client(stand, 4, runs[4].source_port, runs[4].port, 1.5).close()
        for run in runs.values():
            run.program.wait_for("nobody has come in", 75)
    return {family: (run.lines()[-1], run) for family, run in runs.items()}


@FAMILIES
@pytest.mark.background("nobody", silence)
def test_silence(background, family):
    line, run = background.result()[family]
    kept_out = {6: "", 4: r" \(one has kept out [1-9] packets meanwhile\)"}[family]
    assert re.fullmatch(re.escape(
        f"synergy: info: {run.listener}: nobody has come in for 60 s. To be compared with the other "
        f"side: the peer calls {shown(SERVER[family], run.port)}, from "
        f"{shown(PEER[family], run.source_port)}; "
        "neither side has a NAT; the hop limit (2) crosses the last firewall here and meets none "
        "there; no firewall on this host drops what comes in; and those on the way take simultaneous "
        "open. `synergy test` at both ends tells which").replace("comes\\ in;", f"comes\\ in{kept_out};"),
        line), line


def sctp_silence(stand):
    """Where a firewall of this host's lets SCTP out, and where it silently does not."""
    if not sctp.is_there():
        return {}
    runs = {"out": Run(stand, "::", 6, "sctp", log="info"),
            "dropped": Run(stand, "0.0.0.0", 4, "sctp", log="info")}
    with rule(stand, "A", 4, "OUTPUT", "-o", "to-fwa", "-p", "sctp", "-j", "DROP"):
        for run in runs.values():
            run.program.wait_for("nobody has come in", 100)
    return {how: run.lines()[-1] for how, run in runs.items()}


@pytest.mark.background("nobody-by-sctp", sctp_silence)
def test_silence_of_sctp(background):
    sctp.skip_if_missing()
    lines = background.result()
    kept_in = (", nor one of this side the SCTP that leaves (192.0.2.6 has said of UDP that it died there, "
               "and of no INIT); and those on the way")
    assert kept_in in lines["dropped"] and "SCTP that leaves" not in lines["out"], lines


@contextlib.contextmanager
def temporary_address(stand):
    """Which the kernel prefers to the address that it has made it for."""
    def preference(value):
        run_in(stand, "A", "sysctl", "-qw", f"net/ipv6/conf/to-fwa/use_tempaddr={value}")

    def listing():
        with namespace.inside(stand.path.namespace("A")):
            return subprocess.run(["ip", "-6", "address", "show", "dev", "to-fwa", "temporary"],
                                  capture_output=True, text=True, check=True).stdout
    preference(2)
    run_in(stand, "A", "ip", "address", "change", f"{SERVER[6]}/64", "dev", "to-fwa", "mngtmpaddr",
           "preferred_lft", 900, "valid_lft", 900)
    try:
        wait_until(lambda: "inet6" in listing() and "tentative" not in listing(), 10, "an address")
        yield
    finally:
        preference(0)
        run_in(stand, "A", "ip", "link", "set", "to-fwa", "down")
        stand.path.configure("A")


def test_temporary_address(stand, check):
    """Punches leave from the public one: the log, `status` and `check` name that."""
    with temporary_address(stand):
        run = Run(stand, "::", log="info")
        run.program.wait_for(f"opens, hop limit 2, from {re.escape(SERVER[6])}")
        assert hole_of(stand, run.program)["source"] == SERVER[6]
        assert check(stand, peer_text(6), hops=2)[1][-1].startswith(
            f"{peer_text(6)}: punched from {SERVER[6]}, ")
        run.server.talk(stand, run.server, run.program, run.source_port, run.port, 10)
        assert [line for line in run.lines() if " info: " not in line] == []


# What was asleep


def keeper_of(stand, program):
    """What `synergy status` says of a server."""
    with namespace.inside(stand.path.namespace("A")):
        result = subprocess.run([STAGE / "src/synergy", "status", "--json"], capture_output=True,
                                text=True, timeout=20, check=True, env=ENVIRONMENT)
    return next(keeper for keeper in json.loads(result.stdout)["keepers"]
                if program.pid in [process["pid"] for process in keeper["processes"]])


def hole_of(stand, program):
    ((hole,),) = [listener["holes"] for listener in keeper_of(stand, program)["sockets"]]
    return hole


def states_of(stand, program):
    return [hole["state"] for listener in keeper_of(stand, program)["sockets"]
            for hole in listener["holes"]]


def sleep_and_wake(stand):
    """The keeper alone, which can tell nothing meanwhile."""
    said = {}
    for family in (6, 4):
        run = Run(stand, SERVER[family], family, log="info")
        run.listens()
        keeper = keeper_of(stand, run.program)["pid"]
        run.program.wait_for("die at")
        os.kill(keeper, signal.SIGSTOP)
        time.sleep(10)
        os.kill(keeper, signal.SIGCONT)
        # (Who calls before has the listener for an answer, with a number that no firewall expects.)
        wait_until(lambda run=run: hole_of(stand, run.program)["last_punch_s"] < 5, 10, "a punch")
        run.server.talk(stand, run.server, run.program, run.source_port, run.port, 20)
        said[family] = run.lines()
    return said


@FAMILIES
@pytest.mark.background("asleep", sleep_and_wake)
def test_keeper_that_was_stopped(background, family):
    """A machine that slept, or a debugger: nothing is wrong, and a peer gets in."""
    lines = background.result()[family]
    assert [line for line in lines if " info: " not in line or "timers" in line] == []
    assert lines[-1].endswith(": connected")
