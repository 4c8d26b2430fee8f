"""What root's keeper and each of its threads may still do once it serves, also where a thread waits for
others for as long as they like: a name server that never answers, a log file that hangs."""

import pathlib

import pytest

import clients
from hanging_files import LOOKUP, WRITE, HangingFiles
from names import Names
from programs import SCRATCH, Preload, fresh_peer_ports, fresh_port, is_listening, script, wait_until
from servers import PYTHON
from test_killed import keepers
from test_rights import steps_server
from topology import PEER
from trials import PATIENCE, peers

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.other_users]

BIND_LOW_PORTS = 1 << 10  # CAP_NET_BIND_SERVICE
ROOT, NOBODY = 0, 65534
KINDS = [pytest.param(WRITE, id="written"), pytest.param(LOOKUP, id="looked for")]


@pytest.fixture(name="files")
def hanging_files(request):
    """With a log that hangs when it is written, or looked for."""
    SCRATCH.mkdir(mode=0o755, exist_ok=True)
    with HangingFiles(SCRATCH / "hanging", request.param) as files:
        yield files


@pytest.fixture(autouse=True)
def silent_name_server():
    """PEER[6] answers nobody."""
    names = Names()
    try:
        names.ask(PEER[6], timeout=30)
        yield
    finally:
        names.restore()


class Rights:
    """/proc/PID/task/TID/status"""

    def __init__(self, thread):
        text = (thread / "status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in text.splitlines())
        self.capabilities = {name: int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
        self.users = {int(number) for number in fields["Uid"].split()}
        self.groups = {int(number) for number in fields["Groups"].split()}
        self.is_filtered = fields["Seccomp"].strip() == "2"
        self.gains_none = fields["NoNewPrivs"].strip() == "1"


def rights_of(keeper):
    """Of its first thread, and of the others."""
    first, *others = sorted(pathlib.Path(f"/proc/{keeper}/task").iterdir(), key=lambda task: int(task.name))
    return Rights(first), [Rights(thread) for thread in others]


def only(threads):
    (thread,) = threads
    return thread


def talk(stand, source_port, port):
    with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
        client.send("hello\n")
        client.receive_until("hello\n")


def is_confined(keeper):
    return rights_of(keeper)[0].is_filtered


def served(stand, command, port, source_ports, files, **options):
    return stand.start("A", command, user="root", preload=Preload(
        peers=f"unknown.example.net:{source_ports[0]}, {peers(6, source_ports[1], source_ports[-1])}",
        hops=stand.path.hops, log="debug", log_file=files.log), **options)


def check_threads(keeper, user):
    """One asks for a name, the others are in the midst of a line."""
    first, others = rights_of(keeper)
    assert len(others) >= 2
    assert first.capabilities == {"CapInh": 0, "CapPrm": BIND_LOW_PORTS, "CapEff": BIND_LOW_PORTS, "CapAmb": 0}
    assert [set(thread.capabilities.values()) for thread in others] == [{0}] * len(others)
    for thread in (first, *others):
        assert thread.is_filtered and thread.gains_none and thread.groups == set()
    assert first.users == {user}


@pytest.mark.complains
@pytest.mark.parametrize("files", KINDS, indirect=True)
def test_no_thread_keeps_a_right(files, stand):
    """They have begun before the keeper gives anything up."""
    source_ports, port = fresh_peer_ports(2), fresh_port()
    served(stand, [PYTHON, script("tcp_server.py"), "::", port, "echo"], port, source_ports, files)
    wait_until(lambda: is_listening(stand.path, "A", "tcp", port), PATIENCE, f"port {port}")
    keeper = only(keepers(stand.path))
    wait_until(lambda: len(rights_of(keeper)[1]) == 2, 2, "both threads")
    assert files.held.is_set() and not is_confined(keeper)
    wait_until(lambda: is_confined(keeper), 6, "the keeper gives up its rights")
    check_threads(keeper, ROOT)
    talk(stand, source_ports[1], port)
    files.go_on()
    wait_until(lambda: "connected" in files.text(), 10, "what was said")


# What hangs, in what order, and whose the keeper is then. (Nothing is written before there is a socket.)
ORDERS = (
    (LOOKUP, "chroot line setuid socket bind listen", NOBODY),
    (LOOKUP, "nproc line setuid socket bind listen", NOBODY),
    (LOOKUP, "chroot line socket bind listen setuid", ROOT),
    (LOOKUP, "socket bind listen line setuid", ROOT),
    (WRITE, "socket bind listen line setuid", ROOT),
    (WRITE, "socket bind listen line setuid exec", ROOT),
    (WRITE, "socket bind listen line fork setuid", ROOT),
)


@pytest.mark.complains
@pytest.mark.needs("cc")
@pytest.mark.parametrize("files, steps, user", ORDERS, indirect=["files"])
def test_a_server_gives_up_root_while_its_log_hangs(files, stand, steps_server, steps, user):
    """Whoever calls gets in. Where the keeper becomes the user who makes the first socket, it does so
    whatever its threads wait for."""
    source_ports, port = fresh_peer_ports(3), fresh_port()
    program = served(stand, [steps_server, port, *steps.split()], port, source_ports, files)
    wait_until(files.held.is_set, PATIENCE, "a log that hangs")
    program.write("\n")
    wait_until(lambda: is_listening(stand.path, "A", "tcp", port), PATIENCE, f"port {port}")
    talk(stand, source_ports[1], port)
    keeper = only(keepers(stand.path))
    wait_until(lambda: is_confined(keeper), 6, "the keeper gives up its rights")
    check_threads(keeper, user)
    talk(stand, source_ports[2], port)
    files.go_on()
    wait_until(lambda: f":{source_ports[2]}: connected" in files.text(), 10, "what was said")
