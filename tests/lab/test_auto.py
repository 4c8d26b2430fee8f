"""The hop limit that finds itself: a server with no hop limit set is reached on every path on which
any hop limit works, and its punches get past no filter but those of its own side."""

import concurrent.futures
import dataclasses
import os
import subprocess
import threading
import time

import pytest

import clients
import firewall
import namespace
import servers
from background import Background
from capture import TCP, Capture
from conftest import stand_on
from programs import SCRATCH, Preload, fresh_peer_ports, fresh_port, wait_listening, wait_until
from test_probe import Shape
from topology import SERVER
from trials import NO_ANSWER, PATIENCE, peers

pytestmark = pytest.mark.usefixtures("library")

CLIENTS_OWN_PATIENCE = 20
CALLS = 3
PATHS_AT_A_TIME = 3
WATCHED = 3.5  # seconds of an automatic hop limit: what it takes to find it, and turns of punches
MEASURED = 1.5  # seconds within which the way to the peer is measured


@dataclasses.dataclass
class Call:
    """To one server, from ports that it expects."""

    port: int
    source_port: int

    def gets_in(self, stand, patience):
        try:
            with clients.tcp_client(stand, 6, self.source_port, self.port, patience) as client:
                client.send("hello\n")
                client.receive_until("hello\n")
            return True
        except OSError:
            return False


def start(stand, source_ports, environment=None, **settings):
    port = fresh_port()
    server = servers.own_tcp("::")
    program = stand.start("A", server.command(port), environment=environment, preload=Preload(
        peers=peers(6, source_ports[0], source_ports[-1]), **settings))
    wait_listening(program, "tcp", port)
    return port, program


def fixed_that_work(stand, most):
    """The hop limits from 1 to `most` with which a peer gets in."""
    def works(hops):
        source_ports = fresh_peer_ports(1)
        port, _ = start(stand, source_ports, hops=hops)
        return Call(port, source_ports[0]).gets_in(stand, 4)

    tried = range(1, most + 1)
    with concurrent.futures.ThreadPoolExecutor(most) as pool:
        return [hops for hops, got_in in zip(tried, pool.map(works, tried)) if got_in]


ANSWERING = (Shape(2), Shape(3), Shape(4), Shape(4, 2), Shape(4, 3), Shape(6), Shape(6, 2),
             Shape(6, 3), Shape(12), Shape(12, 3))
HALF_SILENT = (Shape(4, 1, ("fwa", "fwb")), Shape(6, 2, ("fwa0", "fwa", "r2")),
               Shape(12, 3, ("r1", "r3", "r5", "r7", "fwb")))
SILENT = (Shape(3, 1, ("fwa", "r1", "fwb")), Shape(4, 2, ("fwa0", "fwa", "r1", "fwb")))


def everyone_gets_in(stand, shape, profile):
    """Gives what the punches were, as they came to the remote firewall. Servers with each of the
    hop limits are called while those of the automatic one are watched."""
    path = stand.path
    firewall.set_profile(path, profile)
    firewall.forget_connections(path)
    source_ports = fresh_peer_ports(CALLS)
    with Capture(path, "fwb", path.left_of("fwb")) as capture:
        port, program = start(stand, source_ports, hops="auto", refresh=1, log="info")
        started = time.monotonic()
        fixed = fixed_that_work(stand, shape.routers + 2)
        time.sleep(max(0, started + WATCHED - time.monotonic()))
    calls = [Call(port, source_port) for source_port in source_ports]
    with concurrent.futures.ThreadPoolExecutor(CALLS) as pool:
        automatic = list(pool.map(
            lambda call: call.gets_in(stand, CLIENTS_OWN_PATIENCE if fixed else NO_ANSWER), calls))
    chosen = [line for line in program.stderr().splitlines() if "hop limit" in line][:1]
    stand.say(f"{shape.label}, {profile}: of 1 to {shape.routers + 2} these work: {fixed};"
              f" automatic: {automatic.count(True)} of {CALLS}; {chosen}")
    assert automatic == [bool(fixed)] * CALLS
    return [packet for packet in capture.packets
            if packet.protocol == TCP and (packet.source, packet.source_port) == (SERVER[6], port)]


@pytest.fixture(scope="module", name="measured")
def measured_side_by_side(request, paths):
    """{(shape, profile): Background} of all tests that are to run: a few at a time, in their order,
    each on a path of its own."""
    turns = threading.Semaphore(PATHS_AT_A_TIME)

    def scenario(shape, profile):
        def run(stand):
            with turns:
                return everyone_gets_in(stand, shape, profile)
        return run

    wanted = [item.callspec.params for item in request.session.items
              if item.path == request.path and "measured" in item.fixturenames]
    cases = [(params["shape"], params.get("profile", "strict")) for params in wanted]
    return {case: Background(case[0].build(paths, f"-{case[1]}"), scenario(*case))
            for case in cases}


@pytest.mark.parametrize("shape, profile", [
    pytest.param(shape, profile, id=f"{shape.label}-{profile}")
    for profile, shapes in (("strict", ANSWERING), ("reset", ANSWERING[::3])) for shape in shapes])
def test_routers_answer(measured, shape, profile):
    # With a hop limit of 1 it dies there, before it meets the filter.
    arrived = measured[shape, profile].result()
    assert [packet for packet in arrived if packet.hop_limit > 1] == []


@pytest.mark.parametrize("shape", HALF_SILENT + SILENT, ids=lambda shape: shape.label)
def test_routers_are_silent(measured, shape):
    measured[shape, "strict"].result()


def test_what_proved_right_is_remembered(paths):
    """And does no harm where it is damaged, or can't be read."""
    path = Shape(6, 3).build(paths)
    home = SCRATCH / "state"
    home.mkdir(parents=True, exist_ok=True)
    os.chmod(home, 0o777)
    file = home / "synergy/hops"
    said = []
    for content in (None, None, b"\0\xff not ours\n" * 100, "unreadable"):
        for stand in stand_on(path):
            if content == "unreadable":
                file.unlink()
                file.mkdir()
            elif content:
                file.write_bytes(content)
            is_known = content is None and file.exists()
            source_ports = fresh_peer_ports(1)
            port, program = start(stand, source_ports, hops="auto", log="info",
                                  environment={"XDG_STATE_HOME": str(home)})
            program.wait_for("proved right before" if is_known else "half of the")
            if is_known:
                time.sleep(MEASURED)  # and nothing else is chosen then
            assert Call(port, source_ports[0]).gets_in(stand, CLIENTS_OWN_PATIENCE)
            if content is None:
                wait_until(file.exists, PATIENCE, "what proved right")
            said.append(program.stderr())
    assert "half of the" in said[0]
    assert "proved right before" in said[1] and "half of the" not in said[1]
    assert "half of the" in said[2] and "half of the" in said[3]


def home_for_memory():
    home = SCRATCH / f"state-{fresh_port()}"
    home.mkdir(parents=True)
    os.chmod(home, 0o777)
    return home


def ask_with_memory(stand, home, is_known):
    """A server that remembers in this place what proved right gets called."""
    firewall.set_profile(stand.path, "reset")
    source_ports = fresh_peer_ports(2)
    port, program = start(stand, source_ports, hops="auto", refresh=1, log="info",
                          environment={"XDG_STATE_HOME": str(home)})
    # By then it is decided whether what was there is taken.
    program.wait_for("opens, hop limit")
    for source_port in source_ports:
        assert Call(port, source_port).gets_in(stand, CLIENTS_OWN_PATIENCE)
    assert ("proved right before" in program.stderr()) == is_known


@pytest.fixture(scope="module", name="proved")
def where_it_proved_right(paths):
    home = home_for_memory()
    for stand in stand_on(Shape(6, 2).build(paths)):
        ask_with_memory(stand, home, False)
        wait_until((home / "synergy/hops").exists, PATIENCE, "what proved right")
    return home


@pytest.mark.parametrize("change, is_taken", (
    # What the file says, "PEER OWN GATEWAY HOPS LENGTH TIME" a line, after a firewall has come:
    (lambda fields: fields[:3] + ["1"] + fields[4:], True),
    # ... or one has gone, or a reset comes back:
    (lambda fields: fields[:3] + ["6"] + fields[4:], True),
    # Another network: another gateway, another address of this host.
    (lambda fields: fields[:2] + ["2001:db8:a::9", "1"] + fields[4:], False),
    (lambda fields: fields[:1] + ["2001:db8:a::9", fields[2], "1"] + fields[4:], False),
    # The peer was not where it is now.
    (lambda fields: fields[:3] + ["1", "30"] + fields[5:], True),
), ids=("too low", "too high", "another gateway", "another address", "another length"))
def test_what_was_right_once_does_no_harm(paths, proved, change, is_taken):
    home = home_for_memory()
    subprocess.run(["cp", "-a", proved / "synergy", home], check=True)  # it remains the server's
    file = home / "synergy/hops"
    title, *lines = file.read_text(encoding="ascii").splitlines()
    assert lines
    lines = [" ".join(change(line.split())) for line in lines]
    file.write_text("\n".join([title, *lines, ""]), encoding="ascii")
    for stand in stand_on(Shape(6, 2).build(paths)):
        ask_with_memory(stand, home, is_taken)


def test_listen_does_not_wait(paths):
    """On the path where finding takes longest."""
    path = SILENT[0].build(paths)
    for stand in stand_on(path):
        program = stand.start("A", [
            servers.PYTHON, "-c",
            "import socket, time\n"
            "sock = socket.socket(socket.AF_INET6); sock.bind(('::', 0))\n"
            "start = time.monotonic(); sock.listen(5); print(time.monotonic() - start)\n"],
            preload=Preload(peers=peers(6, fresh_peer_ports(1)[0]), hops="auto"))
        assert program.wait_exit() == 0
        print(program.stdout())
        assert float(program.stdout()) < 0.25


@pytest.mark.parametrize("closes_after", (0.05, 0.3, None))
def test_nothing_is_measured_for_a_closed_listener(paths, closes_after):
    """While the process lives on; for comparison, one that does not close it."""
    path = SILENT[0].build(paths)
    closes = f"time.sleep({closes_after}); sock.close()" if closes_after else "time.sleep(0.3)"
    for stand in stand_on(path):
        program = stand.start("A", [
            servers.PYTHON, "-c",
            "import socket, time\n"
            "sock = socket.socket(socket.AF_INET6); sock.bind(('::', 0)); sock.listen(5)\n"
            f"{closes}; print('now', flush=True); time.sleep(60)\n"],
            preload=Preload(peers=peers(6, fresh_peer_ports(1)[0]), hops="auto"))
        program.wait_for("now")
        with Capture(path, "A", "fwa") as capture:
            time.sleep(1)
        print(f"{len(capture.packets)} packets")
        assert (capture.packets == []) == bool(closes_after)


def another_way(stand):
    """A minute in the life of a server: at the hop at which its punches die, a router with another
    address answers from some time on."""
    path = stand.path
    source_ports = fresh_peer_ports(4)
    port, program = start(stand, source_ports, hops="auto", log="info")
    program.wait_for("half of the")
    got_in = [Call(port, source_ports[0]).gets_in(stand, CLIENTS_OWN_PATIENCE)]
    dying = path.nodes[int(program.wait_for(r"hop limit (\d+)")[1])]
    back = path.addresses(path.left_of(dying))[-1][1][6]
    with namespace.inside(path.namespace(dying)):
        for command in ("address add 2001:db8:77::1/128 dev lo nodad",
                        f"route replace 2001:db8:a::/64 via {back} src 2001:db8:77::1"):
            subprocess.run(["ip", *command.split()], check=True)
    program.wait_for("the way there has changed", 45)
    program.wait_for("has changed[^$]*hop limit", 45)
    got_in += [Call(port, source_port).gets_in(stand, CLIENTS_OWN_PATIENCE)
               for source_port in source_ports[1:]]
    return got_in


@pytest.mark.slow
@pytest.mark.background("rerouted", another_way)
def test_another_way_is_noticed(background):
    assert background.result() == [True] * 4
