"""A bell is no client: no program that has the library sees one, whatever becomes of the connection
that the bell stands for."""

import collections
import concurrent.futures
import json
import os
import pathlib
import random
import contextlib
import re
import signal
import time
import traceback

import pytest

import clients
import sctp
import servers
from programs import SETTLING, Preload, fresh_peer_ports, fresh_port, script, slowness
from topology import PEER, SERVER
from trials import PATIENCE, at_once, check_all_refused, peers

pytestmark = pytest.mark.usefixtures("library")

WITHIN = 2.0  # seconds to a reset, where nobody can serve
SIDE_BY_SIDE = 3


def start(stand, source_ports, acceptors, listener=(), keeper=()):
    """passed_listener.py, with these words."""
    port, family = fresh_port(), 4 if "v4" in listener else 6
    settings = Preload(peers=peers(family, source_ports[0], source_ports[-1]),
                       hops=stand.path.hops).environment()
    case = {"port": port, "library": settings.pop("LD_PRELOAD"), "settings": settings,
            "listener": listener, "keeper": keeper, "acceptors": acceptors}
    program = stand.start(
        "A", [servers.PYTHON, script("passed_listener.py"), json.dumps(case)], user="root")
    program.wait_for("keeps\n", 3 * PATIENCE * slowness())
    return port, program


def children_of(pid):
    return [int(child) for child in
            pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def outcome(stand, source_port, port, family=6, client_of=clients.tcp_client):
    """`served`, or `refused` after so many seconds."""
    began = None
    try:
        with client_of(stand, family, source_port, port, PATIENCE) as client:
            began = time.monotonic()  # before, its call may have met a deaf socket
            client.send("hello\n")
            said = client.receive_until("hello\n").split()
            assert said[:2] in ([PEER[family], str(source_port)],
                                [f"::ffff:{PEER[family]}", str(source_port)])
            return "served"
    except ConnectionError:
        assert not began or time.monotonic() - began < WITHIN
        return "refused"


def seen_by(program):
    return re.findall(r"client \w+ (.*)", program.stdout())


SERVING = ("set address", "set", "bare address", "bare", "set nobody", "bare nobody address",
           "bare nobody", "set process", "bare process address", "set chroot", "bare chroot address",
           "bare nobody poll", "set poll address", "set landlock", "bare user mount hidden")
REFUSING = ("set network", "bare network address", "bare network", "bare landlock", "bare landlock address", "bare refusing", "bare killing", "set killing address",
            "bare nobody chroot network process landlock poll")


@pytest.mark.other_users
@pytest.mark.parametrize("who", SERVING + REFUSING)
def test_who_waited_before_the_keeper_came(stand, who):
    source_ports = fresh_peer_ports(3)
    port, program = start(stand, source_ports, [who.split()])
    outcomes = [outcome(stand, source_port, port) for source_port in source_ports[:1]]
    if who in SERVING:
        outcomes += [outcome(stand, source_port, port) for source_port in source_ports[1:]]
        assert outcomes == ["served"] * 3
        assert seen_by(program) == [f"{PEER[6]} {source_port}" for source_port in source_ports]
    else:
        assert outcomes == ["refused"]
        assert seen_by(program) == []
        program.wait_for("nothing is punched any more: (who accepts .* can't reach synergy-keeper|"
                         "the server accepts under a system call filter of its own)")
        with pytest.raises(TimeoutError):  # the firewall is shut again, for who had not come yet
            clients.tcp_client(stand, 6, fresh_peer_ports(1)[0], port, 1.3)


@pytest.mark.needs("strace")
def test_who_is_stopped_with_a_bell_in_hand(stand):
    """Stopped by the first system call that follows accept(), for three seconds."""
    source_ports = fresh_peer_ports(2)
    preload = Preload(peers=peers(6, *source_ports), hops=stand.path.hops)
    given = [word for pair in preload.environment().items() for word in ("-E", "=".join(pair))]
    port = fresh_port()
    program = stand.serve(
        ["strace", "-qq", "-o", "/dev/null", "-e", "trace=getpeername",
         "-e", "inject=getpeername:signal=SIGSTOP:when=1", *given,
         *servers.own_tcp("::").command(port)], "tcp", port, user="root")
    time.sleep(SETTLING)
    (server,) = children_of(program.pid)
    with clients.tcp_client(stand, 6, source_ports[0], port, PATIENCE) as client:
        client.send("hello\n")
        with pytest.raises(TimeoutError):
            client.receive_until("hello\n", 3)
        os.kill(server, signal.SIGCONT)
        assert client.receive_until("hello\n") == f"{PEER[6]} {source_ports[0]} hello\n"
    with clients.tcp_client(stand, 6, source_ports[1], port, PATIENCE) as client:
        client.send("hello\n")
        client.receive_until("hello\n")
    program.stop()
    assert program.stderr() == ""


def test_a_listener_that_is_shut_down_and_listens_again(stand):
    """At once, later, and what was shut down for good is not connected to."""
    source_ports = fresh_peer_ports(6)
    port = fresh_port()
    program = stand.serve([servers.PYTHON, script("again_listening.py"), port], "tcp", port,
                          preload=Preload(peers=peers(6, source_ports[0], source_ports[-1]),
                                          hops=stand.path.hops))
    for index, source_port in enumerate(source_ports[:5]):
        assert outcome(stand, source_port, port) == "served"
        program.write(f"{0.2 * (index % 2)}\n")
        program.wait_for(f"listens again {index}\n")
        time.sleep(SETTLING)
    program.write("for good\n")
    program.wait_for("does not listen\n")
    # Who calls in the moment in which it might listen again is met, and refused when it does not.
    with contextlib.suppress(TimeoutError):
        assert outcome(stand, source_ports[5], port) == "refused"


@pytest.mark.other_users
@pytest.mark.parametrize("what, seen", (("", 1), ("closing", 2)))
def test_who_has_no_library_sees_a_bell(stand, what, seen):
    """The control, and the limit: however many peers call at once, they are refused, and that is said."""
    source_ports = fresh_peer_ports(5)
    port, program = start(stand, source_ports, [["none", "address", what]])
    check_all_refused(stand, source_ports, port, WITHIN)
    program.wait_for("nothing is punched any more: connections were accepted by a call")
    assert [client.split()[0] for client in seen_by(program)] == ["::1"] * seen


CHOICES = {
    "listener": (("", "v4"), ("", "here"), ("", "nobody's"), ("", "shared"), ("", "deferred"),
                 ("", "hurried"), ("", "", "narrow"), ("", "tuned")),
    "keeper": (("", "", "", "nobody"), ("", "busy")),
    "acceptor": (("set", "set", "bare", "bare", "bare", "none"), ("exec", "fork", "rights", "late"),
                 ("", "", "nobody"), ("", "", "", "", "network"), ("", "", "process"),
                 ("", "", "", "", "landlock", "refusing", "killing"), ("", "", "chroot"), ("", "", "", "", "user", "mount"),
                 ("", "", "hidden"), ("", "address"), ("", "poll")),
}
PEERS_OF_EACH = 5


def chosen(chance, what):
    return [word for word in map(chance.choice, CHOICES[what]) if word]


def try_at_random(stand, chance, transport="tcp"):
    """Some listener with some processes. What is wrong with it, in words."""
    source_ports = fresh_peer_ports(PEERS_OF_EACH)
    listener, keeper = chosen(chance, "listener"), chosen(chance, "keeper")
    acceptors = [chosen(chance, "acceptor") for _ in range(chance.choice((1, 1, 2)))]
    client_of = clients.tcp_client
    if transport == "sctp":
        # What is TCP's, and what Linux 6.1 has not.
        listener = ["sctp", *(word for word in listener if word not in ("deferred", "tuned"))]
        keeper = [word for word in keeper if word != "busy"]
        acceptors = [[word for word in what if word != "landlock"] for what in acceptors]
        client_of = clients.sctp_client
    case = f"listener {listener}, keeper {keeper}, acceptors {acceptors}"
    port, program = start(stand, source_ports, acceptors, listener, keeper)
    family = 4 if "v4" in listener else 6
    longest = 4 if transport == "sctp" else WITHIN  # a call that was not heard comes again

    def one(source_port):
        time.sleep(delays[source_port])
        began = time.monotonic()
        try:
            return outcome(stand, source_port, port, family, client_of)
        except TimeoutError as error:
            return "never connected" if "connect" in traceback.format_exc() else repr(error)
        except AssertionError as error:
            return repr(error)
        finally:
            took[source_port] = time.monotonic() - began
    took = {}
    delays = {source_port: chance.random() for source_port in source_ports}
    outcomes = at_once(one, source_ports)
    is_said = "nothing is punched" in program.stderr()
    served = [f"{PEER[family]} {source_port}" for source_port, result
              in zip(source_ports, outcomes) if result == "served"]
    seen = re.findall(r"client (\w+) (?:::ffff:)?(.*)", program.stdout())
    wrong = [result for result in outcomes
             if result != "served" and not (is_said and result in ("refused", "never connected"))]
    wrong += [f"served after {took[source_port]:.1f} s"
              for source_port, result in zip(source_ports, outcomes)
              if result == "served" and took[source_port] > longest * slowness()]
    # Who has no library sees bells; and may see who was reset before it had a look.
    wrong += [f"saw {client}" for what, client in seen
              if what != "none" and client.split()[0] != PEER[family]]
    wrong += [f"{client} came out {sum(client == other for _, other in seen)} times"
              for client in served if sum(client == other for _, other in seen) != 1]
    # What must be served, lest refusals hide what is broken.
    if not any({"none", "network", "landlock", "refusing", "killing"} & set(what) or
               {"set", "user"} <= set(what) for what in acceptors) and \
            ("nobody's" in listener) == ("nobody" in keeper) and outcomes != ["served"] * len(outcomes):
        wrong.append(f"{outcomes}")
    program.stop()
    return [f"{case}: {each}\n{program.stderr()}" for each in wrong], outcomes


@pytest.mark.other_users
def test_at_random(stand):
    """Each peer is served with its own address, or refused soon, and that is said; no program that has
    the library sees a client that is none. SYNERGY_RANDOM_PEERS=500 SYNERGY_RANDOM_SEED=... for
    more than a suite has time for."""
    at_random(stand, "tcp", 60)


def at_random(stand, transport, peers_of_all):
    count = int(os.environ.get("SYNERGY_RANDOM_PEERS", peers_of_all)) // PEERS_OF_EACH
    seed = int(os.environ.get("SYNERGY_RANDOM_SEED", random.randrange(1 << 32)))
    stand.say(f"SYNERGY_RANDOM_SEED={seed}")
    chances = [random.Random(f"{seed} {index}") for index in range(count)]
    with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        results = list(pool.map(lambda chance: try_at_random(stand, chance, transport), chances))
    stand.say(collections.Counter(outcome for _, outcomes in results for outcome in outcomes))
    wrong = [line for lines, _ in results for line in lines]
    assert not wrong, f"{len(wrong)} with seed {seed}:\n" + "\n".join(wrong)


SCTP_SERVING = ("bare address", "bare", "set address", "bare nobody", "set process", "bare chroot address",
                "bare rights", "bare late address", "bare poll")
SCTP_REFUSING = ("bare network", "bare network address", "set network", "none address")


@pytest.mark.other_users
@pytest.mark.parametrize("listener", (("here",), ("",), ("v4",)), ids=("here", "IPv6", "IPv4"))
@pytest.mark.parametrize("who", SCTP_SERVING + SCTP_REFUSING)
def test_sctp(stand, who, listener):
    sctp.skip_if_missing()
    if "here" not in listener and who not in ("bare address", "bare", "bare network"):
        pytest.skip("where it listens makes a difference to the bell, and none to who answers it")
    family = 4 if "v4" in listener else 6
    (source_port,) = fresh_peer_ports(1)
    port, program = start(stand, [source_port], [who.split()], ["sctp", *listener])
    assert outcome(stand, source_port, port, family, clients.sctp_client) == (
        "served" if who in SCTP_SERVING else "refused")
    if who in SCTP_SERVING:
        assert seen_by(program) == [f"{PEER[family]} {source_port}"]
        return
    program.wait_for("nothing is punched any more")
    if not who.startswith("none"):
        assert seen_by(program) == []


@pytest.mark.other_users
def test_sctp_bells_that_meet_a_full_queue(stand):
    """Where nobody accepts for as long, SCTP refuses them: they ring again."""
    sctp.skip_if_missing()
    source_ports = fresh_peer_ports(4)
    port, program = start(stand, source_ports, [["bare", "address", "slow"]],
                          ["sctp", "here", "narrow"])
    assert at_once(lambda source_port: outcome(stand, source_port, port, 6, clients.sctp_client),
                   source_ports) == ["served"] * 4
    assert sorted(seen_by(program)) == [f"{PEER[6]} {source_port}" for source_port in source_ports]


@pytest.mark.other_users
def test_sctp_at_random(stand):
    sctp.skip_if_missing()
    at_random(stand, "sctp", 20)


def share(stand, transport, port, how, preload, address="::"):
    return stand.start("A", [servers.PYTHON, script("sharing_server.py"), transport, address, port,
                             how], preload=preload)


@pytest.mark.parametrize("address", ("::", SERVER[6]))
def test_two_servers_that_share_a_port(stand, address):
    """Whoever a connection comes to, it is a peer's."""
    source_ports = fresh_peer_ports(20)
    port = fresh_port()
    preload = Preload(peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops)
    sharing = [share(stand, "tcp", port, "shared", preload, address) for _ in range(2)]
    for program in sharing:
        program.wait_for("has its port\n")
    time.sleep(SETTLING)

    def ask(source_port):
        with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
            client.send("hello\n")
            return client.receive_until("hello\n").split()[:2]
    assert at_once(ask, source_ports) == [[PEER[6], str(port)] for port in source_ports]
    assert [program.stderr() for program in sharing] == ["", ""]


@pytest.mark.parametrize("transport", ("tcp", "udp"))
@pytest.mark.parametrize("address", ("::", SERVER[6]))
def test_a_port_that_is_not_shared(stand, transport, address):
    """Though the keeper's sockets are bound beside the server's, another program that has the library
    can't bind there; where it could without, it can."""
    source_ports = fresh_peer_ports(2)
    port = fresh_port()
    preload = Preload(peers=peers(6, *source_ports), hops=stand.path.hops)
    alone = share(stand, transport, port, "alone", preload, address)
    alone.wait_for("has its port\n")
    time.sleep(SETTLING)
    for where, is_free in ((address, False), ("::", False), (SERVER[6], False),
                           ("127.0.0.1", address != "::"), ("::1", address != "::")):
        other = share(stand, transport, port, "shared", preload, where)
        other.wait_for("has its port\n" if is_free else "can't bind: Address already in use")
        other.stop()
    alone.stop()
    again = share(stand, transport, port, "shared", preload, address)
    again.wait_for("has its port\n")
    share(stand, transport, port, "shared", preload, address).wait_for("has its port\n")
