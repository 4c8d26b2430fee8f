"""A server that shares its port with others by SO_REUSEPORT, or does not: each line comes back after
"ADDRESS PORT PID ".

    sharing_server.py tcp|udp ADDRESS PORT shared|alone
"""

import os
import socket
import sys
import threading


def echo(connection, peer):
    with connection, connection.makefile("rwb") as stream:
        for line in stream:
            stream.write(f"{peer[0]} {peer[1]} {os.getpid()} ".encode() + line)
            stream.flush()


def bound(transport, address, port, how):
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET,
                           socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(transport == "tcp"))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(how == "shared"))
    try:
        server.bind((address, int(port)))
    except OSError as error:
        sys.exit(f"can't bind: {error.strerror}")
    return server


def serve(server):
    while server.type == socket.SOCK_STREAM:
        threading.Thread(target=echo, args=server.accept(), daemon=True).start()
    while True:
        data, peer = server.recvfrom(2000)
        server.sendto(f"{peer[0]} {peer[1]} {os.getpid()} ".encode() + data, peer)


def main():
    server = bound(*sys.argv[1:])
    if server.type == socket.SOCK_STREAM:
        server.listen(100)
    print("has its port", flush=True)
    serve(server)


if __name__ == "__main__":
    main()
