"""Connections by the dozen: how many of them come about, with the library and without."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import time

import clients
import firewall
from conftest import skip_what_is_missing
from programs import Preload, fresh_peer_ports, fresh_port, has_other_users, slowness
from topology import PEER

import pytest

AT_A_TIME = 10
PATIENCE = 10.0  # a few of the kernel's repeated SYNs
NO_ANSWER = 1.3  # the peer's SYN and its first repetition went unanswered
ENOUGH_FAILURES = 3  # what is broken should not take minutes to say so
STRANGERS = 3


@dataclasses.dataclass
class Outcome:
    successes: int = 0
    failures: list = dataclasses.field(default_factory=list)
    slowest: float = 0.0


def peers(family, first, last=None):
    """A peer's address with a port or a range of them, as SYNERGY_PEERS has it."""
    address = f"[{PEER[6]}]" if family == 6 else PEER[4]
    return f"{address}:{first}" + (f"-{last}" if last and last != first else "")


def converse(stand, server, source_ports, preload_for, patience, at_a_time=AT_A_TIME):
    """One conversation from each port. `preload_for(ports)` gives the library, or None, for a
    server that has these ports to expect."""
    outcome = Outcome()

    def one(program, source_port, port):
        if len(outcome.failures) >= ENOUGH_FAILURES:
            return
        started = time.monotonic()
        try:
            server.talk(stand, server, program, source_port, port, patience)
            outcome.successes += 1
            outcome.slowest = max(outcome.slowest, time.monotonic() - started)
        except OSError as error:
            outcome.failures.append(f"from port {source_port}: {error!r}")

    def lane(ports):
        # A server that serves once is started again on the same port, as by hand.
        port = fresh_port()
        for source_port in ports:
            if len(outcome.failures) >= ENOUGH_FAILURES:
                return
            program = server.start(stand, port, preload_for([source_port]))
            one(program, source_port, port)
            program.stop()

    with concurrent.futures.ThreadPoolExecutor(at_a_time) as pool:
        if server.serves_once:
            lanes = [source_ports[index::at_a_time] for index in range(at_a_time)]
            work = [pool.submit(lane, ports) for ports in lanes if ports]
        else:
            port = fresh_port()
            program = server.start(stand, port, preload_for(source_ports))
            work = [pool.submit(one, program, source, port) for source in source_ports]
        for item in work:
            item.result()
    if not server.serves_once:
        program.stop()
    stand.say("\n  ".join([
        f"{server.name}: {outcome.successes} of {len(source_ports)}, "
        f"the slowest took {outcome.slowest:.2f} s", *outcome.failures]))
    return outcome


def at_once(call, source_ports):
    """call(source_port) for each, several at a time; the results in their order."""
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(call, source_ports))


def check_all_refused(stand, source_ports, port, within):
    """All call at once, and whoever gets through is reset soon: a client that is none would wait."""
    with contextlib.ExitStack() as calls:
        sockets = [calls.enter_context(clients.prepared_client(stand, 6, source_port))
                   for source_port in source_ports]
        for sock in sockets:
            sock.settimeout(PATIENCE)
        connected = at_once(lambda sock: clients.connects(sock, port), sockets)
        began = time.monotonic()
        for sock in itertools.compress(sockets, connected):
            with pytest.raises(ConnectionError):
                sock.recv(100)
        assert time.monotonic() - began < within


def skip_if_impossible(server):
    skip_what_is_missing(server.tools)
    if server.other_users and not has_other_users():
        pytest.skip(f"{server.name} needs a second user: an ordinary user's namespace has but one,"
                    " run as root")


_controls = {}  # (path, profile, server, family): Outcome


def measured_once(stand, server, profile, measure):
    """What a server does without the library, behind these firewalls, is no other from one test to
    the next: measured for the first that asks, and told to all of them, be it good or bad."""
    key = (stand.path.label, profile, server.name, server.family)
    if key not in _controls:
        _controls[key] = measure()
    stand.say(f"{server.name} without the library, {profile}: {_controls[key]}")
    return _controls[key]


def check(stand, server, profile="strict", count=20, at_a_time=None, **settings):
    """The whole of what is promised of a server: all get in with the library. And that it means
    something: none without it, though the server is fine where an administrator opens the port."""
    skip_if_impossible(server)
    # A login by ssh is seconds of work for the second kernel's processor, and so is socat with a
    # process for each datagram: there, one at a time does what ten do elsewhere.
    at_a_time = at_a_time or (AT_A_TIME if slowness() == 1 else 1)
    settings.setdefault("hops", stand.path.hops)

    def library(ports):
        return Preload(peers=peers(server.family, ports[0], ports[-1]), **settings)

    def opened():
        firewall.set_profile(stand.path, "open")
        return converse(stand, server, fresh_peer_ports(1), lambda _: None, PATIENCE)

    reference = measured_once(stand, server, "open", opened)
    assert reference.failures == [], "not even with the port open"

    firewall.set_profile(stand.path, profile)
    firewall.forget_connections(stand.path)
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        strangers = beside.submit(measured_once, stand, server, profile, lambda: converse(
            stand, server, fresh_peer_ports(STRANGERS), lambda _: None, NO_ANSWER))
        outcome = converse(stand, server, fresh_peer_ports(count), library, PATIENCE, at_a_time)
    assert len(strangers.result().failures) == STRANGERS, "the firewall lets strangers in"
    assert outcome.failures == []
    assert outcome.successes == count
