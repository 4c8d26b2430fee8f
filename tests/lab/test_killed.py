"""Whatever is killed, whoever calls after that gets in: any process of a server while another one goes
on, and the keeper beside it."""

import concurrent.futures
import dataclasses
import os
import pathlib
import random
import signal
import socket
import subprocess
import time

import pytest

import clients
import firewall
import namespace
import sctp
import servers
from programs import (SCRATCH, Preload, fresh_peer_ports, fresh_port, script, slowness,
                      wait_listening, wait_until)
from servers import PYTHON
from test_families import children_of
from trials import peers

pytestmark = pytest.mark.usefixtures("library")

KILLS = 50
# Kills and calls of SCTP take longer, as its kernel does, and each hole has an INIT every two seconds.
SCTP_KILLS = 25
BETWEEN_CALLS = 0.05
PATIENCE = {0: 5, socket.IPPROTO_SCTP: 10}  # more than a SYN, or an INIT, and two repetitions
MOST_CALLS = {"tcp": 600, "sctp": 130}  # more than there are in the time that these take
# A call that had begun by so long after the kill may have been the killed process's.
IN_ITS_HANDS = 0.02


@dataclasses.dataclass
class Call:
    begun: float
    took: float
    end: str = ""  # of one that was not served: what it met


def call(stand, kind, talk, source_port, port, patience=None):
    begun, end = time.monotonic(), ""
    try:
        with clients.SocketClient(stand.path, 6, socket.SOCK_STREAM, source_port, port,
                                  patience or PATIENCE[kind], kind) as client:
            talk(client)
    except OSError as error:
        end = repr(error)
    return Call(begun, time.monotonic() - begun, end)


class Calls:
    """A peer that calls each 50 ms, each time from a fresh port of its range, while the block runs."""

    def __init__(self, stand, port, talk, source_ports, kind=0):
        self.over, self.calls = False, []
        self.arguments = stand, port, talk, source_ports, kind

    def __enter__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(200)
        self.caller = self.pool.submit(self._call)
        return self

    def _call(self):
        stand, port, talk, source_ports, kind = self.arguments
        due, work = time.monotonic(), []
        for source_port in source_ports:
            if self.over:
                break
            time.sleep(max(0, due - time.monotonic()))
            due += BETWEEN_CALLS * slowness()
            work.append(self.pool.submit(call, stand, kind, talk, source_port, port))
        self.calls = [item.result() for item in work]

    def __exit__(self, *_):
        self.over = True
        self.caller.result()
        self.pool.shutdown()


def talk_http(client):
    client.send("GET /hello.txt HTTP/1.0\r\n\r\n")
    if " 200 " not in client.receive_all():
        raise ConnectionError("ended without an answer")


def talk_line(client):
    client.send("hello\n")
    client.receive_until("hello\n")


class Chain:
    """killed_server.py, one of whose two processes goes on."""

    talk, user = staticmethod(talk_line), "nobody"

    def __init__(self, transport):
        self.transport = transport

    def command(self, port):
        return [PYTHON, script("killed_server.py"), port, self.transport]

    def processes(self, program):
        lines = program.stdout().splitlines()
        pair = list(map(int, lines[-1].split())) if lines else []
        return [each for each in pair if is_there(each)]


class Workers:
    """Servers whose main process has a worker for each that ends."""

    def __init__(self, command, talk):
        self.command, self.talk, self.user, self.transport = command, talk, "root", "tcp"

    def processes(self, program):
        return children_of(program.pid)


def is_there(process):
    try:
        status = pathlib.Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def gunicorn(port):
    SCRATCH.mkdir(mode=0o755, exist_ok=True)
    (SCRATCH / "lab_application.py").write_text(
        "def application(environment, start):\n"
        "    start('200 OK', [('Content-Length', '3')])\n"
        "    return [b'in\\n']\n", encoding="ascii")
    return [PYTHON, "-m", "gunicorn", "--chdir", SCRATCH, "-w", "2", "-b", f"[::]:{port}",
            "--worker-tmp-dir", "/dev/shm", "lab_application:application"]


def killed_in_a_row(stand, server, with_library):
    """The calls, and when a process was killed."""
    port, source_ports = fresh_port(), fresh_peer_ports(MOST_CALLS[server.transport])
    program = stand.start("A", server.command(port), user=server.user, preload=Preload(
        peers=peers(6, source_ports[0], source_ports[-1]),
        hops=stand.path.hops) if with_library else None)
    wait_listening(program, server.transport, port)
    wait_until(lambda: len(server.processes(program)) == 2, 10, "two processes", program)
    chance, moments = random.Random(port), []
    kind = socket.IPPROTO_SCTP if server.transport == "sctp" else 0
    with Calls(stand, port, server.talk, source_ports, kind) as calls:
        for _ in range(SCTP_KILLS if kind else KILLS):
            time.sleep(chance.uniform(0.05, 0.25) * slowness())
            victim = chance.choice(server.processes(program))
            os.kill(victim, signal.SIGKILL)
            moments.append(time.monotonic())
            wait_until(lambda: len(set(server.processes(program)) - {victim}) == 2, 10,
                       "another process")
        time.sleep(1)
    program.stop()
    return calls.calls, moments


def show(say, calls, moments, title):
    failed = [one for one in calls if one.end]
    took = sorted(one.took for one in calls if not one.end)
    say(f"{title}: {len(calls)} calls, {len(moments)} kills; served {len(took)}, "
              f"half of them within {took[len(took) // 2] * 1000:.0f} ms, all within {took[-1]:.2f} s")
    for one in failed:
        before = max((moment for moment in moments if moment <= one.begun), default=None)
        after = min((moment for moment in moments if moment > one.begun), default=None)
        say(f"  begun {f'{(one.begun - before) * 1000:.1f} ms after' if before else ''} a kill"
                  f"{f', {(after - one.begun) * 1000:.1f} ms before the next' if after else ''}: "
                  f"{one.end} after {one.took:.2f} s")
    return failed


def check(stand, server):
    firewall.set_profile(stand.path, "open")
    show(stand.say, *killed_in_a_row(stand, server, False), "without the library, let in")
    firewall.set_profile(stand.path, "strict")
    firewall.forget_connections(stand.path)
    calls, moments = killed_in_a_row(stand, server, True)
    failed = show(stand.say, calls, moments, "with the library")
    assert len(calls) > len(moments) > 20
    assert not [one for one in failed if not is_in_killed_hands(one, moments)]


def is_in_killed_hands(one, moments):
    return "TimeoutError" not in one.end and any(
        one.begun - IN_ITS_HANDS * slowness() <= moment <= one.begun + one.took for moment in moments)


@pytest.mark.quiet
@pytest.mark.background("killed-chain", lambda stand: check(stand, Chain("tcp")))
def test_forking_server(background):
    background.result()


@pytest.mark.quiet
@pytest.mark.other_users
@pytest.mark.needs("nginx")
@pytest.mark.background(
    "killed-nginx", lambda stand: check(stand, Workers(servers.nginx_command, talk_http)))
def test_nginx_workers(background):
    background.result()


def nginx_main_process(stand):
    """Its workers go on, and none comes in the place of one that is killed after it."""
    workers, calls, failed, kills = 6, [], [], 0
    while kills < KILLS:
        port, source_ports = fresh_port(), fresh_peer_ports(60)
        command = servers.nginx_command(port)
        configuration = command[2] / "nginx.conf"
        configuration.write_text(configuration.read_text(encoding="ascii").replace(
            "worker_processes 2", f"worker_processes {workers}"), encoding="ascii")
        program = stand.start("A", command, user="root", preload=Preload(
            peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops))
        wait_listening(program, "tcp", port)
        wait_until(lambda: len(children_of(program.pid)) == workers, 10, "workers", program)
        victims, moments = [program.pid, *children_of(program.pid)[1:]], []
        with Calls(stand, port, talk_http, source_ports) as peer:
            for victim in victims:
                time.sleep(0.12)
                os.kill(victim, signal.SIGKILL)
                moments.append(time.monotonic())
            time.sleep(0.2)
        stand.clear()
        calls += peer.calls
        kills += len(moments)
        failed += [one for one in show(stand.say, peer.calls, moments, "nginx, its main process first")
                   if not is_in_killed_hands(one, moments)]
    assert len(calls) > 2 * KILLS and not failed


@pytest.mark.quiet
@pytest.mark.other_users
@pytest.mark.needs("nginx")
@pytest.mark.background("killed-nginx-main", nginx_main_process)
def test_nginx_main_process(background):
    background.result()


@pytest.mark.quiet
@pytest.mark.needs("gunicorn")
@pytest.mark.background("killed-gunicorn", lambda stand: check(stand, Workers(gunicorn, talk_http)))
def test_gunicorn_workers(background):
    background.result()


def test_forking_sctp_server(stand):
    sctp.skip_if_missing()
    check(stand, Chain("sctp"))


# From the keeper's end to its successor's punches, a peer's call meets the listener alone. And who has
# called and was not answered yet has shown the firewall a SYN that the successor's does not match.
GAP = 0.05


UNANSWERED = 1.2  # a SYN that was not heard, and is not repeated yet


def are_due_to_the_kill(failed, moment):
    return all(moment - UNANSWERED < one.begun < moment + GAP for one in failed)


def keepers(path, name="synergy-keeper"):
    """The processes on A that are called so."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and path.owns(entry.name) and (entry / "comm").read_text(
                    encoding="ascii").strip() == name and is_there(entry.name):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def standby_of(stand):
    return wait_until(lambda: keepers(stand.path, "synergy-standby"), 15, "a standby")[0]


def kill_keeper(stand):
    """Another one is there when it returns: the standby, or one that the server has started."""
    standby_of(stand)
    (keeper,) = keepers(stand.path)
    os.kill(keeper, signal.SIGKILL)
    moment = time.monotonic()
    wait_until(lambda: set(keepers(stand.path)) - {keeper}, 2, "another keeper")
    return moment


def start_waiting(stand, how, source_ports, user="nobody"):
    """A server that makes no further call of itself."""
    port = fresh_port()
    program = stand.start(
        "A", [PYTHON, script("family_server.py"), port, *how], user=user, preload=Preload(
            peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops))
    wait_listening(program, "tcp", port)
    return port, program


def call_from_its_own_host(stand, port):
    """What the server does for it is what could notice that its keeper is gone."""
    with namespace.open_socket(stand.path.namespace("A"), socket.AF_INET6,
                               socket.SOCK_STREAM) as own:
        own.connect(("::1", port))
        own.sendall(b"hello\n")
        assert own.recv(100)


def is_said_once(said):
    return said.count("has been killed") == 1 == len(said.splitlines())


WAITING = {
    "accept": (("accept",), "nobody"), "prefork": (("prefork", "accept"), "nobody"),
    "epoll": (("prefork", "epoll"), "nobody"), "given-up": (("nobody",), "root"),
    "root": (("prefork", "accept"), "root")}


def killed_keepers(stand):
    """By server, the moment of the kill, the calls, and what the server has said."""
    found = {}
    for title, (how, user) in WAITING.items():
        source_ports = fresh_peer_ports(100)
        port, program = start_waiting(stand, how, source_ports, user)
        standby_of(stand)
        with Calls(stand, port, talk_line, source_ports) as calls:
            time.sleep(1)
            moment = kill_keeper(stand)
            time.sleep(2)
        found[title] = moment, calls.calls, program.stderr()
        stand.clear()
    return found


@pytest.mark.quiet
@pytest.mark.complains
@pytest.mark.background("killed-keepers", killed_keepers)
@pytest.mark.parametrize("title", WAITING)
def test_killed_keeper(background, title):
    """The server makes no call that could notice it: it waits for peers, who had no way to it."""
    moment, calls, said = background.result()[title]
    failed = show(print, calls, [moment], title)
    assert len(calls) > 50
    assert are_due_to_the_kill(failed, moment)
    assert is_said_once(said)


@pytest.mark.complains
def test_killed_keeper_of_a_server_that_nobody_calls(stand):
    """It is killed, its successor is there, and has opened all holes, before the first call; and when
    that is killed as soon as it has a standby of its own, another one."""
    source_ports = fresh_peer_ports(40)
    port, program = start_waiting(stand, ("accept",), source_ports)
    for half in (source_ports[:20], source_ports[20:]):
        moment = kill_keeper(stand)
        time.sleep(GAP)
        with Calls(stand, port, talk_line, half) as calls:
            calls.caller.result()
        assert not show(stand.say, calls.calls, [moment], "nobody else")
    assert program.stderr().count("has been killed") == 2


@pytest.mark.complains
def test_killed_keeper_of_a_server_that_has_given_root_up(stand):
    """The standby alone is who can bind beside the listener: its place is not taken by another one that
    the server, which notices first, could start."""
    source_ports = fresh_peer_ports(40)
    port, program = start_waiting(stand, *WAITING["given-up"][:1], source_ports, "root")
    standby = standby_of(stand)
    (keeper,) = keepers(stand.path)
    os.kill(standby, signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not is_there(keeper), 2, "the keeper to end")
    call_from_its_own_host(stand, port)
    os.kill(standby, signal.SIGCONT)
    wait_until(lambda: keepers(stand.path), 2, "another keeper")
    time.sleep(GAP)
    with Calls(stand, port, talk_line, source_ports) as calls:
        calls.caller.result()
    assert not show(stand.say, calls.calls, [], "after it")
    assert is_said_once(program.stderr())


@pytest.mark.complains
@pytest.mark.parametrize("is_replaced", (True, False), ids=("standby", "none"))
def test_killed_keeper_of_a_udp_server(stand, is_replaced):
    """What it left is forgotten by the firewall 2 s later; a server that waits for a datagram opens
    nothing by itself."""
    port, source_ports = fresh_port(), fresh_peer_ports(5)
    timers = {f"net/netfilter/nf_conntrack_udp_timeout{more}": None for more in ("", "_stream")}
    fwa = stand.path.namespace("fwa")
    with namespace.inside(fwa):
        before = {name: pathlib.Path("/proc/sys", name).read_text(encoding="ascii")
                  for name in timers}
    namespace.sysctl(fwa, dict.fromkeys(timers, 2))
    try:
        program = stand.start(
            "A", [PYTHON, script("udp_server.py"), "::", port, "recvfrom"], preload=Preload(
                peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops, refresh=1))
        wait_listening(program, "udp", port)
        if is_replaced:
            kill_keeper(stand)
        else:
            os.kill(standby_of(stand), signal.SIGKILL)
            os.kill(keepers(stand.path)[0], signal.SIGKILL)
        time.sleep(3)

        def ask(source_port):
            with clients.udp_client(stand, 6, source_port, port, 1) as client:
                client.send("hello")
                return client.receive_until("hello")

        for source_port in source_ports:
            if is_replaced:
                assert ask(source_port)
            else:
                with pytest.raises(TimeoutError):
                    ask(source_port)
    finally:
        namespace.sysctl(fwa, before)


def forget_soon(stand, source_port, seconds):
    """The firewall's entry of this hole ends then, as it would after two minutes."""
    with namespace.inside(stand.path.namespace("fwa")):
        subprocess.run(["conntrack", "-U", "-f", "ipv6", "-p", "tcp", "--orig-port-dst",
                        str(source_port), "-t", str(seconds)], check=True, capture_output=True)


def killed_without_a_standby(stand):
    """Nobody is in until the server makes a call. Whoever has called meanwhile gets in again as soon
    as the firewall has forgotten, and the server, which has answered meanwhile, has given that up; all
    others at once."""
    source_ports, forgets = fresh_peer_ports(10), 4
    namespace.sysctl(stand.path.namespace("A"), {"net/ipv4/tcp_synack_retries": 2})  # 7 s, not 63
    port, program = start_waiting(stand, ("prefork", "epoll"), source_ports)
    os.kill(standby_of(stand), signal.SIGKILL)
    os.kill(keepers(stand.path)[0], signal.SIGKILL)
    wait_until(lambda: not keepers(stand.path), 2, "the keeper to end")
    locked_out = call(stand, 0, talk_line, source_ports[0], port)
    assert "TimeoutError" in locked_out.end
    assert not keepers(stand.path)
    call_from_its_own_host(stand, port)
    wait_until(lambda: keepers(stand.path), 2, "another keeper")
    time.sleep(GAP)
    for source_port in source_ports[1:]:
        assert not call(stand, 0, talk_line, source_port, port).end
    # (It is not the keeper alone that lets it in.)
    assert call(stand, 0, talk_line, source_ports[0], port).end
    # Each further call would make the firewall remember for longer.
    forget_soon(stand, source_ports[0], forgets)
    time.sleep(forgets + 0.5)
    again = call(stand, 0, talk_line, source_ports[0], port, 30)
    stand.say(f"in again {again.took:.1f} s after the firewall has forgotten")
    assert not again.end
    assert is_said_once(program.stderr())


@pytest.mark.slow
@pytest.mark.complains
@pytest.mark.background("killed-alone", killed_without_a_standby)
def test_killed_keeper_without_a_standby(background):
    background.result()


def stopped_keeper(stand):
    """For 10 s: the server does not notice, and afterwards whoever did not call meanwhile gets in."""
    source_ports = fresh_peer_ports(40)
    port, _ = start_waiting(stand, ("accept",), source_ports)
    standby_of(stand)
    (keeper,) = keepers(stand.path)
    os.kill(keeper, signal.SIGSTOP)
    try:
        time.sleep(10)
        assert keepers(stand.path) == [keeper]
    finally:
        os.kill(keeper, signal.SIGCONT)
    with Calls(stand, port, talk_line, source_ports) as calls:
        moment = time.monotonic()
        calls.caller.result()
    failed = show(stand.say, calls.calls, [moment], "stopped for 10 s")
    assert are_due_to_the_kill(failed, moment)


@pytest.mark.slow
@pytest.mark.background("stopped-keeper", stopped_keeper)
def test_stopped_keeper(background):
    background.result()


ACCEPTS_WHEN_TOLD = """
import select, socket, sys
with socket.socket(socket.AF_INET6) as listener:
    listener.bind(("::", int(sys.argv[1])))
    listener.listen(5)
    select.select([listener], [], [])
    print("somebody is there", flush=True)
    sys.stdin.readline()
    try:
        print("accepted", listener.accept()[1][1], flush=True)
    except OSError as error:
        print("failed:", error, flush=True)
    sys.stdin.readline()
"""


def test_a_slow_keeper_is_no_error_of_accept(stand):
    """It does not answer in time when the server has accepted its bell, and rings again: many servers
    end when accept() fails."""
    port, source_ports = fresh_port(), fresh_peer_ports(1)
    program = stand.start("A", [PYTHON, "-c", ACCEPTS_WHEN_TOLD, port], preload=Preload(
        peers=peers(6, *source_ports), hops=stand.path.hops))
    wait_listening(program, "tcp", port)
    with clients.tcp_client(stand, 6, source_ports[0], port, PATIENCE[0]):
        program.wait_for("somebody is there")
        (keeper,) = keepers(stand.path)
        os.kill(keeper, signal.SIGSTOP)
        try:
            program.write("accept\n")
            time.sleep(1)  # longer than it is waited for; the bell may ring again for two seconds
        finally:
            os.kill(keeper, signal.SIGCONT)
        program.wait_for("accepted|failed")
    assert program.stdout().splitlines()[-1] == f"accepted {source_ports[0]}"


def timed_calls(program):
    """{call: (result, ms)}"""
    before = len(program.stdout())
    program.write("now\n")
    wait_until(lambda: program.stdout()[before:].endswith("done\n"), 30, "all calls", program)
    lines = program.stdout()[before:].splitlines()[:-1]
    return {name: (result, float(took)) for name, result, took in map(str.split, lines)}


@pytest.mark.complains
@pytest.mark.parametrize("state, longest_ms", (
    ("alive", 100), ("killed", 100), ("killed without a standby", 100), ("stopped", 2500)))
def test_each_call(stand, state, longest_ms):
    """No call of the server's hangs, or fails, for what has become of the keeper; of one that is
    stopped it waits once."""
    port, other_port, source_ports = fresh_port(), fresh_port(), fresh_peer_ports(5)
    command = [PYTHON, script("timed_calls.py"), port, other_port]
    bare = stand.start("A", command)
    bare.wait_for("ready")
    expected = {name: result for name, (result, _) in timed_calls(bare).items()}
    bare.stop()
    program = stand.start("A", command, preload=Preload(
        peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops))
    program.wait_for("ready")
    standby, (keeper,) = standby_of(stand), keepers(stand.path)
    if state == "killed without a standby":
        os.kill(standby, signal.SIGKILL)
    if state != "alive":
        os.kill(keeper, signal.SIGSTOP if state == "stopped" else signal.SIGKILL)
    try:
        rounds = [timed_calls(program) for _ in range(3)]
    finally:
        if state == "stopped":
            os.kill(keeper, signal.SIGCONT)
    took = {name: round(max(one[name][1] for one in rounds), 1) for name in expected}
    stand.say(f"{state}: {took} ms at most")
    for one in rounds:
        assert {name: result for name, (result, _) in one.items()} == expected
    assert max(took.values()) < longest_ms * slowness()
    assert sum(ms > 100 * slowness() for ms in took.values()) <= (state == "stopped")
