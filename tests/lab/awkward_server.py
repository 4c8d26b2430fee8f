"""A TCP server that gets into trouble, in one of several ways.

    awkward_server.py background ADDRESS PORT first|then   listens, and goes to the background as
                                                           daemons do; or the other way round
    awkward_server.py starved ADDRESS PORT FREE            so many descriptors are left for it
    awkward_server.py two ADDRESS PORT ADDRESS PORT        listens twice
    awkward_server.py handed-down ADDRESS PORT             root listens, and nobody accepts
    awkward_server.py handed-into ADDRESS PORT MAKER       this user listens, and nobody accepts in a
                                                           user namespace, where all are nobody
    awkward_server.py without-unix COMMAND...              runs another one, for which there are no
                                                           Unix sockets, as in a unit with
                                                           RestrictAddressFamilies=AF_INET AF_INET6
    awkward_server.py confined RIGHT COMMAND... PORT WORD  runs another one, which may bind to that TCP
                                                           port alone (RIGHT bind), or connect to none
                                                           (connect), by Landlock
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
EAFNOSUPPORT = 97
CLONE_NEWUSER = 0x10000000


def listening(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # (Of a link's own address, the interface belongs to what is bound to.)
    listener.bind(socket.getaddrinfo(address, int(port), type=socket.SOCK_STREAM)[0][4])
    listener.listen(100)
    return listener


def go_to_the_background():
    if os.fork():
        os._exit(0)
    os.setsid()
    nothing = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)


def background(address, port, order):
    listener = listening(address, port) if order == "first" else None
    go_to_the_background()
    listener = listener or listening(address, port)
    while True:
        listener.accept()[0].close()


def starved(address, port, free):
    """Whoever comes gets a line, and is held until a line comes back."""
    listener = listening(address, port)
    time.sleep(0.3)  # the library's own are there by now
    used = len(os.listdir("/proc/self/fd")) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + int(free), used + int(free)))
    signal.signal(signal.SIGUSR1, lambda *_: resource.prlimit(
        0, resource.RLIMIT_NOFILE, (used + int(free), used + int(free))))
    print("starved", flush=True)
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            time.sleep(0.05)
            continue
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                stream.write(line)
                stream.flush()


def two(address, port, other_address, other_port):
    listeners = [listening(address, port), listening(other_address, other_port)]
    poll = select.poll()
    for listener in listeners:
        poll.register(listener)
    while True:
        poll.poll()
        for listener in listeners:
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()


def handed_down(address, port, maker=0, within=0):
    """Listens without the library, and leaves that to another user's program with it."""
    os.seteuid(int(maker))
    listener = listening(address, port)
    os.seteuid(0)
    listener.set_inheritable(True)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    if within and ctypes.CDLL(None).unshare(within) != 0:
        sys.exit("no namespace")
    os.environ["LD_PRELOAD"] = os.environ.pop("LATER")
    os.execv(sys.executable, [sys.executable, __file__, "accept", str(listener.fileno())])


def accept(number):
    listener = socket.socket(fileno=int(number))
    while True:
        listener.accept()[0].close()


def without_unix(*command):
    machine = os.uname().machine
    number = {"x86_64": 41, "aarch64": 198}[machine]
    code = [(LOAD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 3, number), (LOAD, 0, 0, 16),
            (JUMP_IF_EQUAL, 0, 1, socket.AF_UNIX), (RETURN, 0, 0, ERRNO | EAFNOSUPPORT),
            (RETURN, 0, 0, ALLOW)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in code))
    program = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(code), ctypes.addressof(text)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or \
            libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program) != 0:
        sys.exit("no system call filter: " + os.strerror(ctypes.get_errno()))
    os.execvp(command[0], command)


def confined(right, *command):
    rights = {"bind": 1, "connect": 2}[right]
    create_ruleset, add_rule, restrict_self, net_port = 444, 445, 446, 2
    libc = ctypes.CDLL(None, use_errno=True)
    ruleset = libc.syscall(create_ruleset, struct.pack("QQ", 0, rights), ctypes.c_size_t(16), 0)
    if rights == 1:
        libc.syscall(add_rule, ruleset, net_port, struct.pack("QQ", rights, int(command[-2])), 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or \
            libc.syscall(restrict_self, ruleset, 0) != 0:
        sys.exit("no Landlock: " + os.strerror(ctypes.get_errno()))
    os.execvp(command[0], command)


{"background": background, "two": two, "starved": starved, "handed-down": handed_down,
 "handed-into": lambda *words: handed_down(*words, within=CLONE_NEWUSER), "accept": accept,
 "without-unix": without_unix, "confined": confined}[sys.argv[1]](*sys.argv[2:])
