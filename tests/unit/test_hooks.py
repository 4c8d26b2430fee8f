"""The hooks of libsynergy.so: programs see of every intercepted call what they see without them.

Run by /usr/bin/python3 -m pytest; SYNERGY_BUILD names the build directory (default: build). The
programs are tests/unit/programs/, built there. No packet leaves this host: the peers of most tests
have no route here or are ports of 127.0.0.1.
"""

import itertools
import json
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
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

ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


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


SEEN_TO_CLOSE = ["close", "closefrom", "close_range", "dup2", "fclose", "vfork", "fork"]
WAYS_TO_CLOSE = [*SEEN_TO_CLOSE, "moved"]


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


def test_a_port_is_free_for_the_successor_of_a_killed_server(deaf_peer):
    """Where the library does not see bind(), it is not always: the keeper's sockets are there for a
    moment yet."""
    environment = preloaded_environment(deaf_peer.text())
    assert run(PROGRAMS / "successor", 200, environment=environment).stdout == \
        "0 of 200 could not\n"
    assert any(run(PROGRAMS / "successor", 50, "unseen", environment=environment).stdout !=
               "0 of 50 could not\n" for _ in range(60))


CLOSED_BY_EXEC = """
import os, socket, sys, time
with socket.socket(socket.AF_INET6) as listener:
    listener.bind(("::", 0))
    listener.listen(5)
    time.sleep(0.5)
    os.execve(sys.executable, [sys.executable, "-c", sys.argv[1], str(listener.getsockname()[1])], {})
"""
BOUND_AFTER = """
import socket, sys, time
begun = time.monotonic()
while True:
    try:
        socket.socket(socket.AF_INET6).bind(("::", int(sys.argv[1])))
        break
    except OSError:
        time.sleep(0.002)
print(time.monotonic() - begun)
"""


def test_a_port_is_free_soon_for_a_program_that_is_executed_without_the_library(deaf_peer):
    taken = [float(run(sys.executable, "-c", CLOSED_BY_EXEC, BOUND_AFTER,
                       environment=preloaded_environment(deaf_peer.text())).stdout)
             for _ in range(5)]
    assert max(taken) < 0.15, taken


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


@pytest.mark.parametrize("seed", [1, 2, 3, 5])
def test_arguments_that_nobody_would_write(seed):
    """Bad pointers, rooms that end in the middle or at the end of a page, huge and negative
    numbers: result, errno and what was written are the kernel's."""
    for _ in range(20):  # a port that it binds by chance may be another program's just then
        bare = run(PROGRAMS / "arguments", seed, 25000, environment=plain_environment())
        preloaded = run(PROGRAMS / "arguments", seed, 25000, environment=preloaded_environment())
        assert preloaded.returncode == bare.returncode == 0, preloaded.stderr
        if preloaded.stdout == bare.stdout:
            break
        time.sleep(0.3)
    assert preloaded.stdout.splitlines() == bare.stdout.splitlines()
    assert len(bare.stdout.splitlines()) == 25000


@pytest.mark.parametrize("seed, steps, peers", [*((seed, 2000, NOWHERE) for seed in (1, 2, 3, 4, 15, 43, 87)), (64, 2500, NOWHERE),
                                                (22, 3400, "127.0.0.1:5555"), (198, 2000, "127.0.0.1:5555")])
def test_sockets_that_become_something_else(seed, steps, peers):
    """Bound, shut down, taken apart by connect(AF_UNSPEC), duplicated, passed on and closed in any
    order: what comes of each call, and what the sockets say of themselves, is as without."""
    arguments = PROGRAMS / "states", seed, steps
    bare = run(*arguments, environment=plain_environment())
    preloaded = run(*arguments, environment=preloaded_environment(peers))
    assert preloaded.returncode == bare.returncode == 0, preloaded.stderr
    assert preloaded.stdout.splitlines() == bare.stdout.splitlines()
    assert len(bare.stdout.splitlines()) >= steps


BINDS_BESIDE = """
import errno, socket
def says(call):
    try: return call() or "done"
    except OSError as error: return errno.errorcode[error.errno]
def stream(*options):
    sock = socket.socket()
    for option in options:
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    return sock
def options(sock):
    return [sock.getsockopt(socket.SOL_SOCKET, option) for option in (shares, lets_others_in)]
shares, lets_others_in = socket.SO_REUSEPORT, socket.SO_REUSEADDR
listener = stream(lets_others_in)
listener.bind(("", 0))
listener.listen()
port = listener.getsockname()[1]
gone = stream()
gone.bind(("127.0.0.1", 0))
nobody = gone.getsockname()
gone.close()
for blocks in True, False:
    refused = stream(shares, lets_others_in)
    refused.setblocking(blocks)
    refused.connect_ex(nobody)
    print(refused.getsockname()[1] != 0, says(lambda: refused.connect(nobody)),
          says(lambda: refused.bind(("127.0.0.1", port))), options(refused))
bound = stream(shares)
bound.bind(("127.0.0.1", 0))
print(says(lambda: bound.bind(("127.0.0.1", port))), options(bound))
print(says(lambda: stream(shares).bind(("192.0.2.1", port))))
print(says(lambda: stream(shares).bind(("", port))))
"""


def test_bind_beside_a_listener_says_what_the_kernel_does():
    """A socket whose connect() was refused still has the name that it had, and may be bound again;
    of one that is bound, or of an address that is not here, the kernel says another thing first."""
    bare, preloaded = (run(sys.executable, "-c", BINDS_BESIDE, environment=environment) for environment
                       in (plain_environment(), preloaded_environment("198.51.100.5:5555")))
    assert preloaded.stdout == bare.stdout, preloaded.stderr
    assert bare.stdout.splitlines() == [*["True ECONNREFUSED EADDRINUSE [1, 1]"] * 2, "EINVAL [1, 0]",
                                        "EADDRNOTAVAIL", "EADDRINUSE"]


def test_a_server_that_forbids_itself_any_one_system_call_is_not_ended_for_it():
    assert len(same_with_and_without("each_forbidden")) == 470


def test_one_wrong_setting_and_a_closed_listener():
    result = run(PROGRAMS / "awkward", "inherited", timeout=20,
                 environment=preloaded_environment(SYNERGY_HOPS="many", SYNERGY_LOG="warn"))
    assert result.stdout == "child 0\nend\n"
    assert "SYNERGY_HOPS" in result.stderr


def sanitizers_library(name):
    library = subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True,
                             check=True).stdout.strip()
    if not os.path.isabs(library):
        pytest.skip(f"no {name} here")
    return os.path.realpath(library)


def test_the_sanitizers_library_before_ours():
    environment = preloaded_environment(before=sanitizers_library("libasan.so"), ASAN_OPTIONS="detect_leaks=0")
    result = run(PROGRAMS / "children", environment=environment, timeout=30)
    assert result.returncode == 0, result.stderr
    assert result.stdout == run(PROGRAMS / "children", environment=plain_environment()).stdout


THREADS_AROUND_A_LISTENER = """
import socket, threading
opened = threading.Event()
before = threading.Thread(target=opened.wait)
before.start()
listener = socket.create_server(("", 0))
after = threading.Thread(target=opened.set)
after.start()
after.join()
before.join()
print("joined")
"""


def test_the_thread_sanitizer_does_not_take_the_keepers_start_for_a_fork():
    """After which it lets no thread begin."""
    environment = preloaded_environment(before=sanitizers_library("libtsan.so"))
    result = run("/usr/bin/python3", "-c", THREADS_AROUND_A_LISTENER, environment=environment)
    assert result.stdout == "joined\n", result.stderr


A_CHILD_BINDS_AND_ENDS = """
import os, socket
listener, other = (socket.create_server(("::", 0), family=socket.AF_INET6) for _ in range(2))
print(flush=True)
input()
address = listener.getsockname()
listener.close()
child = os.fork()
if child == 0:
    bound = socket.socket(socket.AF_INET6)
    bound.bind(address)
    os._exit(0)
os.waitpid(child, 0)
socket.socket(socket.AF_INET6).bind(address)
print("bound")
"""


def test_a_port_is_free_when_a_child_that_has_bound_it_has_ended():
    """It was about to listen where a listener was closed before, so it was punched for at once. The
    keeper, which has given its rights up, can't see in /proc what root's processes have."""
    server = subprocess.Popen([sys.executable, "-c", A_CHILD_BINDS_AND_ENDS], text=True,
                              env=preloaded_environment(), stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    server.stdout.readline()
    (keeper,) = keepers_of(server.pid)
    if os.geteuid() == 0:
        assert wait_until(lambda: "Seccomp:\t2" in Path(f"/proc/{keeper}/status").read_text())
    output, errors = server.communicate("\n", timeout=20)
    assert output == "bound\n", errors


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


def test_a_filter_that_allows_the_servers_own_loop_alone(deaf_peer):
    """For all threads, and whoever does anything else is killed."""
    with Waiting("tcp", "filter", environment=preloaded_environment(deaf_peer.text())) as server:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                mine = client.getsockname()[1]
                assert client.recv(100).decode().strip() == f"127.0.0.1 {mine}"
        assert server.process.poll() is None


def test_a_symbolic_link_to_the_library(deaf_peer, tmp_path):
    link = tmp_path / "another-name.so"
    link.symlink_to(LIBRARY)
    environment = preloaded_environment(deaf_peer.text())
    environment["LD_PRELOAD"] = str(link)
    with Waiting("tcp", environment=environment) as server:
        assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"


STRANGER = 65534


def python(text, *arguments, **options):
    return subprocess.Popen(["/usr/bin/python3", "-c", text, *map(str, arguments)], text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)


FULL_QUEUE = """
import socket, sys
name = "\\0synergy/port/" + sys.argv[1]
there = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
there.bind(name)
there.listen(0)
waiting = []
try:
    while True:
        waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        waiting[-1].setblocking(False)
        waiting[-1].connect(name)
except BlockingIOError:
    print("full", flush=True)
sys.stdin.read()
"""

TIMED = """
import socket, sys, time
kind, port, shares = (int(word) for word in sys.argv[1:])
begin = time.monotonic()
sock = socket.socket(socket.AF_INET, kind)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
sock.bind(("0.0.0.0", port))
if kind == socket.SOCK_STREAM:
    sock.listen()
print(time.monotonic() - begin)
"""


@ONLY_ROOT
@pytest.mark.parametrize("kind", (socket.SOCK_STREAM, socket.SOCK_DGRAM))
@pytest.mark.parametrize("shares", (0, 1))
def test_a_stranger_with_a_full_queue_at_a_name_of_ours_holds_nobody_up(kind, shares):
    """It can be foretold by which name the keeper of a port is looked for."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("0.0.0.0", 0))
        port = sock.getsockname()[1]
    name = f"{0 if kind == socket.SOCK_STREAM else 1}{port:04x}"
    with python(FULL_QUEUE, name, user=STRANGER, cwd="/") as stranger:
        assert stranger.stdout.readline() == "full\n"
        took = run("/usr/bin/python3", "-c", TIMED, int(kind), port, shares,
                   environment=preloaded_environment()).stdout
        assert float(took) < 1
        stranger.stdin.close()


CALLS_FROM_ITS_PORT = """
import errno, socket, sys, time
peer = ("127.0.0.1", int(sys.argv[1]))
def at(port):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1" if port else "0.0.0.0", port))
    return sock
listener = at(0)
listener.listen()
for number in range(3):
    time.sleep(0.1)
    caller = at(listener.getsockname()[1])
    caller.setblocking(False)
    print(errno.errorcode[caller.connect_ex(peer)])
    print(errno.errorcode[at(listener.getsockname()[1]).connect_ex(peer)])
    caller.close()
"""


def test_a_server_calls_a_peer_from_the_port_that_it_listens_on(deaf_peer):
    """Where the punch stands; and where its own connection is, it does not."""
    for environment in plain_environment(), preloaded_environment(deaf_peer.text()):
        result = run("/usr/bin/python3", "-c", CALLS_FROM_ITS_PORT, deaf_peer.port,
                     environment=environment)
        assert result.stdout.split() == ["EINPROGRESS", "EADDRNOTAVAIL"] * 3
        assert result.stderr == ""


GREETING = """
import select, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
for _ in sys.stdin:
    select.select([listener], [], [])
    client, address = listener.accept()
    print(address[1], flush=True)
    client.close()
"""

STRANGE_BELL = """
import socket, struct, sys
port, its_own, says, then = sys.argv[1:]
client = socket.socket()
client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
client.bind(("127.0.0.1", int(its_own)))
client.connect(("127.0.0.1", int(port)))
client.sendall(says.encode())
if then == "resets":
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
if then != "stays":
    client.close()
print("called", flush=True)
sys.stdin.read()
"""

BELL_TEXT = "synergy: a bell "
FORGED_BELL = f"{BELL_TEXT}{'0' * 12} {'0' * 16}\n"


@ONLY_ROOT
@pytest.mark.parametrize("peers", (NOWHERE, ""), ids=("kept", "nothing set"))
def test_a_stranger_that_calls_from_where_bells_come_from_is_a_client_like_others(peers):
    """Nobody waits for what it says; and a server that blocks in accept(), since poll() has seen
    somebody there, does so for ever where that one has been sent away."""
    its_own = 61700 + 2000
    with python(GREETING, env=preloaded_environment(peers)) as server:
        port = server.stdout.readline().strip()
        try:
            for says, then in itertools.product(("", "s", BELL_TEXT, "synergy: a bell\n", FORGED_BELL),
                                                ("stays", "closes", "resets")):
                its_own += 1
                with python(STRANGE_BELL, port, its_own, says, then, user=STRANGER, cwd="/") as stranger:
                    assert stranger.stdout.readline() == "called\n"
                    server.stdin.write("accept\n")
                    server.stdin.flush()
                    assert select.select([server.stdout], [], [], 1)[0], (says, then)
                    assert server.stdout.readline() == f"{its_own}\n"
                    stranger.stdin.close()
        finally:
            server.kill()


def test_an_inherited_listener_and_a_child_by_vfork_that_calls_first(deaf_peer):
    with socket.create_server(("0.0.0.0", 0)) as listener:
        with Waiting("tcp", "vfork-first", str(listener.fileno()), pass_fds=[listener.fileno()],
                     environment=preloaded_environment(deaf_peer.text())) as server:
            assert wait_until(server.keepers, 2)


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
    plain = {"setrlimit", "prlimit"}  # what the 64-bit ones are called as well
    assert exported(LIBRARY) == calls | plain | {"synergy@@SYNERGY_0", "synergy_to@@SYNERGY_0"}


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


def is_ordinary_build():
    options = json.loads((BUILD / "meson-info" / "intro-buildoptions.json").read_text())
    values = {option["name"]: option["value"] for option in options}
    commands = (BUILD / "compile_commands.json").read_text()
    return (values["optimization"] == "3" and not values["c_args"] and not values["b_coverage"]
            and "clang" not in commands)


@pytest.mark.skipif("not is_ordinary_build()", reason="counts what GCC's -O3 makes")
def test_hooks_cost_few_instructions():
    bench = subprocess.run([REPOSITORY / "scripts" / "bench-hooks", "--check"], text=True,
                           env={**os.environ, "SYNERGY_BUILD": str(BUILD)}, capture_output=True,
                           timeout=120)
    assert bench.returncode == 0, bench.stdout + bench.stderr
