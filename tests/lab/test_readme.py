"""What README shows of commands and of the log is what they print, word for word: on the lab's path,
whose addresses it has. Times, process ids, users and the kernel's release are any."""

import contextlib
import pathlib
import re
import socket
import subprocess
import textwrap

import pytest

import clients
import firewall
import namespace
from programs import ENVIRONMENT, STAGE, Preload, script, wait_until
from servers import PYTHON
from test_test import Side, forgetful, rules
from topology import PEER, SERVER

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.complains]

README = pathlib.Path(__file__).parents[2] / "README.md"


def shown(first):
    """The indented block of README that has this line, without what was typed."""
    blocks = re.findall(r"(?m)(?:^    .*\n(?:\n(?=    ))?)+", README.read_text(encoding="utf-8"))
    (block,) = [block for block in map(textwrap.dedent, blocks) if first in block]
    return [line for line in block.splitlines() if not line.startswith("$ ")]


def plain(lines):
    """Without what is another each time."""
    for pattern, text in ((r"\d+\.\d ms  \S+", "TIME"), (r"Linux \S+", "Linux RELEASE"),
                          (r"pid \d+", "pid N"), (r"user \d+", "user N"), (r"\b\d+ s\b", "N s")):
        lines = [re.sub(pattern, text, line) for line in lines]
    return [re.sub(r"  +", "  ", line).rstrip() for line in lines]


def synergy(stand, *words, **variables):
    with namespace.inside(stand.path.namespace("A")):
        done = subprocess.run(
            [STAGE / "src/synergy", *words], capture_output=True, text=True, timeout=120, check=False,
            env={**ENVIRONMENT, "LC_ALL": "C.UTF-8", **variables})
    return done.stdout.rstrip("\n").splitlines()


def test_probe(stand):
    expected = shown("to 2001:db8:b::5 from 2001:db8:a::11")
    assert plain(synergy(stand, "probe", "[2001:db8:b::5]:5555")) == plain(expected)


def test_check(stand):
    firewall.set_profile(stand.path, "prohibited")
    found = synergy(stand, "check", "--", "ncat", "-6", "-l", "4444", SYNERGY_HOPS="5",
                    SYNERGY_PEERS="[2001:db8:b::5]:5555")
    assert plain(found) == plain(shown("ok: /usr/bin/ncat can be preloaded"))


def serve(stand, address, **settings):
    return stand.serve([PYTHON, script("tcp_server.py"), address, "4444", "echo"], "tcp", 4444,
                       preload=Preload(**settings))


@contextlib.contextmanager
def calling(stand):
    """The peer is connected, and leaves nothing behind that rests: the ports are those of all."""
    with clients.tcp_client(stand, 6, 5555, 4444, 5) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.send("hello\n")
        client.receive_until("hello\n")
        yield


def test_status(stand):
    program = serve(stand, SERVER[6], peers="[2001:db8:b::5]:5555-5556 203.0.113.5:5555", hops=2)
    with calling(stand):
        expected = plain(shown("kept by pid"))
        found = []

        def is_shown():
            """As soon as the routers have said where punches die."""
            found[:] = plain(synergy(stand, "status"))
            return found == expected
        with contextlib.suppress(TimeoutError):
            wait_until(is_shown, 10, "it", program)
    assert found == expected


def test_log(stand):
    program = serve(stand, "::", peers="[2001:db8:b::5]:5555", hops=3, log="info")
    program.wait_for("die at")
    with calling(stand):
        program.wait_for("connected")
    lines = [line for line in program.stderr().splitlines() if line.startswith("synergy: ")]
    assert lines == shown("synergy: info: tcp [::]:4444 <- ")


def two_firewalls(stand):
    """This side's refuses simultaneous open, and both forget datagrams after 20 s."""
    with rules(stand.path, "fwa", "PREROUTING -i to-r1 -p tcp --syn -j DROP", table="raw"), \
            forgetful(stand.path, "fwa", 20), forgetful(stand.path, "fwb", 20):
        for node in "fwa", "fwb":
            namespace.sysctl(stand.path.namespace(node),
                             {"net/netfilter/nf_conntrack_tcp_timeout_syn_sent": 120})
        peer = Side(stand.path, "B", SERVER[6], idle="10,30,60")
        try:
            found = synergy(stand, "test", "[2001:db8:b::5]")
            assert peer.result()["complete"]
            return found
        finally:
            peer.stop()


@pytest.mark.background("readme-test", two_firewalls)
def test_test(background):
    """Where README leaves rows out, "..." stands."""
    found = background.result()
    print("\n".join(found))
    text = "\n".join(plain(shown("waiting for the peer, which runs")))
    pattern = re.escape(text).replace(re.escape("\n...\n"), "\n(?:.*\n)*?")
    assert re.fullmatch(pattern, "\n".join(plain(found)))
