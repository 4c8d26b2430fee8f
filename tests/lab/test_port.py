"""Whose the server's port is: the keeper's sockets stand beside the server's by SO_REUSEPORT, which
lets nobody have the port who could not have it without the library, but for one that is known."""

import contextlib
import json
import time

import pytest

import clients
import firewall
import servers
from programs import SETTLING, Preload, fresh_peer_ports, fresh_port, script
from topology import SERVER
from trials import PATIENCE, peers

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.other_users]

PHASES = ("listens", "is shut down", "has closed it")
RANKS = ("nothing", "binds", "listens")


def who_can_bind(stand, port):
    """By user and way, what a program without the library gets."""
    found = {}
    for user in ("nobody", "root"):
        program = stand.start("A", [servers.PYTHON, script("port_binder.py"), port], user=user)
        program.wait_exit()
        found |= {f"{user} {how}": result for how, result in json.loads(program.stdout()).items()}
        program.stop()
    return found


def through_its_life(stand, address, how, is_preloaded, is_held):
    """{phase: {who: what}} of a server, with a client that it holds or without; after a moment as
    well, when nothing of the keeper's is in the way any more."""
    port, source_ports = fresh_port(), fresh_peer_ports(3)
    preload = Preload(peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops)
    firewall.set_profile(stand.path, "strict" if is_preloaded else "open")
    server = stand.start("A", [servers.PYTHON, script("leaving_server.py"), address, port, how],
                         preload=preload if is_preloaded else None)
    found = {}
    with contextlib.ExitStack() as held:
        for phase in PHASES:
            server.wait_for(phase)
            if phase == PHASES[0]:
                time.sleep(SETTLING)
                if is_held:
                    client = held.enter_context(
                        clients.tcp_client(stand, 6, source_ports[0], port, PATIENCE))
                    client.send("hello\n")
                    client.receive_until("held\n")
            found[phase] = who_can_bind(stand, port)
            if phase != PHASES[0]:
                time.sleep(3.5 if is_preloaded else 0)  # what is parked has gone
                found[f"{phase} for a while"] = who_can_bind(stand, port)
            server.write("\n")
    server.stop()
    return found


@pytest.mark.parametrize("is_held", (False, True), ids=("idle", "with a client"))
@pytest.mark.parametrize("how", ("reuseaddr", "plain"))
@pytest.mark.parametrize("address", ("::", SERVER[6]))
def test_nobody_has_it_who_could_not_have_had_it(stand, address, how, is_held):
    plain = through_its_life(stand, address, how, False, is_held)
    preloaded = through_its_life(stand, address, how, True, is_held)
    assert set(plain["listens"].values()) >= {"nothing"}  # the control
    more, less = [], []
    for phase, found in preloaded.items():
        for who, what in found.items():
            before = plain[phase][who]
            # While its socket is there, or without SO_REUSEADDR a connection: README, "Limits".
            is_known = who.startswith("nobody") and who.endswith(("reuseport", "both")) and (
                phase.startswith(PHASES[:2]) or (how == "plain" and is_held))
            if RANKS.index(what) > RANKS.index(before) and not is_known:
                more.append((phase, who, before, what))
            # (While a connection is there, the holes are kept for a listener that comes again.)
            if RANKS.index(what) < RANKS.index(before) and "for a while" in phase and not is_held:
                less.append((phase, who, before, what))
    stand.say(f"more: {more}")
    stand.say(f"less: {less}")
    assert (more, less) == ([], [])
