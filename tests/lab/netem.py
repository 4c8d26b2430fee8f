"""A bad network: delay, jitter, loss and reordering by the kernel's netem, where it has that."""

import subprocess

import pytest

import namespace


def skip_if_missing():
    # The lab's own loopback serves for asking; it is nobody's path.
    command = ["tc", "qdisc", "replace", "dev", "lo", "root", "netem", "delay", "0"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("tc missing: apt-get install iproute2")
    if asked.returncode != 0:
        pytest.skip(f"no netem in this kernel ({asked.stderr.strip()}): see scripts/test-uml")
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)


def set_netem(path, node, neighbour, *, delay_ms, jitter_ms=0, loss=0, reorder=0):
    """What the node sends to its neighbour is delayed by delay ± jitter, and `loss` and `reorder`
    percent of it are lost, or overtake what waits."""
    command = ["tc", "qdisc", "replace", "dev", f"to-{neighbour}", "root", "netem",
               "limit", "100000", "delay", f"{delay_ms}ms", f"{jitter_ms}ms"]
    if loss:
        command += ["loss", f"{loss}%"]
    if reorder:
        command += ["reorder", f"{reorder}%"]
    with namespace.inside(path.namespace(node)):
        subprocess.run(command, check=True)


def set_netem_both_ways(path, node, neighbour, **how):
    set_netem(path, node, neighbour, **how)
    set_netem(path, neighbour, node, **how)
