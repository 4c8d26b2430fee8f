"""One listener, and two processes that have it: who accepts has waited since before the library's
keeper was there, and who starts the keeper accepts nobody.

    passed_listener.py PORT LIBRARY SETTINGS WHO...     SETTINGS: SYNERGY_* as JSON

WHO says what the accepting process is, in this order:

    none | bare | set       without the library, with it, with it and the settings
    nobody                  another user
    network process         in a namespace of its own
    landlock                may not connect to abstract Unix sockets out of its sandbox
    chroot                  in an empty directory
    address                 asks accept() for the peer's address, and does not ask afterwards
    poll                    waits in poll(), on a listener that blocks

It writes "client ADDRESS PORT" for each that it accepts, and gives back each line that is sent,
after "ADDRESS PORT PID ".
"""

import ctypes
import json
import os
import pathlib
import select
import socket
import subprocess
import sys
import threading
import time

CLONE_NEWNET, CLONE_NEWPID = 0x40000000, 0x20000000
PR_SET_NO_NEW_PRIVS = 38
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET = 1
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


def become(what):
    if "network" in what:
        checked(libc.unshare(CLONE_NEWNET))
    if "process" in what:
        checked(libc.unshare(CLONE_NEWPID))
        child = os.fork()
        if child != 0:
            os.waitpid(child, 0)
            os._exit(0)
    if "landlock" in what:
        keep_from_abstract_sockets()
    if "chroot" in what:
        empty = pathlib.Path(f"/run/lab/empty-{os.getpid()}")
        empty.mkdir()
        os.chroot(empty)
    if "nobody" in what:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def echo(connection, peer):
    with connection, connection.makefile("rwb") as stream:
        for line in stream:
            stream.write(f"{peer[0]} {peer[1]} {os.getpid()} ".encode() + line)
            stream.flush()


def accept_without_address(listener):
    connection = socket.socket(fileno=checked(libc.accept(listener.fileno(), None, None)))
    return connection, connection.getpeername()


def accept(listener, what):
    listener = socket.socket(fileno=listener)
    become(what)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        if "poll" in what:
            poll.poll()
        try:
            connection, peer = (listener.accept() if "address" in what
                                else accept_without_address(listener))
        except ConnectionAbortedError:
            continue
        except OSError as error:  # the peer's address of who has gone can't be had
            print("client unknown", error, flush=True)
            continue
        print("client", *peer[:2], flush=True)
        threading.Thread(target=echo, args=(connection, peer), daemon=True).start()


def waits(pid):
    """Whether it, or its child in a namespace of its own, has come so far."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    calls = [pathlib.Path(f"/proc/{process}/syscall").read_text(encoding="ascii").split()[0]
             for process in (pid, *children)]
    return {"7", "43", "288", "271"} & set(calls)  # poll, accept, accept4, ppoll


def main():
    port, library, settings, what = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4:]
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", int(port)))
    listener.listen(100)
    os.set_inheritable(listener.fileno(), True)
    preload = {"LD_PRELOAD": library}
    ours = {"none": {}, "bare": preload, "set": preload | settings}[what[0]]

    def start(words, environment):
        return subprocess.Popen([sys.executable, __file__, *map(str, words)], close_fds=False,
                                env={"PATH": os.environ["PATH"], **environment})
    acceptor = start(["accept", listener.fileno(), *what], ours)
    while not waits(acceptor.pid):
        time.sleep(0.01)
    print("waits", flush=True)
    start(["keep", listener.fileno()], preload | settings).wait()


if sys.argv[1] == "accept":
    accept(int(sys.argv[2]), sys.argv[3:])
elif sys.argv[1] == "keep":
    socket.socket(fileno=int(sys.argv[2])).listen(100)
    print("keeps", flush=True)
    while True:
        time.sleep(1000)
else:
    main()
