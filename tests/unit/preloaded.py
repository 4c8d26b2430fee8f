"""Programs with libsynergy.so preloaded, and a peer of theirs on this host: what the tests beside this
file have in common.

SYNERGY_BUILD names the build directory (default: build), SYNERGY_SANITIZED a library that has
AddressSanitizer and is to be preloaded instead of that directory's. The programs are tests/unit/programs/, built
there. No packet leaves this host: the peers of most tests have no route here or are ports of 127.0.0.1.
"""

import json
import os
import re
import select
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SYNERGY_BUILD", REPOSITORY / "build")).resolve()
LIBRARY = Path(os.environ.get("SYNERGY_SANITIZED", BUILD / "preload" / "libsynergy.so"))
KEEPER = BUILD / "src" / "synergy-keeper"
PROGRAMS = BUILD / "tests"
SOURCES = REPOSITORY / "tests" / "unit" / "programs"

NOWHERE = "[2001:db8:b::5]:5555"

# Of the ways to close a socket that the program `again` has.
SEEN_TO_CLOSE = ["close", "closefrom", "close_range", "dup2", "fclose", "vfork", "fork"]

ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


def plain_environment(**variables):
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C"}
    environment.update(variables)
    return environment


def preloaded_environment(peers=NOWHERE, before="", after="", **variables):
    """Settings of one peer; the log goes nowhere unless the test wants it."""
    preload = " ".join(filter(None, [before, str(LIBRARY), after]))
    settings = {"SYNERGY_PEERS": peers, "SYNERGY_HOPS": "2", "SYNERGY_LOG": "off"}
    if "SYNERGY_SANITIZED" in os.environ:
        # It is loaded by that library, and not before. Signals are the program's own, and so are limits:
        # setting one calls the library before the shadow memory is there.
        settings["ASAN_OPTIONS"] = ("verify_asan_link_order=0:handle_segv=0:handle_sigbus=0:disable_coredump=0:"
                                    "detect_leaks=0")
    settings.update(variables)
    return plain_environment(LD_PRELOAD=preload, **settings)


def run(program, *arguments, environment, timeout=60, **options):
    return subprocess.run(
        [str(program), *map(str, arguments)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def same_with_and_without(program, *arguments, **options):
    """What the program printed, having seen that the library makes no difference."""
    bare = run(PROGRAMS / program, *arguments, environment=plain_environment(), **options)
    assert bare.returncode == 0, bare.stdout + bare.stderr
    preloaded = run(PROGRAMS / program, *arguments, environment=preloaded_environment(), **options)
    assert preloaded.stdout.splitlines() == bare.stdout.splitlines()
    assert preloaded.returncode == 0, preloaded.stdout + preloaded.stderr
    assert preloaded.stderr == bare.stderr
    return bare.stdout.splitlines()


class DeafPeer:
    """A port of 127.0.0.1 that lets SYNs go unanswered, as a punch that dies on its way."""

    def __init__(self):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.filling = socket.create_connection(("127.0.0.1", self.port))

    def text(self):
        return f"127.0.0.1:{self.port}"

    def call(self, port, patience=10):
        """A connection from the peer's very port."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # No four-tuple is to rest in TIME_WAIT here.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.settimeout(patience)
        client.bind(("127.0.0.1", self.port))
        client.connect(("127.0.0.1", port))
        return client

    def ask(self, port, patience=10):
        """What the server says it sees."""
        with self.call(port, patience) as client:
            return client.recv(100).decode().strip()

    def close(self):
        self.filling.close()
        self.listener.close()


@pytest.fixture
def deaf_peer():
    peer = DeafPeer()
    yield peer
    peer.close()


class Waiting:
    """The program `wait`, serving until the end of the with block."""

    def __init__(self, *arguments, environment, runner=(), program=PROGRAMS / "wait", **options):
        self.process = subprocess.Popen(
            [*map(str, runner), str(program), *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        ready, _, _ = select.select([self.process.stdout], [], [], 20)
        line = self.process.stdout.readline() if ready else ""
        self.port = int(line) if line.strip() else 0
        time.sleep(0.2)  # a server gets some time to go to the background before the first punch

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Its exit status, and what it said on stderr."""
        if self.process.stdin:
            self.process.stdin.close()
            self.process.stdin = None
        try:
            _, errors = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, errors = self.process.communicate()
        return self.process.returncode, errors

    def keepers(self):
        return keepers_of(self.process.pid)


def processes():
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def keepers_of(pid):
    """The processes of the keeper's program that watch over this one, as /proc/PID/fdinfo tells."""
    found = []
    for process in processes():
        try:
            if os.readlink(f"/proc/{process}/exe") != os.path.realpath(KEEPER):
                continue
            descriptors = list(Path(f"/proc/{process}/fdinfo").iterdir())
        except OSError:
            continue  # ended meanwhile
        for descriptor in descriptors:
            try:
                info = descriptor.read_text()
            except OSError:
                continue  # closed meanwhile
            if re.search(rf"^Pid:\s*{pid}$", info, re.M):
                found.append(process)
                break
    return found


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def python(text, *arguments, **options):
    return subprocess.Popen(["/usr/bin/python3", "-c", text, *map(str, arguments)], text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)


def exported(library):
    output = subprocess.run(
        ["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    # (But for the names of versions, which are absolute.)
    return {line.split()[-1] for line in output.splitlines() if line.split()[-2] != "A"}


def intercepted():
    """The names in the table of intercepted calls (preload/calls.h), and those of 32-bit programs."""
    text = (REPOSITORY / "preload" / "calls.h").read_text().split("define SYNERGY_TIME64_CALLS")
    return [set(re.findall(r"^\s*CALL\([\s\\]*\w+, (\w+),", part, re.M)) for part in text[:2]]


def is_ordinary_build():
    options = json.loads((BUILD / "meson-info" / "intro-buildoptions.json").read_text())
    values = {option["name"]: option["value"] for option in options}
    commands = (BUILD / "compile_commands.json").read_text()
    return (values["optimization"] == "3" and not values["c_args"] and not values["b_coverage"]
            and "clang" not in commands)


def without_delay_elsewhere(output):
    """The keeper has the port until it looks; only its own server can make it look at once."""
    return output.replace("elsewhere: EADDRINUSE", "elsewhere: bound")
