"""Servers that close their listener and listen again, on the same port, for each connection.

    again_server.py PORT early        the listener is closed as soon as somebody has come
    again_server.py PORT late         it is closed when that connection is over
    again_server.py PORT anew         as early, by a listener that does not let others have its port
    again_server.py PORT in-use       the same, told what bind() says while a connection is there, and
                                      when it rests

The peer gets a line with its address, and ends the connection or waits for its end.
"""

import errno
import socket
import sys
import time


def listener_on(port, is_shared):
    listener = socket.socket(socket.AF_INET6)
    if is_shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    while True:
        try:
            listener.bind(("::", port))
            break
        except OSError:
            time.sleep(0.001)  # a connection is not quite over yet
    listener.listen(1)
    return listener


def serve_one(port, mode):
    listener = listener_on(port, mode != "anew")
    connection, peer = listener.accept()
    if mode in ("early", "anew"):
        listener.close()
    connection.sendall(f"{peer[0]} {peer[1]}\n".encode())
    if mode == "anew":
        connection.recv(1)  # the peer closes first: nothing rests on the port
    connection.close()
    listener.close()


def bind_says(port):
    with socket.socket(socket.AF_INET6) as anew:
        try:
            anew.bind(("::", port))
            return "bound"
        except OSError as error:
            return errno.errorcode[error.errno]


def say_what_bind_says(port):
    with listener_on(port, is_shared=False) as listener:
        connection, peer = listener.accept()
    print(bind_says(port), flush=True)
    connection.sendall(f"{peer[0]} {peer[1]}\n".encode())
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)
    connection.close()
    print(bind_says(port), flush=True)


def main():
    port, mode = int(sys.argv[1]), sys.argv[2]
    if mode == "in-use":
        say_what_bind_says(port)
        return
    while True:
        serve_one(port, mode)


main()
