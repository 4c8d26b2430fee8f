"""A server that ends after one connection: `once_server.py PORT` writes what that sends."""

import socket
import sys

listener = socket.socket(socket.AF_INET6)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("::", int(sys.argv[1])))
listener.listen(1)
connection, _ = listener.accept()
print(connection.makefile().read(), end="")
