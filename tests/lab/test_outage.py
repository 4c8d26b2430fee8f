"""A keeper that is kept from running while its punches need it (an overloaded machine, a debugger):
who calls meanwhile gets in when it runs again, and is not locked out for the two minutes for which
the firewall remembers."""

import concurrent.futures
import os
import signal
import time

import pytest

import firewall
import servers
from programs import Preload, fresh_peer_ports, fresh_port, slowness
from test_killed import keepers
from topology import SERVER
from trials import peers

pytestmark = pytest.mark.usefixtures("library")

CALLS = 30
LASTS = 2  # s
# Of the first seconds, in which a punch is due each 0.8 s.
SETTLED = 2.5
# The peer's next SYN comes a second after one that was lost, and may meet a deaf moment then.
SOON_AFTER = 2.3


@pytest.mark.parametrize("address, family", (("::", 6), (SERVER[4], 4), ("::", 4)),
                         ids=("v6", "v4", "v4-mapped"))
def test_who_calls_while_the_keeper_stands_still(stand, address, family):
    firewall.forget_connections(stand.path)
    source_ports, port = fresh_peer_ports(CALLS), fresh_port()
    server = servers.own_tcp(address, family)
    program = server.start(stand, port, Preload(
        peers=peers(family, source_ports[0], source_ports[-1]), hops=stand.path.hops))
    (keeper,) = keepers(stand.path)
    time.sleep(SETTLED)
    begun = time.monotonic()

    def call(index):
        time.sleep(max(0, begun + LASTS * index / CALLS - time.monotonic()))
        server.talk(stand, server, program, source_ports[index], port, 20)
        return time.monotonic() - begun

    with concurrent.futures.ThreadPoolExecutor(CALLS) as pool:
        os.kill(keeper, signal.SIGSTOP)
        try:
            calls = [pool.submit(call, index) for index in range(CALLS)]
            time.sleep(LASTS)
        finally:
            os.kill(keeper, signal.SIGCONT)
        served = sorted(each.result() for each in calls)
    stand.say(f"served {served[0]:.1f} to {served[-1]:.1f} s after it stood still for {LASTS} s")
    assert served[-1] < LASTS + SOON_AFTER * slowness()
