"""Servers that share a port by SO_REUSEPORT, each by a listener of its own: the kernel spreads ordinary
connections among them, and so are peers; who ends leaves its holes to the others."""

import collections
import os
import re
import signal
import time

import pytest

import clients
import servers
from programs import SETTLING, Preload, fresh_peer_ports, fresh_port, script, slowness
from topology import PEER
from trials import PATIENCE, at_once, peers

pytestmark = pytest.mark.usefixtures("library")

WORKERS = 8
EACH = 4  # peers
AT_AN_END = 6


def programs_of_their_own(stand, port, preload):
    """And one without the library, whose share nobody can give it."""
    started = [stand.start("A", [servers.PYTHON, script("sharing_server.py"), "tcp", "::", port, "shared"],
                           preload=its) for its in (*[preload] * WORKERS, None)]
    for program in started:
        program.wait_for("has its port\n", PATIENCE * slowness())
    return [program.pid for program in started[:-1]]


def children_of_one(stand, port, preload):
    script("sharing_server.py")
    program = stand.start("A", [servers.PYTHON, script("sharing_workers.py"), WORKERS, "::", port],
                          preload=preload)
    program.wait_for(f"(worker .*\n){{{WORKERS}}}", PATIENCE * slowness())
    return [int(pid) for pid in re.findall(r"worker (\d+) ", program.stdout())]


@pytest.mark.parametrize("workers_of", (programs_of_their_own, children_of_one))
def test_each_has_its_share_and_leaves_it_to_the_others(stand, workers_of):
    """Those who call in the moments in which one of them is killed are served as well."""
    port = fresh_port()
    source_ports = fresh_peer_ports(WORKERS * EACH + (WORKERS - 1) * AT_AN_END)
    workers = workers_of(stand, port, Preload(peers=peers(6, source_ports[0], source_ports[-1]),
                                              hops=stand.path.hops))
    time.sleep(SETTLING)

    def served_by(source_port, after=0.0):
        time.sleep(after)
        with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
            client.send("hello\n")
            address, its_port, pid, _ = client.receive_until("hello\n").split()
            assert (address, int(its_port)) == (PEER[6], source_port)
            return int(pid)

    shares = collections.Counter(at_once(served_by, source_ports[:WORKERS * EACH]))
    # More than one of them may have holes, and each begins with itself.
    assert sorted(shares) == sorted(workers) and EACH // 2 <= min(shares.values()), shares
    rest = source_ports[WORKERS * EACH:]
    for index, worker in enumerate(workers[:-1]):
        os.kill(worker, signal.SIGKILL)
        late = rest[index * AT_AN_END:(index + 1) * AT_AN_END]
        delays = {source_port: 0.002 * number for number, source_port in enumerate(late)}
        served = at_once(lambda source_port: served_by(source_port, delays[source_port]), late)
        assert set(served) <= set(workers[index + 1:])
