"""The programs that come with the library: listendemo, and synergy run."""

import pytest

import clients
import firewall
import servers
from programs import STAGE, fresh_peer_ports, fresh_port, wait_until
from topology import PEER, SERVER
from trials import NO_ANSWER, PATIENCE, at_once, peers

pytestmark = pytest.mark.usefixtures("library")

LISTENDEMO, SYNERGY = STAGE / "src/listendemo", STAGE / "src/synergy"


def wait_for_hole(stand, family, port):
    """A first punch that has crossed the server's firewall."""
    wait_until(lambda: any(f"sport={port} " in entry for entry in
                           firewall.connections(stand.path, "fwa", family)),
               PATIENCE, f"a hole for port {port}")


@pytest.mark.parametrize("family", (6, 4))
@pytest.mark.parametrize("transport", ("tcp", "udp"))
def test_listendemo(stand, transport, family):
    """What is typed goes to the peer, what the peer sends is shown, five times."""
    make = clients.tcp_client if transport == "tcp" else clients.udp_client
    def talk(source_port):
        port = fresh_port()
        program = stand.start("A", [LISTENDEMO, transport, SERVER[family], port, PEER[family],
                                    source_port, stand.path.hops])
        wait_for_hole(stand, family, port)
        with make(stand, family, source_port, port, PATIENCE) as client:
            client.send("from the peer\n")
            program.wait_for("from the peer\n")
            program.write("from the server\n")
            client.receive_until("from the server\n")
            assert program.stdout() == "from the peer\n"
        program.stop()

    at_once(talk, fresh_peer_ports(5))


@pytest.mark.parametrize("transport", ("tcp", "udp"))
def test_listendemo_lets_nobody_else_in(stand, transport):
    """Another port of the same peer's has no hole; nor has anybody if the punch ends too early."""
    make = clients.tcp_client if transport == "tcp" else clients.udp_client
    for hop_limit, stray in ((stand.path.hops, 1), (stand.path.hop("fwa"), 0)):
        port, (source_port, _) = fresh_port(), fresh_peer_ports(2)
        program = stand.start("A", [LISTENDEMO, transport, SERVER[6], port, PEER[6], source_port,
                                    hop_limit])
        with pytest.raises(TimeoutError):
            with make(stand, 6, source_port + stray, port, NO_ANSWER) as client:
                client.send("from a stranger\n")
                program.wait_for("from a stranger\n", NO_ANSWER)
        program.stop()


@pytest.mark.parametrize("arguments, offending", (
    (("tcp", SERVER[6], 4444, PEER[6], 5555, 0), "0"),
    (("tcp", SERVER[6], 4444, PEER[6], 5555, 255), "255"),
    (("tcp", SERVER[6], 4444, "2001:db8::g", 5555, 2), "2001:db8::g"),
    (("tcp", SERVER[6], 70000, PEER[6], 5555, 2), "70000"),
    (("icmp", SERVER[6], 4444, PEER[6], 5555, 2), "icmp"),
), ids=("hops-0", "hops-255", "address", "port", "transport"))
def test_listendemo_names_a_bad_argument(stand, arguments, offending):
    program = stand.start("A", [LISTENDEMO, *arguments])
    assert program.wait_exit() == 2
    assert offending in program.stderr()


def test_synergy_run(stand):
    """The command runs with the library, in place of synergy itself."""
    port, source_ports = fresh_port(), fresh_peer_ports(3)
    kind = servers.own_tcp("::")
    server = stand.serve(
        [SYNERGY, "run", "--peer", peers(6, source_ports[0]), "--peer", peers(6, source_ports[1]),
         "--hops", stand.path.hops, "--", *kind.command(port)], "tcp", port)
    for source_port in source_ports[:2]:
        kind.talk(stand, kind, server, source_port, port, PATIENCE)
    with pytest.raises(TimeoutError):
        kind.talk(stand, kind, server, source_ports[2], port, NO_ANSWER)


@pytest.mark.parametrize("options, offending", (
    (("--peer", "[2001:db8:b::5:5555", "--hops", "2"), "[2001:db8:b::5:5555"),
    (("--peer", "[2001:db8:b::5]:5555", "--hops", "256"), "256"),
    (("--peer", "[2001:db8:b::5]:5555", "--config", "/nowhere.toml"), "/nowhere.toml"),
), ids=("peer", "hops", "config"))
def test_synergy_run_refuses_to_start(stand, options, offending):
    program = stand.start("A", [SYNERGY, "run", *options, "--", "echo", "started all the same"])
    assert program.wait_exit() == 2
    assert offending in program.stderr()
    assert program.stdout() == ""


def test_synergy_run_passes_the_status_on(stand):
    program = stand.start("A", [SYNERGY, "run", "--peer", "[2001:db8:b::5]:5555", "--hops", "2",
                                "--", "sh", "-c", "exit 7"])
    assert program.wait_exit() == 7
