"""The hooks of libsynergy.so: programs see of every intercepted call what they see without them.

Run by /usr/bin/python3 -m pytest; SYNERGY_BUILD names the build directory (default: build). The
programs are tests/unit/programs/, built there. No packet leaves this host: the peers of most tests
have no route here or are ports of 127.0.0.1.
"""

import os
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SYNERGY_BUILD", REPOSITORY / "build")).resolve()
LIBRARY = BUILD / "preload" / "libsynergy.so"
KEEPER = BUILD / "src" / "synergy-keeper"
PROGRAMS = BUILD / "tests"
SOURCES = REPOSITORY / "tests" / "unit" / "programs"

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
    """The comparison above is of use only if the keeper is there, and works."""
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
    """The keeper has the port until it looks; only its own server can make it look at once."""
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


def test_a_process_without_settings_asks_for_two_files_and_no_more():
    """Whether there are any settings: of all that the library does the one thing that is seen."""
    calls = {}
    for name, library in (("bare", ""), ("preloaded", str(LIBRARY))):
        runner = ["strace", "-f", "-E", f"LD_PRELOAD={library}", "-e", "trace=!%memory"]
        if shutil.which("strace") is None:
            pytest.skip("strace")
        traced = run(*runner, PROGRAMS / "children", environment=plain_environment())
        assert traced.returncode == 0
        calls[name] = re.findall(r"^(?:\[pid +\d+\] )?(\w+)\(([^,)]*)", traced.stderr, re.M)
    added = [call for call in calls["preloaded"] if call[0] in ("access", "faccessat")]
    programs = len([call for call in calls["preloaded"] if call[0] == "execve"])
    assert len([call for call in added if "synergy.toml" in call[1]]) <= 2 * programs
    for call in ("clone", "vfork", "execve", "socketpair", "getsockopt", "sendmsg"):
        counts = [len([one for one in found if one[0] == call]) for found in calls.values()]
        assert counts[0] == counts[1], call


def test_a_missing_keeper_is_said_once_and_changes_nothing(tmp_path):
    lonely = tmp_path / "libsynergy.so"
    shutil.copy(LIBRARY, lonely)
    environment = preloaded_environment(SYNERGY_LOG="warn")
    environment["LD_PRELOAD"] = str(lonely)
    bare = run(PROGRAMS / "transcript", environment=plain_environment())
    result = run(PROGRAMS / "transcript", environment=environment)
    assert result.stdout == bare.stdout
    assert len(result.stderr.splitlines()) == 1
    assert "synergy-keeper can't be started: No such file or directory" in result.stderr


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


def test_the_server_has_no_thread_child_or_descriptor_more(deaf_peer):
    """What the keeper is to the server: nothing that it can see."""
    seen = []
    for environment in (plain_environment(), preloaded_environment(deaf_peer.text())):
        with Waiting("tcp", environment=environment) as server:
            proc = Path(f"/proc/{server.process.pid}")
            children = [(task / "children").read_text().split() for task in (proc / "task").iterdir()]
            seen.append((len(children), sorted(children), sorted(fd.name for fd in (proc / "fd").iterdir())))
            keepers = server.keepers()
    assert seen[0] == seen[1]
    assert len(keepers) == 1
    assert wait_until(lambda: not Path(f"/proc/{keepers[0]}/exe").exists())


def test_the_keeper_has_nothing_of_the_servers(deaf_peer):
    with Waiting("tcp", environment=preloaded_environment(deaf_peer.text())) as server:
        (keeper,) = server.keepers()
        own = {os.readlink(fd) for fd in Path(f"/proc/{keeper}/fd").iterdir()}
        servers = {os.readlink(fd) for fd in Path(f"/proc/{server.process.pid}/fd").iterdir()}
        assert any("eventpoll" in link for link in own)
        # (Its stderr's path is a pipe that it opens for each line.)
        assert {link for link in own & servers if not link.startswith("pipe:")} <= {"/dev/null"}
        assert os.readlink(f"/proc/{keeper}/cwd") == "/"
        assert os.getsid(keeper) == keeper
        assert "LD_PRELOAD" not in Path(f"/proc/{keeper}/environ").read_text()


def test_no_keeper_where_there_is_no_hole(deaf_peer):
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_PORTS="1")
    with Waiting("tcp", environment=environment) as server:
        assert server.keepers() == []


AWKWARD = ["within-malloc", "cancel", "small-stack", "at-once", "vfork", "user-namespace",
           "lowered-limit", "inherited", "many-children", "wait", "stderr", "often",
           "no-close-range"]


@pytest.mark.parametrize("way", AWKWARD)
def test_an_awkward_moment(way):
    assert same_with_and_without("awkward", way)[-1] == "end"


@pytest.mark.parametrize("way, why", [
    ("no-exec", "Operation not permitted"),
    ("killed-exec", "does not answer"),
    ("no-processes", "Resource temporarily unavailable"),
    ("process-namespace", "Operation not permitted"),
])
def test_where_no_keeper_can_be_had_one_line_says_why(way, why):
    bare = run(PROGRAMS / "awkward", way, environment=plain_environment())
    if bare.returncode != 0:
        pytest.skip(bare.stdout)
    preloaded = run(PROGRAMS / "awkward", way, environment=preloaded_environment(SYNERGY_LOG="warn"))
    assert preloaded.stdout == bare.stdout
    assert preloaded.returncode == 0
    (line,) = preloaded.stderr.splitlines()
    assert "nothing is punched" in line and why in line


BAD_KEEPERS = {
    "ends": ("#!/bin/sh\nexit 0\n", "does not answer"),
    "is silent": ("#!/bin/sh\nexec sleep 5\n", "Connection timed out"),
    "talks nonsense": ("#!/bin/sh\necho nonsense >&3\nsleep 1\n", "does not answer"),
    "is no program": ("nothing\n", "Exec format error"),
}


@pytest.mark.parametrize("kind", BAD_KEEPERS)
def test_a_keeper_that_is_none_holds_the_server_up_for_two_seconds_at_most(kind, tmp_path):
    text, why = BAD_KEEPERS[kind]
    shutil.copy(LIBRARY, tmp_path / "libsynergy.so")
    (tmp_path / "synergy-keeper").write_text(text)
    (tmp_path / "synergy-keeper").chmod(0o755)
    environment = preloaded_environment(SYNERGY_LOG="warn")
    environment["LD_PRELOAD"] = str(tmp_path / "libsynergy.so")
    bare = run(PROGRAMS / "awkward", "at-once", environment=plain_environment())
    begin = time.monotonic()
    result = run(PROGRAMS / "awkward", "at-once", environment=environment)
    assert time.monotonic() - begin < 4
    assert result.stdout == bare.stdout
    (line,) = result.stderr.splitlines()
    assert why in line


@pytest.mark.parametrize("settings", [{}, {"SYNERGY_HOPS": "2"}], ids=["no settings", "settings"])
def test_a_constructor_that_waits_for_a_thread_while_the_loader_is_locked(settings):
    late = PROGRAMS / "liblate.so"
    bare = run(PROGRAMS / "awkward", "dlopen", late, environment=plain_environment())
    assert "late listen: 1" in bare.stdout and "dlopen: done" in bare.stdout
    environment = plain_environment(LD_PRELOAD=str(LIBRARY))
    if settings:
        environment = preloaded_environment(**settings)
    preloaded = run(PROGRAMS / "awkward", "dlopen", late, environment=environment, timeout=20)
    assert preloaded.stdout == bare.stdout


@pytest.mark.parametrize("preloaded", [False, True])
def test_a_plugin_that_brings_the_library_along_may_go(preloaded):
    environment = preloaded_environment() if preloaded else plain_environment()
    result = run(PROGRAMS / "awkward", "plugin", PROGRAMS / "libplugin.so", environment=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "call: 0\ndlclose: 0\n" * 2 + "end\n"


def test_threads_with_much_data_of_their_own():
    assert same_with_and_without("large_tls") == ["accepted: 1", "joined: 0"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_arguments_that_nobody_would_write(seed):
    """Bad pointers, rooms that end in the middle or at the end of a page, huge and negative
    numbers: result, errno and what was written are the kernel's."""
    lines = same_with_and_without("arguments", seed, 20000)
    assert len(lines) == 20000


@pytest.fixture(scope="session", name="checked")
def library_that_checks_itself(tmp_path_factory):
    """What to preload: the library built for the address sanitizer, the kernel's plain calls, and the
    sanitizer, whose own functions for these calls read what bad pointers point to."""
    place = tmp_path_factory.mktemp("asan")
    asan = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True,
                          check=True).stdout.strip()
    if not os.path.isabs(asan):
        pytest.skip("no address sanitizer here")
    common = ["cc", "-shared", "-fPIC", "-O1", "-g", "-D_GNU_SOURCE", "-std=gnu11"]
    subprocess.run([*common, SOURCES / "plain_calls.c", "-o", place / "plain.so"], check=True)
    subprocess.run(
        [*common, "-fsanitize=address", "-fvisibility=hidden", "-U_FORTIFY_SOURCE",
         f"-I{REPOSITORY / 'src'}", '-DSYNERGY_SYSCONFDIR="/etc"', f'-DSYNERGY_KEEPER="{KEEPER}"',
         *sorted((REPOSITORY / "preload").glob("*.c")), "-Wl,-z,nodelete,-z,now",
         "-o", place / "libsynergy.so"], check=True)
    return place / "libsynergy.so", f"{place / 'plain.so'} {os.path.realpath(asan)}"


@pytest.mark.parametrize("seed", range(11, 16))
def test_arguments_that_nobody_would_write_to_a_library_that_checks_itself(seed, checked):
    library, others = checked
    options = {"ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0:handle_segv=0"}
    bare = run(PROGRAMS / "arguments", seed, 20000,
               environment=plain_environment(LD_PRELOAD=others, **options))
    environment = preloaded_environment(**options)
    environment["LD_PRELOAD"] = f"{library} {others}"
    preloaded = run(PROGRAMS / "arguments", seed, 20000, environment=environment)
    assert preloaded.stderr == ""
    assert preloaded.returncode == bare.returncode == 0
    assert len(bare.stdout.splitlines()) == 20000
    assert preloaded.stdout == bare.stdout


def test_one_wrong_setting_and_a_closed_listener():
    result = run(PROGRAMS / "awkward", "inherited", timeout=20,
                 environment=preloaded_environment(SYNERGY_HOPS="many", SYNERGY_LOG="warn"))
    assert result.stdout == "child 0\nend\n"
    assert "SYNERGY_HOPS" in result.stderr


def test_the_sanitizers_library_before_ours():
    asan = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True,
                          check=True).stdout.strip()
    if not os.path.isabs(asan):
        pytest.skip("no address sanitizer here")
    environment = preloaded_environment(before=os.path.realpath(asan), ASAN_OPTIONS="detect_leaks=0")
    result = run(PROGRAMS / "children", environment=environment, timeout=30)
    assert result.returncode == 0, result.stderr
    assert result.stdout == run(PROGRAMS / "children", environment=plain_environment()).stdout


WAYS_TO_SERVE = ["fork", "unseen-fork", "daemon", "exec", "fork-exec", "far-exec", "chroot", "nobody",
                 "user-namespace", "no-processes", "far", "main-thread-exits", "connections-number"]


@pytest.mark.parametrize("way", WAYS_TO_SERVE)
def test_a_punched_connection_comes_out_whatever_becomes_of_the_server(way, deaf_peer):
    """What happens between listen() and accept(): the same keeper goes on."""
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="warn")
    with Waiting("tcp", way, environment=environment) as server:
        assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            mine = client.getsockname()[1]
            assert client.recv(100).decode().strip() == f"127.0.0.1 {mine}"
        _, errors = server.end()
        assert errors == ""


def resident(process):
    """In KiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"^VmRSS:\s*(\d+)", status, re.M)[1])


def held_by(process):
    """Descriptors of all its threads' tables: what is given up is held by one of its own."""
    return sum(len(list((task / "fd").iterdir())) for task in Path(f"/proc/{process}/task").iterdir())


def name_of(keeper):
    """Under which abstract name a keeper listens."""
    inodes = {os.readlink(fd) for fd in Path(f"/proc/{keeper}/fd").iterdir()}
    for line in Path("/proc/net/unix").read_text().splitlines():
        fields = line.split()
        if len(fields) == 8 and fields[7].startswith("@synergy-keeper/") \
                and f"socket:[{fields[6]}]" in inodes:
            return fields[7][1:]
    raise AssertionError("no name")


@pytest.mark.parametrize("who", ["another user", "the same user"])
def test_strangers_by_the_thousand_take_nothing_and_hold_nobody_up(who):
    """3,000 forged messages with descriptors of every kind, 50 at a time among them, while 1,500
    connections say nothing."""
    if who == "another user" and os.geteuid() != 0:
        pytest.skip("only root can be another user")
    peers = [DeafPeer() for _ in range(12)]
    environment = preloaded_environment(",".join(peer.text() for peer in peers), SYNERGY_LOG="warn")
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        shutil.copy(SOURCES / "stranger.py", place)
        with Waiting("tcp", environment=environment) as server:
            (keeper,) = server.keepers()
            assert peers[0].ask(server.port)
            before, memory = held_by(keeper), resident(keeper)
            stranger = subprocess.Popen(
                ["/usr/bin/python3", f"{place}/stranger.py", name_of(keeper), "3000", "1500"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=plain_environment(),
                preexec_fn=as_nobody if who == "another user" else None)
            took = []
            for peer in peers[1:]:
                begin = time.monotonic()
                assert peer.ask(server.port) == f"127.0.0.1 {peer.port}"
                took.append(time.monotonic() - begin)
                time.sleep(0.1)
            output, _ = stranger.communicate(timeout=60)
            sent, idle, *_ = map(int, output.split())
            assert sent >= 3000 and idle == 1500
            assert max(took) < 1, took
            # (A punch for each peer whose turn is over may be open again.)
            assert wait_until(lambda: held_by(keeper) <= before, 10), (before, held_by(keeper))
            assert resident(keeper) < memory + 2048
            assert server.keepers() == [keeper]
            _, errors = server.end()
    for peer in peers:
        peer.close()
    assert errors == ""


BIRTHS = ["fork", "_Fork", "raw-fork", "vfork", "clone-vm", "clone-beside", "posix_spawn"]
DEEDS = ["close", "close-all", "replace", "shut-away", "accept"]


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("birth", BIRTHS)
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_what_a_child_does_with_its_own_descriptors_is_not_its_parents(
        birth, deed, transport, deaf_peer):
    """Some children have the parent's memory, and all have other descriptors. The parent's sockets
    are served as before, and when it closes one the port is free at once."""
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="warn")
    with Waiting(transport, f"{birth}/{deed}", environment=environment) as server:
        assert server.port
        if transport == "tcp":
            assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                mine = client.getsockname()[1]
                assert client.recv(100).decode().strip() == f"127.0.0.1 {mine}"
        assert len(server.keepers()) == 1
        with socket.socket(type=socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM) as other:
            with pytest.raises(OSError, match="in use"):
                other.bind(("0.0.0.0", server.port))
        server.process.stdin.write("c")
        server.process.stdin.flush()
        if transport == "tcp":  # it sits in accept(), which goes on with what was closed
            return
        assert server.process.stdout.readline() == "closed\n"
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.bind(("0.0.0.0", server.port))
        _, errors = server.end()
    assert errors == ""


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("birth", BIRTHS)
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_port_is_free_at_once_whatever_children_there_were(birth, deed, transport):
    same_with_and_without("again", f"{birth}/{deed}", transport)


def as_nobody():
    os.setgid(65534)
    os.setuid(65534)


# As many descriptors as the server has left: the bell, and what it is asked by, take two.
ROOM = ["left-1", "left-2", "left-3", "left-2-hard", "left-3-hard"]


@pytest.mark.parametrize("room", ROOM)
def test_a_server_with_hardly_a_descriptor_left_gets_its_peers(room, deaf_peer, tmp_path):
    check_with_few_descriptors(room, deaf_peer, tmp_path)


def check_with_few_descriptors(room, deaf_peer, tmp_path, wait_for=lambda server: None):
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        for each in (PROGRAMS / "wait", LIBRARY, KEEPER):
            shutil.copy(each, place)
        log = Path(place) / "log"
        log.touch()
        log.chmod(0o666)
        environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="info",
                                            SYNERGY_LOG_FILE=str(log))
        environment["LD_PRELOAD"] = f"{place}/libsynergy.so"
        # (Root may pass his limits, hard ones as well.)
        options = {"preexec_fn": as_nobody} if os.geteuid() == 0 else {}
        with Waiting("tcp", room, environment=environment, program=f"{place}/wait", **options) as server:
            with deaf_peer.call(server.port) as client:
                wait_for(server)
                assert client.recv(100).decode().strip() == f"127.0.0.1 {deaf_peer.port}"
            # And ordinary clients, as ever.
            with socket.create_connection(("127.0.0.1", server.port), 5) as client:
                mine = client.getsockname()[1]
                assert client.recv(100).decode().strip() == f"127.0.0.1 {mine}"
        said = log.read_text()
        assert said.count(" connected") == 1, said
        assert "error" not in said


@pytest.mark.parametrize("room", ["later-1", "later-2", "later-2-hard"])
def test_a_server_without_a_descriptor_for_a_while_gets_its_peers_after_it(
        room, deaf_peer, tmp_path):
    """Longer than a bell that nobody answers is rung again."""
    def wait(server):
        time.sleep(12)
        server.process.stdin.write("x")
        server.process.stdin.flush()

    check_with_few_descriptors(room, deaf_peer, tmp_path, wait)


def test_one_descriptor_and_no_way_to_more_makes_the_peer_wait_for_room(deaf_peer, tmp_path):
    """The kernel gives a process nothing without a number: the connection waits, and is not reset
    for a wrong reason, until a second one is free."""
    def wait(server):
        time.sleep(12)
        server.process.stdin.write("x")
        server.process.stdin.flush()

    check_with_few_descriptors("later-1-and-1-hard", deaf_peer, tmp_path, wait)


def leave_room(process, count):
    """The process may open so many descriptors from now on."""
    taken = {int(entry.name) for entry in Path(f"/proc/{process}/fd").iterdir()}
    free = [number for number in range(max(taken) + 2 + count) if number not in taken]
    resource.prlimit(process, resource.RLIMIT_NOFILE,
                     (free[count], resource.prlimit(process, resource.RLIMIT_NOFILE)[1]))


def test_a_keeper_without_a_descriptor_for_a_while_loses_no_connection(deaf_peer, tmp_path):
    log = tmp_path / "log"
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="info",
                                        SYNERGY_LOG_FILE=str(log))
    with Waiting("tcp", environment=environment) as server:
        (keeper,) = server.keepers()
        leave_room(keeper, 0)
        with deaf_peer.call(server.port) as client:
            time.sleep(1.5)
            assert not select.select([client], [], [], 0)[0]
            leave_room(keeper, 100)
            assert client.recv(100).decode().strip() == f"127.0.0.1 {deaf_peer.port}"
        assert "error" not in log.read_text()


def test_a_filter_that_allows_the_servers_own_loop_alone(deaf_peer):
    """For all threads, and whoever does anything else is killed."""
    with Waiting("tcp", "filter", environment=preloaded_environment(deaf_peer.text())) as server:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                mine = client.getsockname()[1]
                assert client.recv(100).decode().strip() == f"127.0.0.1 {mine}"
        assert server.process.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="what root does with somebody else's files")
@pytest.mark.parametrize("owner", [65534, 0], ids=["anothers", "roots own"])
def test_root_does_not_follow_somebody_elses_config_file(owner, deaf_peer, tmp_path):
    home, target = tmp_path / "home", tmp_path / "target"
    target.write_text("of root's\n")
    config = home / ".config" / "synergy" / "synergy.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'peers = "{deaf_peer.text()}"\nlog = "info"\nlog_file = "{target}"\n')
    os.chown(home, owner, owner)
    environment = plain_environment(LD_PRELOAD=str(LIBRARY), HOME=str(home), SYNERGY_HOPS="2")
    with Waiting("tcp", environment=environment) as server:
        if owner == 0:
            assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
        assert bool(server.keepers()) == (owner == 0)
        _, errors = server.end()
    assert (target.read_text() == "of root's\n") == (owner != 0)
    lines = errors.splitlines()
    assert len(lines) == (owner != 0)
    assert all(str(config) in line and "SYNERGY_CONFIG" in line for line in lines)


@pytest.mark.skipif(os.geteuid() != 0, reason="what root is confined to")
@pytest.mark.parametrize("owner", [65534, 0], ids=["anothers", "roots own"])
def test_where_root_remembers_hop_limits_is_there_before_the_keeper_is_confined(
        owner, deaf_peer, tmp_path):
    os.chown(tmp_path, owner, owner)
    environment = preloaded_environment(deaf_peer.text(), HOME=str(tmp_path))
    with Waiting("tcp", environment=environment) as server:
        assert server.keepers()
        assert (tmp_path / ".local/state/synergy").is_dir() == (owner == 0)
        assert any(tmp_path.iterdir()) == (owner == 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="begins as root")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_the_log_that_root_began_goes_on_when_the_server_is_somebody_else(
        moment, deaf_peer, tmp_path):
    """One file, also where it is named relative to the server's directory, and where it is moved
    away (by a program that rotates logs) when root has been given up."""
    log = tmp_path / "log"
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="info", SYNERGY_LOG_FILE="log")
    with Waiting("tcp", "nobody", environment=environment, cwd=tmp_path) as server:
        assert "opens" in log.read_text()
        if moment == "after":
            log.rename(tmp_path / "log.1")
        assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
        assert wait_until(lambda: log.exists() and "connected" in log.read_text())
        _, errors = server.end()
    assert errors == ""
    assert (log.stat().st_uid, log.stat().st_mode & 0o777) == (0, 0o640)


# What systemd's sets hold (systemd-analyze), OpenSSH allows its child before the login, and chrony
# itself; then the least that a loop takes.
THREADS = """clone clone3 mmap mprotect munmap madvise rseq set_robust_list futex exit exit_group
    gettid rt_sigaction rt_sigprocmask rt_sigreturn brk fstat newfstatat"""
PRIVSEP = THREADS + """ clock_gettime clock_nanosleep close geteuid getpgid getpid getrandom
    gettimeofday getuid mremap nanosleep poll ppoll pselect6 read select shutdown time write writev
    accept accept4"""
CHRONY = THREADS + """ adjtimex clock_adjtime clock_gettime gettimeofday settimeofday time getpid
    getrlimit rt_sigaction set_tid_address wait4 access chmod chown fchmodat fstat lseek newfstatat
    readlink rename renameat stat statx unlink unlinkat bind connect getsockname getsockopt recvfrom
    recvmmsg recvmsg sendmmsg sendmsg sendto close openat pipe pipe2 poll ppoll pselect6 read select
    write getrandom sysinfo uname socket:2 socket:10 setsockopt fcntl accept accept4"""
LOOP = THREADS + " accept accept4 read write close"
# The control: all that the library needs is in it.
WIDE = CHRONY + """ socket socketpair getpeername dup3 geteuid rt_sigpending rt_sigtimedwait
    nanosleep prlimit64"""


def system_calls_of(*sets):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze")
    found = set()
    for each in sets:
        output = subprocess.run(["systemd-analyze", "syscall-filter", each], capture_output=True,
                                text=True, check=True).stdout
        names = [line.strip() for line in output.splitlines() if line.startswith("    ")]
        found |= {name for name in names if re.match(r"\w", name)}
        found |= system_calls_of(*(name for name in names if name.startswith("@"))) \
            if any(name.startswith("@") for name in names) else set()
    return found


UNITS = {
    "service": lambda: ("kill", system_calls_of("@system-service")),
    "hardened": lambda: ("kill", system_calls_of("@system-service")
                         - system_calls_of("@privileged", "@resources")),
    "container": lambda: ("errno", system_calls_of("@system-service") | {"seccomp", "landlock_restrict_self",
                          "landlock_create_ruleset", "landlock_add_rule"}
                          - {"clone3", "keyctl", "add_key", "request_key", "unshare", "setns",
                             "personality", "userfaultfd", "name_to_handle_at"}),
}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_a_server_in_a_sandbox_is_punched_for(unit, user, deaf_peer, tmp_path):
    action, names = UNITS[unit]()
    allowed = tmp_path / "allowed"
    allowed.write_text("\n".join(names))
    os.chmod(tmp_path, 0o755)
    as_user = [] if user == "root" or os.geteuid() != 0 else [
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        for each in (PROGRAMS / "wait", PROGRAMS / "sandboxed", LIBRARY, KEEPER, allowed):
            shutil.copy(each, place)
        environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="info")
        preload = f"LD_PRELOAD={place}/libsynergy.so"
        del environment["LD_PRELOAD"]
        runner = [*as_user, f"{place}/sandboxed", action, f"{place}/allowed",
                  "/usr/bin/env", preload]
        with Waiting("tcp", environment=environment, runner=runner, program=f"{place}/wait") as server:
            assert server.port
            assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
            time.sleep(0.2)  # it has confined itself by then
            assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
            server.process.stdin.write("c")
            server.process.stdin.flush()
            status, errors = server.end()
    assert status == 0
    assert "killed" not in errors and "error" not in errors


FILTERS = {"privilege separation": PRIVSEP, "chrony": CHRONY, "loop": LOOP, "wide": WIDE}


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_that_a_server_gives_itself_never_ends_it(name, transport, deaf_peer, tmp_path):
    """For all threads, after listen(). What it forbids the library does not try."""
    allowed = tmp_path / "allowed"
    allowed.write_text(FILTERS[name])
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="warn")
    with Waiting(transport, f"only:{allowed}", environment=environment) as server:
        if transport == "tcp":
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", server.port)) as client:
                    mine = client.getsockname()[1]
                    assert client.recv(100).decode().strip() == f"127.0.0.1 {mine}"
                if name == "wide":
                    assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
                    continue
                with deaf_peer.call(server.port) as peer:  # nobody can hand it over: it is told
                    with pytest.raises(ConnectionError):
                        peer.recv(1)
                        raise ConnectionResetError
                assert server.process.poll() is None
        server.process.stdin.write("c")
        server.process.stdin.flush()
        status, errors = server.end()
    assert status == 0
    if transport == "tcp":
        assert errors.count("system call filter") == (name != "wide")


def test_a_symbolic_link_to_the_library(deaf_peer, tmp_path):
    link = tmp_path / "another-name.so"
    link.symlink_to(LIBRARY)
    environment = preloaded_environment(deaf_peer.text())
    environment["LD_PRELOAD"] = str(link)
    with Waiting("tcp", environment=environment) as server:
        assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"


def test_a_killed_keeper_is_replaced_and_that_is_said(deaf_peer):
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="warn")
    with Waiting("tcp", environment=environment) as server:
        (killed,) = server.keepers()
        os.kill(killed, 9)
        # The server's next call: it accepts somebody, and waits for the next.
        assert wait_until(lambda: [
            socket.create_connection(("127.0.0.1", server.port)).close(), server.keepers()
        ][1] not in ([], [killed]))
        assert wait_until(lambda: deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}")
        status, errors = server.end()
    assert status == 0
    assert errors.count("the keeper has been killed") == 1


def test_a_stopped_keeper_holds_the_server_up_once():
    server = subprocess.Popen([PROGRAMS / "awkward", "step"], env=preloaded_environment(),
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert server.stdout.readline() == "step\n"
    (keeper,) = keepers_of(server.pid)
    took = []
    os.kill(keeper, signal.SIGSTOP)
    try:
        for _ in range(4):
            begin = time.monotonic()
            server.stdin.write("x")
            server.stdin.flush()
            assert server.stdout.readline() == "step\n"
            took.append(time.monotonic() - begin)
    finally:
        os.kill(keeper, signal.SIGCONT)
        server.communicate(timeout=10)
    assert 1.5 < took[0] < 3 and max(took[1:]) < 0.5, took
    assert server.returncode == 0


def test_a_stopped_keeper_holds_up_one_of_many_forks():
    server = subprocess.Popen([PROGRAMS / "awkward", "forks"], env=preloaded_environment(),
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert server.stdout.readline() == "listens\n"
    (keeper,) = keepers_of(server.pid)
    os.kill(keeper, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        server.stdin.write("x")
        server.stdin.flush()
        assert server.stdout.readline() == "end\n"
        took = time.monotonic() - begin
    finally:
        os.kill(keeper, signal.SIGCONT)
        server.communicate(timeout=10)
    # (Below that, all of them would have been told, and nothing shown.)
    assert 1.5 < took < 8


def test_a_stopped_keeper_does_not_make_accept_wait_where_poll_saw_somebody(deaf_peer):
    """The listener blocks, and what poll() saw was a bell that can't be answered now."""
    with Waiting("tcp", "polls", environment=preloaded_environment(deaf_peer.text())) as server:
        (keeper,) = server.keepers()
        server.process.send_signal(signal.SIGSTOP)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.settimeout(10)
            client.bind(("127.0.0.1", deaf_peer.port))
            client.connect(("127.0.0.1", server.port))
            time.sleep(0.3)  # it rings
            os.kill(keeper, signal.SIGSTOP)
            try:
                server.process.send_signal(signal.SIGCONT)
                time.sleep(0.3)  # the server is in accept()
                server.process.stdin.write("x")
                server.process.stdin.flush()
                assert select.select([server.process.stdout], [], [], 5)[0]
            finally:
                os.kill(keeper, signal.SIGCONT)
            # The connection is not lost: it rings again.
            client.settimeout(20)
            assert client.recv(100).decode().strip() == f"127.0.0.1 {deaf_peer.port}"


def test_a_keeper_that_is_out_of_reach_is_not_taken_for_dead(deaf_peer):
    """From another network namespace nothing can be fetched, and no bell is shown."""
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="warn")
    with Waiting("tcp", "network-namespace", environment=environment) as server:
        keepers = server.keepers()
        with pytest.raises(TimeoutError):
            deaf_peer.ask(server.port, patience=1.5)
        assert server.keepers() == keepers and len(keepers) == 1
        _, errors = server.end()
    assert errors == ""


def test_an_inherited_listener_and_a_child_by_vfork_that_calls_first(deaf_peer):
    with socket.create_server(("0.0.0.0", 0)) as listener:
        with Waiting("tcp", "vfork-first", str(listener.fileno()), pass_fds=[listener.fileno()],
                     environment=preloaded_environment(deaf_peer.text())) as server:
            assert wait_until(server.keepers, 2)


def test_a_keeper_ends_with_its_server(deaf_peer):
    with Waiting("tcp", environment=preloaded_environment(deaf_peer.text())) as server:
        (keeper,) = server.keepers()
        server.process.kill()
        assert wait_until(lambda: not Path(f"/proc/{keeper}/exe").exists(), 2)


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


def test_a_keeper_under_such_a_filter_goes_on(deaf_peer):
    """It confines itself as root, by calls that the filter ends it for."""
    runner = [PROGRAMS / "forbidden"]
    if run(*runner, "/bin/true", environment=plain_environment()).returncode == 77:
        pytest.skip("no system call filter can be set here")
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="info")
    with Waiting("tcp", environment=environment, runner=runner) as server:
        time.sleep(0.3)
        assert len(server.keepers()) == 1
        assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
        _, errors = server.end()
    assert "connected" in errors and "killed" not in errors
    if os.geteuid() == 0:
        assert "more rights than it needs: seccomp" in errors


MULTILIB = ["cc", "-m32", "-D_GNU_SOURCE", "-std=gnu11", "-O1"]


@pytest.fixture(scope="session", name="library_32")
def library_of_32_bits(tmp_path_factory):
    place = tmp_path_factory.mktemp("m32")
    probe = subprocess.run([*MULTILIB, "-xc", "-", "-o", place / "probe"], text=True, check=False,
                           input="#include <stdio.h>\nint main(void) { return 0; }\n", capture_output=True)
    if probe.returncode != 0 or run(place / "probe", environment=plain_environment()).returncode != 0:
        pytest.skip("no compiler and libc for 32 bits: apt-get install gcc-multilib")
    library = place / "libsynergy.so"
    subprocess.run(
        [*MULTILIB, "-shared", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-Wall", "-Werror",
         "-Wno-nonnull-compare", f"-I{REPOSITORY / 'src'}", '-DSYNERGY_SYSCONFDIR="/etc"',
         f'-DSYNERGY_KEEPER="{KEEPER}"', *sorted((REPOSITORY / "preload").glob("*.c")),
         f"-Wl,--version-script={REPOSITORY / 'preload/libsynergy.map'}",
         "-Wl,-z,initfirst,-z,nodelete,-z,now", "-o", library], check=True)
    return library


def compiled_32(name, place, *options):
    program = place / f"{name}-32"
    subprocess.run([*MULTILIB, "-Wno-error", *options, SOURCES / f"{name}.c", "-lpthread", "-o", program],
                   check=True)
    return program


@pytest.mark.parametrize("how", ["select", "pselect", "ppoll"])
def test_a_32_bit_program_with_64_bit_time_waits_by_other_names(how, library_32, deaf_peer, tmp_path):
    """An inherited listener is met at the first call that waits for it; the keeper has 64 bits."""
    program = compiled_32("time64", tmp_path, "-D_TIME_BITS=64", "-D_FILE_OFFSET_BITS=64")
    names = subprocess.run(["nm", "-D", program], capture_output=True, text=True, check=True).stdout
    assert f"__{how}64" in names
    environment = preloaded_environment(deaf_peer.text())
    environment["LD_PRELOAD"] = str(library_32)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = subprocess.Popen([program, how, str(listener.fileno())], env=environment, text=True,
                                  pass_fds=[listener.fileno()], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        assert server.stdout.readline() == "0\n"
        assert wait_until(lambda: keepers_of(server.pid), 2)
        server.communicate()
        assert server.returncode == 0


@pytest.mark.parametrize("how", ["recvmsg", "recvmmsg"])
def test_a_32_bit_program_with_64_bit_time_receives_by_other_names(how, library_32, deaf_peer, tmp_path):
    program = compiled_32("time64", tmp_path, "-D_TIME_BITS=64", "-D_FILE_OFFSET_BITS=64")
    environment = preloaded_environment(deaf_peer.text())
    environment["LD_PRELOAD"] = str(library_32)
    with socket.socket(type=socket.SOCK_DGRAM) as server_socket:
        server_socket.bind(("127.0.0.1", 0))
        server_socket.set_inheritable(True)
        server = subprocess.Popen([program, how, str(server_socket.fileno())], env=environment, text=True,
                                  pass_fds=[server_socket.fileno()], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        assert server.stdout.readline() == "-1\n"
        assert wait_until(lambda: keepers_of(server.pid), 2)
        server.communicate()
        assert server.returncode == 0


def test_a_32_bit_program_sees_of_every_call_what_it_sees_without(library_32, tmp_path):
    compiled, arguments = compiled_32("arguments", tmp_path, "-fno-builtin-malloc"), (1, 5000)
    bare = run(compiled, *arguments, environment=plain_environment())
    assert bare.returncode == 0
    environment = preloaded_environment()
    environment["LD_PRELOAD"] = str(library_32)
    preloaded = run(compiled, *arguments, environment=environment)
    assert preloaded.stdout.splitlines() == bare.stdout.splitlines()
    assert preloaded.returncode == 0


def test_a_program_of_another_libc_that_inherits_the_library_is_served_too(deaf_peer, tmp_path):
    if shutil.which("musl-gcc") is None:
        pytest.skip("musl-gcc: apt-get install musl-tools")
    program = tmp_path / "foreign"
    subprocess.run(["musl-gcc", "-O1", SOURCES / "foreign.c", "-o", program], check=True)
    dynamic = subprocess.run(["readelf", "-l", program], capture_output=True, text=True, check=True)
    assert "ld-musl" in dynamic.stdout
    # It begins, without settings and with them.
    bare = run(program, environment=plain_environment(LD_PRELOAD=str(LIBRARY)))
    assert (bare.returncode, bare.stderr) == (0, "") and int(bare.stdout)
    with Waiting(environment=preloaded_environment(deaf_peer.text()), program=program) as server:
        assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
        assert server.end() == (0, "")


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


def test_the_library_exports_what_it_intercepts_and_its_own_calls():
    calls, _ = intercepted()
    assert {"listen", "bind", "accept", "accept4", "recvfrom", "__recvfrom_chk", "recvmsg",
            "recvmmsg", "close"} <= calls
    # A program that is linked with another major version of the library does not start with this.
    assert exported(LIBRARY) == calls | {"synergy@@SYNERGY_0", "synergy_to@@SYNERGY_0"}


def test_the_32_bit_library_knows_the_second_names_too(library_32):
    calls, second = intercepted()
    assert "__recvmmsg64" in second
    assert exported(library_32) == calls | second | {"synergy@@SYNERGY_0", "synergy_to@@SYNERGY_0"}


def test_the_library_needs_libc_alone_and_runs_first():
    dynamic = subprocess.run(
        ["readelf", "-W", "-d", str(LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    libraries = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
    assert all(re.match(r"lib(c|dl)\.|ld-", name) for name in libraries), libraries
    # Nothing of it is resolved later, and it is never unloaded.
    assert {"NOW", "NODELETE", "INITFIRST"} <= set(
        re.search(r"\(FLAGS_1\).*Flags: (.*)", dynamic)[1].split()
    )


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
