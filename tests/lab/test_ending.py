"""Who waits for a server to begin, to go to the background or to end, waits no longer with the library
than without, and sees the same: shells, terminals, ssh, and what PID 1 is to see of its children."""

import contextlib
import errno
import fcntl
import os
import pathlib
import pty
import select
import shlex
import shutil
import signal
import socket
import subprocess
import termios
import time

import pytest

import clients
import namespace
import servers
from programs import (SCRATCH, Preload, fresh_peer_ports, fresh_port, is_listening, script,
                      wait_listening, wait_until)
from servers import PYTHON
from test_families import apache_command, children_of
from trials import PATIENCE, peers

pytestmark = pytest.mark.usefixtures("library")

# What waiting for the keeper would be more than: a processor that others have as well.
MOMENT = 1.0


class LocalClient(clients.SocketClient):
    """A client of the server's own host, whom no firewall keeps out."""

    def __init__(self, stand, port):  # pylint: disable=super-init-not-called
        self.timeout, self.received = PATIENCE, b""
        self.sock = namespace.open_socket(stand.path.namespace("A"), socket.AF_INET6,
                                          socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(("::1", port))


class Run:
    """One of the two runs that are compared: `preload` is None in the one without the library."""

    def __init__(self, stand, with_library):
        self.stand, self.port, self.source_ports = stand, fresh_port(), fresh_peer_ports(20)
        self.preload = Preload(peers=peers(6, self.source_ports[0], self.source_ports[-1]),
                               hops=stand.path.hops) if with_library else None

    def variables(self):
        """For a shell's command line: env NAME=VALUE..."""
        given = self.preload.environment() if self.preload else {}
        return shlex.join(["env", *(f"{name}={value}" for name, value in given.items())])

    def family_server(self, *words):
        return shlex.join(map(str, [PYTHON, script("family_server.py"), self.port, *words]))

    def client(self):
        """The peer, through the firewalls; without the library it would not get in."""
        return clients.tcp_client(self.stand, 6, self.source_ports.pop(), self.port, PATIENCE) \
            if self.preload else LocalClient(self.stand, self.port)

    def talk(self):
        with self.client() as client:
            client.send("hello\n")
            return int(client.receive_until("hello\n").split()[2])

    def wait_listening(self):
        wait_until(lambda: is_listening(self.stand.path, "A", "tcp", self.port), 10, "the server")

    def is_free(self):
        return not is_listening(self.stand.path, "A", "tcp", self.port)


def same(stand, run):
    """run(Run) gives (what is seen, seconds that were waited): the first is the same with the library
    as without, the second no more than a moment longer."""
    bare, preloaded = (run(Run(stand, with_library)) for with_library in (False, True))
    print(f"without {bare}, with the library {preloaded}")
    assert preloaded[0] == bare[0]
    assert preloaded[1] < bare[1] + MOMENT
    return bare[0]


def until(wait):
    begun = time.monotonic()
    wait()
    return time.monotonic() - begun


@pytest.mark.parametrize("end", ("served", "killed"))
@pytest.mark.parametrize("line", ("{server} 2>&1 | cat; echo end", "seen=$({server} 2>&1); echo end"),
                         ids=("pipe", "substitution"))
def test_a_shell_that_waits_for_a_server(stand, line, end):
    """Whoever holds the server's standard output or error open holds the shell up."""
    def run(one):
        shell = stand.start("A", ["sh", "-c", line.format(server=one.family_server("once"))],
                            preload=one.preload)
        wait_listening(shell, "tcp", one.port)
        with one.client() as client:
            client.send("hello\n")
            server = int(client.receive_until("hello\n").split()[2])
            if end == "killed":
                os.kill(server, signal.SIGKILL)
        waited = until(shell.wait_exit)
        return (shell.process.returncode, shell.stdout()), waited

    assert same(stand, run) == (0, "end\n")


@pytest.mark.parametrize("line, how", (
    ("pid=$({server} >/dev/null 2>&1 & echo $!); echo started", "accept"),
    ("seen=$({server} 2>&1); echo started", "detached"),
    ("{server} 2>&1 | cat; echo started", "detached"),
), ids=("background", "substitution", "pipe"))
def test_a_shell_that_starts_a_daemon(stand, line, how):
    """It goes on at once, and the daemon serves without it."""
    def run(one):
        sh = stand.start("A", ["sh", "-c", line.format(server=one.family_server(how))],
                         preload=one.preload)
        one.wait_listening()
        waited = until(sh.wait_exit)
        server = one.talk()
        os.kill(server, signal.SIGTERM)
        wait_until(one.is_free, 5, "the port to be free")
        return (sh.process.returncode, sh.stdout()), waited

    assert same(stand, run) == (0, "started\n")


class Terminal:
    """A command in the server's place, as the first process of a session with a terminal of its own."""

    def __init__(self, run, command):
        self.master, slave = pty.openpty()

        def take_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as not everybody who runs this has it

        variables = {"PATH": os.environ["PATH"],
                     **(run.preload.environment() if run.preload else {})}
        with namespace.inside(run.stand.path.namespace("A")):
            self.process = subprocess.Popen(["sh", "-c", command], stdin=slave, stdout=slave,
                                            stderr=slave, env=variables, cwd="/",
                                            preexec_fn=take_terminal)
        os.close(slave)

    def type(self, text):
        os.write(self.master, text)

    def read_until_hangup(self):
        text = b""
        while select.select([self.master], [], [], PATIENCE)[0]:
            try:
                text += os.read(self.master, 4096)
            except OSError as error:
                assert error.errno == errno.EIO  # nobody has the terminal any more
                return text
        raise TimeoutError(f"the terminal is held open; so far {text!r}")

    def close(self):
        os.close(self.master)
        self.process.wait()


@pytest.mark.parametrize("start, survives", (
    ("{server} & read line", False),
    ("setsid {server} </dev/null >/dev/null 2>&1 & read line", True),
    ("nohup {server} </dev/null >/dev/null 2>&1 & read line", True),
    ("{daemon}; read line", True),
), ids=("background", "setsid", "nohup", "daemon"))
def test_a_terminal_that_closes(stand, start, survives):
    """Whoever logs out: the terminal is given back, and the server lives on or not, as ever."""
    def run(one):
        terminal = Terminal(one, start.format(server=one.family_server("accept"),
                                              daemon=one.family_server("detached")))
        with contextlib.closing(terminal):
            one.wait_listening()
            server = one.talk()
            terminal.type(b"exit\n")
            waited = until(terminal.read_until_hangup)
        if survives:
            assert one.talk() == server
            os.kill(server, signal.SIGTERM)
        wait_until(one.is_free, 5, "the port to be free")
        return survives, waited

    same(stand, run)


@pytest.mark.other_users
@pytest.mark.needs("sshd", "ssh", "ssh-keygen")
@pytest.mark.parametrize("start", (
    "{variables} setsid {server} </dev/null >/dev/null 2>&1 & read line",
    "{variables} {daemon}; read line",
), ids=("background", "daemon"))
@pytest.mark.parametrize("terminal", ("-T", "-tt"), ids=("plain", "terminal"))
def test_ssh_starts_a_daemon(stand, start, terminal):
    """ssh ends when all who have its pipes, or its terminal, have closed them."""
    servers.make_ssh_keys()
    home = SCRATCH / "ssh"
    sshd = shlex.join([shutil.which("sshd"), "-i", "-f", str(home / "sshd_config")])

    def run(one):
        command = start.format(variables=one.variables(), server=one.family_server("accept"),
                               daemon=one.family_server("detached"))
        ssh = stand.start("A", [
            "ssh", "-F", "none", terminal, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", f"IdentityFile={home}/user_key", "-o",
            "LogLevel=ERROR", "-o", f"ProxyCommand={sshd}", "root@host", command], user="root")
        one.wait_listening()
        server = one.talk()
        ssh.write("log out\n")
        waited = until(ssh.wait_exit)
        assert one.talk() == server
        os.kill(server, signal.SIGTERM)
        wait_until(one.is_free, 5, "the port to be free")
        return ssh.process.returncode, waited

    assert same(stand, run) == 0


def first_process(unshare):
    """PID 1 of the namespace that unshare(1) has made."""
    return wait_until(lambda: children_of(unshare.pid), 5, "the first process", unshare)[0]


def zombies_beside(first):
    """In the namespace of which this is the first process."""
    there = os.readlink(f"/proc/{first}/ns/pid")
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/pid") == there:
                status = pathlib.Path(f"/proc/{entry}/stat").read_text(encoding="ascii")
                if status.rpartition(")")[2].split()[0] == "Z":
                    found.append(status)
    return found


def talk_http(run):
    with run.client() as client:
        client.send("GET /hello.txt HTTP/1.0\r\n\r\n")
        answer = client.receive_all()
    assert " 200 " in answer, answer


def talk_postgres(run):
    """SSLRequest, to which a server without a certificate says N (the manual's 55.2)."""
    with run.client() as client:
        client.sock.sendall(bytes.fromhex("0000000804d2162f"))
        assert client.sock.recv(1) == b"N"


def nginx(port):
    return servers.nginx_command(port)


def apache(port):
    return [*apache_command(port, "event")[0], "-DFOREGROUND"]


def forking(port):
    return [PYTHON, script("family_server.py"), port, "prefork", "epoll"]


def shell(port):
    server = shlex.join(map(str, [PYTHON, script("family_server.py"), port, "accept"]))
    return ["bash", "-c", f"trap 'kill $server; wait $server; exit 7' TERM; trap : HUP; {server} & "
                          "server=$!; while true; do wait; done"]


def as_nobody(*command):
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *map(str, command)]


def postgres(port):
    """Its files are made once: that takes seconds."""
    programs = max(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if programs is None:
        pytest.skip("initdb missing: apt-get install postgresql")
    data = SCRATCH / "postgres"
    if not data.exists():
        data.mkdir(mode=0o700)
        shutil.chown(data, "nobody", "nogroup")
        subprocess.run(as_nobody(programs / "initdb", "-D", data, "-A", "trust", "-N"), check=True,
                       stdout=subprocess.DEVNULL, env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                       cwd="/")
    return as_nobody(programs / "postgres", "-D", data, "-p", port, "-h", "::", "-k", data)


@pytest.mark.other_users
@pytest.mark.parametrize("command, talk, reload, end, tools", (
    (nginx, talk_http, signal.SIGHUP, signal.SIGQUIT, ("nginx",)),
    (apache, talk_http, signal.SIGUSR1, signal.SIGTERM, ("apache2",)),
    (forking, Run.talk, None, signal.SIGKILL, ()),
    (postgres, talk_postgres, signal.SIGHUP, signal.SIGINT, ()),
    (shell, Run.talk, signal.SIGHUP, signal.SIGTERM, ("bash",)),
), ids=("nginx", "apache", "forking", "postgres", "bash"))
def test_the_first_process_of_a_namespace(stand, command, talk, reload, end, tools):
    """As in a container: whoever loses its parent becomes its child, the keeper too."""
    from conftest import skip_what_is_missing  # pylint: disable=import-outside-toplevel
    skip_what_is_missing(tools)

    def run(one):
        program = stand.start("A", ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child",
                                    *command(one.port)], preload=one.preload, user="root")
        wait_listening(program, "tcp", one.port)
        first = first_process(program)
        for _ in range(3):
            talk(one)
        if reload:
            os.kill(first, reload)
            time.sleep(0.3)  # what its end would take, if it were that
        for _ in range(3):
            talk(one)
        assert os.path.exists(f"/proc/{first}")
        wait_until(lambda: not zombies_beside(first), 2, "all zombies to be buried")
        os.kill(first, end)
        waited = until(program.wait_exit)
        wait_until(one.is_free, 5, "the port to be free")
        return program.process.returncode, waited

    same(stand, run)


def test_what_holds_a_shell_or_a_terminal_is_seen(stand):
    """A program that keeps what it inherits, as a keeper must not."""
    sh = stand.start("A", ["sh", "-c", f"seen=$(sleep {1.5 * MOMENT} & echo out); echo end"])
    assert until(sh.wait_exit) > MOMENT
    terminal = Terminal(Run(stand, False), f"setsid sleep {1.5 * MOMENT} & read line")
    with contextlib.closing(terminal):
        time.sleep(0.2)  # setsid(1) is through
        terminal.type(b"exit\n")
        assert until(terminal.read_until_hangup) > MOMENT
