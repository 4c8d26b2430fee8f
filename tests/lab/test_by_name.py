"""Servers by their names, each called one call after the other; none gets in without the library."""

import json
import os
import subprocess
import time

import pytest

import by_name_chat
import by_name_data
import by_name_dns
import by_name_files
import by_name_languages
import by_name_mail
import by_name_proxies
import by_name_python
import by_name_remote
import by_name_scripts
import by_name_superservers
import by_name_system
import by_name_voice
import by_name_web
import firewall
from programs import STAGE, Preload, fresh_peer_ports, fresh_port
from trials import NO_ANSWER, PATIENCE, peers, skip_if_impossible

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.other_users]

TABLE = os.environ.get("SYNERGY_SERVERS_TABLE")
CALLS = 10
THEMES = (by_name_web, by_name_proxies, by_name_mail, by_name_data, by_name_dns, by_name_files,
          by_name_chat, by_name_voice, by_name_remote, by_name_system, by_name_superservers,
          by_name_python, by_name_scripts, by_name_languages)
# Those that the lab tries each time.
CHOSEN = ("haproxy -W", "haproxy -Ws", "apache event", "nginx deferred", "systemd-socket-activate")
EVERY = [(theme.__doc__, server) for theme in THEMES for server in theme.SERVERS]


def servers_to_try():
    return [pytest.param(number, id=server.name) for number, (_, server) in enumerate(EVERY)
            if TABLE or server.name in CHOSEN]


def ports_of(server, calls):
    """What each call takes: its port, or its ports."""
    each = server.ports_for_a_call
    ports = fresh_peer_ports(calls * each)
    return ports if each == 1 else [ports[i * each:(i + 1) * each] for i in range(calls)]


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


def write_down(number, opened, took, strangers, said):
    theme, server = EVERY[number]
    entry = {"number": number, "theme": theme, "server": server.name, "cannot": server.cannot, "calls": CALLS,
             "in": CALLS - took.count(None),
             "opened": opened[0], "without": len(strangers) - strangers.count(None),
             "median": sorted(t for t in took if t is not None)[len(took) // 2]
             if None not in took else None,
             "slowest": max((t for t in took if t is not None), default=None),
             "said": sorted({line for line in said.splitlines() if line.startswith("synergy: ")})}
    with open(TABLE, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def what_check_says(server):
    said = subprocess.run([STAGE / "src/synergy", "check", "--", server.tools[0]], check=False,
                          capture_output=True, text=True)
    return said.stdout + said.stderr


@pytest.mark.parametrize("number", servers_to_try())
def test_server(stand, number):
    server = EVERY[number][1]
    skip_if_impossible(server)
    firewall.set_profile(stand.path, "open")
    opened, _ = call_in_a_row(stand, server, lambda _: None, ports_of(server, 1), PATIENCE)
    assert None not in opened, "not even with the port open"
    firewall.set_profile(stand.path, "strict")
    firewall.forget_connections(stand.path)
    strangers, _ = call_in_a_row(stand, server, lambda _: None, ports_of(server, 1), NO_ANSWER)

    def library(calls):
        first, last = ends(calls)
        return Preload(peers=peers(server.family, first, last), hops=stand.path.hops)

    took, said = call_in_a_row(stand, server, library, ports_of(server, CALLS),
                               NO_ANSWER if server.cannot else PATIENCE)
    if TABLE:
        write_down(number, opened, took + [None] * (CALLS - len(took)), strangers, said)
    assert strangers.count(None) == len(strangers), "the firewall lets strangers in"
    if server.cannot:
        assert took.count(None) == len(took), "it can be preloaded"
        assert server.cannot in what_check_says(server)
    else:
        assert took.count(None) == 0, took
        assert "synergy: " not in said, "said though nothing is wrong"
