"""Servers by their names, each called one call after the other; none gets in without the library."""

import json
import os
import time

import pytest

import by_name
import by_name_languages
import by_name_more
import by_name_unusual
import firewall
from programs import Preload, fresh_peer_ports, fresh_port
from trials import NO_ANSWER, PATIENCE, peers, skip_if_impossible

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.other_users]

TABLE = os.environ.get("SYNERGY_SERVERS_TABLE")
CALLS = 10


def servers_to_try():
    every = (by_name.ALL + by_name_more.MORE + by_name_languages.LANGUAGES +
             by_name_unusual.UNUSUAL)
    return every if TABLE else [server for server in every if server.name in by_name.CHOSEN]


def ports_of(server, calls):
    """What each call takes: its port, or its ports."""
    each = getattr(server, "ports_for_a_call", 0)
    if not each:
        return fresh_peer_ports(calls)
    ports = fresh_peer_ports(calls * each)
    return [ports[i * each:(i + 1) * each] for i in range(calls)]


def ends(calls):
    first, last = calls[0], calls[-1]
    return (first[0], last[-1]) if isinstance(first, list) else (first, last)


def call_in_a_row(stand, server, preload_for, calls, patience):
    """How long each took, None for one that did not get in; and what the server's side said."""
    port = fresh_port()
    program = server.start(stand, port, preload_for(calls))
    took = []
    for source in calls:
        begin = time.monotonic()
        try:
            server.talk(stand, server, program, source, port, patience)
            took.append(time.monotonic() - begin)
        except OSError as error:
            stand.say(f"{server.name} from {source}: {error!r}")
            took.append(None)
            if took.count(None) >= 3:
                break
    said = program.stderr()
    stand.clear()
    return took, said


def write_down(server, took, strangers, said):
    entry = {"server": server.name, "calls": CALLS, "in": CALLS - took.count(None),
             "without": len(strangers) - strangers.count(None),
             "median": sorted(t for t in took if t is not None)[len(took) // 2]
             if None not in took else None,
             "slowest": max((t for t in took if t is not None), default=None),
             "said": sorted({line for line in said.splitlines() if line.startswith("synergy: ")})}
    with open(TABLE, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


@pytest.mark.parametrize("server", servers_to_try(), ids=lambda server: server.name)
def test_server(stand, server):
    skip_if_impossible(server)
    firewall.set_profile(stand.path, "open")
    reference, _ = call_in_a_row(stand, server, lambda _: None, ports_of(server, 1), PATIENCE)
    assert None not in reference, "not even with the port open"
    firewall.set_profile(stand.path, "strict")
    firewall.forget_connections(stand.path)
    strangers, _ = call_in_a_row(stand, server, lambda _: None, ports_of(server, 1), NO_ANSWER)

    def library(calls):
        first, last = ends(calls)
        return Preload(peers=peers(6, first, last), hops=stand.path.hops)

    took, said = call_in_a_row(stand, server, library, ports_of(server, CALLS), PATIENCE)
    if TABLE:
        write_down(server, took + [None] * (CALLS - len(took)), strangers, said)
    assert strangers.count(None) == len(strangers), "the firewall lets strangers in"
    assert took.count(None) == 0, took
