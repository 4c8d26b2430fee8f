"""The lab in parts that run side by side, each a scripts/lab of its own:

    scripts/lab --shard=2/4 --second-try

Who must be alone, the tests marked `quiet` and what failed and is tried once more, waits until the
other parts are done: all of them hold the file that SYNERGY_LAB_LOCK names, and give it up at their
end.
"""

import fcntl
import os
import pathlib
import re
import subprocess
import sys

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


def lateness(item):
    """0 for most; what is marked so comes later, the quiet ones last, and of those last the ones
    that have to wait for what the others do in the background."""
    in_background, quiet = map(item.get_closest_marker, ("background", "quiet"))
    return (2 if in_background else 3) if quiet else 1 if in_background else 0


def what_it_waits_for(item):
    """Tests that wait for the same thing in the background fail together."""
    in_background = item.get_closest_marker("background")
    return in_background.args[0] if in_background else item.nodeid


def known_seconds():
    """What the cases take that take longest."""
    lines = (HERE / "seconds.txt").read_text(encoding="ascii").splitlines()
    return {name: float(seconds) for seconds, name in (line.split(maxsplit=1) for line in lines)}


def shares(items, count):
    """As even as it needs to be: the longest first, each to whoever has least to do."""
    known = known_seconds()
    shards = [[] for _ in range(count)]
    load = [0.0] * count

    def seconds(item):
        # What waits in the background, or for all others, takes none of the time of its shard.
        return 0 if lateness(item) else known.get(item.nodeid, 0.5)

    for item in sorted(items, key=seconds, reverse=True):
        # Those that wait for all others do so in one of the parts, and there side by side.
        least = 0 if item.get_closest_marker("quiet") else load.index(min(load))
        load[least] += seconds(item)
        shards[least].append(item)
    return shards


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if config.option.shard:
        mine, count = map(int, config.option.shard.split("/"))
        chosen = set(shares(items, count)[mine - 1])
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = [item for item in items if item in chosen]
        # Each shard begins elsewhere, so that what works most, test_probe.py, does not meet itself.
        files = sorted({item.path for item in items})
        first = set(files[len(files) * (mine - 1) // count:])
        items.sort(key=lambda item: item.path not in first)
    items.sort(key=lateness)


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
        causes = {what_it_waits_for(item) for item in session.items if item.nodeid in failed}
        if not self.config.option.second_try or not 0 < len(causes) <= SECOND_TRIES_MOST:
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


def measured(logs):
    """What seconds.txt is made of: `/usr/bin/python3 tests/lab/shards.py build/test-logs/{lab,kernel2}-*.log`."""
    spent = {}
    for log in logs:
        for line in pathlib.Path(log).read_text(encoding="utf-8").splitlines():
            if found := re.match(r"([\d.]+)s (?:setup|call|teardown) +(\S+::.+)", line):
                spent[found[2]] = spent.get(found[2], 0.0) + float(found[1])
    for case, seconds in sorted(spent.items()):
        if seconds >= 1.5:
            yield f"{seconds:.0f} {case}"


if __name__ == "__main__":
    print(*measured(sys.argv[1:]), sep="\n")
