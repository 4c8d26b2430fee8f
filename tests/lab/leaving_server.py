"""A TCP server that lets go of its port: at the first line on standard input it shuts its listener down,
at the second it closes it. A client is held until it goes.

    leaving_server.py ADDRESS PORT reuseaddr|plain
"""

import socket
import sys
import threading


def hold(connection):
    with connection:
        while connection.recv(100):
            connection.sendall(b"held\n")


def accept_all(listener):
    try:
        while True:
            threading.Thread(target=hold, args=(listener.accept()[0],), daemon=True).start()
    except OSError:  # it is shut down
        pass


def main():
    address, port, how = sys.argv[1:]
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(how == "reuseaddr"))
    listener.bind((address, int(port)))
    listener.listen(10)
    threading.Thread(target=accept_all, args=(listener,), daemon=True).start()
    print("listens", flush=True)
    sys.stdin.readline()
    listener.shutdown(socket.SHUT_RDWR)
    print("is shut down", flush=True)
    sys.stdin.readline()
    listener.close()
    print("has closed it", flush=True)
    sys.stdin.readline()


main()
