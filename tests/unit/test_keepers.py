"""The keeper beside a server: when it starts and ends, what it has, and what a server feels of one that
is missing, stopped, killed or late.
"""

import concurrent.futures
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preloaded import (deaf_peer, DeafPeer, KEEPER, keepers_of, LIBRARY, ONLY_ROOT, plain_environment,
                       preloaded_environment, PROGRAMS, run, same_with_and_without,
                       wait_until, Waiting)


def test_a_missing_keeper_is_said_once_and_changes_nothing(tmp_path):
    lonely = tmp_path / "libsynergy.so"
    shutil.copy(LIBRARY, lonely)
    environment = preloaded_environment(SYNERGY_LOG="warn")
    environment["LD_PRELOAD"] = str(lonely)
    bare = run(PROGRAMS / "transcript", environment=plain_environment())
    result = run(PROGRAMS / "transcript", environment=environment)
    assert result.stdout == bare.stdout
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.endswith("synergy-keeper can't be started (not beside libsynergy.so): No such "
                                  "file or directory\n")


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


LETS_TIMERS_BE_LATE = """
import ctypes, os, sys
set_timer_slack = 29
ctypes.CDLL(None).prctl(set_timer_slack, ctypes.c_ulong(3_000_000_000), 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_the_keeper_of_a_server_that_lets_its_timers_be_late_is_in_time(deaf_peer):
    """TimerSlackNSec= of a systemd unit, which every program inherits: no hole is to be lost by that."""
    runner = [sys.executable, "-c", LETS_TIMERS_BE_LATE]
    with Waiting("tcp", environment=preloaded_environment(deaf_peer.text()), runner=runner) as server:
        slack = [int(Path(f"/proc/{process}/timerslack_ns").read_text())
                 for process in (server.process.pid, *server.keepers())]
        assert slack == [3_000_000_000, 50_000]


LISTENS = """
import socket
kept = []
for _ in range(6):
    kept.append(socket.socket())
    kept[-1].bind(("", 0))
    kept[-1].listen()
"""


def calls_before_each_answer(trace):
    """The keeper's, from a request that a socket comes along with to what it answers."""
    server, is_asked, counts = None, False, []
    for line in trace.read_text().splitlines():
        process, call = line.split(maxsplit=1)
        server = server or process
        if process == server:
            continue
        if call.startswith(("recvmsg(", "<... recvmsg")) and "SCM_RIGHTS" in call:
            counts.append([])
            is_asked = True
        elif is_asked and call.startswith("sendmsg(") and "msg_name=NULL" in call:
            is_asked = False
        elif is_asked and not call.startswith("<..."):
            counts[-1].append(call.split("(")[0])
    return counts


def test_few_system_calls_are_made_while_a_listen_waits(deaf_peer, tmp_path):
    """Time depends on what else runs, their number hardly: timers that come due meanwhile have theirs, so
    the least of three times counts."""
    if shutil.which("strace") is None:
        pytest.skip("strace")
    firsts, furthers = zip(*(calls_of_listens(deaf_peer, tmp_path / f"calls-{i}") for i in range(3)))
    # What a new socket has is asked as well, of the options that the punch needs.
    assert min(map(len, firsts)) <= 130, firsts
    assert min(max(map(len, further)) for further in furthers) <= 80, furthers


def calls_of_listens(deaf_peer, trace):
    """The keeper's, before its answer to the first listen() and before each further one."""
    environment = preloaded_environment(deaf_peer.text())
    library = environment.pop("LD_PRELOAD")
    traced = run("strace", "-f", "-o", trace, "-E", f"LD_PRELOAD={library}", "/usr/bin/python3", "-c",
                 LISTENS, environment=environment)
    assert traced.returncode == 0, traced.stderr
    first, *further = calls_before_each_answer(trace)
    assert len(further) == 5
    assert all("connect" in each for each in (first, *further))  # the punch is one of them
    return first, further


def test_the_keeper_of_a_real_time_server_is_an_ordinary_process_in_a_moment(deaf_peer):
    def be_real_time():
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

    try:
        with Waiting("tcp", environment=preloaded_environment(deaf_peer.text()),
                     preexec_fn=be_real_time) as server:
            assert os.sched_getscheduler(server.process.pid) == os.SCHED_FIFO
            (keeper,) = server.keepers()
            assert wait_until(lambda: os.sched_getscheduler(keeper) == os.SCHED_OTHER, 5)
            assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
    except subprocess.SubprocessError:
        pytest.skip("needs the right to be a real-time process")


def test_no_keeper_where_there_is_no_hole(deaf_peer):
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_PORTS="1")
    with Waiting("tcp", environment=environment) as server:
        assert server.keepers() == []


LISTENERS_OF_MANY_USERS = """
import os, socket, sys
listeners = []
for user in range(20000, 20000 + int(sys.argv[1])):
    os.seteuid(user)
    listeners.append(socket.create_server(("", 0)))
    os.seteuid(0)
print(flush=True)
sys.stdin.read()
"""


@ONLY_ROOT
def test_for_more_users_than_there_can_be_keepers_none_is_started():
    """Each further socket would have had two of its own, until the server's end."""
    for users, line in (8, ""), (12, "synergy: error: nothing is punched: this process has 8 keepers, which is the "
                                     "most, one for each user and network namespace of its sockets\n"):
        server = subprocess.Popen([sys.executable, "-c", LISTENERS_OF_MANY_USERS, str(users)], text=True,
                                  env=preloaded_environment(SYNERGY_LOG="warn"), stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        server.stdout.readline()
        keepers = keepers_of(server.pid)
        assert server.communicate("", timeout=20)[1] == line
        assert len(keepers) == 8


AWKWARD = ["within-malloc", "cancel", "small-stack", "at-once", "vfork", "user-namespace",
           "lowered-limit", "inherited", "many-children", "wait", "stderr", "often",
           "no-close-range"]


@pytest.mark.parametrize("way", AWKWARD)
def test_an_awkward_moment(way):
    assert same_with_and_without("awkward", way)[-1] == "end"


@pytest.mark.parametrize("way, why", [
    ("no-exec", "Operation not permitted"),
    ("killed-exec", "does not answer"),
    ("no-memory-file", "memfd: Operation not permitted"),
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


def test_a_server_that_forbids_itself_processes_has_a_keeper_before():
    bare = run(PROGRAMS / "awkward", "no-processes", environment=plain_environment())
    if bare.returncode != 0:
        pytest.skip(bare.stdout)
    preloaded = run(PROGRAMS / "awkward", "no-processes",
                    environment=preloaded_environment(SYNERGY_LOG="warn"))
    assert preloaded.stdout == bare.stdout
    assert preloaded.stderr == ""


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


@pytest.mark.parametrize("times, is_punched_for", [(1, True), (2, False)])
def test_a_keeper_that_is_killed_while_it_starts_is_tried_again(
        times, is_punched_for, deaf_peer, tmp_path):
    """By the next step that needs one. Killed both times, there is none."""
    shutil.copy(LIBRARY, tmp_path / "libsynergy.so")
    starts = "\n".join(f"if mkdir {tmp_path}/{number}; then kill -KILL $$; fi" for number in range(times))
    (tmp_path / "synergy-keeper").write_text(f"#!/bin/sh\nexec 2>/dev/null\n{starts}\nexec {KEEPER} \"$@\"\n")
    (tmp_path / "synergy-keeper").chmod(0o755)
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="warn")
    environment["LD_PRELOAD"] = str(tmp_path / "libsynergy.so")
    with Waiting("tcp", environment=environment) as server:
        assert len(server.keepers()) == is_punched_for
        _, errors = server.end()
    assert "synergy-keeper does not answer" in errors


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


SHARES_ITS_PORT = """
import os, socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("0.0.0.0", int(sys.argv[1])))
listener.listen()
print(listener.getsockname()[1], flush=True)
while client := listener.accept()[0]:
    client.close()
"""


def test_a_port_that_the_server_shares_is_so_for_its_next_keeper_too(deaf_peer):
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="error")
    arguments = ("/usr/bin/python3", "-c", SHARES_ITS_PORT)
    with Waiting(*arguments[1:], "0", program=arguments[0], environment=environment) as server:
        (killed,) = server.keepers()
        assert wait_until(lambda: keepers_of(killed))
        os.kill(killed, signal.SIGSTOP)  # (it has another standby in a moment)
        for process in *keepers_of(killed), killed:  # the standby, first of all
            os.kill(process, signal.SIGKILL)
        assert wait_until(lambda: [
            socket.create_connection(("127.0.0.1", server.port)).close(), server.keepers()
        ][1] not in ([], [killed]))
        with Waiting(*arguments[1:], str(server.port), program=arguments[0],
                     environment=environment) as another:
            assert another.port == server.port
            another.process.kill()
        server.process.kill()


SESSIONS = """
import os, signal, socket, sys
port = 0
for number in range(3):
    reading, writing = os.pipe()
    if os.fork() == 0:
        signal.alarm(10)
        os.chroot("/")  # a session's keeper is its own
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen()
        os.write(writing, str(listener.getsockname()[1]).encode())
        client, address = listener.accept()
        listener.close()
        client.sendall(str(number).encode())
        client.close()
        sys.exit()
    port = int(os.read(reading, 9))
    print(port, flush=True)
    sys.stdin.readline()
"""


@ONLY_ROOT
def test_sessions_that_listen_at_the_same_port_one_after_the_other(deaf_peer):
    """As passive ports of FTP are: each session has a keeper, and the last one's holes are in the
    way of the next one's."""
    peers = [deaf_peer, DeafPeer(), DeafPeer()]
    environment = preloaded_environment(",".join(peer.text() for peer in peers), SYNERGY_LOG="warn")
    with Waiting("-c", SESSIONS, program="/usr/bin/python3", environment=environment) as server:
        for number, peer in enumerate(peers):
            begin = time.monotonic()
            assert peer.ask(server.port, 5) == str(number)
            assert time.monotonic() - begin < 2
            server.process.stdin.write("\n")
            server.process.stdin.flush()
            if number < 2:
                assert int(server.process.stdout.readline()) == server.port
        assert server.end() == (0, "")
    for peer in peers[1:]:
        peer.close()


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


BINDS_AGAIN = """
import socket, sys
kind = getattr(socket, sys.argv[1])
def opened(port):
    sock = socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
    sock.bind(("0.0.0.0", port))
    if kind == socket.SOCK_STREAM:
        sock.listen(5)
    return sock
first = opened(0)
print("bound", flush=True)
sys.stdin.readline()
with opened(0) as second:
    port = second.getsockname()[1]
opened(port)
print("again", flush=True)
"""


def said_by_who_binds_again(kind):
    """What the keeper was to be given while it is stopped, it is not given."""
    with subprocess.Popen(["/usr/bin/python3", "-c", BINDS_AGAIN, kind], env=preloaded_environment(),
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as server:
        assert server.stdout.readline() == "bound\n"
        (keeper,) = keepers_of(server.pid)
        os.kill(keeper, signal.SIGSTOP)
        try:
            return server.communicate("\n", timeout=20)
        finally:
            os.kill(keeper, signal.SIGCONT)


def test_a_stopped_keeper_keeps_no_port():
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for said in pool.map(said_by_who_binds_again, ("SOCK_STREAM", "SOCK_DGRAM")):
            assert said == ("again\n", "")


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


@contextlib.contextmanager
def rung_by_a_stopped_keeper(way):
    """A server at whose listener a bell waits that can't be answered now, and the peer. Its
    connection is not lost: it rings again."""
    with contextlib.closing(DeafPeer()) as peer, \
            Waiting("tcp", way, environment=preloaded_environment(peer.text())) as server:
        (keeper,) = server.keepers()
        server.process.send_signal(signal.SIGSTOP)
        with peer.call(server.port, 20) as client:
            time.sleep(0.3)  # it rings
            os.kill(keeper, signal.SIGSTOP)
            try:
                server.process.send_signal(signal.SIGCONT)
                yield server
            finally:
                os.kill(keeper, signal.SIGCONT)
            assert client.recv(100).decode().strip() == f"127.0.0.1 {peer.port}"


def said_where_poll_saw_somebody(sent, at):
    """By accept() in a thread that has called poll() before."""
    with rung_by_a_stopped_keeper("polls") as server:
        begin = time.monotonic()
        for when in at:
            time.sleep(begin + when - time.monotonic())
            server.process.send_signal(sent)
        server.process.stdin.write("x")
        server.process.stdin.flush()
        assert select.select([server.process.stdout], [], [], 3)[0]
        return server.process.stdout.readline().strip()


def said_where_nobody_looked():
    """By accept() in one that waits in it alone: after this time it would have been told."""
    with rung_by_a_stopped_keeper("when-told") as server:
        server.process.stdin.write("x")
        server.process.stdin.flush()
        is_said = select.select([server.process.stdout], [], [], 2.5)[0]
        return server.process.stdout.readline().strip() if is_said else "nothing"


def test_a_stopped_keeper_and_accept():
    """A listener that blocks must not make a server wait where poll() has told of somebody; but who
    waits in accept() alone may end at any error, and would have waited without us, too. A handler
    that was set with SA_RESTART does not end the call: neither while the keeper is waited for, nor
    in the time, two seconds with that, in which the bell may ring again."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        polled = [pool.submit(said_where_poll_saw_somebody, sent, at)
                  for sent, at in ((signal.SIGUSR1, (0.1, 0.8)), (signal.SIGUSR2, (0.1,)),
                                   (signal.SIGUSR2, (0.8,)))]
        waited = pool.submit(said_where_nobody_looked)
        assert [each.result() for each in polled] == ["ECONNABORTED", "EINTR", "EINTR"]
        assert waited.result() == "nothing"


EVENT_LOOP = """
import select, socket, sys, time
listener = socket.create_server(("", 0))
listener.setblocking(False)
print(listener.getsockname()[1], flush=True)
while select.select([listener], [], []):
    print("readable", flush=True)
    sys.stdin.readline()
    begin = time.monotonic()
    try:
        said = listener.accept()[1][1]
    except BlockingIOError:
        said = "nobody"
    print(said, time.monotonic() - begin, flush=True)
"""


def test_a_stopped_keeper_hardly_holds_an_event_loop_up(deaf_peer):
    """Its bell is accepted when it can't say what that stands for; and rings again when it can."""
    with Waiting("-c", EVENT_LOOP, program=sys.executable,
                 environment=preloaded_environment(deaf_peer.text())) as server:
        (keeper,) = server.keepers()

        def accepted():
            assert server.process.stdout.readline() == "readable\n"
            server.process.stdin.write("\n")
            server.process.stdin.flush()
            said, took = server.process.stdout.readline().split()
            return said, float(took)
        with deaf_peer.call(server.port):
            assert wait_until(lambda: select.select([server.process.stdout], [], [], 0)[0])
            os.kill(keeper, signal.SIGSTOP)
            try:
                said, took = accepted()
            finally:
                os.kill(keeper, signal.SIGCONT)
            assert said == "nobody" and took < 1
            while said == "nobody":
                said, _ = accepted()
            assert int(said) == deaf_peer.port
        server.process.kill()


def test_a_keeper_that_is_out_of_reach_is_not_taken_for_dead(deaf_peer):
    """From another network namespace nothing can be fetched, and no bell is shown: the keeper is told,
    and resets the peer."""
    environment = preloaded_environment(deaf_peer.text(), SYNERGY_LOG="warn")
    with Waiting("tcp", "network-namespace", environment=environment) as server:
        keepers = server.keepers()
        with pytest.raises(ConnectionResetError):
            deaf_peer.ask(server.port, patience=1.5)
        assert server.keepers() == keepers and len(keepers) == 1
        _, errors = server.end()
    assert "nothing is punched any more: who accepts its connections can't reach" in errors


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
