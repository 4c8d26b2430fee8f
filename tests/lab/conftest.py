"""What the lab's tests share: the paths, built once, and the tools that they need."""

import os
import pathlib
import re
import shutil

import pytest

pytest.register_assert_rewrite("servers", "trials")
pytest_plugins = ("shards", "sanitizers")

import firewall  # noqa: E402
import programs  # noqa: E402
from background import Background  # noqa: E402
from responder import Responder  # noqa: E402
from topology import Path  # noqa: E402

# Half an hour is not for every day: scripts/soak.
collect_ignore = [] if "SYNERGY_SOAK_MINUTES" in os.environ else ["test_soak.py"]

def packages_of_tools():
    """Where a tool comes from, for whoever reads why a test was skipped."""
    script = pathlib.Path(__file__).parents[2] / "scripts/install-dependencies"
    pairs = re.findall(r"([\w.+-]+)(?:=([\w./+-]+))?", "".join(
        re.findall(r"^ *[a-z]+=\((.*?)\)$", script.read_text(encoding="utf-8"), re.M | re.S)))
    return {tool or package: package for package, tool in pairs}


ALWAYS_NEEDED = ("ip", "ip6tables-restore", "iptables-restore", "conntrack", "setpriv")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: waits for a timer of the kernel's")
    config.addinivalue_line("markers", "needs(tool, ...): skipped where one is not installed")
    config.addinivalue_line(
        "markers", "background(label, scenario): see background.py; such tests come late")
    config.addinivalue_line("markers", "quiet: comes last, when nothing else runs")
    config.addinivalue_line("markers", "complains: there is something to warn of, as it must be")
    config.addinivalue_line("markers", "other_users: needs more users than a user namespace has")


def skip_what_is_missing(tools):
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        known = packages_of_tools()
        packages = sorted({known.get(tool, tool) for tool in missing})
        pytest.skip(f"{', '.join(missing)} missing: apt-get install {' '.join(packages)}")


@pytest.fixture(autouse=True)
def requirements(request):
    skip_what_is_missing(ALWAYS_NEEDED)
    for marker in request.node.iter_markers("needs"):
        skip_what_is_missing(marker.args)
    if request.node.get_closest_marker("other_users") and not programs.has_other_users():
        pytest.skip("needs a second user: an ordinary user's namespace has but one, run as root")


class Paths:
    """Each kind of path is built when the first test asks for it."""

    def __init__(self):
        self.built = {}

    def get(self, label, silent=(), delay_ms=30, **shape):
        """`silent` nodes never say what died on them; `shape` is Path's."""
        if label not in self.built:
            path = Path(label, **shape)
            firewall.mute_routers(path)
            self.built[label] = (path, Responder(path, delay_ms, silent))
        return self.built[label][0]

    def stop(self):
        for _, responder in self.built.values():
            responder.stop()


@pytest.fixture(scope="session")
def paths():
    built = Paths()
    yield built
    built.stop()


def stand_on(path, request=None):
    """For the test that requests it, nothing may be said of a server that is worth a warning."""
    firewall.set_profile(path, "strict")
    firewall.forget_connections(path)
    stand = programs.Stand(path)
    try:
        yield stand
        complaints = stand.complaints()
    finally:
        stand.clear()
    if request is not None and not request.node.get_closest_marker("complains"):
        assert complaints == [], "said though nothing is wrong"


@pytest.fixture
def stand(paths, request):  # pylint: disable=redefined-outer-name
    """The path with one firewall on each side, strict."""
    yield from stand_on(paths.get("one"), request)


@pytest.fixture
def stand_with_two_firewalls(paths, request):  # pylint: disable=redefined-outer-name
    yield from stand_on(paths.get("two", two_firewalls=True), request)


class Backgrounds:
    """What the selected tests are to wait for, by label."""

    def __init__(self, items, paths):  # pylint: disable=redefined-outer-name
        self.items = [item for item in items if item.get_closest_marker("background")]
        self.paths = paths
        self.started = {}

    def start(self, quiet):
        for item in self.items:
            tools = [tool for marker in item.iter_markers("needs") for tool in marker.args]
            label, scenario = item.get_closest_marker("background").args
            if (label not in self.started and bool(item.get_closest_marker("quiet")) == quiet
                    and all(map(shutil.which, [*ALWAYS_NEEDED, *tools]))):
                self.started[label] = Background(self.paths.get(label), scenario)

    def of(self, item):
        if item.get_closest_marker("quiet"):
            self.start(quiet=True)
        return self.started[item.get_closest_marker("background").args[0]]


@pytest.fixture(scope="session", autouse=True)
def backgrounds(request, paths):  # pylint: disable=redefined-outer-name
    found = Backgrounds(request.session.items, paths)
    found.start(quiet=False)
    yield found


@pytest.fixture
def background(request, backgrounds):  # pylint: disable=redefined-outer-name
    found = backgrounds.of(request.node)
    yield found
    if not request.node.get_closest_marker("complains"):
        assert found.complaints == [], "said though nothing is wrong"


@pytest.fixture(scope="session")
def library():
    """What was built, where every user can read it."""
    programs.stage_build()
