"""The hooks of libsynergy.so in processes of every kind: a punched connection comes out, and nothing else
changes."""

import itertools
import os
import re
import select
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from preloaded import (BUILD, deaf_peer, exported, intercepted, is_ordinary_build, LIBRARY, NOWHERE,
                       ONLY_ROOT, plain_environment, preloaded_environment, PROGRAMS,
                       python, REPOSITORY, run, same_with_and_without, wait_until, Waiting)


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


@pytest.mark.skipif("not is_ordinary_build()", reason="counts what GCC's -O3 makes")
def test_hooks_cost_few_instructions():
    bench = subprocess.run([REPOSITORY / "scripts" / "bench-hooks", "--check"], text=True,
                           env={**os.environ, "SYNERGY_BUILD": str(BUILD)}, capture_output=True,
                           timeout=120)
    assert bench.returncode == 0, bench.stdout + bench.stderr
