"""What sockets the kernel has, asked as ss(8) asks it: /proc/net/tcp is a walk through all of the
kernel's tables, for each look again."""

import socket
import struct

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, NLM_F_DUMP = 4, 20, 1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
REQUEST = struct.Struct("=BBBxI2s2s44x")  # struct inet_diag_req_v2, with no address
FOUND = struct.Struct("!4xH")  # struct inet_diag_msg, as far as its own port


def local_ports(family, protocol, state):
    """Of this thread's namespace's sockets in that state (TCP's, as for all protocols)."""
    request = REQUEST.pack(family, protocol, 0, 1 << state, b"", b"")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.send(HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY,
                                NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + request)
        while True:
            data = kernel.recv(1 << 17)
            while data:
                length, kind, *_ = HEADER.unpack_from(data)
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", data, HEADER.size)[0], "sock_diag")
                yield FOUND.unpack_from(data, HEADER.size)[0]
                data = data[(length + 3) & ~3:]
