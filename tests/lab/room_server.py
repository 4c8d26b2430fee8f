"""A TCP server that gives accept() less room than an address takes, and looks at what lies beyond.

    room_server.py PORT ROOM    a line for each connection: how many bytes beyond the room changed, and the length
"""

import ctypes
import socket
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
SIZE = 128


def main():
    port, room = map(int, sys.argv[1:])
    listener = socket.socket(socket.AF_INET6)
    listener.bind(("::", port))
    listener.listen(5)
    while True:
        for filler in (0, 0xff):
            address = (ctypes.c_ubyte * SIZE)(*[filler] * SIZE)
            length = ctypes.c_uint(room)
            got = LIBC.accept(listener.fileno(), address, ctypes.byref(length))
            if got < 0:
                raise OSError(ctypes.get_errno(), "accept")
            beyond = sum(byte != filler for byte in address[room:])
            with socket.socket(fileno=got) as connection:
                connection.sendall(f"{beyond} beyond, length {length.value}\n".encode())


main()
