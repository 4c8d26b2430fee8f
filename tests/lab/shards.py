"""The lab in parts that run side by side, each a scripts/lab of its own:

    scripts/lab --shard=2/4 --second-try

Who must be alone, the tests marked `quiet` and what failed and is tried once more, waits until the
other parts are done: all of them hold the file that SYNERGY_LAB_LOCK names, and give it up at their
end.
"""

import fcntl
import os
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
# More than that is no bad moment of the machine's.
SECOND_TRIES_MOST = 3
SECOND_TRY = "=== What failed, once more, alone"


def pytest_addoption(parser):
    parser.addoption("--shard", metavar="I/N", help="the I-th of N parts of the cases")
    parser.addoption("--second-try", action="store_true",
                     help="what fails is tried once more at the end, in a lab of its own")


def pytest_configure(config):
    config.pluginmanager.register(Alone(config), "alone")


def known_seconds():
    """What a case of each test took, of those that take longest."""
    lines = (HERE / "seconds.txt").read_text(encoding="ascii").splitlines()
    return {name: float(seconds) for seconds, name in map(str.split, lines)}


def seconds_of(item, known):
    # What waits in the background, or for all others, takes none of the time of those beside it.
    if item.get_closest_marker("background") or item.get_closest_marker("quiet"):
        return 0
    return known.get(item.nodeid.partition("[")[0], 1)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if not config.option.shard:
        return
    mine, count = map(int, config.option.shard.split("/"))
    known = known_seconds()
    shards = [[] for _ in range(count)]
    load = [0] * count
    # The longest first, each to whoever has least to do: as even as it needs to be.
    for item in sorted(items, key=lambda item: -seconds_of(item, known)):
        least = load.index(min(load))
        load[least] += seconds_of(item, known)
        shards[least].append(item)
    chosen = set(shards[mine - 1])
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


class Alone:
    """Holds the lock, and sees to the second try."""

    def __init__(self, config):
        self.config = config
        self.lock = None
        if path := os.environ.get("SYNERGY_LAB_LOCK"):
            self.lock = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self.lock, fcntl.LOCK_SH)

    def wait_for_others(self):
        if self.lock is not None:
            fcntl.flock(self.lock, fcntl.LOCK_EX)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        if item.get_closest_marker("quiet"):
            self.wait_for_others()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        failed = {report.nodeid for kind in ("failed", "error")
                  for report in reporter.stats.get(kind, ())}
        if not self.config.option.second_try or not 0 < len(failed) <= SECOND_TRIES_MOST:
            return
        reporter.summary_failures()
        reporter.summary_errors()
        self.wait_for_others()
        reporter.write_line(f"\n{SECOND_TRY}")
        environment = {name: value for name, value in os.environ.items()
                       if name != "SYNERGY_LAB_LOCK"}
        again = subprocess.run(
            [HERE.parents[1] / "scripts/lab", "-v",
             *(f"tests/lab/{nodeid}" for nodeid in sorted(failed))],
            env=environment, stdin=subprocess.DEVNULL, check=False)
        if again.returncode == 0:
            session.exitstatus = pytest.ExitCode.OK
            reporter.stats["passed at the second try"] = [
                report for kind in ("failed", "error") for report in reporter.stats.pop(kind, ())]
