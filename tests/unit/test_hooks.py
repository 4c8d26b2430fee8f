"""The hooks of libsynergy.so: programs see of every intercepted call what they see without them.

Run by /usr/bin/python3 -m pytest; SYNERGY_BUILD names the build directory (default: build). The
programs are tests/unit/programs/, built there. No packet leaves this host: the peers of most tests
have no route here or are ports of 127.0.0.1.
"""

import os
import re
import select
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SYNERGY_BUILD", REPOSITORY / "build")).resolve()
LIBRARY = BUILD / "preload" / "libsynergy.so"
ENGINE = BUILD / "preload" / "libsynergy-engine.so"
PROGRAMS = BUILD / "tests"

NOWHERE = "[2001:db8:b::5]:5555"


def plain_environment(**variables):
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C"}
    environment.update(variables)
    return environment


def preloaded_environment(peers=NOWHERE, before="", after="", **variables):
    """Settings of one peer; the log goes nowhere unless the test wants it."""
    preload = " ".join(filter(None, [before, str(LIBRARY), after]))
    settings = {"SYNERGY_PEERS": peers, "SYNERGY_HOPS": "2", "SYNERGY_LOG": "off"}
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


def test_every_call_has_the_same_result_and_errno():
    lines = same_with_and_without("transcript")
    assert len(lines) > 300
    for errno in ("EBADF", "ENOTSOCK", "EFAULT", "EAGAIN", "EINTR", "EINVAL", "EOPNOTSUPP",
                  "EADDRINUSE", "EADDRNOTAVAIL", "EAFNOSUPPORT"):
        assert any(errno in line for line in lines), errno


def test_two_sockets_that_share_a_port_until_one_listens():
    assert "listen(two, 5): -1 EADDRINUSE" in same_with_and_without("transcript", "sharing")


def test_the_transcript_can_tell_a_difference():
    """The comparison above is of use only if the engine is there, and works."""
    loaded = run(
        PROGRAMS / "transcript",
        environment=preloaded_environment(SYNERGY_LOG="debug", SYNERGY_LOG_FILE="stderr"),
    )
    assert f"<- {NOWHERE}: opens, hop limit 2" in loaded.stderr


@pytest.mark.parametrize("order", ["library first", "library last"])
def test_calls_from_another_librarys_constructor(order):
    early = PROGRAMS / "libearly.so"
    bare = run(PROGRAMS / "nothing", environment=plain_environment(LD_PRELOAD=str(early)))
    assert "early listen: 0" in bare.stdout
    place = {"after": str(early)} if order == "library first" else {"before": str(early)}
    preloaded = run(PROGRAMS / "nothing", environment=preloaded_environment(**place))
    assert preloaded.stdout == bare.stdout
    assert preloaded.returncode == 0


SEEN_TO_CLOSE = ["close", "vfork", "fork"]
WAYS_TO_CLOSE = [*SEEN_TO_CLOSE, "closefrom", "close_range", "dup2", "fclose", "moved"]


def without_delay_elsewhere(output):
    """The engine has the port until it looks; only its own process can make it look at once."""
    return output.replace("elsewhere: EADDRINUSE", "elsewhere: bound")


@pytest.mark.parametrize("how", WAYS_TO_CLOSE)
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_closed_port_is_free_and_no_descriptor_is_added(transport, how):
    bare, preloaded = (
        run(PROGRAMS / "again", how, transport, environment=environment)
        for environment in (plain_environment(), preloaded_environment())
    )
    lines = bare.stdout.splitlines()
    assert lines.count("again: bound") == 20 and lines.count("elsewhere: bound") == 1
    if how not in SEEN_TO_CLOSE:
        preloaded.stdout = without_delay_elsewhere(preloaded.stdout)
    assert preloaded.stdout.splitlines() == lines
    assert preloaded.returncode == 0


def test_children_accept_listen_and_bind():
    lines = same_with_and_without("children")
    assert lines.count("child served: 1 c, status 0") == 3


def test_threads_accept_in_parallel_and_can_be_cancelled():
    lines = same_with_and_without("threads")
    assert lines == ["accepted 400", "cancelled 8", "cancelled 1", "then 1", "close 0"]


def test_forks_of_a_process_with_threads_do_not_lock_up():
    result = run(PROGRAMS / "forks", 1000, environment=preloaded_environment(), timeout=60)
    assert result.stdout == "1000 of 1000\n", result.stderr


def test_a_server_at_its_limit_of_files():
    lines = same_with_and_without("limited")
    assert "accept EMFILE" in lines


def test_a_process_without_settings_does_not_load_the_engine():
    environment = plain_environment(LD_PRELOAD=str(LIBRARY), LD_DEBUG="files")
    result = run(PROGRAMS / "children", environment=environment)
    assert result.returncode == 0
    assert "libsynergy.so" in result.stderr
    assert "libsynergy-engine.so" not in result.stderr


def test_a_missing_engine_is_said_once_and_changes_nothing(tmp_path):
    lonely = tmp_path / "libsynergy.so"
    shutil.copy(LIBRARY, lonely)
    environment = preloaded_environment()
    environment["LD_PRELOAD"] = str(lonely)
    bare = run(PROGRAMS / "transcript", environment=plain_environment())
    result = run(PROGRAMS / "transcript", environment=environment)
    assert result.stdout == bare.stdout
    assert len(result.stderr.splitlines()) == 1
    assert "libsynergy-engine.so" in result.stderr


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

    def ask(self, port):
        """Connects from the peer's very port: what the server says it sees."""
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # No four-tuple is to rest in TIME_WAIT here.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.settimeout(10)
            client.bind(("127.0.0.1", self.port))
            client.connect(("127.0.0.1", port))
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

    def __init__(self, *arguments, environment, runner=()):
        self.process = subprocess.Popen(
            [*map(str, runner), str(PROGRAMS / "wait"), *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
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

    def threads(self):
        return {
            int(task.name): (task / "comm").read_text().strip()
            for task in Path(f"/proc/{self.process.pid}/task").iterdir()
        }

    def engine_thread(self):
        found = [task for task, name in self.threads().items() if name == "synergy"]
        assert len(found) == 1, self.threads()
        return Path(f"/proc/{self.process.pid}/task/{found[0]}")


def test_a_punched_connection_comes_out_of_accept(deaf_peer):
    with Waiting("tcp", environment=preloaded_environment(deaf_peer.text())) as server:
        assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            mine = client.getsockname()[1]
            assert client.recv(100).decode().strip() == f"127.0.0.1 {mine}"


def test_the_punch_is_what_takes_the_peers_connection(deaf_peer, tmp_path):
    """Were it the listener that answers here, the test above would show nothing."""
    log = tmp_path / "log"
    environment = preloaded_environment(
        deaf_peer.text(), SYNERGY_LOG="info", SYNERGY_LOG_FILE=str(log)
    )
    with Waiting("tcp", environment=environment) as server:
        deaf_peer.ask(server.port)
        assert "connected" in log.read_text()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_the_engines_thread_takes_no_signals(transport, deaf_peer):
    with Waiting(transport, environment=preloaded_environment(deaf_peer.text())) as server:
        status = (server.engine_thread() / "status").read_text()
        blocked = int(re.search(r"^SigBlk:\s*([0-9a-f]+)$", status, re.M)[1], 16)
        # All but SIGKILL and SIGSTOP, which can't be, and two that glibc keeps for itself.
        for number in range(1, 65):
            if number not in (9, 19, 32, 33):
                assert blocked >> (number - 1) & 1, number
        # Those of the server's own threads are as they were (pthread_create() blocks them at times).
        for _ in range(100):
            own = Path(f"/proc/{server.process.pid}/status").read_text()
            if int(re.search(r"^SigBlk:\s*([0-9a-f]+)$", own, re.M)[1], 16) == 0:
                break
            time.sleep(0.02)
        else:
            pytest.fail(own)


def test_the_engines_descriptors_are_in_a_table_of_its_own(deaf_peer):
    with Waiting("tcp", environment=preloaded_environment(deaf_peer.text())) as server:
        task = server.engine_thread()
        own = {os.readlink(fd) for fd in (task / "fd").iterdir()}
        servers = {os.readlink(fd) for fd in Path(f"/proc/{server.process.pid}/fd").iterdir()}
        assert any("eventpoll" in link for link in own)
        assert not any("eventpoll" in link for link in servers)
        # Nothing of the server's is held there, its stderr and standard input least of all.
        assert own & servers <= {"/dev/null"}
    with Waiting("tcp", environment=plain_environment()) as bare:
        expected = {fd.name for fd in Path(f"/proc/{bare.process.pid}/fd").iterdir()}
    with Waiting("tcp", environment=preloaded_environment(deaf_peer.text())) as server:
        assert {fd.name for fd in Path(f"/proc/{server.process.pid}/fd").iterdir()} == expected


def test_no_thread_where_there_is_no_hole(deaf_peer):
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_PORTS="1")
    with Waiting("tcp", environment=environment) as server:
        assert "synergy" not in server.threads().values()


def test_a_server_whose_first_thread_has_ended_keeps_its_holes(deaf_peer, tmp_path):
    """/proc/self/fd can't be read then, which does not mean that the sockets are closed."""
    log = tmp_path / "log"
    environment = preloaded_environment(
        deaf_peer.text(), SYNERGY_REFRESH="1", SYNERGY_LOG="debug", SYNERGY_LOG_FILE=str(log)
    )
    with Waiting("tcp", "main-thread-exits", environment=environment) as server:
        time.sleep(2.5)  # some renewals
        assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
        time.sleep(1.5)  # the next hole
        assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
        assert log.read_text().count("connected") == 2


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_line_for_stderr_does_not_end_a_server_under_a_system_call_filter(transport):
    """The filters of hardened units end the process for some calls instead of refusing them."""
    environment = preloaded_environment(
        "127.0.0.1:9", SYNERGY_LOG="debug", SYNERGY_LOG_FILE="stderr"
    )
    runner = [PROGRAMS / "forbidden"]
    if run(*runner, "/bin/true", environment=plain_environment()).returncode == 77:
        pytest.skip("no system call filter can be set here")
    with Waiting(transport, environment=environment, runner=runner) as server:
        time.sleep(1.0)
        assert server.process.poll() is None
        status, errors = server.end()
        assert status == 0
        assert "synergy: " in errors


def exported(library):
    output = subprocess.run(
        ["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    return {line.split()[-1].split("@")[0] for line in output.splitlines()}


def exports_in_map(name):
    text = (REPOSITORY / "preload" / name).read_text()
    return set(re.findall(r"(\w+);", text.split("global:")[1].split("local:")[0]))


def intercepted():
    """The names in the table of intercepted calls (preload/calls.h)."""
    text = (REPOSITORY / "preload" / "calls.h").read_text()
    return set(re.findall(r"^\s*CALL\([\s\\]*\w+, (\w+),", text, re.M))


def test_the_library_exports_what_it_intercepts_and_its_own_calls():
    calls = intercepted()
    assert {"listen", "bind", "accept", "accept4", "recvfrom", "__recvfrom_chk", "recvmsg",
            "recvmmsg", "close"} <= calls
    assert exported(LIBRARY) == calls | {"synergy", "synergy_to"}
    assert exports_in_map("libsynergy.map") == exported(LIBRARY)


def test_the_engine_exports_one_function():
    assert exported(ENGINE) == {"synergy_engine_open"}


def test_the_library_runs_nothing_at_its_start():
    """No constructor but what the toolchain puts into every shared object (frame_dummy)."""
    sections = subprocess.run(
        ["readelf", "-W", "-S", str(LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    sizes = dict(re.findall(r"\.(init_array|ctors|preinit_array)\s+\S+\s+\S+\s+\S+\s+(\S+)", sections))
    pointer = struct.calcsize("P")
    assert int(sizes.get("init_array", "0"), 16) <= pointer
    assert "ctors" not in sizes and "preinit_array" not in sizes
    needed = subprocess.run(
        ["readelf", "-W", "-d", str(LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    libraries = set(re.findall(r"\(NEEDED\).*\[(.*)\]", needed))
    assert all(re.match(r"lib(c|dl|pthread)\.|ld-", name) for name in libraries), libraries


def test_the_engine_brings_its_own_runtime():
    needed = subprocess.run(
        ["readelf", "-W", "-d", str(ENGINE)], capture_output=True, text=True, check=True
    ).stdout
    libraries = set(re.findall(r"\(NEEDED\).*\[(.*)\]", needed))
    if any("san" in name for name in libraries):
        pytest.skip("a build with sanitizers")
    assert all(re.match(r"lib(c|m|dl|pthread)\.|ld-", name) for name in libraries), libraries


IN_NAMESPACE = """
set -e
ip link set lo up
ip link add here0 type veth peer name there0
ip link set there0 up
ip link set here0 up
ip -6 addr add 2001:db8:a::11/64 dev here0 nodad
ip -6 route add default via 2001:db8:a::1 dev here0
ip -6 neigh add 2001:db8:a::1 lladdr 02:00:00:00:00:01 dev here0
exec "$@"
"""


def test_every_call_has_the_same_result_while_punches_are_under_way():
    """With a route, the punching sockets do stay in SYN_SENT beside the server's."""
    runner = ["unshare", "-Urn", "sh", "-c", IN_NAMESPACE, "sh"]
    if subprocess.run([*runner, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no network namespace to be had here (unshare -Urn)")

    def inside(program, *arguments, environment):
        return run(
            runner[0], *runner[1:], "env", *(f"{k}={v}" for k, v in environment.items()),
            PROGRAMS / program, *arguments, environment=plain_environment(),
        )

    for program, *arguments in [("transcript",), ("children",), ("threads",),
                                ("again", "close", "tcp"), ("again", "closefrom", "tcp"),
                                ("again", "close_range", "udp"), ("again", "moved", "tcp")]:
        bare = inside(program, *arguments, environment={})
        assert bare.returncode == 0, bare.stdout + bare.stderr
        preloaded = inside(program, *arguments, environment=preloaded_environment())
        if program == "again" and arguments[0] not in SEEN_TO_CLOSE:
            preloaded.stdout = without_delay_elsewhere(preloaded.stdout)
        assert preloaded.stdout.splitlines() == bare.stdout.splitlines(), (program, *arguments)
        assert preloaded.returncode == 0
