"""A TCP server that knows nothing of firewalls, as anyone would write it.

    tcp_server.py ADDRESS PORT echo [--close-first] [--one-at-a-time]    a line back, after the peer's address
    tcp_server.py ADDRESS PORT send BYTES              that many zeros
"""

import argparse
import os
import socket
import threading

CHUNK = 1 << 20


def echo(connection, peer, close_first):
    with connection, connection.makefile("rwb") as stream:
        for line in stream:
            stream.write(f"{peer[0]} {peer[1]} ".encode() + line)
            stream.flush()
            if close_first:
                return


def send(connection, size):
    source = os.memfd_create("zeros")
    os.ftruncate(source, size)
    sent = 0
    with connection:
        while sent < size:
            sent += os.sendfile(connection.fileno(), source, sent, min(CHUNK, size - sent))
    os.close(source)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("mode", choices=("echo", "send"))
    parser.add_argument("size", type=int, nargs="?", default=0)
    parser.add_argument("--close-first", action="store_true")
    parser.add_argument("--one-at-a-time", action="store_true")
    options = parser.parse_args()

    family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options.address == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # (Of a link's own address, the interface belongs to what is bound to.)
        listener.bind(socket.getaddrinfo(options.address, options.port, type=socket.SOCK_STREAM)[0][4])
        listener.listen(100)
        while True:
            connection, peer = listener.accept()
            if options.mode == "echo":
                work = (echo, (connection, peer, options.close_first))
            else:
                work = (send, (connection, options.size))
            thread = threading.Thread(target=work[0], args=work[1], daemon=True)
            thread.start()
            del connection, work
            if options.one_at_a_time:
                thread.join()


main()
