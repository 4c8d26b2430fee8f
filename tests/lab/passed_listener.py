"""One listener and the processes that have it, as JSON says:

    passed_listener.py '{"port": 4444, "library": "...", "settings": {"SYNERGY_PEERS": "..."},
                         "listener": [...], "keeper": [...], "acceptors": [[...], ...]}'

`keeper` is a process that starts a keeper for the listener, by listening again, and accepts nobody.
It comes when the others wait already. Words say what each of these is:

    listener    sctp (instead of TCP), v4, here (one address instead of all), nobody's (another user made it), shared
                (SO_REUSEPORT), deferred, hurried (does not block), narrow (a queue for one), tuned
                (options that do no harm)
    keeper      nobody (another user), busy (tells the listener's options first)
    acceptors   none, bare, set    without the library, with it, with it and the settings
                exec, fork, rights, late    how it has got the listener: inherited; by a child of the
                          process that did; over a Unix socket; the same when the keeper is there
                nobody    another user
                network, process    in a namespace of its own
                landlock  may not connect to abstract Unix sockets out of its sandbox
                refusing, killing  a system call filter: no Unix sockets, or it ends
                user, mount   in a namespace of its own
                hidden    not dumpable, so that /proc says nothing of it
                narrowed  no number is free but those of the connections to come
                chroot    in an empty directory
                address   asks accept() for the peer's address, and does not ask afterwards
                poll      waits in poll(), whether or not the listener blocks
                closing   takes leave at once
                slow      has something else to do for a moment after each that it accepts

An acceptor writes "client WHAT ADDRESS PORT" for each that it accepts, and gives back each line that
is sent after "ADDRESS PORT PID ".
"""

import contextlib
import ctypes
import errno
import json
import os
import pathlib
import platform
import resource
import select
import socket
import struct
import subprocess
import sys
import threading
import time

SERVER = {6: "2001:db8:a::11", 4: "198.51.100.11"}
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 4, 22, 38, 2
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET = 1
NOBODY = 65534
SOCKET_CALL = 41 if platform.machine() == "x86_64" else 198
WAITING = {"7", "43", "288", "271"}  # poll, accept, accept4, ppoll
libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def keep_from_abstract_sockets():
    attributes = (ctypes.c_uint64 * 3)(0, 0, LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET)
    rules = checked(libc.syscall(LANDLOCK_CREATE_RULESET, attributes, ctypes.sizeof(attributes), 0))
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    checked(libc.syscall(LANDLOCK_RESTRICT_SELF, rules, 0))
    os.close(rules)


def set_filter(call, family, verdict):
    """For a call with this first argument (linux/filter.h, linux/seccomp.h)."""
    code = [(0x20, 0, 0, 0), (0x15, 0, 3, call), (0x20, 0, 0, 16), (0x15, 0, 1, family),
            (0x06, 0, 0, verdict), (0x06, 0, 0, 0x7fff0000)]
    lines = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(lines)))
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    checked(libc.prctl(PR_SET_SECCOMP, FILTER, program))


def go_on_in_child():
    child = os.fork()
    if child != 0:
        os.waitpid(child, 0)
        os._exit(0)


def become_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def enter_user_namespace():
    """Where this user alone has a number, as `unshare --map-current-user` has it."""
    user = os.geteuid()
    try:
        checked(libc.unshare(CLONE_NEWUSER))
        pathlib.Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    except (PermissionError, FileNotFoundError):  # in an empty directory
        pass


def become(what):
    if "network" in what:
        checked(libc.unshare(CLONE_NEWNET))
    if "mount" in what:
        checked(libc.unshare(CLONE_NEWNS))
    if "process" in what:
        checked(libc.unshare(CLONE_NEWPID))
    if {"process", "fork"} & set(what):
        go_on_in_child()
    if "landlock" in what:
        keep_from_abstract_sockets()
    if "chroot" in what:
        empty = pathlib.Path(f"/run/lab/empty-{time.monotonic_ns()}")
        empty.mkdir()
        os.chroot(empty)
    if "nobody" in what:
        become_nobody()
    if "user" in what:
        enter_user_namespace()
    if "hidden" in what:
        checked(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
    if "refusing" in what:
        set_filter(SOCKET_CALL, socket.AF_UNIX, 0x00050000 | errno.EPERM)
    if "killing" in what:
        set_filter(SOCKET_CALL, socket.AF_UNIX, 0x80000000)


def echo(connection, peer):
    with contextlib.suppress(ConnectionError), connection, connection.makefile("rwb") as stream:
        for line in stream:
            stream.write(f"{peer[0]} {peer[1]} {os.getpid()} ".encode() + line)
            stream.flush()


def accept_one(listener, what):
    if "address" in what:
        return listener.accept()
    connection = socket.socket(fileno=checked(libc.accept(listener.fileno(), None, None)))
    return connection, connection.getpeername()


def accept(descriptor, what):
    if {"rights", "late"} & set(what):
        with socket.socket(fileno=descriptor) as channel:
            _, (descriptor,), _, _ = socket.recv_fds(channel, 1, 1)
    if "fork" in what and what[0] == "set":
        libc.listen(descriptor, 100)
    become(what)
    listener = socket.socket(fileno=descriptor)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    if not os.get_blocking(descriptor):
        what = [*what, "poll"]
    listener.setblocking(os.get_blocking(descriptor))
    if "narrowed" in what:
        free = os.dup(descriptor)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 6, free + 6))
    while True:
        if "poll" in what:
            poll.poll()
        try:
            connection, peer = accept_one(listener, what)
        except (BlockingIOError, ConnectionAbortedError):
            continue
        except OSError as error:  # of who has gone the address can't be had
            print("client", what[0], "unknown", error, flush=True)
            continue
        connection.setblocking(True)
        print("client", what[0], *peer[:2], flush=True)
        if "closing" in what:
            connection.close()
            continue
        threading.Thread(target=echo, args=(connection, peer), daemon=True).start()
        if "slow" in what:
            time.sleep(0.5)


def keep(descriptor, what):
    if "nobody" in what:
        become_nobody()
    with socket.socket(fileno=descriptor) as listener:
        if "busy" in what:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.listen(1 if "narrow" in what else 100)
        print("keeps", flush=True)
        while True:
            time.sleep(1000)


def waits(pid):
    """Whether it, or whoever goes on in its place, has come so far."""
    call = pathlib.Path(f"/proc/{pid}/syscall")
    if not pathlib.Path("/proc/self/syscall").exists():  # a kernel that does not say
        time.sleep(5)
        return True
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return call.read_text(encoding="ascii").split()[0] in WAITING or \
            any(waits(child) for child in children.split())
    except (FileNotFoundError, ProcessLookupError):  # a child that was there for a moment
        return False


def listener_of(port, what):
    family = 4 if "v4" in what else 6
    if "nobody's" in what:
        os.seteuid(NOBODY)
    listener = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_STREAM,
                             socket.IPPROTO_SCTP if "sctp" in what else 0)
    if "nobody's" in what:
        os.seteuid(0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if "shared" in what:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if "deferred" in what:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    if "tuned" in what:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 60000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    anywhere = "0.0.0.0" if family == 4 else "::"
    listener.bind((SERVER[family] if "here" in what else anywhere, port))
    listener.listen(1 if "narrow" in what else 100)
    listener.setblocking("hurried" not in what)
    return listener


def start(words, descriptor, environment):
    return subprocess.Popen([sys.executable, __file__, *map(str, words)], pass_fds=[descriptor],
                            env={"PATH": os.environ["PATH"], **environment})


def main():
    case = json.loads(sys.argv[1])
    listener = listener_of(case["port"], case["listener"])
    library = {"LD_PRELOAD": case["library"]}
    environments = {"none": {}, "bare": library, "set": library | case["settings"]}
    late = []
    for what in case["acceptors"]:
        environment = environments[what[0]]
        if not {"rights", "late"} & set(what):
            process = start(["accept", listener.fileno(), *what], listener.fileno(), environment)
        else:
            ours, theirs = socket.socketpair()
            process = start(["accept", theirs.fileno(), *what], theirs.fileno(), environment)
            if "late" in what:
                late.append(ours)
                continue
            socket.send_fds(ours, [b"x"], [listener.fileno()])
        while not waits(process.pid):
            time.sleep(0.01)
    words = [*case["keeper"], *(["narrow"] if "narrow" in case["listener"] else [])]
    keeper = start(["keep", listener.fileno(), *words], listener.fileno(), environments["set"])
    for channel in late:
        time.sleep(0.1)
        socket.send_fds(channel, [b"x"], [listener.fileno()])
    keeper.wait()


if sys.argv[1] == "accept":
    accept(int(sys.argv[2]), sys.argv[3:])
elif sys.argv[1] == "keep":
    keep(int(sys.argv[2]), sys.argv[3:])
else:
    main()
