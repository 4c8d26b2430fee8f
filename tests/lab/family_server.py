"""Servers whose processes do what families of processes do. Every line that a client sends comes
back after "ADDRESS PORT PID ", the peer's as the server sees it and the serving process's.

    family_server.py PORT accept              one process
    family_server.py PORT once                one connection, and its end is the server's
    family_server.py PORT nobody              one process, which gives root up after listen()
    family_server.py PORT daemon              listens, then goes to the background as daemon(3) says
    family_server.py PORT twice               the same with a second fork after setsid()
    family_server.py PORT detached            the same, and gives up what it had for input and output
    family_server.py PORT prefork HOW         three children serve, their parent sleeps; HOW they
                                              wait is accept, poll, select or epoll
    family_server.py PORT start PROGRAM...    listens, and starts a program with the listener as
                                              LISTEN_FDS says; see the next
    family_server.py PORT start-udp PROGRAM...
                                              the same with a UDP socket
    family_server.py PORT activated HOW       serves on descriptor 3
    family_server.py PORT inetd               serves on descriptor 0
    family_server.py PORT inetd-once          the same for one connection
    family_server.py PORT inetd-nowait        serves the connection that descriptor 0 is
    family_server.py PORT inetd-udp           answers datagrams on descriptor 0
    family_server.py PORT inetd-udp-once      the same for one datagram
"""

import math
import os
import select
import signal
import socket
import sys
import threading


def echo(connection, peer):
    with connection, connection.makefile("rwb") as stream:
        for line in stream:
            stream.write(f"{peer[0]} {peer[1]} {os.getpid()} ".encode() + line)
            stream.flush()


def waiter(listener, how):
    """A function that returns when a connection may have come."""
    if how == "accept":
        return lambda: None
    listener.setblocking(False)
    if how == "poll":
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        return poll.poll
    if how == "epoll":
        epoll = select.epoll()
        epoll.register(listener, select.EPOLLIN)
        return epoll.poll
    return lambda: select.select([listener], [], [])


def serve(listener, how="accept"):
    wait = waiter(listener, how)
    while True:
        wait()
        try:
            connection, peer = listener.accept()
        except BlockingIOError:
            continue
        connection.setblocking(True)
        threading.Thread(target=echo, args=(connection, peer), daemon=True).start()


def serve_datagrams(sock, at_most=math.inf):
    answered = 0
    while answered < at_most:
        answered += 1
        data, peer = sock.recvfrom(65536)
        sock.sendto(f"{peer[0]} {peer[1]} {os.getpid()} ".encode() + data, peer)


def fork_and_leave():
    if os.fork() != 0:
        os._exit(0)


def main():
    port, mode, rest = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if mode == "activated":
        serve(socket.socket(fileno=3), *rest)
    if mode == "inetd":
        serve(socket.socket(fileno=0))
    if mode == "inetd-once":
        echo(*socket.socket(fileno=0).accept())
        return
    if mode == "inetd-nowait":
        connection = socket.socket(fileno=0)
        echo(connection, connection.getpeername())
        return
    if mode == "inetd-udp":
        serve_datagrams(socket.socket(fileno=0))
    if mode == "inetd-udp-once":
        serve_datagrams(socket.socket(fileno=0), 1)
        return
    is_udp = mode == "start-udp"
    listener = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM)
    if not is_udp:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", port))
    if not is_udp:
        listener.listen(100)
    if mode == "nobody":
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    if mode == "once":
        echo(*listener.accept())
    elif mode in ("accept", "nobody"):
        serve(listener)
    elif mode in ("daemon", "twice", "detached"):
        fork_and_leave()
        os.setsid()
        if mode != "daemon":
            fork_and_leave()
        if mode == "detached":
            nothing = os.open("/dev/null", os.O_RDWR)
            for descriptor in range(3):
                os.dup2(nothing, descriptor)
        serve(listener)
    elif mode == "prefork":
        for _ in range(3):
            if os.fork() == 0:
                serve(listener, *rest)
        while True:
            signal.pause()
    elif mode in ("start", "start-udp"):
        # systemd.socket(5): Accept=no; inetd(8): wait
        descriptor = 0 if rest[-1] == "inetd" else 3
        os.dup2(listener.fileno(), descriptor)
        os.set_inheritable(descriptor, True)
        os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
        os.execvp(rest[0], rest)


main()
