"""`synergy status`: what it says of each hole is what becomes of it, and nobody else is told."""

import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import signal
import socket
import struct
import subprocess
import termios
import time

import jsonschema
import pytest

import clients
import firewall
import namespace
import servers
from programs import (ENVIRONMENT, STAGE, Preload, fresh_peer_ports, fresh_port, script,
                      wait_until)
from test_lines import route
from topology import PEER, SERVER

pytestmark = pytest.mark.usefixtures("library")

SOURCE = pathlib.Path(__file__).parents[2] / "src"
AS_USER = {"root": [], "nobody": ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"],
           "games": ["setpriv", "--reuid=games", "--regid=games", "--clear-groups"]}


def synergy(stand, *arguments, user="root"):
    with namespace.inside(stand.path.namespace("A")):
        return subprocess.run([*AS_USER[user], STAGE / "src/synergy", *arguments],
                              capture_output=True, text=True, timeout=20, check=True,
                              env=ENVIRONMENT)


@pytest.fixture(name="schema", scope="session")
def described():
    return json.loads((SOURCE / "tools/status.schema.json").read_text(encoding="ascii"))


@pytest.fixture(name="status")
def asked(stand, schema):
    def ask(**options):
        document = json.loads(synergy(stand, "status", "--json", **options).stdout)
        jsonschema.validate(document, schema)
        return document
    return ask


def text(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def holes_of(document, peer_port, family):
    peer = text(PEER[family], peer_port)
    return [hole for keeper in document["keepers"] for sockets in keeper.get("sockets", [])
            for hole in sockets["holes"] if hole["peer"] == peer]


def hole_of(document, peer_port, family=6):
    found = holes_of(document, peer_port, family)
    assert len(found) == 1, document
    return found[0]


def reaches(status, state, peer_port, family=6, timeout=10.0):
    """The hole, as soon as it is in this state. (A port is seen before bind() has returned.)"""
    documents = []

    def is_reached():
        documents.append(status())
        return [hole["state"] for hole in holes_of(documents[-1], peer_port, family)] == [state]
    try:
        wait_until(is_reached, timeout, state)
    finally:
        print(documents[-1])
    return hole_of(documents[-1], peer_port, family)


def serve(stand, family, ports, *, address="::", hops=None, user="nobody", **settings):
    port = fresh_port()
    command = ["/usr/bin/python3", script("tcp_server.py"), address, str(port), "echo"]
    peers = text(PEER[family], f"{ports[0]}-{ports[-1]}")
    program = stand.serve(command, "tcp", port, user=user, preload=Preload(
        peers=peers, hops=hops or stand.path.hops, **settings))
    return port, program


@pytest.mark.parametrize("family", (6, 4))
def test_states_of_tcp(stand, status, family):
    """Open, connected, resting, and open again."""
    ports = fresh_peer_ports(1)
    port, program = serve(stand, family, ports)
    hole = reaches(status, "open", ports[0], family)
    assert hole["source"] == SERVER[family] and hole["hop_limit"] == stand.path.hops
    assert hole["connections"] == 0 and hole["last_sign_s"] is None
    assert hole["last_punch_s"] < 20
    with clients.tcp_client(stand, family, ports[0], port, 5) as client:
        client.send("hello\n")
        client.receive_until("hello\n")
        hole = reaches(status, "connected", ports[0], family)
        assert hole["connections"] == 1 and hole["last_sign_s"] < 10
        # The server closes first if it is not the peer: a reset leaves nothing that rests.
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    hole = reaches(status, "open", ports[0], family)
    assert hole["connections"] == 1
    (keeper,) = [k for k in status()["keepers"] if k["processes"]]
    assert {"pid": program.pid, "program": "python3"} in keeper["processes"]


def test_resting(stand, status):
    """The side that closes first keeps the four-tuple for a minute."""
    ports = fresh_peer_ports(1)
    port = fresh_port()
    command = ["/usr/bin/python3", script("tcp_server.py"), "::", str(port), "echo",
               "--close-first"]
    stand.serve(command, "tcp", port, preload=Preload(
        peers=text(PEER[6], ports[0]), hops=stand.path.hops))
    with clients.tcp_client(stand, 6, ports[0], port, 5) as client:
        client.send("hello\n")
        assert client.receive_all().endswith("hello\n")
    assert reaches(status, "resting", ports[0])["connections"] == 1


@pytest.mark.complains
@pytest.mark.parametrize("profile", ("reset", "prohibited"))
@pytest.mark.parametrize("family", (6, 4))
def test_refused(stand, status, family, profile):
    firewall.set_profile(stand.path, profile)
    ports = fresh_peer_ports(1)
    beyond = stand.path.hop("B")
    serve(stand, family, ports, hops=beyond)
    hole = reaches(status, "refused", ports[0], family)
    assert hole["refused_at"] == beyond
    assert f"refused at hop {beyond}" in synergy(stand, "status").stdout


@pytest.mark.complains
@pytest.mark.parametrize("family", (6, 4))
def test_prohibited_by_this_host(stand, status, family):
    """Which says nothing about the hop limit."""
    route = ["ip", "-n", stand.path.namespace("A"), f"-{family}", "route"]
    subprocess.run([*route, "add", "prohibit", PEER[family]], check=True)
    try:
        ports = fresh_peer_ports(1)
        _, program = serve(stand, family, ports)
        program.wait_for("can't punch: .*prohibits")
        assert "refused_at" not in hole_of(status(), ports[0], family)
    finally:
        subprocess.run([*route, "del", "prohibit", PEER[family]], check=True)


def test_router_where_it_dies(stand, status):
    """Known after the first error, which comes late."""
    ports = fresh_peer_ports(1)
    serve(stand, 6, ports)
    wait_until(lambda: hole_of(status(), ports[0])["router"] is not None, 10, "a router")
    r1 = [addresses[6] for _, addresses in stand.path.addresses("r1")]
    assert hole_of(status(), ports[0])["router"] in r1


def test_udp(stand, status):
    ports = fresh_peer_ports(1)
    port = fresh_port()
    server = servers.own_udp("::", "recvfrom", 6)
    server.start(stand, port, Preload(peers=text(PEER[6], ports[0]), hops=stand.path.hops))
    assert reaches(status, "open", ports[0])["last_sign_s"] is None
    with clients.udp_client(stand, 6, ports[0], port, 5) as client:
        client.send("hello\n")
        client.receive_until("hello\n")
    assert reaches(status, "connected", ports[0])["last_sign_s"] < 10


@pytest.mark.complains
def test_failing(stand, status):
    """Why is shown, in the words of the log."""
    ports = fresh_peer_ports(1)
    serve(stand, 6, ports, local="2001:db8:a::77")
    cause = "SYNERGY_LOCAL is 2001:db8:a::77, which is no address of this host"
    assert reaches(status, "failing", ports[0])["error"] == cause
    assert f"    {text(PEER[6], ports[0])}: can't punch: {cause}\n" in synergy(stand, "status").stdout


@pytest.mark.complains
def test_failing_is_over(stand, status):
    """As soon as a punch has left again, also where that is the SYN of before, sent again."""
    ports = fresh_peer_ports(1)
    serve(stand, 6, ports)
    reaches(status, "open", ports[0])
    with route(stand, 6):
        reaches(status, "failing", ports[0])
    reaches(status, "open", ports[0], timeout=20)


def test_peers_without_a_hole(stand, status):
    """And why."""
    port = fresh_port()
    command = ["/usr/bin/python3", script("tcp_server.py"), SERVER[6], str(port), "echo"]
    stand.serve(command, "tcp", port, preload=Preload(
        peers="[2001:db8:a::99]:1 203.0.113.9:2 [2001:db8:b::5]:3", hops=stand.path.hops))
    (listener,) = [s for k in status()["keepers"] for s in k["sockets"]]
    assert {peer["peer"]: peer["reason"] for peer in listener["without_hole"]} == {
        "[2001:db8:a::99]:1": "the peer is on the same link, with no router between",
        "203.0.113.9:2": "this socket can't reach a peer of that address family"}
    assert [hole["peer"] for hole in listener["holes"]] == ["[2001:db8:b::5]:3"]
    picture = synergy(stand, "status").stdout
    assert "203.0.113.9:2: no hole: this socket can't reach a peer of that address family" in picture


@pytest.mark.other_users
def test_whose_keepers_are_shown(stand, status):
    """One's own; all for root."""
    ports = fresh_peer_ports(2)
    serve(stand, 6, ports[:1], user="nobody")
    serve(stand, 6, ports[1:], user="root")
    users = {keeper["user"] for keeper in status()["keepers"]}
    assert len(users) == 2 and 0 in users
    (own,) = status(user="nobody")["keepers"]
    assert own["user"] != 0 and len(own["sockets"]) == 1
    assert status(user="games")["keepers"] == []


@pytest.mark.other_users
def test_strangers_are_told_nothing(stand, status):
    """Whoever asks a keeper by hand and is not its user has the connection closed."""
    ports = fresh_peer_ports(1)
    serve(stand, 6, ports)
    program = f"""
import socket, struct, sys
names = {{l.split()[-1][1:] for l in open('/proc/net/unix') if '@synergy-keeper/' in l}}
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(5)
s.connect('\\0' + names.pop())
s.send(struct.pack('=II16sQiiii28s236x', {wire_version()}, {status_kind()}, bytes(16), 0, 0, 0, 0, 0, bytes(28)))
data, control, flags, address = s.recvmsg(1024, 1024)
print(len(data), len(control))
"""
    def told(user):
        with namespace.inside(stand.path.namespace("A")):
            return subprocess.run([*AS_USER[user], "/usr/bin/python3", "-c", program], check=False,
                                  capture_output=True, text=True, timeout=20)
    assert re.fullmatch(r"[1-9]\d* [1-9]\d*\n", told("nobody").stdout), told("nobody")
    stranger = told("games")
    assert stranger.stdout == "0 0\n" or "ConnectionResetError" in stranger.stderr, stranger


def wire():
    return (SOURCE / "wire.h").read_text(encoding="ascii")


def wire_version():
    return re.search(r"#define SYNERGY_WIRE_VERSION (\d+)", wire())[1]


def status_kind():
    """SYNERGY_STATUS: the kinds are counted from 1."""
    kinds = re.search(r"enum synergy_kind \{(.*?)\};", wire(), re.S)[1]
    kinds = re.sub(r"/\*.*?\*/", "", kinds, flags=re.S)
    return [k.split("=")[0].strip() for k in kinds.split(",")].index("SYNERGY_STATUS") + 1


def test_keeper_that_does_not_answer(stand, status):
    """A stopped one is named, and the others are shown; its server is not taken for one without."""
    ports = fresh_peer_ports(2)
    serve(stand, 6, ports[:1])
    serve(stand, 6, ports[1:])
    stopped, other = [keeper["pid"] for keeper in status()["keepers"]]
    os.kill(stopped, signal.SIGSTOP)
    try:
        document = status()
        keepers = {keeper["pid"]: keeper for keeper in document["keepers"]}
        assert keepers[stopped]["error"] == "does not answer"
        assert "error" not in keepers[other]
        assert document["without_keeper"] == []  # one of them has a keeper
    finally:
        os.kill(stopped, signal.SIGCONT)


def test_process_without_a_keeper(stand, status):
    """It has the library, and nothing to punch for."""
    program = stand.start("A", ["/bin/sleep", "60"],
                          preload=Preload(peers=text(PEER[6], 5555), hops=3))
    wait_until(lambda: program.pid in [p["pid"] for p in status()["without_keeper"]], 5,
               "the process", program)
    program.stop()
    assert program.pid not in [p["pid"] for p in status()["without_keeper"]]


def test_keeper_that_waits_for_the_next_server(stand):
    """For some seconds after a server has left, and says so."""
    port, (peer_port,) = fresh_port(), fresh_peer_ports(1)
    program = stand.serve(["ncat", "-6", "-l", str(port)], "tcp", port, preload=Preload(
        peers=text(PEER[6], peer_port), hops=stand.path.hops))
    with clients.tcp_client(stand, 6, peer_port, port, 5) as client:
        client.send("hello\n")
    line = wait_until(lambda: re.search(r"(?m)^no process any more.*$", synergy(stand, "status").stdout),
                      5, "the keeper alone", program)
    assert re.fullmatch(r"no process any more: waits for one that follows, user \d+, kept by pid \d+", line[0])


def test_nothing_there(stand):
    result = synergy(stand, "status", user="nobody")
    assert result.stdout == "no process of this user's has the library (root sees those of all users): " \
                            "see synergy run --help\n"


def test_a_thousand_holes(stand, status):
    """In a tenth of a second, and the server's peers don't wait meanwhile."""
    ports = (20000, 20999)
    port, _ = serve(stand, 6, ports)
    assert sum(len(s["holes"]) for k in status()["keepers"] for s in k["sockets"]) == 1000
    times = []
    while len(times) < 30 and min(times, default=1) >= 0.1:  # (others are at work on this machine)
        started = time.monotonic()
        synergy(stand, "status")
        times.append(time.monotonic() - started)
    stand.say("status of 1,000 holes: " + ", ".join(f"{t * 1000:.0f} ms" for t in sorted(times)))
    assert min(times) < 0.1
    with clients.tcp_client(stand, 6, ports[0] + 500, port, 5) as client:
        client.send("hello\n")
        client.receive_until("hello\n")


def test_watch(stand, status):
    """A screen that changes in place, and gives back what was there."""
    ports = fresh_peer_ports(1)
    port, _ = serve(stand, 6, ports)
    reaches(status, "open", ports[0])
    pid, terminal = pty.fork()
    if pid == 0:
        with namespace.inside(stand.path.namespace("A")):
            os.execve(STAGE / "src/synergy", ["synergy", "status", "--watch"],
                      {**ENVIRONMENT, "TERM": "xterm"})
    screen = ""

    def shows(what):
        nonlocal screen
        with contextlib.suppress(BlockingIOError, OSError):
            screen += os.read(terminal, 65536).decode()
        return what in screen
    os.set_blocking(terminal, False)
    wait_until(lambda: shows("open"), 5, "the hole")
    with clients.tcp_client(stand, 6, ports[0], port, 5) as client:
        client.send("hello\n")
        client.receive_until("hello\n")
        wait_until(lambda: shows("connected"), 5, "its connection")
    os.kill(pid, signal.SIGINT)
    wait_until(lambda: shows("\x1b[?1049l"), 5, "the end")
    assert screen.startswith("\x1b[?1049h") and os.waitpid(pid, 0)[1] == 0
    os.close(terminal)


@pytest.mark.parametrize("rows, columns", ((10, 40), (60, 200), (2, 1)))
def test_watch_fits(stand, status, rows, columns):
    """Whatever the terminal's size, and when that changes: nothing scrolls, and nothing wraps."""
    port, _ = serve(stand, 6, (20000, 20099))
    wait_until(lambda: sum(len(s["holes"]) for k in status()["keepers"] for s in k["sockets"]) == 100,
               5, "the holes")
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        with namespace.inside(stand.path.namespace("A")):
            os.execve(STAGE / "src/synergy", ["synergy", "status", "--watch"],
                      {**ENVIRONMENT, "TERM": "xterm"})
    screen = b""

    def lines_of_last_picture():
        nonlocal screen
        with contextlib.suppress(BlockingIOError, OSError):
            screen += os.read(terminal, 1 << 20)
        pictures = re.findall(rb"\x1b\[\?7l\x1b\[H(.*?)\x1b\[J\x1b\[\?7h", screen, re.S)
        return pictures[-1].splitlines() if pictures else []
    os.set_blocking(terminal, False)
    shown = wait_until(lines_of_last_picture, 5, "a picture")
    assert len(shown) == rows - 1 and shown[-1].startswith(b"...")
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 150, columns, 0, 0))
    whole = wait_until(lambda: len(lines := lines_of_last_picture()) > rows and lines, 5, "all of it")
    assert sum(f"]:{peer}".encode() in line for line in whole for peer in range(20000, 20100)) == 100
    os.kill(pid, signal.SIGINT)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(terminal)


def test_watch_needs_a_terminal(stand):
    with namespace.inside(stand.path.namespace("A")):
        result = subprocess.run([STAGE / "src/synergy", "status", "--watch"], check=False,
                                capture_output=True, text=True, timeout=5, env=ENVIRONMENT)
    assert (result.returncode, result.stderr) == (2, "synergy: --watch needs a terminal\n")
