"""`synergy test` at both ends: what it says is what the firewalls between do."""

import contextlib
import json
import os
import pathlib
import pty
import re
import signal
import socket
import subprocess
import threading
import time

import jsonschema
import pytest

import firewall
import namespace
from conftest import stand_on
from names import Names
from programs import ENVIRONMENT, STAGE, wait_until
from topology import PEER, SERVER

pytestmark = pytest.mark.usefixtures("library")

UNPRIVILEGED = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
ADDRESS = {"A": SERVER, "B": PEER}
SCHEMA = pathlib.Path(__file__).parents[2] / "src/tools/test.schema.json"
COMPLETE = "both sides hear each other: testing, for "


class Side:
    """One end's command, and what it prints."""

    def __init__(self, path, node, peer, *options, idle="2"):
        with namespace.inside(path.namespace(node)):
            self.process = subprocess.Popen(
                [*UNPRIVILEGED, STAGE / "src/synergy", "test", peer, "--json", "--idle", idle,
                 *options], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=ENVIRONMENT)
        self.progress = []
        self.out = ""
        self.readers = [threading.Thread(target=self._hear, daemon=True),
                        threading.Thread(target=self._read, daemon=True)]
        for reader in self.readers:
            reader.start()

    def _hear(self):
        for line in self.process.stderr:
            print(self.process.pid, line.strip())
            self.progress.append(line.strip())

    def _read(self):
        self.out = self.process.stdout.read()

    def says(self, line, timeout=20):
        wait_until(lambda: any(line in each for each in self.progress), timeout,
                   f"{line!r}: {self.progress}")

    def result(self, timeout=40):
        self.process.wait(timeout)
        for reader in self.readers:
            reader.join()
        print(self.out)
        document = json.loads(self.out)
        jsonschema.validate(document, json.loads(SCHEMA.read_text(encoding="ascii")))
        return document

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(name="ends")
def both_ends(stand):
    """Starts a side on A or B; whatever is still running ends with the test."""
    started = []

    def start(node, peer, *options, **more):
        started.append(Side(stand.path, node, peer, *options, **more))
        return started[-1]
    yield start
    for side in started:
        side.stop()


def both(ends, family=6, *options, **more):
    a = ends("A", PEER[family], *options, **more)
    b = ends("B", SERVER[family], *options, **more)
    return a.result(), b.result()


def trial(result, transport, idle=0, both_call=False):
    """(what comes of the peer's call, of this side's)"""
    (found,) = [t for t in result["trials"] if t["transport"] == transport
                and t["idle_s"] == idle and t["both_call"] == both_call]
    return found["peer_calls"], found["this_side_calls"]


@contextlib.contextmanager
def rules(path, node, *lines, family=6, table="filter"):
    """Rules in front of all others."""
    command = {6: "ip6tables", 4: "iptables"}[family]

    def change(how):
        with namespace.inside(path.namespace(node)):
            for line in lines:
                subprocess.run([command, "-t", table, how, *line.split()], check=True)
    change("-I")
    try:
        yield
    finally:
        change("-D")


@contextlib.contextmanager
def forgetful(path, node, seconds):
    """The firewall forgets what nobody has answered."""
    places = [f"net/netfilter/nf_conntrack_{name}"
              for name in ("udp_timeout", "tcp_timeout_syn_sent")]
    with namespace.inside(path.namespace(node)):
        before = {place: pathlib.Path("/proc/sys", place).read_text(encoding="ascii").strip()
                  for place in places}
    namespace.sysctl(path.namespace(node), {place: seconds for place in places})
    try:
        yield
    finally:
        namespace.sysctl(path.namespace(node), before)


@pytest.mark.parametrize("family", (6, 4))
def test_everything_passes(stand, ends, family):
    """Both ends say the same; and without a test at the other end nothing comes through."""
    a, b = both(ends, family)
    for result in (a, b):
        assert result["complete"]
        for transport in ("udp", "tcp"):
            for idle in (0, 2):
                assert trial(result, transport, idle) == ("passes", "passes")
        assert trial(result, "tcp", both_call=True) == ("passes", "passes")
    assert a["source"] == SERVER[family] == b["peer"] == a["seen_as"] == b["peer_seen_as"]
    assert b["source"] == PEER[family] == a["peer"] == b["seen_as"] == a["peer_seen_as"]
    assert stand.path.hops <= a["hop_limit"] < stand.path.hop("B")
    assert a["findings"] == [f"{transport}: {whose} firewall keeps a hole that nobody answers for "
                             "2 s or longer" for whose in ("this side's", "the peer's")
                             for transport in ("UDP", "TCP")]


def test_either_side_first(ends):
    """And the second one late."""
    b = ends("B", SERVER[6])
    b.says("waiting for the peer, which runs: synergy test '[2001:db8:b::5]:61680'")
    time.sleep(3)
    a = ends("A", PEER[6])
    assert a.result()["complete"] and b.result()["complete"]
    assert a.process.returncode == b.process.returncode == 0


def test_other_ports(ends):
    """Each is told what the other was given."""
    a = ends("A", f"[{PEER[6]}]:5000")
    b = ends("B", f"[{SERVER[6]}]:6000")
    a.says("the peer tests with port 6000, and this side with 5000: give both the same")
    b.says("the peer tests with port 5000, and this side with 6000: give both the same")
    a.stop()
    # Who is right waits for who was wrong.
    a = ends("A", f"[{PEER[6]}]:6000")
    assert a.result()["complete"] and b.result()["complete"]


def test_another_address(ends):
    """Nobody is there, or not at that address: what to compare is said."""
    a = ends("A", "2001:db8:b::66")
    ends("B", SERVER[6])
    a.says("nothing has come from 2001:db8:b::66 for 10 s: is the test running there, by the line "
           "above, and does it send from that very address? Does a firewall let no UDP out at the "
           "peer's side (its own first lines tell), or nothing in on this host?")


def test_peer_from_another_address(stand, ends):
    """Where no firewall is in the way, it is seen."""
    firewall.set_profile(stand.path, "open")
    a = ends("A", "2001:db8:b::66")
    ends("B", SERVER[6])
    a.says("a test comes from 2001:db8:b::5, which is not the peer that was given "
           "(2001:db8:b::66): run synergy test '[2001:db8:b::5]:61680'")


def test_nothing_gets_out_at_the_peer(stand, ends):
    with rules(stand.path, "fwb", "FORWARD -i to-B -j DROP"):
        a = ends("A", PEER[6])
        b = ends("B", SERVER[6])
        b.says("from 2001:db8:b::5: only the first router answers (2001:db8:b::1): if that is this "
               "side's firewall, it lets nothing out; punches go 3 hops by guess")
        a.says("routers answer up to hop ")
        a.says("nothing has come from 2001:db8:b::5 for 10 s")


def test_input_of_the_peers_host(stand, ends):
    """Who is heard and does not hear."""
    with rules(stand.path, "B", "INPUT -s 2001:db8:a::11 -j DROP"):
        a = ends("A", PEER[6])
        ends("B", SERVER[6])
        a.says("this side hears the peer, and the peer does not hear this side: a firewall on the "
               "peer's host (INPUT) or before it drops even answers")


@pytest.mark.parametrize("family", (6, 4))
def test_simultaneous_open_is_refused(stand, ends, family):
    """By the server's side: it can serve by UDP alone, and be a client."""
    with rules(stand.path, "fwa", "PREROUTING -i to-r1 -p tcp --syn -j DROP", family=family,
               table="raw"):
        a, b = both(ends, family)
    assert trial(a, "tcp") == ("timed out", "passes") and trial(b, "tcp") == ("passes", "timed out")
    assert trial(a, "udp") == ("passes", "passes")
    line = ("TCP: {} firewall lets UDP in and not TCP: it refuses simultaneous open, which RFC 5382 "
            "REQ-2 asks of it. Serve by UDP there, or let the other side be the server")
    assert line.format("this side's") in a["findings"]
    assert line.format("the peer's") in b["findings"]


@pytest.mark.parametrize("family", (6, 4))
def test_simultaneous_open_is_refused_by_this_host(stand, ends, family):
    """By its own firewall, which no other can be told from but by what this host's kernel counts."""
    with rules(stand.path, "A", "INPUT -i to-fwa -p tcp --syn -j DROP", family=family):
        a, b = both(ends, family)
    assert trial(a, "tcp") == ("timed out", "passes")
    (line,) = [line for line in a["findings"] if "lets UDP in and not TCP" in line]
    assert re.search(r"server\. \(Or it is the one on this host, which has kept out \d+ packets "
                     r"meanwhile: INPUT\)$", line), line
    assert not any("on this host" in line for line in b["findings"])


def test_holes_that_are_forgotten(stand, ends):
    """Between which idle times, and by whose firewall."""
    with forgetful(stand.path, "fwa", 3):
        a, b = both(ends, 6, idle="1,6")
    assert trial(a, "udp", 6) == ("timed out", "passes")
    assert trial(a, "tcp", 6) == ("timed out", "passes")
    for transport in ("UDP", "TCP"):
        line = f"{transport}: {{}} firewall forgets a hole that nobody answers after 1 to 6 s: " \
               "SYNERGY_REFRESH=2 there"
        assert line.format("this side's") in a["findings"]
        assert line.format("the peer's") in b["findings"]


def test_translated_address(stand, ends):
    public = "198.51.100.200"
    with rules(stand.path, "fwa", f"POSTROUTING -o to-r1 -j SNAT --to-source {public}", family=4, table="nat"):
        a = ends("A", PEER[4])
        b = ends("B", public)
        a, b = a.result(), b.result()
    assert f"this side's address is translated (NAT): the peer sees {public} and not " \
           f"{SERVER[4]}; peers must declare {public}, and ports may change on the way" \
           in a["findings"]
    assert f"the peer's address is translated (NAT): this side sees {public} and not {SERVER[4]}" \
           in b["findings"]


def test_udp_is_dropped(stand, ends):
    """No way to meet; what to compare is said at both ends."""
    with rules(stand.path, "fwb", "FORWARD -p udp --sport 61680:61699 -j DROP"):
        a, b = ends("A", PEER[6]), ends("B", SERVER[6])
        for side, peer in ((a, PEER[6]), (b, SERVER[6])):
            side.says(f"nothing has come from {peer} for 10 s")


def test_too_low(stand, ends):
    """A punch that dies before its own firewall opens nothing."""
    a = ends("A", PEER[6], "--hops", "1")
    b = ends("B", SERVER[6])
    a, b = a.result(), b.result()
    assert trial(a, "tcp") == ("timed out", "passes")
    assert "nothing passes this side's firewall: punches die before it (SYNERGY_HOPS=1 higher), " \
           "or it keeps no state of what goes out" in a["findings"]


def holds(stand, node, kind, port):
    """Another program's socket there."""
    holder = namespace.open_socket(stand.path.namespace(node), socket.AF_INET6, kind)
    holder.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        holder.listen()
    return holder


def test_ports_that_are_in_use(stand, ends):
    """At one end: that says so itself, and the other does not take it for a firewall's doing."""
    with holds(stand, "B", socket.SOCK_STREAM, 61681), holds(stand, "B", socket.SOCK_STREAM, 61682):
        a, b = ends("A", PEER[6]), ends("B", SERVER[6])
        results = a.result(), b.result()
    for result in results:
        assert trial(result, "tcp") == ("can't be tried", "can't be tried")
        assert trial(result, "udp") == trial(result, "tcp", 2) == ("passes", "passes")
        assert not any("TCP" in line and "keeps a hole" not in line for line in result["findings"])
    for port in 61681, 61682:
        b.says(f"tcp: tcp port {port} is in use on this host, by a listener of user 0 (ss -tuap)")
    (line,) = [line for line in a.progress if "in use" in line]
    assert re.fullmatch(r"tcp: the peer can't be called: tcp port 6168[12] is in use there", line)


def test_first_port_is_in_use(stand, ends):
    with holds(stand, "A", socket.SOCK_DGRAM, 61680):
        side = ends("A", PEER[6])
        side.says("synergy: udp port 61680 is in use on this host, by a socket of user 0 (ss -tuap): give "
                  "another one at both ends, as [2001:db8:b::5]:5000")
        assert side.process.wait(10) == 2
    with holds(stand, "A", socket.SOCK_DGRAM, 61699):
        side = ends("A", f"[{PEER[6]}]:5000")
        side.says("synergy: udp port 61699 is in use on this host, by a socket of user 0 (ss -tuap)")
        assert side.process.wait(10) == 2


def test_peer_that_goes_away(ends):
    a, b = ends("A", PEER[6], idle="30"), ends("B", SERVER[6], idle="30")
    a.says(COMPLETE)
    b.stop()
    result = a.result()
    assert not result["complete"]
    assert "the peer has gone away: it was not heard for 6 s" in a.progress


def test_no_route(stand, ends):
    with namespace.inside(stand.path.namespace("A")):
        result = subprocess.run([STAGE / "src/synergy", "test", "203.0.113.5", "--from",
                                 "198.51.100.99"], capture_output=True, text=True, check=False,
                                timeout=20, env=ENVIRONMENT)
    assert result.returncode == 2
    assert result.stderr == "synergy: no packet leaves this host for 203.0.113.5: " \
                            "198.51.100.99 is no address of this host\n"


@pytest.mark.parametrize("peer, cause", (
    ("fe80::5", "an address of the link's own needs its interface, as fe80::5%eth0"),
    ("198.51.100.255", "that is the broadcast address of a network of this host's, and no host's"),
    ("192.168.77.1", "Network is unreachable: this host has no route to it (ip -4 route get "
     "192.168.77.1)")))
def test_no_peer_to_send_to(stand, peer, cause):
    with namespace.inside(stand.path.namespace("A")):
        result = subprocess.run([STAGE / "src/synergy", "test", peer], capture_output=True, text=True,
                                check=False, timeout=20, env=ENVIRONMENT)
    assert result.returncode == 2
    assert result.stderr == f"synergy: no packet leaves this host for {peer}: {cause}\n"


def test_names_of_both_families(ends):
    """One end has taken the one, the other the other: the line that each prints for it leads on."""
    names = Names()
    try:
        names.set(home=[SERVER[6], SERVER[4]], laptop=[PEER[6], PEER[4]])
        a = ends("A", "laptop.example.net")
        a.says(f"laptop.example.net stands for {PEER[6]} here, and has {PEER[4]} as well: the other "
               "side must use the same family, by the line below")
        b = ends("B", "home.example.net")
        assert a.result()["complete"] and b.result()["complete"]
    finally:
        names.restore()


def test_interrupted(ends):
    """Who is left says so, and what was not tried is not called a failure."""
    a, b = ends("A", PEER[6], idle="30"), ends("B", SERVER[6], idle="30")
    b.says(COMPLETE)
    time.sleep(2.5)
    a.process.terminate()
    assert a.process.wait(5) == -signal.SIGTERM
    result = b.result()
    assert not result["complete"]
    assert trial(result, "udp") == ("passes", "passes")
    assert trial(result, "udp", 30) == ("pending", "pending") and result["findings"] == []


@pytest.mark.parametrize("family", (6, 4))
def test_no_router_answers(paths, family):
    """By a guess it is tried all the same, from the address that the kernel chooses."""
    for stand in stand_on(paths.get("mute", silent=("fwa", "r1", "r2", "fwb"))):
        a = Side(stand.path, "A", PEER[family])
        b = Side(stand.path, "B", SERVER[family])
        try:
            for side, own in ((a, SERVER[family]), (b, PEER[family])):
                side.says(f"from {own}: no router answers; either none does on this way, or a firewall "
                          "on this side lets nothing out: punches go 3 hops by guess")
            for result in a.result(), b.result():
                assert result["complete"] and trial(result, "tcp") == ("passes", "passes")
        finally:
            a.stop()
            b.stop()


@pytest.mark.parametrize("peer", ("::1", "127.0.0.1", SERVER[6], f"[{SERVER[6]}]:61680"))
def test_of_this_host(stand, peer):
    with namespace.inside(stand.path.namespace("A")):
        result = subprocess.run([STAGE / "src/synergy", "test", peer], capture_output=True, text=True,
                                check=False, timeout=20, env=ENVIRONMENT)
    assert result.returncode == 2
    assert result.stderr == (f"synergy: PEER: '{peer}': expected the other side's address: this one "
                             "is this host's own\n")


def test_on_a_terminal(stand, ends):
    """The table that both can read."""
    b = ends("B", SERVER[6])
    pid, terminal = pty.fork()
    if pid == 0:
        with namespace.inside(stand.path.namespace("A")):
            os.execve(STAGE / "src/synergy", ["synergy", "test", PEER[6], "--idle", "2"],
                      {**ENVIRONMENT, "TERM": "xterm"})
    shown = b""
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 65536):
            shown += data
    assert os.waitpid(pid, 0)[1] == 0 and b.result()["complete"]
    print(shown.decode())
    lines = shown.decode().split("\r\n")
    assert "                  the peer calls    this side calls" in lines
    assert "tcp, both call    passes            passes" in lines
    assert "udp after 2 s     passes            passes" in lines
