"""A port is free when it would be without the library, whoever has closed it and however."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from preloaded import (deaf_peer, keepers_of, plain_environment, preloaded_environment,
                       PROGRAMS, run, SEEN_TO_CLOSE, wait_until, without_delay_elsewhere)

WAYS_TO_CLOSE = [*SEEN_TO_CLOSE, "moved"]


@pytest.mark.parametrize("how", WAYS_TO_CLOSE)
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_closed_port_is_free_and_no_descriptor_is_added(transport, how):
    bare, preloaded = (
        run(PROGRAMS / "again", how, transport, environment=environment)
        for environment in (plain_environment(), preloaded_environment())
    )
    lines = bare.stdout.splitlines()
    assert lines.count("again: bound") == 20 and lines.count("elsewhere: bound") == 1
    if how not in SEEN_TO_CLOSE:
        preloaded.stdout = without_delay_elsewhere(preloaded.stdout)
    assert preloaded.stdout.splitlines() == lines
    assert preloaded.returncode == 0


def test_a_port_is_free_for_the_successor_of_a_killed_server(deaf_peer):
    """Where the library does not see bind(), it is not always: the keeper's sockets are there for a
    moment yet."""
    environment = preloaded_environment(deaf_peer.text())
    assert run(PROGRAMS / "successor", 200, environment=environment).stdout == \
        "0 of 200 could not\n"
    assert any(run(PROGRAMS / "successor", 50, "unseen", environment=environment).stdout !=
               "0 of 50 could not\n" for _ in range(60))


CLOSED_BY_EXEC = """
import os, socket, sys, time
with socket.socket(socket.AF_INET6) as listener:
    listener.bind(("::", 0))
    listener.listen(5)
    time.sleep(0.5)
    os.execve(sys.executable, [sys.executable, "-c", sys.argv[1], str(listener.getsockname()[1])], {})
"""
BOUND_AFTER = """
import socket, sys, time
begun = time.monotonic()
while True:
    try:
        socket.socket(socket.AF_INET6).bind(("::", int(sys.argv[1])))
        break
    except OSError:
        time.sleep(0.002)
print(time.monotonic() - begun)
"""


def test_a_port_is_free_soon_for_a_program_that_is_executed_without_the_library(deaf_peer):
    taken = [float(run(sys.executable, "-c", CLOSED_BY_EXEC, BOUND_AFTER,
                       environment=preloaded_environment(deaf_peer.text())).stdout)
             for _ in range(5)]
    assert max(taken) < 0.15, taken


A_CHILD_BINDS_AND_ENDS = """
import os, socket
listener, other = (socket.create_server(("::", 0), family=socket.AF_INET6) for _ in range(2))
print(flush=True)
input()
address = listener.getsockname()
listener.close()
child = os.fork()
if child == 0:
    bound = socket.socket(socket.AF_INET6)
    bound.bind(address)
    os._exit(0)
os.waitpid(child, 0)
socket.socket(socket.AF_INET6).bind(address)
print("bound")
"""


def test_a_port_is_free_when_a_child_that_has_bound_it_has_ended():
    """It was about to listen where a listener was closed before, so it was punched for at once. The
    keeper, which has given its rights up, can't see in /proc what root's processes have."""
    server = subprocess.Popen([sys.executable, "-c", A_CHILD_BINDS_AND_ENDS], text=True,
                              env=preloaded_environment(), stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    server.stdout.readline()
    (keeper,) = keepers_of(server.pid)
    if os.geteuid() == 0:
        assert wait_until(lambda: "Seccomp:\t2" in Path(f"/proc/{keeper}/status").read_text())
    output, errors = server.communicate("\n", timeout=20)
    assert output == "bound\n", errors
