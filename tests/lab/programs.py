"""Programs in the lab: started in a node's namespace, told what they are, their output kept, and
all of them gone when the test is over."""

import contextlib
import itertools
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

import namespace
import socket_list

# The checkout may be unreadable for the user that a server runs as, so what was built is copied
# to the lab's own /run. What programs write goes there as well.
STAGE = pathlib.Path("/run/synergy-build")
SCRATCH = pathlib.Path("/run/lab")
# Of a user who has set nothing.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent"}

UNPRIVILEGED = ("nobody", "nogroup")
_numbers = itertools.count(1)
_server_ports = itertools.count(4001)
_peer_ports = itertools.count(10001)
_peer_ports_lock = threading.Lock()
_staging = threading.Lock()


def fresh_port():
    """A server port that no test had before: no connection of old rests on it."""
    return next(_server_ports)


def fresh_peer_ports(count):
    """As many in a row, for the same reason: a netcat cannot bind to a port that still rests."""
    with _peer_ports_lock:
        return [next(_peer_ports) for _ in range(count)]


def has_other_users():
    """A user namespace of an ordinary user holds that user alone."""
    ranges = pathlib.Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    return int(ranges[2]) > 1


def stage_build():
    """Copies what the tests run out of the build directory, the first time that it is asked to."""
    with _staging:
        if not STAGE.exists():
            _copy_build()


def _copy_build():
    build = pathlib.Path(os.environ["SYNERGY_BUILD"])
    wanted = [build / "preload/libsynergy.so", build / "src/synergy-keeper", build / "src/listendemo"]
    missing = [str(path) for path in wanted if not path.exists()]
    if missing:
        pytest.fail(f"not built: {', '.join(missing)} (SYNERGY_BUILD names the build directory)")
    # A sanitizer's build makes what its tests run, and no more.
    others = [*build.glob("preload/*.so*"), *build.glob("src/*.so*"), build / "src/synergy"]
    others += [build / "preload/echo_server", build / "preload/hello"]
    others += [build / "tests/libseen.so"]
    for path in {*wanted, *(other for other in others if other.is_file())}:
        copy = STAGE / path.relative_to(build)
        copy.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.copy(path, copy)
        copy.chmod(0o755)


def script(name):
    """A script of this directory, where every user can read it."""
    copy = SCRATCH / name
    with _staging:
        if not copy.exists():
            SCRATCH.mkdir(mode=0o755, exist_ok=True)
            shutil.copy(pathlib.Path(__file__).parent / name, copy)
    return copy


class Preload:
    """The library in front of a program, with its settings: Preload(peers="...", hops=2)."""

    def __init__(self, library=None, **settings):
        self.preloaded = library or STAGE / "preload/libsynergy.so"
        self.settings = settings
        self.others = {}  # further variables

    def environment(self):
        # A sanitizer's own library must come first in a program that was built without it.
        first = os.environ.get("SYNERGY_LAB_PRELOAD", "")
        variables = {f"SYNERGY_{name.upper()}": str(value) for name, value in self.settings.items()}
        if "SYNERGY_LAB_LOG" in os.environ:
            variables.setdefault("SYNERGY_LOG", os.environ["SYNERGY_LAB_LOG"])
        others = {name: str(value) for name, value in self.others.items()}
        return {"LD_PRELOAD": f"{first} {self.preloaded}".strip(), **variables, **others}


def as_user(user):
    if user == "root":
        return []
    if has_other_users():
        name, group = UNPRIVILEGED
        return ["setpriv", f"--reuid={name}", f"--regid={group}", "--clear-groups"]
    return ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]


class Program:
    """A running program. Its standard output and error go to files, so it never waits for us."""

    def __init__(self, path, node, command, *, preload=None, user="nobody", environment=None,
                 say=print):
        SCRATCH.mkdir(mode=0o755, exist_ok=True)
        command = [str(word) for word in command]
        number = next(_numbers)
        self.path, self.node, self.name = path, node, f"{os.path.basename(command[0])}-{number}"
        self.preload, self.say = preload, say
        self.stdout_file = SCRATCH / f"{self.name}.out"
        self.stderr_file = SCRATCH / f"{self.name}.err"
        variables = {
            "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": "/nonexistent",
            **(preload.environment() if preload else {}), **(environment or {}),
        }
        # Through env, so that the library is in front of the program and of nothing before it.
        late = [f"{key}={value}" for key, value in variables.items()]
        shown = [word for word in late if not word.startswith(("PATH=", "LANG=", "HOME="))]
        prompt = "#" if user == "root" else "$"
        self.say(f"{self.name}: {node}{prompt} {shlex.join([*shown, *command])}")
        with namespace.inside(path.namespace(node)), open(self.stdout_file, "wb") as out, \
                open(self.stderr_file, "wb") as err:
            self.process = subprocess.Popen(
                [*as_user(user), "env", "-i", *late, *command], stdin=subprocess.PIPE, stdout=out,
                stderr=err, cwd="/", start_new_session=True,
            )
        # Each node would be a machine of its own: the tests themselves, and what else runs beside
        # them here, must not keep its programs from being in time. As far as one may.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, self.process.pid, -5)

    @property
    def pid(self):
        return self.process.pid

    def stdout(self):
        return self.stdout_file.read_text(encoding="utf-8", errors="replace")

    def stderr(self):
        return self.stderr_file.read_text(encoding="utf-8", errors="replace")

    def write(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def close_input(self):
        self.process.stdin.close()

    def wait_for(self, pattern, timeout=10.0):
        """The match of a regular expression in what the program has written so far."""
        def look():
            return re.search(pattern, self.stdout()) or re.search(pattern, self.stderr())
        return wait_until(look, timeout, f"{self.name} to write {pattern!r}", self)

    def wait_exit(self, timeout=10.0):
        return self.process.wait(timeout)

    def is_running(self):
        return self.process.poll() is None

    def stop(self):
        """The whole session of the program is gone afterwards; what it said is on record."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        for label, text in (("stdout", self.stdout()), ("stderr", self.stderr())):
            if text.strip():
                self.say(f"--- {self.name}: {label}\n{text.rstrip()[-4000:]}")


def wait_until(condition, timeout, what, program=None):
    """Polls until the condition gives something true, and returns that."""
    end = time.monotonic() + timeout
    pause = 0.005  # longer and longer, lest those who wait keep the others from getting ready
    while True:
        # Looked at first: what a program writes last is still seen after it ended.
        ended = program is not None and not program.is_running()
        found = condition()
        if found:
            return found
        if ended:
            raise TimeoutError(f"{program.name} ended while waiting for {what}")
        if time.monotonic() >= end:
            raise TimeoutError(f"{timeout} s passed waiting for {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


# The protocol, and the state of a server's socket (TCP_LISTEN, TCP_CLOSE).
_LISTENING = {"tcp": (socket.IPPROTO_TCP, 10), "udp": (socket.IPPROTO_UDP, 7)}


def is_listening(path, node, transport, port):
    """Whether a server has the port: a listening socket, or a UDP socket with no peer."""
    with namespace.inside(path.namespace(node)):
        if transport == "sctp":
            with open("/proc/thread-self/net/sctp/eps", encoding="ascii") as file:
                # (Of one-to-many sockets it does not tell whether they listen yet.)
                return any(line.split()[5] == str(port) for line in file.readlines()[1:])
        return any(port in socket_list.local_ports(family, *_LISTENING[transport])
                   for family in (socket.AF_INET6, socket.AF_INET))


def slowness():
    """User-mode Linux is one processor that every system call is dear to: what takes a second
    elsewhere may take four there, the start of the program included."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return 4 if "User Mode Linux" in file.read() else 1


# The library gives a server this long to go to the background before it punches.
SETTLING = 0.1 * slowness()


def wait_listening(program, transport, port, timeout=10.0):
    wait_until(lambda: is_listening(program.path, program.node, transport, port), timeout,
               f"{transport} port {port}", program)
    if program.preload and transport != "udp":
        time.sleep(SETTLING)


def held_by(process):
    """(descriptors in all its tables, KiB in memory) of a process."""
    tables = {}
    for task in pathlib.Path(f"/proc/{process}/task").iterdir():
        tables[task.name] = len(list((task / "fd").iterdir()))
    status = pathlib.Path(f"/proc/{process}/status").read_text(encoding="ascii")
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return sum(tables.values()), int(resident.split()[1])


class Stand:
    """A path for one test: what it starts here is gone when it is over. What is to be read where
    the test fails goes to `say`."""

    def __init__(self, path, say=print):
        self.path, self.say = path, say
        self.programs = []

    def start(self, node, command, **options):
        program = Program(self.path, node, command, say=self.say, **options)
        self.programs.append(program)
        return program

    def serve(self, command, transport, port, **options):
        """Starts a server on A, and waits until it has its port."""
        program = self.start("A", command, **options)
        wait_listening(program, transport, port)
        return program

    def complaints(self):
        """What the library says at the default level, of all that was started."""
        return [f"{program.name}: {line}" for program in self.programs if program.preload
                for line in program.stderr().splitlines()
                if re.match("synergy: (warning|error): ", line)]

    def clear(self):
        for program in self.programs:
            program.stop()
        self.programs.clear()
        # A server may have left its session, and its children with it.
        for entry in os.listdir("/proc"):
            if entry.isdigit() and self.path.owns(entry):
                self.say(f"killing what was left behind: process {entry}")
                try:
                    os.kill(int(entry), signal.SIGKILL)
                except ProcessLookupError:
                    pass
