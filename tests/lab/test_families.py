"""Servers that are several processes, or another process after a while: whoever has the listener
when a peer calls can accept it, and one process at a time punches."""

import os
import pathlib
import shutil
import signal
import time

import pytest

import clients
import servers
from capture import TCP, Capture
from programs import (SCRATCH, SETTLING, Preload, fresh_peer_ports, fresh_port, is_listening, script,
                      wait_listening, wait_until)
from topology import PEER
from trials import PATIENCE, at_once, check, peers, skip_if_impossible

pytestmark = pytest.mark.usefixtures("library")

# Seconds from a hole's first SYN: as far from the fifth, after 3.3 s, as from the sixth.
WATCHED = 3.65


def family(name, *words):
    """One of the families of family_server.py."""
    return servers.Server(
        name, servers.talk_with_own_server,
        lambda port: [servers.PYTHON, script("family_server.py"), port, *words])


FAMILIES = (family("daemon", "daemon"), family("twice", "twice"),
            *(family(f"prefork-{how}", "prefork", how)
              for how in ("accept", "poll", "select", "epoll")))


def named(choice):
    return pytest.mark.parametrize("server", choice, ids=lambda server: server.name)


@named(FAMILIES)
def test_families(stand, server):
    check(stand, server, count=10)


def talk(stand, source_port, port, patience=PATIENCE):
    """Gives the number of the process that served."""
    with clients.tcp_client(stand, 6, source_port, port, patience) as client:
        client.send("hello\n")
        address, from_port, pid, _ = client.receive_until("hello\n").split()
        assert (address, from_port) == (PEER[6], str(source_port))
        return int(pid)


def children_of(pid):
    return [int(child) for child in
            pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def start_family(stand, source_ports, *words, **settings):
    port = fresh_port()
    program = stand.start(
        "A", [servers.PYTHON, script("family_server.py"), port, *words],
        preload=Preload(peers=peers(6, source_ports[0], source_ports[-1]),
                        hops=stand.path.hops, **settings))
    wait_listening(program, "tcp", port)
    return port, program


@pytest.mark.parametrize("how", ("accept", "epoll"))
def test_who_punched_dies(stand, how):
    """Killed without a chance to say so; first the process that listened, then one child after the
    other, as long as there is one to serve."""
    source_ports = fresh_peer_ports(8)
    port, program = start_family(stand, source_ports, "prefork", how)
    left = wait_until(lambda: children_of(program.pid)[2:] and children_of(program.pid), 5, "forks")
    talk(stand, source_ports[0], port)
    os.kill(program.pid, signal.SIGKILL)
    program.wait_exit()
    # Between a keeper's death and its heir's punch, a millisecond or two, a peer's call would find
    # nobody in and the firewall open.
    time.sleep(SETTLING)
    assert set(at_once(lambda source_port: talk(stand, source_port, port),
                       source_ports[1:4])) <= set(left)
    for source_port in source_ports[4:6]:
        os.kill(left.pop(), signal.SIGKILL)
        time.sleep(SETTLING)
        assert talk(stand, source_port, port) in left
    os.kill(left.pop(), signal.SIGKILL)
    with pytest.raises(OSError):
        talk(stand, source_ports[6], port, 1.5)


def test_one_process_punches(stand):
    """As many packets from a family of four as from one process, side by side."""
    source_ports = {}
    with Capture(stand.path, "fwa", "r1") as capture:
        for words in (("accept",), ("prefork", "epoll")):
            source_ports[words[0]] = fresh_peer_ports(10)
            start_family(stand, source_ports[words[0]], *words)
        time.sleep(WATCHED + 0.5)

    def count(source_port):
        times = [packet.time for packet in capture.packets if packet.protocol == TCP
                 and packet.destination_port == source_port]
        return len([time for time in times if time < times[0] + WATCHED])

    counts = {name: sum(map(count, ports)) for name, ports in source_ports.items()}
    print(counts)
    assert counts["accept"] >= 10
    assert counts["prefork"] == counts["accept"]


@pytest.mark.other_users
def test_root_is_given_up(stand):
    """On a port that only root can bind to: nobody can bind beside it any more when the peer
    calls, and it calls more often than it has ports."""
    source_ports = fresh_peer_ports(20)
    for preload in (None, Preload(peers=peers(6, source_ports[1], source_ports[-1]),
                                  hops=stand.path.hops)):
        program = stand.start("A", [servers.PYTHON, script("family_server.py"), 80, "nobody"],
                              user="root", preload=preload)
        wait_listening(program, "tcp", 80)
        status = pathlib.Path(f"/proc/{program.pid}/status")
        wait_until(lambda: "Uid:\t65534\t65534" in status.read_text(encoding="ascii"), 5, "setuid")
        if not preload:
            with pytest.raises(TimeoutError):
                talk(stand, source_ports[0], 80, 1.3)
            program.stop()
    at_once(lambda source_port: talk(stand, source_port, 80), source_ports[1:])
    program.stop()
    assert "can't" not in program.stderr()


@pytest.mark.parametrize("how", (("activated", "accept"), ("activated", "epoll"), ("inetd",)),
                         ids=" ".join)
def test_listener_from_outside(stand, how):
    """Who listens has no library; who serves has it, and never calls listen()."""
    source_ports, port = fresh_peer_ports(10), fresh_port()
    preload = Preload(peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops)
    environment = [f"{name}={value}" for name, value in preload.environment().items()]
    start = [servers.PYTHON, script("family_server.py"), port]
    stand.serve([*start, "start", *start, *how], "tcp", port)
    with pytest.raises(TimeoutError):
        talk(stand, source_ports[0], port, 1.3)
    stand.clear()
    stand.serve([*start, "start", "env", *environment, *start, *how], "tcp", port)
    time.sleep(SETTLING)
    at_once(lambda source_port: talk(stand, source_port, port), source_ports[1:])


def start_daemon(stand, port, command, preload, pid_file):
    """A server that goes to the background: what is started ends at once. Gives its number."""
    program = stand.start("A", command, preload=preload, user="root")
    assert program.wait_exit(20) == 0, program.stderr()
    wait_until(lambda: is_listening(stand.path, "A", "tcp", port), 5, f"port {port}")
    wait_until(pid_file.exists, 5, str(pid_file))
    time.sleep(SETTLING)
    return int(pid_file.read_text(encoding="ascii"))


def nginx(port, **changes):
    command = servers.nginx_command(port)
    home = command[2]
    configuration = home / "nginx.conf"
    text = configuration.read_text(encoding="ascii").replace("daemon off;", "daemon on;")
    text = text.replace("error_log stderr", f"error_log {home}/log")
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    configuration.write_text(text, encoding="ascii")
    return command, home / "pid"


def ask_nginx(stand, source_port, port):
    servers.talk_nginx(stand, servers.NGINX, None, source_port, port, PATIENCE)


def ask_nginx_at_once(stand, source_ports, port):
    at_once(lambda source_port: ask_nginx(stand, source_port, port), source_ports)


needs_nginx = pytest.mark.usefixtures("nginx_is_there")


@pytest.fixture
def nginx_is_there():
    skip_if_impossible(servers.NGINX)


def library_for(stand, source_ports):
    return Preload(peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops,
                   log="debug", log_file=SCRATCH / f"synergy-{source_ports[0]}.log")


@needs_nginx
@pytest.mark.parametrize("changes", ({}, {"ipv6only=on": "ipv6only=on reuseport"}),
                         ids=("plain", "reuseport"))
def test_nginx_in_the_background(stand, changes):
    port, source_ports = fresh_port(), fresh_peer_ports(21)
    command, pid_file = nginx(port, **changes)
    main = start_daemon(stand, port, command, None, pid_file)
    with pytest.raises(TimeoutError):
        clients.tcp_client(stand, 6, source_ports[0], port, 1.3)
    os.kill(main, signal.SIGTERM)
    wait_until(lambda: not is_listening(stand.path, "A", "tcp", port), 5, "nginx to end")
    start_daemon(stand, port, command, library_for(stand, source_ports), pid_file)
    ask_nginx_at_once(stand, source_ports[1:], port)


@needs_nginx
def test_nginx_reloads(stand):
    """New workers for old, with connections in between."""
    port, source_ports = fresh_port(), fresh_peer_ports(20)
    command, pid_file = nginx(port)
    main = start_daemon(stand, port, command, library_for(stand, source_ports), pid_file)
    for index, source_port in enumerate(source_ports):
        if index % 4 == 1:
            before = children_of(main)
            os.kill(main, signal.SIGHUP)
            if index % 8 == 1:  # otherwise the next calls while it is at it
                wait_until(lambda: not set(before) & set(children_of(main)), 10, "new workers")
        ask_nginx(stand, source_port, port)


@needs_nginx
def test_nginx_is_upgraded(stand):
    """A new program takes over the listeners of the old one, with which it shares the port for a
    while: https://nginx.org/en/docs/control.html#upgrade. The environment that it starts it with
    has nothing but what its configuration names."""
    port, source_ports = fresh_port(), fresh_peer_ports(20)
    names = ("LD_PRELOAD", "SYNERGY_PEERS", "SYNERGY_HOPS", "SYNERGY_LOG", "SYNERGY_LOG_FILE")
    command, pid_file = nginx(
        port, **{"daemon on;": "".join(f"env {name};" for name in names)})
    command[0] = shutil.which("nginx")  # it starts itself again by this name
    old = start_daemon(stand, port, command, library_for(stand, source_ports), pid_file)
    ask_nginx(stand, source_ports[0], port)
    os.kill(old, signal.SIGUSR2)
    old_pid_file = pid_file.with_name("pid.oldbin")
    wait_until(lambda: old_pid_file.exists() and pid_file.exists(), 10, "the new program")
    new = int(pid_file.read_text(encoding="ascii"))
    assert new != old
    wait_until(lambda: len(children_of(new)) == 2, 5, "new workers")
    ask_nginx_at_once(stand, source_ports[1:6], port)  # accepted by either
    os.kill(old, signal.SIGWINCH)
    wait_until(lambda: children_of(old) == [new] or not children_of(old), 10, "the old workers")
    ask_nginx_at_once(stand, source_ports[6:11], port)  # accepted by the new, punched by the old
    os.kill(old, signal.SIGQUIT)
    wait_until(lambda: not pathlib.Path(f"/proc/{old}").exists(), 10, "the old program to end")
    time.sleep(SETTLING)  # whoever punches next opens the holes anew
    ask_nginx_at_once(stand, source_ports[11:], port)


def apache_command(port, module):
    home = SCRATCH / f"apache-{port}"
    home.mkdir(parents=True, exist_ok=True)
    (home / "hello.txt").write_text("hello from the server\n", encoding="ascii")
    modules = "/usr/lib/apache2/modules"
    (home / "apache.conf").write_text(f"""
        ServerName lab
        ServerRoot {home}
        DefaultRuntimeDir {home}
        PidFile {home}/pid
        ErrorLog {home}/log
        LoadModule mpm_{module}_module {modules}/mod_mpm_{module}.so
        LoadModule authz_core_module {modules}/mod_authz_core.so
        User www-data
        Group www-data
        StartServers 2
        Listen [::]:{port}
        DocumentRoot {home}
        LogFormat "%a %{{remote}}p %U" short
        CustomLog {home}/access short
    """, encoding="ascii")
    return ["apache2", "-f", home / "apache.conf"], home


@pytest.mark.other_users
@pytest.mark.needs("apache2")
@pytest.mark.parametrize("module", ("event", "prefork"))
def test_apache(stand, module):
    """In the background, with children under another user, which all wait on the listener."""
    source_ports = fresh_peer_ports(21)

    def get(source_port, port, patience=PATIENCE):
        with clients.tcp_client(stand, 6, source_port, port, patience) as client:
            client.send("GET /hello.txt HTTP/1.0\r\n\r\n")
            assert "hello from the server" in client.receive_all()

    port = fresh_port()
    command, home = apache_command(port, module)
    main = start_daemon(stand, port, command, None, home / "pid")
    with pytest.raises(TimeoutError):
        get(source_ports[0], port, 1.3)
    os.kill(main, signal.SIGTERM)
    wait_until(lambda: not is_listening(stand.path, "A", "tcp", port), 10, "apache2 to end")
    start_daemon(stand, port, command, library_for(stand, source_ports), home / "pid")
    at_once(lambda source_port: get(source_port, port), source_ports[1:])
    log = (home / "access").read_text(encoding="ascii")
    for source_port in source_ports[1:]:
        assert f"{PEER[6]} {source_port} /hello.txt" in log


@pytest.mark.complains
@pytest.mark.needs("systemd-socket-activate")
@pytest.mark.parametrize("by_env", (True, False), ids=("env", "none"))
def test_program_that_a_superserver_executes(stand, by_env):
    """It cleans the environment. What env(1) gives back needs no warning."""
    (source_port,), port = fresh_peer_ports(1), fresh_port()
    preload = Preload(peers=peers(6, source_port), hops=stand.path.hops)
    given = map("=".join, preload.environment().items()) if by_env else ()
    program = stand.serve(
        ["systemd-socket-activate", "-l", f"[::]:{port}", "/usr/bin/env", *given, servers.PYTHON,
         script("family_server.py"), port, "activated", "accept"], "tcp", port, preload=preload)
    time.sleep(SETTLING)
    if by_env:
        talk(stand, source_port, port)
        assert "executes a program" not in program.stderr()
    else:
        with pytest.raises(OSError):
            talk(stand, source_port, port, 2)
        program.wait_for("executes a program that gets this socket, and has no LD_PRELOAD")
