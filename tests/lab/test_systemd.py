"""Units of a real systemd, booted over this machine's own files: they start, serve the peer, and stop as
without the library, the keeper being a process of their control group."""

import os
import shutil
import subprocess
import time

import pytest

import clients
from programs import (SCRATCH, SETTLING, Preload, fresh_peer_ports, fresh_port, has_other_users,
                      is_listening, script, wait_until)
from servers import PYTHON
from test_families import apache_command, children_of
from topology import PEER
from trials import PATIENCE, peers

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.other_users]

# systemd(1) kills what has not stopped after 90 s.
STOPPED = 1.0

PORTS = 20


class Unit:
    """A service with the library or without: lines(port) are those of its [Service], and
    socket_lines(port) of its [Socket] if it has one."""

    def __init__(self, stand, name, lines, with_library, socket_lines=None, **settings):
        self.stand, self.port, self.source_ports = stand, fresh_port(), fresh_peer_ports(PORTS)
        self.name = f"{name}-{'preloaded' if with_library else 'bare'}"
        self.with_library = with_library
        self.log = SCRATCH / f"{self.name}.log"
        preload = Preload(peers=peers(6, self.source_ports[0], self.source_ports[-1]),
                          hops=stand.path.hops, **settings)
        environment = [f'Environment="{key}={value}"' for key, value in
                       preload.environment().items()] if with_library else []
        self.files = {f"{self.name}.service": "\n".join(
            ["[Service]", *environment, f"StandardError=append:{self.log}", *lines(self.port), ""])}
        if socket_lines:
            self.files[f"{self.name}.socket"] = "\n".join(
                ["[Socket]", *socket_lines(self.port), ""])

    def said(self):
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def is_listening(self):
        return is_listening(self.stand.path, "A", "tcp", self.port)

    def talk(self, text="hello\n", awaited="hello\n", patience=PATIENCE):
        with clients.tcp_client(self.stand, 6, self.source_ports.pop(), self.port,
                                patience) as client:
            client.send(text)
            return client.receive_until(awaited)


def wait_serving(systemd, unit):
    try:
        wait_until(unit.is_listening, 10, unit.name)
    except TimeoutError as error:
        raise AssertionError(f"{error}: {unit.said()}"
                             f"{systemd.systemctl('status', unit.name).stdout}") from error
    if unit.with_library:
        time.sleep(SETTLING)


class Systemd:
    """Running on A with the units given."""

    def __init__(self, stand, units):
        if shutil.which("systemctl") is None or shutil.which("nsenter") is None:
            pytest.skip("systemctl missing: apt-get install systemd")
        if os.geteuid() != 0 or not has_other_users():
            pytest.skip("systemd takes root's rights")
        directory = SCRATCH / f"units-{units[0].name}"
        directory.mkdir(parents=True)
        (directory / "lab.target").write_text("[Unit]\nDefaultDependencies=no\n", encoding="ascii")
        for unit in units:
            for name, text in unit.files.items():
                (directory / name).write_text(text, encoding="ascii")
        self.program = stand.start("A", ["sh", script("boot_systemd.sh"), directory], user="root",
                                   environment={"PATH": os.environ["PATH"]})

    def wait_booted(self):
        try:
            wait_until(lambda: children_of(self.program.pid) and
                       self.systemctl("is-active", "lab.target").stdout == "active\n", 20,
                       "systemd to boot", self.program)
        except (TimeoutError, FileNotFoundError) as error:
            pytest.skip(f"systemd does not boot here: {error}\n{self.program.stderr()}")

    def run(self, *words):
        first = children_of(self.program.pid)[0]
        return subprocess.run(["nsenter", "-t", str(first), "-m", "-p", "-C", "-r", "-w", *words],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=60, check=False)

    def systemctl(self, *words):
        return self.run("systemctl", *words)

    def do(self, *words):
        """The seconds that it takes."""
        begun = time.monotonic()
        result = self.systemctl(*words)
        assert result.returncode == 0, result.stdout
        return time.monotonic() - begun

    def shows(self, unit, name):
        return self.systemctl("show", "--value", "-p", name, unit).stdout.strip()

    def stop(self):
        """Its control group goes as well."""
        self.program.stop()
        group = self.program.stdout().partition("\n")[0]
        for directory, _, _ in os.walk(group, topdown=False):
            wait_until(lambda there=directory: _removed(there), 5, f"{directory} to be empty")


@pytest.fixture
def boot(stand):
    """boot(units) gives a Systemd."""
    started = []

    def start(units):
        started.append(Systemd(stand, units))
        started[-1].wait_booted()
        return started[-1]
    yield start
    for systemd in started:
        systemd.stop()


def _removed(directory):
    try:
        os.rmdir(directory)
    except OSError:
        return False
    return True


def server(*words):
    return lambda port: f"ExecStart={PYTHON} {script('family_server.py')} {port} {' '.join(words)}"


HARDENED = ("DynamicUser=yes", "NoNewPrivileges=yes", "SystemCallFilter=@system-service",
            "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "MemoryDenyWriteExecute=yes",
            "CapabilityBoundingSet=", "LockPersonality=yes",
            "ProtectProc=invisible", "RestrictNamespaces=yes", "ProtectKernelTunables=yes")
SERVICES = {
    "plain": (server("accept"), "User=nobody"),
    "mixed": (server("prefork", "epoll"), "KillMode=mixed"),
    "process": (server("accept"), "KillMode=process"),
    "hardened": (server("accept"), *HARDENED,
                 "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX"),
}


def lines_of(name):
    start, *others = SERVICES[name]
    return lambda port: [start(port), *others]


@pytest.mark.parametrize("name", ("plain", "mixed", "process", "hardened"))
def test_a_service(stand, boot, name):
    """Starts, serves, restarts on its port, and stops in a moment."""
    bare, preloaded = (Unit(stand, name, lines_of(name), which) for which in (False, True))
    systemd = boot([bare, preloaded])
    stopped = {}
    for unit in (bare, preloaded):
        systemd.do("start", unit.name)
        wait_serving(systemd, unit)
        if unit.with_library:
            unit.talk()
        systemd.do("restart", unit.name)
        wait_serving(systemd, unit)
        if unit.with_library:
            unit.talk()
        stopped[unit.name] = systemd.do("stop", unit.name)
        assert not unit.is_listening()
    print(stopped)
    assert stopped[preloaded.name] < stopped[bare.name] + STOPPED
    assert systemd.shows(preloaded.name, "Result") == systemd.shows(bare.name, "Result") == "success"
    assert preloaded.said() == bare.said()


def test_a_service_that_may_have_no_unix_socket(stand, boot):
    """No keeper can be had: one line says so, and the server is what it was."""
    unit = Unit(stand, "no-unix", lambda port: [
        server("accept")(port), "RestrictAddressFamilies=AF_INET AF_INET6"], True)
    systemd = boot([unit])
    systemd.do("start", unit.name)
    wait_serving(systemd, unit)
    assert unit.said().count("\n") == 1 and "nothing is punched" in unit.said()
    with pytest.raises(OSError):
        unit.talk(patience=1.3)
    assert systemd.do("stop", unit.name) < STOPPED
    assert systemd.shows(unit.name, "Result") == "success"


@pytest.mark.complains
def test_a_service_that_may_have_few_addresses(stand, boot):
    """IPAddressDeny= is a firewall, of this unit's own: what it keeps out, or in, is named."""
    units = {name: Unit(stand, name, lambda port, lines=lines: [
        server("accept")(port), "User=nobody", "IPAddressDeny=any", *lines], True)
        for name, lines in (("none", []), ("no-loopback", [f"IPAddressAllow={PEER[6]}"]),
                            ("enough", [f"IPAddressAllow={PEER[6]} localhost"]))}
    systemd = boot(list(units.values()))
    for unit in units.values():
        systemd.do("start", unit.name)
        wait_serving(systemd, unit)
    no_bell = ("synergy: error: tcp [::]:{}: nothing is punched any more: no connection from this host "
               "reaches it: does a firewall forbid the loopback interface?")
    lets_none_out = (f"synergy: warning: tcp [::]:{{}} <- {PEER[6]}: can't punch: no SYN leaves this "
                     "host: a firewall on it lets none out (OUTPUT)")
    expected = {"none": {lets_none_out, no_bell}, "no-loopback": {no_bell}, "enough": set()}
    for name, unit in units.items():
        lines = {line.format(unit.port) for line in expected[name]}
        wait_until(lambda unit=unit, lines=lines: lines <= set(unit.said().splitlines()), 10,
                   f"{lines}: {unit.said()}")
        if not lines:
            unit.talk()
        assert sorted(unit.said().splitlines()) == sorted(lines)


def test_a_service_whose_socket_systemd_has(stand, boot):
    """It serves, stops, and serves again on the socket that stays with systemd."""
    bare, preloaded = (
        Unit(stand, "activated", lambda port: [server("activated", "epoll")(port)], with_library,
             lambda port: [f"ListenStream=[::]:{port}"], log="info")
        for with_library in (False, True))
    systemd = boot([bare, preloaded])
    stopped = {}
    for unit in (bare, preloaded):
        systemd.do("start", f"{unit.name}.socket")
        for starts in (1, 2):
            systemd.do("start", unit.name)
            if unit.with_library:
                # Nobody else says when the service has come to its socket.
                wait_until(lambda: unit.said().count("opens") >= PORTS * starts, 10, "holes")
                unit.talk()
            stopped[unit.name] = systemd.do("stop", unit.name)
            assert unit.is_listening()
        systemd.do("stop", f"{unit.name}.socket")
        assert not unit.is_listening()
    print(stopped)
    assert stopped[preloaded.name] < stopped[bare.name] + STOPPED
    assert systemd.shows(preloaded.name, "Result") == systemd.shows(bare.name, "Result") == "success"


def forking(port, *more):
    """As Debian's apache2.service, but for what starts it, and that it is started again at once."""
    apache = " ".join(map(str, apache_command(port, "event")[0]))
    return [f"ExecStart={apache} -k start", f"ExecStop={apache} -k graceful-stop",
            f"ExecReload={apache} -k graceful", "Type=forking", "KillMode=mixed", "PrivateTmp=yes",
            "Restart=on-abnormal", "RestartSec=0", *more]


@pytest.mark.needs("apache2")
def test_a_service_that_goes_to_the_background(stand, boot):
    """Without PIDFile= systemd has to guess the main process, and finds two of them: it does not see
    that end. It starts and stops the service all the same; with PIDFile= nothing is amiss."""
    def guessed(with_library):
        return Unit(stand, "guessed", forking, with_library)

    def told(with_library):
        return Unit(stand, "told",
                    lambda port: forking(port, f"PIDFile={SCRATCH}/apache-{port}/pid"),
                    with_library)

    # The one of which nothing is to be seen comes first.
    units = [guessed(True), guessed(False), told(False), told(True)]
    systemd = boot(units)
    knows_main, stopped = {}, {}

    def main_process(unit):
        return (SCRATCH / f"apache-{unit.port}/pid").read_text(encoding="ascii").strip()

    def restarts(unit):
        return systemd.shows(unit.name, "NRestarts")

    for unit in units:
        systemd.do("start", unit.name)
        wait_serving(systemd, unit)
        for _ in range(2):
            if unit.with_library:
                unit.talk("GET /hello.txt HTTP/1.0\r\n\r\n", "hello from the server")
            systemd.do("reload", unit.name)
        main = main_process(unit)
        knows_main[unit.name] = systemd.shows(unit.name, "MainPID") == main
        assert systemd.run("kill", "-9", main).returncode == 0
        if knows_main[unit.name]:
            wait_until(lambda one=unit: restarts(one) == "1", 10, f"{unit.name} to start again")
    assert knows_main == {"guessed-preloaded": False, "guessed-bare": True, "told-bare": True,
                          "told-preloaded": True}
    assert restarts(units[0]) == "0"
    for unit in units:
        stopped[unit.name] = systemd.do("stop", unit.name)
        assert not unit.is_listening()
    print(stopped)
    assert max(stopped.values()) < min(stopped.values()) + STOPPED
