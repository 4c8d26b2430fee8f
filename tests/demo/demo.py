"""One netcat connection through two strict firewalls: without the library, and with it.

Run by scripts/demo, inside the lab's own namespaces. Everything shown is what the programs and
the firewalls say; the exit status tells whether it went as it should.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lab"))

import firewall  # noqa: E402
import namespace  # noqa: E402
import programs  # noqa: E402
from responder import Responder  # noqa: E402
from topology import PEER, SERVER, Path  # noqa: E402

SERVER_PORT, PEER_PORT = 4444, 5555
PATIENCE = 10.0
GIVES_UP_AFTER = 4  # seconds: the peer's SYN and two repetitions
FROM_PEER, FROM_SERVER = "hello from the peer", "hello from the server"

COLOURED = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
BOLD, DIM, GREEN, RED = "1", "2", "32", "31"

PICTURE = f"""
        server            the server's      routers        the peer's           peer
                           firewall                         firewall
           A ----------------- fwa ------- r1 ------- r2 ------- fwb -------------- B
   hop     0                    1           2          3          4                 5
    {SERVER[6]}                                                 {PEER[6]}

Both firewalls let out everything from their own side, and in what belongs to it. Nothing else."""


class Unexpected(Exception):
    """What was to be shown did not happen."""


def paint(text, *codes):
    return f"\033[{';'.join(codes)}m{text}\033[0m" if COLOURED else text


def show(text=""):
    print(text, flush=True)


def title(text):
    show("\n" + paint(text, BOLD))


def command_shown(line):
    """Of what the lab records: "name-1: A$ command", not what programs have said in the end."""
    started = re.fullmatch(r"\S+: ([A-Za-z0-9]+[$#]) (.*)", line)
    if started:
        prompt, command = started.groups()
        show(f"{paint(prompt, DIM)} {paint(command, BOLD)}")


_shown = {}


def says(program):
    """What it has written since the last time."""
    for name, text in (("stderr", program.stderr()), ("stdout", program.stdout())):
        lines = text.splitlines()
        for line in lines[_shown.get((program, name), 0):]:
            show(f"     {line}")
        _shown[program, name] = len(lines)


def netcats():
    """(listening, connecting): nc6 where there is one, else ncat."""
    if shutil.which("nc6"):
        return (["nc6", "-6", "-n", "-v", "-l", "-p", SERVER_PORT],
                ["nc6", "-6", "-n", "-v", "-s", PEER[6], "-p", PEER_PORT, SERVER[6], SERVER_PORT])
    return (["ncat", "-6", "-n", "-v", "-l", SERVER_PORT],
            ["ncat", "-6", "-n", "-v", "-w", GIVES_UP_AFTER, "-p", PEER_PORT, SERVER[6],
             SERVER_PORT])


def show_rules(path, node):
    show(f"{paint(node + '#', DIM)} {paint('ip6tables -S FORWARD', BOLD)}")
    with namespace.inside(path.namespace(node)):
        listing = subprocess.run(["ip6tables", "-S", "FORWARD"], check=True, text=True,
                                 capture_output=True)
    for line in listing.stdout.splitlines():
        show(f"     {line}")


def table(path, node):
    """Shows and returns the firewall's entries for TCP."""
    show(f"{paint(node + '#', DIM)} {paint('conntrack -L -f ipv6', BOLD)}")
    entries = [re.sub(r" mark=\d+| use=\d+|\s(?=\s)", "", entry)
               for entry in firewall.connections(path, node) if entry.startswith("tcp")]
    for entry in entries:
        first, second = entry.rfind(" src="), entry.find(" src=")
        show(f"     {entry[:second]}")
        show(f"        {entry[second:first]}")
        show(f"        {entry[first:]}")
    if not entries:
        show("     (nothing)")
    return entries


def expect(condition, what):
    if not condition:
        raise Unexpected(what)


def ends_without_connection(client):
    """Whether the client gives up by itself or still tries."""
    try:
        client.wait_exit(GIVES_UP_AFTER + 2)
    except subprocess.TimeoutExpired:
        pass
    client.stop()


def without_library(path, stand):
    title("1. A netcat connection, as it is")
    listening, connecting = netcats()
    server = stand.serve(listening, "tcp", SERVER_PORT)
    client = stand.start("B", connecting)
    client.write(FROM_PEER + "\n")
    ends_without_connection(client)
    says(client)
    at_peer, at_server = table(path, "fwb"), table(path, "fwa")
    expect(FROM_PEER not in server.stdout(), "a connection without the library")
    expect(any("SYN_SENT" in entry for entry in at_peer), "no SYN came by the peer's firewall")
    expect(not at_server, "the server's firewall has an entry")
    server.stop()
    show(paint("   Dropped: the peer's SYN left its own firewall and never passed the server's.", RED))


def with_library(path, stand):
    title("2. The same with the library")
    firewall.forget_connections(path)
    listening, connecting = netcats()
    preload = programs.Preload(peers=f"[{PEER[6]}]:{PEER_PORT}", hops=path.hops, log="info")
    server = stand.serve(listening, "tcp", SERVER_PORT, preload=preload)
    time.sleep(0.3)  # for the errors about the punch, 30 ms late, to be over
    says(server)
    at_server, at_peer = table(path, "fwa"), table(path, "fwb")
    expect(any("SYN_SENT" in entry and "UNREPLIED" in entry for entry in at_server), "no hole")
    expect(not at_peer, "the punch came as far as the peer's firewall")
    show(f"   The hole: the server's firewall waits for an answer from the peer, and the peer's\n"
         f"   firewall has seen nothing: hop limit {path.hops} ends at r1.")
    show()
    client = stand.start("B", connecting)
    client.write(FROM_PEER + "\n")
    server.wait_for(FROM_PEER + "\n", PATIENCE)
    server.write(FROM_SERVER + "\n")
    client.wait_for(FROM_SERVER + "\n", PATIENCE)
    says(client)
    show(f"{paint('A:', DIM)} (the netcat there, since then)")
    says(server)
    entries = table(path, "fwa")
    expect(any("ESTABLISHED" in entry and "ASSURED" in entry for entry in entries),
           "no established connection")
    table(path, "fwb")
    show(paint("   Connected, both ways, the server's netcat none the wiser.", GREEN))


def main():
    title("The path, in network namespaces of its own")
    show(PICTURE)
    path = Path("demo")
    firewall.mute_routers(path)
    responder = Responder(path)
    stand = programs.Stand(path, command_shown)
    try:
        programs.stage_build()
        firewall.set_profile(path, "strict")
        show_rules(path, "fwa")
        without_library(path, stand)
        with_library(path, stand)
    except (Unexpected, TimeoutError) as problem:
        for program in stand.programs:
            says(program)
        show(paint(f"\nThis is not what was to be shown: {problem}", RED))
        return 1
    finally:
        stand.clear()
        responder.stop()
    return 0


sys.exit(main())
