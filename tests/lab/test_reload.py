"""Servers that replace themselves while peers call: each call is served, as without the library."""

import concurrent.futures
import os
import pathlib
import shutil
import signal
import time

import pytest

import by_name_proxies
import servers
from by_name import HTTP, Named
from programs import SCRATCH, Preload, fresh_peer_ports, fresh_port, wait_until
from trials import PATIENCE, peers

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.other_users, pytest.mark.quiet]

CALLS, BETWEEN_CALLS, BEFORE = 60, 0.04, 15
SOON = 2.5  # a SYN that was not heard, its repetition, and a busy machine


def nginx(home, port, variables):
    """In the background, since its new binary counts on that its parent is gone, and with what that
    is to have of the environment."""
    command = servers.nginx_command(port)
    configuration = command[2] / "nginx.conf"
    configuration.write_text(
        "".join(f"env {name};\n" for name in variables) +
        configuration.read_text(encoding="ascii").replace("daemon off", "daemon on"),
        encoding="ascii")
    (home / "is").symlink_to(command[2])
    return [shutil.which("nginx"), *command[1:]]


def gunicorn(home, port, _):
    return ["gunicorn", "-w", "2", "-b", f"[::]:{port}", "--chdir", home, "-k", "gthread",
            "wsgiref.simple_server:demo_app"]


def number_in(file):
    return int(wait_until(lambda: file.exists() and file.read_text(encoding="ascii"), 5,
                          f"a number in {file}"))


def home_of(server, port):
    return SCRATCH / f"{server.name}-{port}"


def by_signal(number, main=lambda server, program, port: program.pid):
    def replace(stand, server, program, port, preload):
        os.kill(main(server, program, port), number)
    return replace


def nginx_main(server, program, port):
    return number_in(home_of(server, port) / "is/pid")


def execute_nginx_anew(stand, server, program, port, preload):
    old = nginx_main(server, program, port)
    os.kill(old, signal.SIGUSR2)
    wait_until((home_of(server, port) / "is/pid.oldbin").exists, 5, "the new nginx")
    wait_until(lambda: nginx_main(server, program, port) != old, 5, "the new nginx")
    os.kill(old, signal.SIGQUIT)
    wait_until(lambda: not pathlib.Path(f"/proc/{old}").exists(), 5, "the old nginx to end")


def start_another_haproxy(stand, server, program, port, preload):
    """Which binds beside the old one, and has that stop listening."""
    stand.start("A", ["haproxy", "-db", "-f", home_of(server, port) / "haproxy.cfg", "-sf",
                      program.pid], preload=preload, user="root")


def named(name, make, *tools):
    return Named(name, HTTP, make=make, tools=tools)


CASES = {server.name: (server, replace) for server, replace in (
    (named("nginx-HUP", nginx, "nginx"), by_signal(signal.SIGHUP, nginx_main)),
    (named("nginx-USR2", nginx, "nginx"), execute_nginx_anew),
    (named("haproxy-USR2", by_name_proxies.haproxy("-W"), "haproxy"), by_signal(signal.SIGUSR2)),
    (named("haproxy-sf", by_name_proxies.haproxy("-db"), "haproxy"), start_another_haproxy),
    (named("gunicorn-HUP", gunicorn, "gunicorn"), by_signal(signal.SIGHUP)),
)}


def scenario(title):
    server, replace = CASES[title]

    def run(stand):
        port, source_ports = fresh_port(), fresh_peer_ports(CALLS)
        preload = Preload(peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops)
        program = server.start(stand, port, preload)

        def call(source_port):
            begun = time.monotonic()
            try:
                server.talk(stand, server, program, source_port, port, PATIENCE)
                return time.monotonic() - begun
            except OSError as error:
                return repr(error)

        with concurrent.futures.ThreadPoolExecutor(CALLS) as pool:
            work = []
            for index, source_port in enumerate(source_ports):
                if index == BEFORE:
                    replacing = pool.submit(replace, stand, server, program, port, preload)
                work.append(pool.submit(call, source_port))
                time.sleep(BETWEEN_CALLS)
            replacing.result()
            return [item.result() for item in work]
    return run


@pytest.mark.parametrize("title", [
    pytest.param(title, id=title, marks=(
        pytest.mark.needs(*server.tools),
        pytest.mark.background(f"reload-{title}", scenario(title))))
    for title, (server, _) in CASES.items()])
def test_each_call_is_served(background, title):
    took = background.result()
    failed = [each for each in took if isinstance(each, str)]
    assert not failed, f"{len(failed)} of {len(took)}: {failed[:3]}"
    print(f"{title}: {len(took)} calls, longest {max(took):.2f} s")
    assert max(took) < SOON
