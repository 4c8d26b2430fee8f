"""Whatever goes wrong has one line at the default log level that names it, and no other: each is
compared word for word. What the lines are to tell apart is made here by real firewalls, routes and
addresses."""

import contextlib
import re
import subprocess

import pytest

import firewall
import namespace
import programs
import servers
from programs import Preload, fresh_peer_ports, fresh_port
from topology import PEER, SERVER

pytestmark = pytest.mark.usefixtures("library")

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

    def __init__(self, stand, address="::", family=6, transport="tcp", user="nobody", **settings):
        self.stand, self.family, self.address = stand, family, address
        self.port, (self.source_port,) = fresh_port(), fresh_peer_ports(1)
        settings.setdefault("peers", shown(PEER[family], self.source_port))
        settings.setdefault("hops", stand.path.hops)
        self.server = (servers.own_udp if transport == "udp" else servers.own_tcp)
        self.server = self.server(address, "recvfrom", family) if transport == "udp" \
            else self.server(address, family)
        self.program = stand.start("A", self.server.command(self.port), user=user,
                                   preload=Preload(**settings))
        self.transport = transport

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
@pytest.mark.parametrize("transport", ("tcp", "udp"))
def test_too_high(stand, profile, does, family, transport):
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


# Routes and addresses


@FAMILIES
@pytest.mark.parametrize("hops", (2, "auto"))
@pytest.mark.parametrize("words, cause", (
    ((), "this host has no route to it"),
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
        run.says(f"warning: {run.way}: this host's own address is {source}, which is private: a NAT "
                 "lies on the way, and the peer's answers are for another address. Only where "
                 "nothing rewrites addresses or ports can anybody come in")
    finally:
        run_in(stand, "A", "ip", "address", "del", f"{source}/{length}", "dev", "to-fwa")


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


# Listeners that get nothing


@FAMILIES
def test_listener_on_loopback(stand, family):
    address = {6: "::1", 4: "127.0.0.1"}[family]
    run = Run(stand, address, family)
    run.says(f"warning: {run.listener}: nothing is punched: it listens on {address}, where nobody "
             "but this host comes: let it listen on :: or on an address of this host")


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
