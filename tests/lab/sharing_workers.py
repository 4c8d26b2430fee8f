"""A program whose children share a port, each by a listener of its own (sharing_server.py).

    sharing_workers.py COUNT ADDRESS PORT

It writes "worker PID has its port" for each, and waits until they are gone.
"""

import os
import sys

import sharing_server


def work(address, port):
    server = sharing_server.bound("tcp", address, port, "shared")
    server.listen(100)
    print(f"worker {os.getpid()} has its port", flush=True)
    sharing_server.serve(server)


def main():
    count, address, port = sys.argv[1:]
    for _ in range(int(count)):
        if os.fork() == 0:
            work(address, port)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


main()
