"""A server that is two processes at any time: the younger one sees that the elder has ended, and has a
child of its own then, so that whichever is killed, the other goes on. Each line that a client sends comes
back after "ADDRESS PORT PID ".

    killed_server.py PORT tcp|sctp      shows "ELDER YOUNGER" each time that they are two
"""

import os
import select
import socket
import sys
import threading


def echo(connection, peer):
    with connection:
        while data := connection.recv(65536):
            connection.send(f"{peer[0]} {peer[1]} {os.getpid()} ".encode() + data)


def serve(listener):
    while True:
        connection, peer = listener.accept()
        threading.Thread(target=echo, args=(connection, peer), daemon=True).start()


def wait_for_end_of(elder):
    try:
        pidfd = os.pidfd_open(elder)
    except ProcessLookupError:
        return
    # (The number may be another's already; the child's parent is not.)
    if os.getppid() == elder:
        select.select([pidfd], [], [])
    os.close(pidfd)


def main(port, transport):
    protocol = socket.IPPROTO_SCTP if transport == "sctp" else socket.IPPROTO_TCP
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, protocol)
    if transport == "tcp":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", int(port)))
    listener.listen(100)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    while True:
        elder = os.getpid()
        child = os.fork()
        if child == 0:
            threading.Thread(target=serve, args=(listener,), daemon=True).start()
            wait_for_end_of(elder)
        else:
            os.write(1, f"{elder} {child}\n".encode())
            os.waitpid(child, 0)


main(*sys.argv[1:])
