"""Programs see of every intercepted call what they see without the library: results and errno."""

import subprocess
import sys
import time

import pytest

from preloaded import (NOWHERE, plain_environment, preloaded_environment, PROGRAMS, run,
                       same_with_and_without, SEEN_TO_CLOSE, without_delay_elsewhere)


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
                                                (22, 3400, "127.0.0.1:5555"), (198, 2000, "127.0.0.1:5555"),
                                                (319277870, 1000, NOWHERE), (287109588, 1000, NOWHERE), (588432416, 1500, NOWHERE),
                                                (696180382, 1500, "127.0.0.1:5555"), (169667875, 1000, "127.0.0.1:5555")])
def test_sockets_that_become_something_else(seed, steps, peers):
    """Bound, shut down, taken apart by connect(AF_UNSPEC), duplicated, passed on and closed in any
    order: what comes of each call, and what the sockets say of themselves, is as without."""
    arguments = PROGRAMS / "states", seed, steps
    bare = run(*arguments, environment=plain_environment())
    preloaded = run(*arguments, environment=preloaded_environment(peers))
    assert preloaded.returncode == bare.returncode == 0, preloaded.stderr
    assert preloaded.stdout.splitlines() == bare.stdout.splitlines()
    assert len(bare.stdout.splitlines()) >= steps


BECOMES = """
import ctypes, os, socket
reuse_port, recverr = (socket.SOL_SOCKET, socket.SO_REUSEPORT), (socket.IPPROTO_IPV6, 25)
def says(call):
    try: return call()
    except OSError as error: return os.strerror(error.errno)
def disconnect(sock):
    return ctypes.CDLL(None).connect(sock.fileno(), bytes(28), 28)  # AF_UNSPEC
def free_port(family, kind):
    with socket.socket(family, kind) as sock:
        sock.bind(("", 0))
        return sock.getsockname()[1]
"""

BECOMES_WHAT = {
    # The kernel takes it out of its SO_REUSEPORT group, which the keeper's sockets for errors are in.
    "one whose errors are aside, disconnected": (NOWHERE, """
server, port = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), free_port(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(*recverr, 1)
server.setblocking(False)
server.bind(("::", port))
sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for _ in range(2):
    sender.sendto(b"here", ("::1", port))
    print(says(lambda: server.recv(9)), disconnect(server))
""", ["b'here' 0"] * 2),
    "one that has another address by connect()": (NOWHERE, """
server, port = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), free_port(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(*recverr, 1)
server.bind(("::", port))
server.connect(("::1", port))
print(says(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(("127.0.0.1", port))))
""", ["None"]),
    # A punch from a duplicate would be told it, since sendmsg() says it to whoever is first.
    "one with an error that nobody has asked for": ("127.0.0.1:5555", """
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(*reuse_port, 1)
server.connect(("127.0.0.1", free_port(socket.AF_INET, socket.SOCK_DGRAM)))
server.send(b"is nobody there?")
disconnect(server)
server.bind(("", 0))
print(os.strerror(server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
""", ["Connection refused"]),
    "one that is known by a number that was closed": ("127.0.0.1:5555", """
first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
first.bind(("", 0))
second = first.dup()
first.close()
print(disconnect(second), second.getsockname()[1], second.getsockopt(*reuse_port))
""", ["0 0 0"]),
    # The keeper's sockets share the port of the one that listens; the other shares its own with them.
    "one that is bound beside what listens by now": (NOWHERE, """
port, socks = free_port(socket.AF_INET6, socket.SOCK_STREAM), [socket.socket(socket.AF_INET6) for _ in range(2)]
for sock in socks:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
socks[1].setsockopt(*reuse_port, 1)
for sock in socks:
    sock.bind(("::", port))
print(says(socks[0].listen), says(socks[1].listen), socks[1].getsockopt(*reuse_port))
""", ["None Address already in use 1"]),
}


@pytest.mark.parametrize("what", BECOMES_WHAT)
def test_what_a_socket_becomes(what):
    """(Each is the shortest way to what random states have shown.)"""
    peers, program, said = BECOMES_WHAT[what]
    for environment in plain_environment(), preloaded_environment(peers):
        told = run(sys.executable, "-c", BECOMES + program, environment=environment)
        assert told.stdout.splitlines() == said, told.stderr


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
