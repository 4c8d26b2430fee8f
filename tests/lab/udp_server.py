"""A UDP server that knows nothing of firewalls: every datagram back, after the peer's address.

    udp_server.py ADDRESS PORT recvfrom|recvmsg
"""

import socket
import sys


def main(address, port, how):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if address == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, int(port)))
        while True:
            if how == "recvfrom":
                data, peer = sock.recvfrom(65536)
                sock.sendto(f"{peer[0]} {peer[1]} ".encode() + data, peer)
            else:
                data, _, _, peer = sock.recvmsg(65536, 512)
                sock.sendmsg([f"{peer[0]} {peer[1]} ".encode(), data], [], 0, peer)


main(*sys.argv[1:])
