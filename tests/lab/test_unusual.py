"""Servers that accept in ways that few do: a punched connection is to them what an ordinary one is,
measured beside it; or it is refused soon, and that is said."""

import collections
import concurrent.futures
import hashlib
import socket
import struct
import time

import pytest

import clients
import firewall
import namespace
import servers
from programs import Preload, fresh_peer_ports, fresh_port, script
from topology import PEER, SERVER
from trials import PATIENCE, at_once, check_all_refused, peers

pytestmark = pytest.mark.usefixtures("library")

RESET = struct.pack("ii", 1, 0)  # struct linger


def serve(stand, way, source_ports, address="::"):
    """With the library where there are peers."""
    port = fresh_port()
    preload = Preload(peers=peers(6, source_ports[0], source_ports[-1]),
                      hops=stand.path.hops) if source_ports else None
    return port, stand.serve([servers.PYTHON, script("unusual_server.py"), way, address, port], "tcp", port,
                             preload=preload)


def ask(stand, source_port, port, patience=PATIENCE):
    """What the server says of the connection, and after how long."""
    began = time.monotonic()
    with clients.tcp_client(stand, 6, source_port, port, patience) as client:
        client.send("hello\n")
        address, seen_port, *more, _ = client.receive_until("hello\n").split()
        assert (address, seen_port) == (PEER[6], str(source_port))
        return " ".join(more), time.monotonic() - began


def all_at_once(call, source_ports):
    with concurrent.futures.ThreadPoolExecutor(len(source_ports)) as pool:
        return list(pool.map(call, source_ports))


def both_ways(stand, way, count, call=ask, address="::"):
    """What `call` gives for so many peers, of punched connections and of ordinary ones."""
    source_ports, others = fresh_peer_ports(count), fresh_peer_ports(count)
    port, program = serve(stand, way, source_ports, address)
    punched = all_at_once(lambda source_port: call(stand, source_port, port), source_ports)
    program.stop()
    assert program.stderr() == ""
    firewall.set_profile(stand.path, "open")
    port, program = serve(stand, way, None, address)
    ordinary = all_at_once(lambda source_port: call(stand, source_port, port), others)
    program.stop()
    return punched, ordinary


@pytest.mark.parametrize("way", ("exclusive", "edges", "threads", "numbers"))
def test_ways_to_wait(stand, way):
    punched, ordinary = both_ways(stand, way, 20)
    assert len(punched) == len(ordinary) == 20


def test_mptcp(stand):
    """Of a listener for MPTCP the kernel's lists show the TCP socket within."""
    clients.skip_without_mptcp(stand)
    punched, ordinary = both_ways(stand, "mptcp", 10)
    assert len(punched) == len(ordinary) == 10


A_DIGEST = """
import socket
with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as algorithm:
    algorithm.bind(("hash", "sha256"))
    with algorithm.accept()[0] as operation:
        operation.sendall(b"hello")
        print(operation.recv(32).hex())
"""


@pytest.mark.parametrize("settings", ({}, {"peers": peers(6, 1)}), ids=("nothing set", "set"))
def test_sockets_of_which_accept_can_tell_no_address(stand, settings):
    """The kernel's own algorithms (AF_ALG) come out of accept(), which is not to be asked from where."""
    program = stand.start("A", [servers.PYTHON, "-c", A_DIGEST], preload=Preload(**settings))
    program.wait_exit()
    if "Address family not supported" in program.stderr():
        pytest.skip("no AF_ALG in this kernel")
    assert program.stdout() == hashlib.sha256(b"hello").hexdigest() + "\n", program.stderr()


def test_a_queue_for_one(stand):
    """Fifty at once, each of whom is served; of ordinary ones, whose SYNs the kernel drops, not all are
    within as long."""
    def call(*arguments):
        try:
            return ask(*arguments)[1]
        except TimeoutError:
            return PATIENCE
    for what, times in zip(("punched", "ordinary"), map(sorted, both_ways(stand, "full", 50, call))):
        stand.say(f"{what}: median {times[25]:.3f} s, at most {times[-1]:.3f} s")
        if what == "punched":
            assert times[-1] < PATIENCE / 2


@pytest.mark.parametrize("address", ("::", SERVER[6]))
@pytest.mark.parametrize("way", ("group", "group-apart", "chosen"))
def test_groups(stand, way, address):
    """Whichever of the group has it, the connection has the options of that one."""
    punched, ordinary = both_ways(stand, way, 24, address=address)
    for results in punched, ordinary:
        counts = collections.Counter(who for who, _ in results)
        stand.say(counts)
        assert [who for who in counts if not who.endswith("-right")] == []


def fast(stand, source_port, port):
    """Data comes with the SYN where that is let."""
    with namespace.open_socket(stand.path.namespace("B"), socket.AF_INET6, socket.SOCK_STREAM) as sock:
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("qq", int(PATIENCE), 0))
        sock.bind((PEER[6], source_port))
        sock.sendto(b"hello\n", socket.MSG_FASTOPEN, (SERVER[6], port))
        answer = b""
        while not answer.endswith(b"hello\n"):
            answer += sock.recv(100)
        return answer.decode().split()[:2] == [PEER[6], str(source_port)]


@pytest.mark.parametrize("has_cookie", (True, False))
def test_fast_open(stand, has_cookie):
    """RFC 7413, with a cookie that is to be asked for first, and where none is needed."""
    flags = 3 if has_cookie else 3 | 4 | 0x200
    before = {}
    for node in ("A", "B"):
        with namespace.inside(stand.path.namespace(node)), \
                open("/proc/sys/net/ipv4/tcp_fastopen", encoding="ascii") as file:
            before[node] = file.read()
        namespace.sysctl(stand.path.namespace(node), {"net/ipv4/tcp_fastopen": flags})
    try:
        punched, ordinary = both_ways(stand, "fastopen", 10, fast)
    finally:
        for node, value in before.items():
            namespace.sysctl(stand.path.namespace(node), {"net/ipv4/tcp_fastopen": value})
    assert punched == ordinary == [True] * 10


@pytest.mark.complains
def test_io_uring(stand):
    """The library does not see it accept: one bell is shown, and the peers are refused."""
    source_ports = fresh_peer_ports(5)
    port, program = serve(stand, "ring", source_ports)
    if "no io_uring" in program.stderr():
        pytest.skip("no io_uring here")
    program.wait_for("ready")

    check_all_refused(stand, source_ports, port, 2)
    program.wait_for("nothing is punched any more: connections were accepted by a call")
    assert program.stdout().count("client ::1") == 1
    assert program.stdout().count("client") == 1
    # The control: what it accepts of ordinary ones it serves.
    firewall.set_profile(stand.path, "open")
    ask(stand, fresh_peer_ports(1)[0], port)


def test_who_says_nothing_for_a_while(stand):
    """TCP_DEFER_ACCEPT: the server gets whom it would get, and when."""
    what_they_do = ("speak", "speak later", "leave", "reset", "be silent") * 2

    def when(came, began):
        return "never" if not came else "at once" if came < began + 0.2 else \
            "later" if came < began + 0.8 else "in the end"

    def call(port, program):
        def one(pair):
            source_port, does = pair
            with clients.prepared_client(stand, 6, source_port) as sock:
                sock.settimeout(PATIENCE)
                sock.connect((SERVER[6], port))
                began = time.monotonic()
                if does != "speak":
                    time.sleep(0.4)
                if does.startswith("speak"):
                    sock.sendall(b"hello\n")
                    sock.recv(100)
                elif does == "be silent":
                    program.wait_for(f"client {PEER[6]} {source_port} ")
                elif does == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return began

        source_ports = fresh_peer_ports(len(what_they_do))
        began = all_at_once(one, list(zip(source_ports, what_they_do)))
        time.sleep(0.1)
        came = {int(line.split()[2]): float(line.split()[3])
                for line in program.stdout().splitlines() if line.startswith("client")}
        return [(does, when(came.get(source_port, None), start))
                for source_port, does, start in zip(source_ports, what_they_do, began)]

    found = []
    for profile in ("strict", "open"):
        firewall.set_profile(stand.path, profile)
        first = fresh_peer_ports(1)[0] + 1
        ports = [*range(first, first + len(what_they_do))] if profile == "strict" else None
        port, program = serve(stand, "deferred", ports)
        found.append(call(port, program))
        program.stop()
    stand.say(found)
    assert found[0] == found[1]
    assert len({when for _, when in found[1]}) == 4


def test_who_has_gone_before_it_was_accepted(stand):
    """By a reset, or with its data and an end: no other peer is worse off for it."""
    source_ports = fresh_peer_ports(12)
    port, program = serve(stand, "late", source_ports)

    def call_and_go(source_port):
        sock = clients.prepared_client(stand, 6, source_port)
        sock.settimeout(PATIENCE)
        sock.connect((SERVER[6], port))
        if source_port % 3 == 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        elif source_port % 3 == 1:
            sock.sendall(b"good bye\n")
        sock.close()
    at_once(call_and_go, source_ports[:9])
    time.sleep(0.2)
    program.write("\n")
    for source_port in source_ports[9:]:
        ask(stand, source_port, port)
    assert program.stderr() == ""
    seen = [line.split()[2] for line in program.stdout().splitlines() if line.startswith("client")]
    # (A punch that is reset before it is looked at is no connection.)
    stayed = {str(source_port) for source_port in source_ports
              if source_port % 3 != 0 or source_port in source_ports[9:]}
    assert stayed <= set(seen) <= set(map(str, source_ports)) and len(seen) == len(set(seen))
