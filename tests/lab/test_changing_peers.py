"""Peers that come and go while the server runs: host names, the config file, files in peers.d."""

import re
import shutil
import subprocess
import time

import pytest

import firewall
import servers
from capture import UDP, Capture
from names import Names
from programs import SCRATCH, Preload, fresh_peer_ports, fresh_port, held_by, script, wait_until
from topology import PEER
from trials import NO_ANSWER, PATIENCE

pytestmark = pytest.mark.usefixtures("library")

REFRESH = 1
AT_ONCE = 1.0  # a change of the file is acted upon within this


@pytest.fixture(name="names")
def names_of_the_lab():
    names = Names()
    try:
        yield names
    finally:
        names.restore()


class Config:
    """A config directory that a server's user can read."""

    def __init__(self, label):
        self.directory = SCRATCH / label
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(mode=0o755, parents=True)
        self.file = self.directory / "synergy.toml"

    def write(self, name, text):
        """As is good practice: another file takes the place of the old one."""
        place = self.directory / name
        place.parent.mkdir(mode=0o755, exist_ok=True)
        before = self.directory / f"{name}.new"
        before.write_text(text, encoding="ascii")
        before.chmod(0o644)
        before.rename(place)

    def remove(self, name):
        (self.directory / name).unlink()


@pytest.fixture(name="config")
def config_directory(request):
    return Config(re.sub(r"\W+", "-", request.node.name))


def gets_in(stand, server, program, source_port, port, patience=PATIENCE):
    server.talk(stand, server, program, source_port, port, patience)
    return True


def stays_out(stand, server, program, source_port, port):
    with pytest.raises(OSError):
        server.talk(stand, server, program, source_port, port, NO_ANSWER)
    return True


def shown(stand, what, seconds):
    stand.say(f"{what} after {seconds:.2f} s")
    return seconds


def own(transport, family=6):
    return servers.own_tcp("::", family) if transport == "tcp" \
        else servers.own_udp("::", "recvfrom", family)


@pytest.mark.parametrize("family", (6, 4))
@pytest.mark.parametrize("transport", ("tcp", "udp"))
def test_peer_by_name(stand, names, transport, family):
    """All addresses of the name, whichever the peer comes from; not so without the library."""
    names.set(laptop=[PEER[4], PEER[6], "2001:db8:b::77"])
    server = own(transport, family)
    ports = fresh_peer_ports(4)

    port = fresh_port()
    without = server.start(stand, port, None)
    stays_out(stand, server, without, ports[3], port)

    port = fresh_port()
    program = server.start(stand, port, Preload(
        peers=f"laptop.example.net:{ports[0]}-{ports[2]}", hops=stand.path.hops, log="info"))
    program.wait_for("laptop.example.net is 2001:db8:b::5, 2001:db8:b::77, 203.0.113.5")
    for source_port in ports[:3]:
        assert gets_in(stand, server, program, source_port, port)
    stays_out(stand, server, program, ports[3], port)


@pytest.mark.complains
def test_name_that_comes_to_resolve(stand, names):
    """Said once while it doesn't; from then on, as soon as it is asked for again."""
    server = own("tcp")
    port, (source_port,) = fresh_port(), fresh_peer_ports(1)
    program = server.start(stand, port, Preload(
        peers=f"laptop.example.net:{source_port}", hops=stand.path.hops, refresh=REFRESH,
        log="info"))
    program.wait_for("laptop.example.net does not resolve: .+; nothing is punched for it, and it "
                     f"is tried again every {REFRESH} s")
    stays_out(stand, server, program, source_port, port)
    time.sleep(2 * REFRESH)
    names.set(laptop=[PEER[6]])
    program.wait_for(rf"\[{PEER[6]}\]:{source_port}: opens", REFRESH + AT_ONCE)
    assert gets_in(stand, server, program, source_port, port)
    assert program.stderr().count("warning: laptop.example.net does not resolve") == 1, program.stderr()


def punched_twice(stand, peer):
    """Who was sent anything by UDP while this peer was punched to twice."""
    with Capture(stand.path, "A", "fwa") as capture:
        capture.wait_for(lambda packet: packet.protocol == UDP and packet.destination == peer,
                         PATIENCE, f"datagrams to {peer}", 2)
    return {packet.destination for packet in capture.packets if packet.protocol == UDP}


@pytest.mark.complains
def test_name_that_gets_another_address(stand, names):
    """The hole of the address that it was before is no longer renewed, and while it does not
    resolve at all, nothing changes."""
    server = own("udp")
    port, (source_port,) = fresh_port(), fresh_peer_ports(1)
    names.set(laptop=[PEER[4]])
    program = server.start(stand, port, Preload(
        peers=f"laptop.example.net:{source_port}", hops=stand.path.hops, refresh=REFRESH,
        log="info"))
    program.wait_for("laptop.example.net is 203.0.113.5\n")
    assert gets_in(stand, own("udp", 4), program, source_port, port)

    names.set()
    program.wait_for("does not resolve: .+; its addresses so far stay in force", 3 * REFRESH)
    assert punched_twice(stand, PEER[4]) == {PEER[4]}

    names.set(laptop=[PEER[6]])
    program.wait_for("laptop.example.net is 2001:db8:b::5\n", 3 * REFRESH)
    program.wait_for(rf"<- \[::ffff:{re.escape(PEER[4])}\]:{source_port}: ends")
    assert gets_in(stand, server, program, source_port, port)
    assert punched_twice(stand, PEER[6]) == {PEER[6]}


def test_name_server_that_never_answers(stand, names):
    """Neither the server nor the other peers wait for it."""
    names.ask(PEER[6], timeout=20)
    server = own("tcp")
    port, ports = fresh_port(), fresh_peer_ports(2)
    started = time.monotonic()
    program = server.start(stand, port, Preload(
        peers=f"laptop.example.net:{ports[0]}, [{PEER[6]}]:{ports[1]}", hops=stand.path.hops,
        refresh=REFRESH))
    assert shown(stand, "listens", time.monotonic() - started) < 2
    for _ in range(2):
        assert gets_in(stand, server, program, ports[1], port)
        time.sleep(1.1)
    assert shown(stand, "got in", time.monotonic() - started) < 20
    assert "does not resolve" not in program.stderr()
    program.process.terminate()
    program.wait_exit(2)


def test_nobody_asks_for_a_closed_listener(stand, names):
    """While the process lives on."""
    names.ask(PEER[6])
    program = stand.start("A", [
        servers.PYTHON, "-c",
        "import socket, sys, time\n"
        "sock = socket.socket(socket.AF_INET6); sock.bind(('::', 0)); sock.listen()\n"
        "sys.stdin.readline(); sock.close(); print('closed', flush=True); time.sleep(60)\n"],
        preload=Preload(peers="laptop.example.net:5555", hops=stand.path.hops, refresh=1))

    def is_question(packet):
        return packet.destination_port == 53

    with Capture(stand.path, "A", "fwa") as capture:
        capture.wait_for(is_question, PATIENCE, "questions", 2)
    program.write("\n")
    program.wait_for("closed")
    time.sleep(1.5)  # one may be under way, which is given up after a second
    with Capture(stand.path, "A", "fwa") as capture:
        time.sleep(3)
    assert not list(filter(is_question, capture.packets))


SERVER_AT_A_HIGH_NUMBER = """
import fcntl, os, socket, sys
first = socket.socket(socket.AF_INET6)
listener = socket.socket(fileno=fcntl.fcntl(first.fileno(), fcntl.F_DUPFD, int(sys.argv[2])))
first.close()
listener.bind(("::", int(sys.argv[1])))
listener.listen()
while True:
    connection, peer = listener.accept()
    line = connection.makefile().readline()
    connection.sendall(f"{peer[0]} {peer[1]} {line}".encode())
"""


@pytest.mark.complains
@pytest.mark.needs("cc")
def test_plug_in_of_the_resolver(stand, names):
    """It opens and closes, in the keeper, a number under which the server listens: the
    hooks must not take the one for the other."""
    plug_in = SCRATCH / "libnss_lab.so.2"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", plug_in, script("nss_lab.c")], check=True)
    names.resolve_by("lab")
    number, port, ports = 200, fresh_port(), fresh_peer_ports(2)
    program = stand.serve(
        [servers.PYTHON, "-c", SERVER_AT_A_HIGH_NUMBER, port, number], "tcp", port,
        environment={"LD_LIBRARY_PATH": SCRATCH, "NSS_LAB_DESCRIPTOR": number},
        preload=Preload(peers=f"laptop.example.net:{ports[0]}, [{PEER[6]}]:{ports[1]}",
                        hops=stand.path.hops, refresh=1, log="debug"))
    program.wait_for("laptop.example.net does not resolve")
    time.sleep(2)
    assert gets_in(stand, own("tcp"), program, ports[1], port)
    assert "is closed" not in program.stderr()


@pytest.mark.parametrize("transport", ("tcp", "udp"))
def test_peer_added_to_the_file(stand, config, transport):
    """Within a second, without a restart; and when it is taken out again, its hole is no longer
    renewed and the peer stays out as soon as the firewall has forgotten it."""
    server = own(transport)
    port, ports = fresh_port(), fresh_peer_ports(2)
    common = f'hops = {stand.path.hops}\nrefresh = {REFRESH}\nlog = "info"\n'
    config.write("synergy.toml", common)
    program = server.start(stand, port, Preload(config=config.file))
    stays_out(stand, server, program, ports[0], port)

    def is_punch(packet):
        return packet.source_port == port and packet.hop_limit == stand.path.hops

    def is_punch_to(peer_port):
        return lambda packet: is_punch(packet) and packet.destination_port == peer_port

    with Capture(stand.path, "A", "fwa") as capture:
        edited = time.time()
        config.write("synergy.toml", common + f'peers = ["[{PEER[6]}]:{ports[0]}-{ports[1]}"]\n')
        first = [capture.wait_for(is_punch_to(peer_port), PATIENCE, "punches")[0]
                 for peer_port in ports]
    assert {packet.destination_port for packet in capture.packets if is_punch(packet)} == set(ports)
    assert shown(stand, "punched", max(packet.time for packet in first) - edited) < AT_ONCE
    for source_port in ports:
        assert gets_in(stand, server, program, source_port, port)

    config.write("synergy.toml", common + f'peers = ["[{PEER[6]}]:{ports[1]}"]\n')
    program.wait_for(rf"<- \[{PEER[6]}\]:{ports[0]}: ends: it is no peer any more", AT_ONCE)
    firewall.forget_connections(stand.path)
    with Capture(stand.path, "A", "fwa") as capture:
        capture.wait_for(is_punch_to(ports[1]), PATIENCE, "renewals of the other", 3)
    assert {packet.destination_port for packet in capture.packets if is_punch(packet)} == {ports[1]}
    stays_out(stand, server, program, ports[0], port)


def test_file_dropped_into_peers_d(stand, config):
    """As a signalling program hands over a peer: into a directory that was not even there."""
    server = own("tcp")
    port, ports = fresh_port(), fresh_peer_ports(2)
    config.write("synergy.toml", f'peers = ["[{PEER[6]}]:{ports[0]}"]\nhops = 9\nlog = "info"\n')
    program = server.start(stand, port, Preload(config=config.file))
    program.wait_for(rf"\[{PEER[6]}\]:{ports[0]}: opens, hop limit 9")
    stays_out(stand, server, program, ports[1], port)

    dropped = time.monotonic()
    config.write("peers.d/laptop.toml",
                 f'port = {port}\nprotocol = "tcp"\nhops = {stand.path.hops}\n'
                 f'peers = ["[{PEER[6]}]:{ports[1]}"]\n')
    program.wait_for(rf"\[{PEER[6]}\]:{ports[1]}: opens, hop limit {stand.path.hops}")
    assert shown(stand, "opened", time.monotonic() - dropped) < AT_ONCE
    assert gets_in(stand, server, program, ports[1], port)

    removed = time.monotonic()
    config.remove("peers.d/laptop.toml")
    program.wait_for(rf"\[{PEER[6]}\]:{ports[1]}: ends")
    assert shown(stand, "ended", time.monotonic() - removed) < AT_ONCE
    firewall.forget_connections(stand.path)
    stays_out(stand, server, program, ports[1], port)


@pytest.mark.complains
def test_broken_edit(stand, config):
    """It is named exactly and once, and who could come in before still can."""
    server = own("tcp")
    port, (source_port,) = fresh_port(), fresh_peer_ports(1)
    good = f'peers = ["[{PEER[6]}]:{source_port}"]\nhops = {stand.path.hops}\n'
    config.write("synergy.toml", good)
    program = server.start(stand, port, Preload(config=config.file, refresh=REFRESH))
    assert gets_in(stand, server, program, source_port, port)

    config.write("synergy.toml", good.replace("]:", "]:x"))
    config.write("peers.d/a.toml", "peers = [")
    line = (rf"{config.file}:1:10: '\[{PEER[6]}\]:x{source_port}': expected a port from 1 to 65535,"
            r" .*; what the file said before stays in force")
    program.wait_for(line)
    program.wait_for(f"{config.directory}/peers.d/a.toml:1:")
    config.write("peers.d/b.toml", "")  # and another look at both
    time.sleep(AT_ONCE)
    assert len(re.findall(line, program.stderr())) == 1
    assert program.stderr().count("a.toml:1:") == 1
    firewall.forget_connections(stand.path)
    time.sleep(REFRESH)
    assert gets_in(stand, server, program, source_port, port)

    config.remove("synergy.toml")
    program.wait_for(f"config file: '{config.file}': expected a file that can be read")
    time.sleep(REFRESH)
    assert gets_in(stand, server, program, source_port, port)


@pytest.mark.needs("nginx")
@pytest.mark.other_users
def test_server_that_gave_root_up(stand, config):
    """nginx listens as root and serves as another user: also for peers that come later."""
    server = servers.NGINX
    port, ports = fresh_port(), fresh_peer_ports(3)
    config.write("synergy.toml", f"hops = {stand.path.hops}\n")
    program = server.start(stand, port, Preload(config=config.file))
    stays_out(stand, server, program, ports[0], port)
    config.write("peers.d/laptop.toml", f'peers = ["[{PEER[6]}]:{ports[0]}-{ports[2]}"]\n')
    time.sleep(AT_ONCE)
    for source_port in ports:
        assert gets_in(stand, server, program, source_port, port)


@pytest.mark.complains
def test_changes_by_the_hundred(stand, config, names):
    """Neither descriptors nor memory grow with them."""
    names.set(laptop=[PEER[6]])
    server = own("tcp")
    port, ports = fresh_port(), fresh_peer_ports(9)
    config.write("synergy.toml", f"hops = {stand.path.hops}\nrefresh = 1\n")
    program = server.start(stand, port, Preload(config=config.file))

    def change(times):
        for index in range(times):
            config.write("peers.d/a.toml",
                         f'peers = ["laptop.example.net:{ports[index % 8]}-{ports[8]}"]\n')
            time.sleep(0.11)
            if index % 3 == 0:
                config.remove("peers.d/a.toml")
                time.sleep(0.11)
        config.write("peers.d/a.toml", f'peers = ["laptop.example.net:{ports[8]}"]\n')
        time.sleep(AT_ONCE)
        return held_by(program.pid)

    change(16)
    before = change(16)
    after = change(100)
    stand.say(f"descriptors and kB: {before}, {after}")
    # A look-up may be under way, in a thread of the keeper's.
    assert after[0] <= before[0] * 2 and after[1] < before[1] + 512
    assert gets_in(stand, server, program, ports[8], port)


def test_peer_that_calls_while_it_is_none(stand, config):
    """Its hole is open for a while yet. The listener's own answer would keep it shut for two minutes
    when the peer is one again."""
    server = own("tcp")
    port, (source_port, called) = fresh_port(), fresh_peer_ports(2)
    common = f'hops = {stand.path.hops}\nlog = "info"\n'
    both = common + f'peers = ["[{PEER[6]}]:{source_port}", "[{PEER[6]}]:{called}"]\n'
    config.write("synergy.toml", both)
    program = server.start(stand, port, Preload(config=config.file))
    program.wait_for(rf"<- \[{PEER[6]}\]:{called}: opens")
    config.write("synergy.toml", common)
    for peer_port in (source_port, called):
        program.wait_for(rf"<- \[{PEER[6]}\]:{peer_port}: ends", AT_ONCE)
    stays_out(stand, server, program, called, port)
    config.write("synergy.toml", both)
    wait_until(lambda: len(re.findall(" opens", program.stderr())) >= 4, 2 * AT_ONCE,
               "both holes", program)
    for peer_port in (source_port, called):
        assert gets_in(stand, server, program, peer_port, port, 20)
