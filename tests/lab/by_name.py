"""Servers from Debian by their names, as their packages or their manuals have them started, and what
a client says to each: what they have in common. by_name_*.py have the servers, by what they are for;
test_by_name.py tries a few of them, and scripts/servers all."""

import contextlib
import dataclasses
import shutil
import subprocess
import time
from typing import Callable

import clients
import namespace
from programs import SCRATCH, is_listening, SETTLING, wait_until
from servers import Server
from topology import SERVER


@dataclasses.dataclass(frozen=True)
class Named(Server):
    """`make(home, port, variables)` writes what the server needs below `home`, and gives the command;
    the variables are the library's, for who is to hand them on. It runs as root, which gives itself up
    as it likes."""

    make: Callable = None
    user: str = "root"
    other_users: bool = True
    ports_for_a_call: int = 1  # more: the client makes further connections
    cannot: str = ""  # be preloaded: what `synergy check` has for a reason

    def start(self, stand, port, preload):
        home = SCRATCH / f"{self.name.replace(' ', '-').replace('/', '-')}-{port}"
        home.mkdir(mode=0o755, parents=True, exist_ok=True)
        command = self.make(home, port, preload.environment() if preload else {})
        program = stand.start("A", command, preload=preload, user=self.user,
                              environment={"HOME": "/root"})
        # Who was started may have gone to the background by then.
        wait_until(lambda: is_listening(stand.path, "A", self.transport, port), 30,
                   f"{self.name} on port {port}")
        time.sleep(SETTLING)
        return program


def named(name, talk, make, *tools, **more):
    return Named(name, talk, make=make, tools=(*tools, *getattr(talk, "tools", ())), **more)


GO = "written in Go"  # and so none that can be preloaded
UDP = {"transport": "udp", "client": clients.udp_client}
IPV4 = {"family": 4}


# What a client says.

def converse(question, answer):
    """A client that says something, or nothing, and awaits what the server says to that."""
    def talk(stand, server, program, source_port, port, timeout):
        with server.client(stand, server.family, source_port, port, timeout) as client:
            if question:
                client.sock.sendall(question if isinstance(question, bytes) else question.encode())
            wanted = answer if isinstance(answer, bytes) else answer.encode()
            while wanted not in client.received:
                client.sock.settimeout(timeout)
                data = client.sock.recv(65536)
                if not data:
                    raise ConnectionError(f"{answer!r} did not come, but {client.received!r}")
                client.received += data
    return talk


def ask(question, answer):
    """By datagrams, which may be lost."""
    def talk(stand, server, program, source_port, port, timeout):
        with server.client(stand, server.family, source_port, port, timeout) as client:
            for tried in range(int(timeout / 0.3)):
                client.sock.send(question)
                client.sock.settimeout(0.3)
                try:
                    if answer in client.sock.recv(65536):
                        return
                except TimeoutError:
                    continue
            raise TimeoutError(f"no answer to {tried + 1} questions")
    return talk


@contextlib.contextmanager
def ports_of_the_peer(stand, ports):
    """Where a client can't be told, the kernel chooses the port that it calls from."""
    name = "net/ipv4/ip_local_port_range"
    before = {name: "32768 60999"}
    namespace.sysctl(stand.path.namespace("B"), {name: f"{ports[0]} {ports[-1]}"})
    try:
        yield
    finally:
        namespace.sysctl(stand.path.namespace("B"), before)


def run_on_peer(stand, command, timeout, typed=""):
    program = stand.start("B", command, user="root", environment={"HOME": "/root"})
    try:
        if typed:
            program.write(typed)
        program.close_input()
        status = program.wait_exit(timeout)
    except subprocess.TimeoutExpired as error:
        program.stop()
        raise TimeoutError(f"{program.name}: {timeout} s") from error
    if status != 0:
        raise ConnectionError(f"{program.name}: {status}: {program.stdout()[-300:]} "
                              f"{program.stderr()[-300:]}")
    return program.stdout()


def calls_with(*words, says="", typed="", within=0):
    """A program of the peer's, from whatever port the kernel gives it. {server}, {port}, both as {at},
    and {timeout} stand for theirs; `within` is what it takes besides the call."""
    def talk(stand, server, program, source, port, timeout):
        address = SERVER[server.family]
        what = {"{server}": address, "{port}": port, "{timeout}": int(timeout + 0.9),
                "{at}": f"[{address}]:{port}" if server.family == 6 else f"{address}:{port}"}
        with ports_of_the_peer(stand, source if isinstance(source, list) else [source]):
            said = run_on_peer(stand, [filled(word, what) for word in words], timeout + within, typed)
        if says not in said:
            raise ConnectionError(f"{words[0]}: {said[-300:]}")
    talk.tools = words[:1]
    return talk


HTTP = converse("GET / HTTP/1.0\r\n\r\n", "HTTP/1.")
WEB = calls_with("curl", "-s", "-S", "-i", "-m", "{timeout}", "http://{at}/", says="HTTP/")
TLS = calls_with("openssl", "s_client", "-connect", "{at}", says="BEGIN CERTIFICATE")
LINE = ("hello\n", "hello\n")
ECHO = (b"hello", b"hello")


# How a server is made.

def filled(word, what):
    for name, value in what.items():
        word = str(word).replace(name, str(value))
    return word


def run(*words):
    """`{home}` and `{port}` stand for themselves."""
    def make(home, port, _):
        return [filled(word, {"{home}": home, "{port}": port}) for word in words]
    return make


def with_file(name, text, *words, owner=None):
    """The same with a file below `home`, and the directory `run` for who is not root."""
    def make(home, port, variables):
        if owner:
            owned(home / "run", owner)
        written(home / name, filled(text, {"{home}": home, "{port}": port}))
        return run(*words)(home, port, variables)
    return make


def as_user(user, *words):
    group = "nogroup" if user == "nobody" else user
    return ("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *words)


def written(path, text):
    path.write_text(text, encoding="ascii")
    return path


def owned(path, user):
    path.mkdir(parents=True, exist_ok=True)
    shutil.chown(path, user)
    return path


def make_keys():
    """A directory with server.key, server.crt and the client's."""
    home = SCRATCH / "keys"
    if home.exists():
        return home
    home.mkdir()
    for who in ("server", "client"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-nodes", "-days", "9", "-subj", f"/CN={who}", "-keyout", home / f"{who}.key", "-out",
             home / f"{who}.crt"], check=True, capture_output=True)
    (home / "server.pem").write_bytes(b"".join(
        (home / f"server.{kind}").read_bytes() for kind in ("key", "crt")))
    return home


def with_keys(make):
    """{keys} stands for where they are."""
    def make_with_keys(home, port, variables):
        return [filled(word, {"{keys}": make_keys()}) for word in make(home, port, variables)]
    return make_with_keys
