"""A server that is told on its standard input to shut its listener down, for so many seconds or `for
good`. It gives back each line that a client sends, after "ADDRESS PORT PID "."""

import os
import socket
import sys
import threading
import time


def echo(connection, peer):
    with connection, connection.makefile("rwb") as stream:
        for line in stream:
            stream.write(f"{peer[0]} {peer[1]} {os.getpid()} ".encode() + line)
            stream.flush()


def serve(listener):
    while True:
        try:
            connection, peer = listener.accept()
        except OSError:  # it does not listen now
            time.sleep(0.001)
            continue
        threading.Thread(target=echo, args=(connection, peer), daemon=True).start()


def main():
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", int(sys.argv[1])))
    listener.listen(100)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    for count, line in enumerate(sys.stdin):
        listener.shutdown(socket.SHUT_RD)
        if line == "for good\n":
            print("does not listen", flush=True)
            continue
        time.sleep(float(line))
        listener.listen(100)
        print("listens again", count, flush=True)


main()
