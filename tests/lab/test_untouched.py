"""A server that the settings do not mean behaves bit for bit as without the library: a trace of
its system calls is the same."""

import difflib
import glob
import os
import re
import signal
import socket
import time

import pytest

import namespace
from programs import Preload, fresh_peer_ports, fresh_port, wait_listening
from topology import PEER

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.needs("strace")]

ACCESS_TO_DEFAULT_FILE = r'access\("[^"]*/synergy/synergy\.toml", \w+\) += -1 ENOENT .*'

# Whose calls come in the same order every time: socat's loop, for one, turns as chance has it.
SERVERS = {
    "nc.openbsd": ("tcp", lambda port: ["nc.openbsd", "-6", "-l", port]),
    "ncat": ("tcp", lambda port: ["ncat", "-6", "-l", port]),
    "nc.openbsd-u": ("udp", lambda port: ["nc.openbsd", "-6", "-u", "-l", port]),
}
each = pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.needs(name.removesuffix("-u"))) for name in SERVERS])


def talk_from_loopback(stand, server, transport, port):
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    with namespace.open_socket(stand.path.namespace("A"), socket.AF_INET6, kind) as client:
        client.bind(("::1", fresh_peer_ports(1)[0]))
        client.connect(("::1", port))
        client.sendall(b"hello\n")
        server.wait_for("hello\n")
        server.write("good bye\n")
        client.settimeout(5)
        assert client.recv(100) == b"good bye\n"


def traced(stand, name, port, preload, what):
    """The system calls of a server that serves one loopback client, as lines."""
    transport, command = SERVERS[name]
    settings = preload.environment() if preload else {}
    # strace gives the variables to the server alone, and not to itself.
    given = [word for key, value in settings.items() for word in ("-E", f"{key}={value}")]
    trace = f"/run/lab/trace-{port}-{len(stand.programs)}"
    server = stand.start("A", ["strace", "-f", "-o", trace, "-e", f"trace={what}", *given,
                               *command(port)], user="root")
    wait_listening(server, transport, port)
    talk_from_loopback(stand, server, transport, port)
    if transport == "udp":
        # It would wait for ever. Strace itself must live to write down the rest.
        time.sleep(0.1)
        with open(f"/proc/{server.pid}/task/{server.pid}/children", encoding="ascii") as children:
            os.kill(int(children.read()), signal.SIGKILL)
    server.wait_exit(30)  # strace's, which waits for the keeper
    server.stop()
    with open(trace, encoding="utf-8") as file:
        # The last call of a server that is killed has no result. The time is not always asked of
        # the kernel, and as often as it takes.
        return [normalised(line) for line in file if re.search(r"\) += [^?]", line)
                and not re.search(r"\b(gettimeofday|clock_gettime|time)\(", line)]


def normalised(line):
    """Without what differs from run to run: the process, addresses in memory, the peer's port."""
    line = re.sub(r"^\d+ +", "", line.rstrip())
    line = re.sub(r"0x[0-9a-f]{6,}", "ADDRESS", line)
    line = re.sub(r"(sin6_port=htons\(|\[)\d{5}\b", r"\1PORT", line)
    line = re.sub(r"(getpid|set_tid_address)\((.*)\) += \d+", r"\1(\2) = PID", line)
    line = re.sub(r'(getrandom\()"[^"]*"', r"\1RANDOM", line)
    line = re.sub(r'sa_data="[^"]*"', "sa_data=PORT_AND_MORE", line)
    return re.sub(r"/\* \d+ vars \*/", "VARIABLES", line)


def without_loading(lines, library):
    """Cuts out what the dynamic linker does between opening a library and closing it."""
    opened = [index for index, line in enumerate(lines) if f'"{library}"' in line]
    assert len(opened) == 1, f"{library} is loaded once"
    first = opened[0]
    after = next(index for index in range(first, len(lines)) if lines[index].startswith("close("))
    for line in lines[first + 1:after]:
        assert re.match(r"(read|newfstatat|fstat|pread64|mmap|mprotect)\(", line), line
    # When the dynamic linker needs memory of its own depends on how much a library declares, and
    # whether it has pages to protect once it is loaded on what it is made of.
    own = ("mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = ADDRESS",
           "mprotect(ADDRESS, 4096, PROT_READ) = 0")
    return [line for line in lines[:first] + lines[after + 1:] if line not in own]


def neutral_library():
    """A library that does nothing and that no server here uses: since glibc 2.34 an empty one."""
    return (glob.glob("/lib*/*/libanl.so.1") + glob.glob("/lib*/libanl.so.1"))[0]


def differences(one, other):
    return [line for line in difflib.unified_diff(one, other, lineterm="", n=0)
            if not line.startswith(("---", "+++", "@@"))]


@each
def test_without_settings(stand, name):
    """The same as with any other library in front, down to the last call."""
    def served(preload):
        return without_loading(traced(stand, name, port, preload, "all"), preload.preloaded)

    port = fresh_port()
    neutral = Preload(library=neutral_library())
    bare, again = served(neutral), served(neutral)
    assert differences(bare, again) == [], "such a trace is not the same twice: nothing to compare"
    added = differences(bare, served(Preload()))
    # Whether there are settings at all: the one thing that it looks for, once per place.
    looked = [line for line in added if re.fullmatch(r"\+" + ACCESS_TO_DEFAULT_FILE, line)]
    # The library is linked so that the dynamic linker protects nothing of it afterwards.
    protected = "-mprotect(ADDRESS, 4096, PROT_READ) = 0"
    assert [line for line in added if line not in looked] in ([], [protected])
    assert len(looked) <= 2


@each
def test_settings_for_other_ports(stand, name):
    port = fresh_port()
    bare = traced(stand, name, port, None, "network")
    preload = Preload(peers=f"[{PEER[6]}]:5000", hops=2, ports=f"{port + 1}-{port + 100}")
    assert differences(bare, traced(stand, name, port, preload, "network")) == []


def test_comparison_sees_a_touched_server(stand):
    """The same comparison, for the port that is meant."""
    port = fresh_port()
    bare = traced(stand, "nc.openbsd", port, None, "network")
    preload = Preload(peers=f"[{PEER[6]}]:5000", hops=2, ports=port)
    assert differences(bare, traced(stand, "nc.openbsd", port, preload, "network")) != []
