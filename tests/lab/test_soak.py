"""A long time with everything at random; scripts/soak runs it, and nothing else does."""

import os
import random
import signal
import threading
import time

import pytest

import clients
import firewall
from programs import SETTLING, Preload, fresh_peer_ports, fresh_port, held_by
from test_families import nginx, start_daemon
from topology import PEER
from trials import peers

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.other_users,
              pytest.mark.needs("nginx")]

PEERS = 50
REFRESH = 5
PATIENCE = 10
BETWEEN_CALLS = (0.5, 8)
BETWEEN_FLUSHES = (40, 120)
BETWEEN_RELOADS = (10, 60)


# What a firewall forgets in the middle of a connection's end stays in FIN_WAIT1 at the server for as
# long as the kernel repeats its FIN to nobody, eight times from 0.2 to 0.4 s on and twice as long each
# time (net.ipv4.tcp_orphan_retries), and its ports with it.
CUT_OFF = 0.4 * 511
ENDING = 1  # seconds, on a busy machine


class Life:
    """What happened so far. Written by many threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.successes, self.lost, self.excused, self.cut_off = 0, [], 0, 0
        self.flushes = []  # when each began and had ended: on a busy machine that takes a while
        self.calls = {}  # by port: when the last ones began and ended

    def over(self, source_port, started, problem=None):
        """Excused where the firewall had just forgotten the hole, or the connection itself; or one
        from the same port, in its middle."""
        now = time.monotonic()
        with self.lock:
            calls = self.calls.setdefault(source_port, [])
            if problem is None:
                self.successes += 1
            elif any(begin - PATIENCE < started < end + REFRESH + 1 for begin, end in self.flushes):
                self.excused += 1
            elif any(begun < end and begin < ended + ENDING and started < end + CUT_OFF
                     for begun, ended in calls for begin, end in self.flushes):
                self.cut_off += 1
            else:
                before = [f"{now - begun:.1f} to {now - ended:.1f}" for begun, ended in calls[-2:]]
                emptied = [f"{now - begin:.1f} to {now - end:.1f}" for begin, end in self.flushes[-2:]]
                self.lost.append(
                    f"from {source_port} after {now - started:.1f} s: {problem!r}; seconds ago: "
                    f"the last calls {before}, the firewall emptied {emptied}")
            calls.append((started, now))


def call(stand, source_port, port):
    """A request and its answer, after which the server ends the connection: what rests in TIME_WAIT
    then does so at its side."""
    with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
        client.send("GET /soak HTTP/1.0\r\n\r\n")
        if f"{PEER[6]} {source_port} /soak" not in client.receive_all():
            raise ConnectionError("no answer, or to somebody else")


def peer(stand, life, source_port, port, over, chance):
    while not over.wait(chance.uniform(*BETWEEN_CALLS)):
        started = time.monotonic()
        try:
            call(stand, source_port, port)
            life.over(source_port, started)
        except OSError as error:
            life.over(source_port, started, error)


def test_soak(stand):
    minutes = int(os.environ["SYNERGY_SOAK_MINUTES"])
    seed = int(os.environ.get("SYNERGY_SOAK_SEED", time.time()))
    print(f"\nSYNERGY_SOAK_SEED={seed}")
    chance = random.Random(seed)
    port, source_ports = fresh_port(), fresh_peer_ports(PEERS)
    command, pid_file = nginx(port)
    main = start_daemon(stand, port, command, Preload(
        peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops, refresh=REFRESH),
        pid_file)
    time.sleep(SETTLING)
    life, over = Life(), threading.Event()
    threads = [threading.Thread(target=peer, daemon=True, args=(
        stand, life, source_port, port, over, random.Random(chance.random())))
        for source_port in source_ports]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    next_flush = began + chance.uniform(*BETWEEN_FLUSHES)
    next_reload = began + chance.uniform(*BETWEEN_RELOADS)
    reloads, held = 0, []
    for minute in range(1, minutes + 1):
        while (now := time.monotonic()) < began + 60 * minute:
            if now >= next_flush:
                # (Until it has ended nobody knows when that is.)
                with life.lock:
                    life.flushes.append((now, now + PATIENCE))
                firewall.forget_connections(stand.path)
                with life.lock:
                    life.flushes[-1] = now, time.monotonic()
                next_flush = now + chance.uniform(*BETWEEN_FLUSHES)
            if now >= next_reload:
                os.kill(main, signal.SIGHUP)
                reloads += 1
                next_reload = now + chance.uniform(*BETWEEN_RELOADS)
            time.sleep(0.1)
        held.append(held_by(main))
        print(f"{minute} min: {life.successes} connections, {len(life.lost)} lost,"
              f" {life.excused} dropped by the firewall ({len(life.flushes)} times emptied),"
              f" {life.cut_off} from a port that rests after such a one;"
              f" {reloads} reloads; {held[-1][0]} descriptors, {held[-1][1]} KiB", flush=True)
    over.set()
    for thread in threads:
        thread.join()
    print(*life.lost, sep="\n")
    assert life.successes > 0
    assert life.lost == []
    first, last = held[0], held[-1]
    assert last[0] <= first[0] + 10, "descriptors"
    assert last[1] <= first[1] * 1.1 + 1024, "memory"
