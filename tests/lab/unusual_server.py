"""A TCP server that accepts in a way that few do: each line comes back after "ADDRESS PORT WHO ".

    unusual_server.py WAY ADDRESS PORT

    full        a queue for one (listen(0)), and a moment's work after each that it accepts
    exclusive   four processes wait for one listener (EPOLLEXCLUSIVE)
    edges       one process, by edge-triggered epoll
    threads     eight threads are blocked in accept()
    numbers     listen() and accept4() are called by their number (syscall(2))
    ring        io_uring accepts
    group       eight listeners share the port, each with options of its own: WHO is their number, and
                the options that the connection has
    group-apart the same, a process for each
    chosen      eight listeners, and a program (SO_ATTACH_REUSEPORT_CBPF) that chooses one
    fastopen    TCP_FASTOPEN
    mptcp       listens for MPTCP (RFC 8684), and for TCP by that
    deferred    TCP_DEFER_ACCEPT for a second, and WHO is when it accepts
    late        accepts nobody before a line comes on standard input
"""

import contextlib
import ctypes
import mmap
import os
import platform
import select
import socket
import struct
import sys
import threading
import time

MEMBERS = 8
SO_ATTACH_REUSEPORT_CBPF = 51
IPPROTO_MPTCP = 262
SYS_LISTEN, SYS_ACCEPT4 = (50, 288) if platform.machine() == "x86_64" else (201, 242)
IO_URING_SETUP, IO_URING_ENTER, GETEVENTS, OP_ACCEPT = 425, 426, 1, 13
libc = ctypes.CDLL(None, use_errno=True)


def listening(address, port, backlog=100, protocol=0, **options):
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM,
                             protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for name, value in options.items():
        level = socket.IPPROTO_TCP if name.startswith("TCP") else socket.SOL_SOCKET
        listener.setsockopt(level, getattr(socket, name), value)
    listener.bind((address, int(port)))
    if backlog is not None:
        listener.listen(backlog)
    return listener


def echo(connection, who=""):
    with contextlib.suppress(OSError), connection:
        peer = connection.getpeername()
        with connection.makefile("rwb") as stream:
            for line in stream:
                stream.write(f"{peer[0]} {peer[1]} {who} ".encode() + line)
                stream.flush()


def serve(connection, who=""):
    connection.setblocking(True)
    threading.Thread(target=echo, args=(connection, who), daemon=True).start()


def full(address, port):
    listener = listening(address, port, 0)
    while True:
        serve(listener.accept()[0])
        time.sleep(0.01)


def exclusive(address, port):
    listener = listening(address, port)
    listener.setblocking(False)
    for _ in range(3):
        if os.fork() == 0:
            break
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
    while True:
        epoll.poll()
        with contextlib.suppress(BlockingIOError):
            serve(listener.accept()[0])


def edges(address, port):
    listener = listening(address, port)
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN | select.EPOLLET)
    while True:
        epoll.poll()
        with contextlib.suppress(BlockingIOError):
            while True:
                serve(listener.accept()[0])


def threads(address, port):
    listener = listening(address, port)

    def one():
        while True:
            serve(listener.accept()[0])
    for _ in range(8):
        threading.Thread(target=one).start()


def numbers(address, port):
    listener = listening(address, port, None)
    if libc.syscall(SYS_LISTEN, listener.fileno(), 100) != 0:
        sys.exit("listen: " + os.strerror(ctypes.get_errno()))
    while True:
        serve(socket.socket(fileno=libc.syscall(SYS_ACCEPT4, listener.fileno(), None, None,
                                                socket.SOCK_CLOEXEC)))


def ring(address, port):
    listener = listening(address, port)
    parameters = ctypes.create_string_buffer(120)
    number = libc.syscall(IO_URING_SETUP, 4, parameters)
    if number < 0:
        sys.exit("no io_uring: " + os.strerror(ctypes.get_errno()))
    entries, completions = struct.unpack_from("II", parameters)
    submission, completion = (struct.unpack_from("8I", parameters, at) for at in (40, 80))
    queue = mmap.mmap(number, submission[6] + entries * 4, offset=0)
    done = mmap.mmap(number, completion[5] + completions * 16, offset=0x8000000)
    requests = mmap.mmap(number, entries * 64, offset=0x10000000)
    print("ready", flush=True)
    for turn in range(1 << 30):
        index = turn % entries
        requests[index * 64:index * 64 + 64] = struct.pack(
            "BBHiQQIIQ24x", OP_ACCEPT, 0, 0, listener.fileno(), 0, 0, 0, 0, turn)
        struct.pack_into("I", queue, submission[6] + index * 4, index)
        struct.pack_into("I", queue, submission[1], turn + 1)
        libc.syscall(IO_URING_ENTER, number, 1, 1, GETEVENTS, None, 0)
        _, result, _ = struct.unpack_from("QiI", done, completion[5] + turn % completions * 16)
        struct.pack_into("I", done, completion[0], turn + 1)
        if result < 0:
            sys.exit("io_uring does not accept: " + os.strerror(-result))
        connection = socket.socket(fileno=result)
        with contextlib.suppress(OSError):
            print("client", *connection.getpeername()[:2], flush=True)
        serve(connection)


# Each member of a group has others.
def options_of(member):
    return {"SO_RCVBUF": 50000 + 1000 * member, "TCP_NODELAY": member % 2,
            "TCP_KEEPIDLE": 100 + member}


def of_connection(connection, member):
    """Which options it has, by the member whose they are."""
    found = [connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 - 50000,
             connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) - 100,
             connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)]
    right = found == [1000 * member, member, member % 2]
    return f"{member}-{'right' if right else found}"


def accept_as(listener, member):
    while True:
        connection = listener.accept()[0]
        serve(connection, of_connection(connection, member))


def group(address, port, is_apart=False):
    for member in range(MEMBERS):
        if is_apart:
            if os.fork() == 0:
                accept_as(listening(address, port, SO_REUSEPORT=1, **options_of(member)), member)
            continue
        listener = listening(address, port, SO_REUSEPORT=1, **options_of(member))
        threading.Thread(target=accept_as, args=(listener, member)).start()
    if is_apart:
        os.wait()


def chosen(address, port):
    """All connections come to the fourth."""
    code = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 3))
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(code))
    for member in range(MEMBERS):
        listener = listening(address, port, SO_REUSEPORT=1, **options_of(member))
        if member == 0:
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)
        threading.Thread(target=accept_as, args=(listener, member)).start()


def fastopen(address, port):
    listener = listening(address, port, TCP_FASTOPEN=16)
    while True:
        serve(listener.accept()[0])


def mptcp(address, port):
    listener = listening(address, port, protocol=IPPROTO_MPTCP)
    while True:
        serve(listener.accept()[0])


def deferred(address, port):
    listener = listening(address, port, TCP_DEFER_ACCEPT=1)
    while True:
        connection, peer = listener.accept()
        print("client", *peer[:2], time.monotonic(), flush=True)
        serve(connection)


def late(address, port):
    listener = listening(address, port)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 70000)
    sys.stdin.readline()
    while True:
        connection, peer = listener.accept()
        print("client", *peer[:2], flush=True)
        serve(connection)


{"full": full, "exclusive": exclusive, "edges": edges, "threads": threads, "numbers": numbers,
 "ring": ring, "group": group,
 "group-apart": lambda address, port: group(address, port, True), "chosen": chosen,
 "fastopen": fastopen, "mptcp": mptcp, "deferred": deferred, "late": late}[sys.argv[1]](*sys.argv[2:])
