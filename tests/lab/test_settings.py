"""A setting that cannot be used is named on standard error exactly: where it stands, what stands
there, what was expected. The server runs on as without the library."""

import re
import socket

import pytest

import namespace
import servers
from programs import SCRATCH, Preload, fresh_port
from topology import PEER

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.complains]

GOOD_PEER = f"[{PEER[6]}]:5000"


def serve(stand, **settings):
    port = fresh_port()
    server = stand.serve(servers.own_tcp("::").command(port), "tcp", port,
                         preload=Preload(**settings))
    return server, port


def check_serves_from_loopback(stand, server, port):
    """More than once: a server that dies of its first connection is not served well."""
    for _ in range(3):
        with namespace.open_socket(
                stand.path.namespace("A"), socket.AF_INET6, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            client.connect(("::1", port))
            client.sendall(b"hello\n")
            assert client.recv(100).endswith(b" hello\n")
    assert server.is_running()


def check_named(server, place, text):
    """One line with the place, the text itself, and what belongs there."""
    pattern = rf"{re.escape(place)}: '{re.escape(text)}': expected \S+"
    server.wait_for(pattern)
    assert len(re.findall(pattern, server.stderr())) == 1, "said more than once"


@pytest.mark.parametrize("settings, variable, text", (
    ({"peers": "[2001:db8:b::5:5555"}, "PEERS", "[2001:db8:b::5:5555"),
    ({"peers": "[2001:db8:b::5]:70000"}, "PEERS", "[2001:db8:b::5]:70000"),
    ({"peers": "[2001:db8:b::5]:5560-5555"}, "PEERS", "[2001:db8:b::5]:5560-5555"),
    ({"peers": "[2001:db8:b::g]:5555"}, "PEERS", "[2001:db8:b::g]:5555"),
    ({"peers": "198.51.100.256:5555"}, "PEERS", "198.51.100.256:5555"),
    ({"peers": GOOD_PEER, "hops": "0"}, "HOPS", "0"),
    ({"peers": GOOD_PEER, "hops": "255"}, "HOPS", "255"),
    ({"peers": GOOD_PEER, "hops": "2x"}, "HOPS", "2x"),
    ({"peers": GOOD_PEER, "ports": "4444,five"}, "PORTS", "five"),
    ({"peers": GOOD_PEER, "refresh": "soon"}, "REFRESH", "soon"),
    ({"peers": GOOD_PEER, "log": "loud"}, "LOG", "loud"),
    ({"peers": GOOD_PEER, "local": "2001:db8::/64"}, "LOCAL", "2001:db8::/64"),
), ids=lambda value: value if isinstance(value, str) else "")
def test_mistyped_variable(stand, settings, variable, text):
    server, port = serve(stand, **settings)
    check_named(server, f"SYNERGY_{variable}", text)
    check_serves_from_loopback(stand, server, port)


def test_good_settings_are_not_commented(stand):
    server, port = serve(stand, peers=GOOD_PEER, hops=stand.path.hops, ports=f"1-{2 ** 16 - 1}",
                         refresh=20, log="warn")
    check_serves_from_loopback(stand, server, port)
    assert server.stderr() == ""


def written(name, text):
    SCRATCH.mkdir(mode=0o755, exist_ok=True)
    file = SCRATCH / name
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("text, line_and_column, offending", (
    ('hops = 3\npeers = [ "[2001:db8:b::5:5555" ]\n', "2:11", "[2001:db8:b::5:5555"),
    ('hops = 300\npeers = [ "[2001:db8:b::5]:5555" ]\n', "1:8", "300"),
), ids=("peer", "hops"))
def test_mistyped_line_of_the_file(stand, text, line_and_column, offending):
    file = written("mistyped.toml", text)
    server, port = serve(stand, config=file)
    check_named(server, f"{file}:{line_and_column}", offending)
    check_serves_from_loopback(stand, server, port)


def test_file_that_is_no_toml(stand):
    file = written("broken.toml", 'peers = [ "unclosed ]\nhops = 3\n')
    server, port = serve(stand, config=file)
    server.wait_for(rf"{re.escape(str(file))}:1:\d+: ")
    check_serves_from_loopback(stand, server, port)


def test_file_that_is_not_there(stand):
    file = SCRATCH / "nowhere.toml"
    server, port = serve(stand, config=file)
    server.wait_for(r"SYNERGY_CONFIG: '" + re.escape(str(file)))
    check_serves_from_loopback(stand, server, port)


def test_good_peer_beside_a_mistyped_one_gets_in(stand):
    """Nothing is punched for the bad one, and it takes nobody with it."""
    server, port = serve(stand, peers=f"[2001:db8:b::5]:port {GOOD_PEER}", hops=stand.path.hops)
    check_named(server, "SYNERGY_PEERS", "[2001:db8:b::5]:port")
    kind = servers.own_tcp("::")
    kind.talk(stand, kind, server, 5000, port, 10)
