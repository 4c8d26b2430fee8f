"""`synergy probe` on paths of many shapes: what it finds is what traceroute finds, in time, and the
hop limit that it chooses lies beyond the last local firewall and short of what the remote one
filters."""

import concurrent.futures
import dataclasses
import json
import os
import pty
import re
import subprocess
import time

import pytest

import firewall
import namespace
import servers
import trials
from capture import TCP, UDP, Capture
from conftest import stand_on
from programs import ENVIRONMENT, STAGE, Preload, fresh_peer_ports, fresh_port, slowness
from topology import PEER, SERVER, Path

pytestmark = pytest.mark.usefixtures("library")

PEER_PORT = 5555
FORBIDDEN, REFUSED = {"prohibited"}, {"refused"}


@dataclasses.dataclass(frozen=True)
class Shape:
    """A path of so many routers, the local firewalls first, the remote one last."""

    routers: int
    local: int = 1
    silent: tuple = ()

    @property
    def label(self):
        mute = "".join(node.removeprefix("fw") for node in self.silent)
        return f"p{self.routers}l{self.local}{mute}"

    def build(self, paths, another=""):
        """The path of this shape, or another one like it."""
        local = [*(f"fwa{n}" for n in range(self.local - 1)), "fwa"]
        between = [f"r{n}" for n in range(1, self.routers - self.local)]
        return paths.get(self.label + another, silent=self.silent, local=local, between=between)


def interval(path):
    """The hop limits that work: past the last local firewall, and at the most dying on the remote
    one, as what dies there has not met its filter."""
    return path.hop(path.local_firewalls[-1]) + 1, path.hop("fwb")


def probe(path, family, *options, user=True):
    """The measured path, and how long that took."""
    target = f"[{PEER[6]}]:{PEER_PORT}" if family == 6 else f"{PEER[4]}:{PEER_PORT}"
    as_user = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if user else []
    with namespace.inside(path.namespace("A")):
        started = time.monotonic()
        result = subprocess.run(
            [*as_user, STAGE / "src/synergy", "probe", target, "--json", *options],
            capture_output=True, text=True, timeout=20, check=False,
            env=ENVIRONMENT)
        took = time.monotonic() - started
    print(result.stdout, result.stderr, f"{took:.3f} s")
    document = json.loads(result.stdout)
    assert result.returncode == (0 if document["found"] else 1)
    return document, took


def traceroute(path, family):
    """{hop: address}, of those hops that answer."""
    with namespace.inside(path.namespace("A")):
        result = subprocess.run(
            ["traceroute", f"-{family}", "-n", "-q", "1", "-N", "30", "-w", "0.4", PEER[family]],
            capture_output=True, text=True, timeout=60, check=True)
    print(result.stdout)
    hops = re.findall(r"^ *(\d+)  ([0-9a-f:.]+)  ", result.stdout, re.MULTILINE)
    return {int(number): address for number, address in hops}


def answers(document):
    return {hop["hop"]: hop["address"] for hop in document["hops"] if hop["answer"] != "none"}


def check(path, family, profile, limit):
    """One measurement, compared with one of traceroute's made at the same time, and bounded in time
    (`limit`)."""
    firewall.set_profile(path, profile)
    firewall.forget_connections(path)
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        reference = beside.submit(traceroute, path, family)
        document, took = probe(path, family)
        found, expected = answers(document), reference.result()
    if profile == "prohibited":
        # Of several hop limits that meet the same prohibition, traceroute shows what it likes.
        expected = {hop: address for hop, address in expected.items() if hop in found}
    assert found == expected
    # The command and the reference start side by side, as do other tests.
    assert took < limit * slowness() + 0.5
    least, most = interval(path)
    assert document["found"]
    assert least <= document["hop_limit"] <= most
    return document


ANSWERING = (Shape(2), Shape(3), Shape(4), Shape(6), Shape(6, 2), Shape(6, 3), Shape(12),
             Shape(12, 2), Shape(12, 3))


@pytest.mark.needs("traceroute")
@pytest.mark.parametrize("profile", ("strict", "reset", "prohibited", "open"))
@pytest.mark.parametrize("family", (6, 4))
@pytest.mark.parametrize("shape", ANSWERING, ids=lambda shape: shape.label)
def test_where_hops_answer(paths, shape, family, profile):
    document = check(shape.build(paths), family, profile, 1.0)
    at_the_end = {"strict": {"time-exceeded"}, "reset": REFUSED, "prohibited": FORBIDDEN,
                  "open": REFUSED}
    assert {document["hops"][-1]["answer"]} == at_the_end[profile]
    assert all(hop["answer"] == "time-exceeded" for hop in document["hops"][:-1])


HALF_SILENT = (
    Shape(4, 1, ("fwa", "fwb")),
    Shape(6, 1, ("fwb",)),
    Shape(6, 2, ("fwa0", "fwa", "r2")),
    Shape(12, 2, ("fwa0", "fwa", "r3", "r4", "r6", "r8")),
    Shape(12, 3, ("r1", "r3", "r5", "r7", "fwb")),
)


@pytest.mark.needs("traceroute")
@pytest.mark.parametrize("profile", ("strict", "open"))
@pytest.mark.parametrize("family", (6, 4))
@pytest.mark.parametrize("shape", HALF_SILENT, ids=lambda shape: shape.label)
def test_where_half_the_hops_are_silent(paths, shape, family, profile):
    check(shape.build(paths), family, profile, 3.0)


@pytest.mark.parametrize("family", (6, 4))
def test_tcp_where_udp_is_kept_in(paths, family):
    """A firewall of this side that lets no UDP out: TCP goes on where UDP ends."""
    path = Shape(6, 2).build(paths)
    firewall.set_profile(path, "strict")
    command = {6: "ip6tables", 4: "iptables"}[family]
    with namespace.inside(path.namespace("fwa0")):
        subprocess.run([command, "-I", "FORWARD", "-p", "udp", "-j", "DROP"], check=True)
    document, took = probe(path, family)
    assert took < 3.0
    assert [hop["probe"] for hop in document["hops"]] == ["udp", *["tcp"] * 5]
    assert len(answers(document)) == 6
    assert interval(path)[0] <= document["hop_limit"] <= interval(path)[1]


@pytest.mark.parametrize("profile", ("strict", "reset"))
@pytest.mark.parametrize("shape", (Shape(2), Shape(4), Shape(6, 3), Shape(12, 2)),
                         ids=lambda shape: shape.label)
def test_what_is_chosen_works(paths, shape, profile):
    """Connections come in with the hop limit that was found. With `reset` one too high would close
    the hole that it opens."""
    path = shape.build(paths)
    firewall.set_profile(path, profile)
    hops = probe(path, 6)[0]["hop_limit"]
    for stand in stand_on(path):
        trials.check(stand, servers.own_tcp("::"), profile=profile, count=3, hops=hops)


@pytest.mark.parametrize("profile", ("strict", "reset"))
@pytest.mark.parametrize("server", (servers.own_tcp("::"), servers.own_udp("::", "recvfrom")),
                         ids=lambda server: server.name)
def test_a_probe_leaves_a_hole_alone(paths, server, profile):
    path = Shape(4).build(paths)
    for stand in stand_on(path):
        firewall.set_profile(path, profile)
        port, (peer_port,) = fresh_port(), fresh_peer_ports(1)
        program = server.start(
            stand, port, Preload(peers=trials.peers(6, peer_port), hops=path.hops, refresh=600))
        time.sleep(0.3)
        probe(path, 6)
        server.talk(stand, server, program, peer_port, port, 3.0)


@pytest.mark.parametrize("family", (6, 4))
def test_nothing_touches_the_ports_of_the_hole(paths, family):
    """Nothing of a probe has the peer's port, on any link; and few packets of it get far."""
    path = Shape(6).build(paths)
    firewall.set_profile(path, "open")
    with Capture(path, "A", "fwa") as near, Capture(path, "fwb", "B") as far:
        probe(path, family)
    outward = [packet for packet in near.packets if packet.source == SERVER[family]]
    assert len(outward) >= 7
    assert not [packet for packet in near.packets + far.packets
                if PEER_PORT in (packet.source_port, packet.destination_port)]
    assert {packet.destination_port for packet in outward} == {33434}
    # With the first answer of the peer, 30 ms later than the others', the rest is not sent.
    assert len([packet for packet in far.packets if packet.destination == PEER[family]]) <= 24


def test_the_peers_port_is_avoided_even_if_it_is_traceroutes(paths):
    path = Shape(6).build(paths)
    firewall.set_profile(path, "strict")
    with Capture(path, "A", "fwa") as near, namespace.inside(path.namespace("A")):
        subprocess.run([STAGE / "src/synergy", "probe", f"[{PEER[6]}]:33434"], check=True,
                       env=ENVIRONMENT)
    ports = {packet.destination_port for packet in near.packets if packet.protocol == UDP}
    assert ports == {33435}
    assert {packet.destination_port for packet in near.packets
            if packet.protocol == TCP and packet.source == SERVER[6]} <= {443}


@pytest.mark.parametrize("family", (6, 4))
def test_a_neighbour(paths, family):
    path = Shape(2).build(paths)
    neighbour = path.addresses("fwa")[0][1][family]
    with namespace.inside(path.namespace("A")):
        result = subprocess.run([STAGE / "src/synergy", "probe", neighbour, "--json"],
                                capture_output=True, text=True, timeout=20, check=False,
                                env=ENVIRONMENT)
    document = json.loads(result.stdout)
    assert result.returncode == 1
    assert (document["on_link"], document["hop_limit"], document["found"]) == (True, 1, False)
    assert "neighbour" in document["reason"]


@pytest.mark.parametrize("family", (6, 4))
def test_no_neighbour(paths, family):
    """This host itself; and an address of its link that nobody has, or a host that is off."""
    path = Shape(2).build(paths)
    for address, reason in (
            (SERVER[family], "that address is this host's own, and no peer's"),
            ({6: "2001:db8:a::77", 4: "198.51.100.77"}[family],
             "the address is one of this host's own link, where nobody answers for it (ip neigh)")):
        with namespace.inside(path.namespace("A")):
            result = subprocess.run([STAGE / "src/synergy", "probe", address, "--json"], text=True,
                                    capture_output=True, timeout=20, check=False, env=ENVIRONMENT)
        document = json.loads(result.stdout)
        assert (result.returncode, document["on_link"], document["found"]) == (1, True, False)
        assert document["reason"] == reason


def test_no_router_answers(paths):
    path = Shape(3, 1, ("fwa", "r1", "fwb")).build(paths)
    firewall.set_profile(path, "strict")
    document, took = probe(path, 6)
    assert took < 3.0
    assert (document["hops"], document["hop_limit"], document["found"]) == ([], 3, False)


def test_bounds(paths):
    path = Shape(6).build(paths)
    firewall.set_profile(path, "strict")
    for bound, value, expected in (("MIN", 5, 5), ("MAX", 2, 2)):
        with namespace.inside(path.namespace("A")):
            result = subprocess.run(
                [STAGE / "src/synergy", "probe", PEER[6], "--json"], capture_output=True, text=True,
                timeout=20, check=True, env={**ENVIRONMENT, f"SYNERGY_HOPS_{bound}": str(value)})
        assert json.loads(result.stdout)["hop_limit"] == expected


def test_errors_are_rationed(paths):
    """Routers with the kernel's own limits for errors, and its own reports: none of the hops is
    lost, three measurements in a row."""
    path = paths.built.get("rationed") or Path("rationed", between=["r1", "r2", "r3", "r4"])
    for node in path.routers:
        namespace.sysctl(path.namespace(node), {"net/ipv6/icmp/ratelimit": 1000,
                                                "net/ipv4/icmp_ratelimit": 1000})
    for family in (6, 4):
        for _ in range(3):
            document, took = probe(path, family)
            assert sorted(answers(document)) == [1, 2, 3, 4, 5, 6, 7]
            assert took < 3.0


@pytest.mark.parametrize("profile", ("strict", "reset"))
def test_a_long_way(paths, profile):
    """Half a second there and back: none of the answers is given up too early."""
    path = paths.get("far", delay_ms=500, local=["fwa0", "fwa"], between=["r1", "r2", "r3"])
    firewall.set_profile(path, profile)
    document, took = probe(path, 6)
    assert sorted(answers(document))[:6] == [1, 2, 3, 4, 5, 6]
    assert took < 3.0
    assert interval(path)[0] <= document["hop_limit"] <= interval(path)[1]


def test_on_a_terminal(paths):
    """The picture grows as the answers come in, each drawn over the one before."""
    path = Shape(4).build(paths)
    firewall.set_profile(path, "strict")
    with namespace.inside(path.namespace("A")):
        pid, terminal = pty.fork()
        if pid == 0:
            command = ["synergy", "probe", f"[{PEER[6]}]:{PEER_PORT}"]
            os.execve(STAGE / "src/synergy", command, {"TERM": "xterm", "LC_ALL": "C.UTF-8"})
    said = b""
    try:
        while chunk := os.read(terminal, 4096):
            said += chunk
    except OSError:  # EIO: the other end is closed
        pass
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    pictures = re.split(r"\x1b\[\d+F\x1b\[J", said.decode())
    print(pictures)
    assert len(pictures) == 5  # four answers, and the last word
    assert all("..." in picture for picture in pictures[:-1])
    assert "the punch dies here" in pictures[-1] and "hop limit 3: half" in pictures[-1]


def test_plain_lines(paths):
    path = Shape(4).build(paths)
    firewall.set_profile(path, "strict")
    with namespace.inside(path.namespace("A")):
        result = subprocess.run([STAGE / "src/synergy", "probe", PEER[6]], capture_output=True,
                                text=True, timeout=20, check=True,
                                env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"})
    print(result.stdout)
    assert "\x1b" not in result.stdout and result.stdout.isascii()
    lines = result.stdout.splitlines()
    assert lines[0] == f"to {PEER[6]} from {SERVER[6]}"
    assert [re.match(r" +(\d+)  \S+", line).group(1)
            for line in lines if re.match(r" +\d", line)] == ["1", "2", "3", "4"]
    assert "the punch dies here" in lines[4]
    assert lines[-1].startswith("hop limit 3: half of the 5 hops")
