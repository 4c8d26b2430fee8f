"""Tries to have a TCP port, in every way that another program may: which of them succeed, as JSON.

    port_binder.py PORT
"""

import contextlib
import itertools
import json
import socket
import sys

ADDRESSES = ("::", "0.0.0.0", "2001:db8:a::11", "198.51.100.11", "::1", "127.0.0.1")
OPTIONS = {"": (), "reuseaddr": (socket.SO_REUSEADDR,), "reuseport": (socket.SO_REUSEPORT,),
           "both": (socket.SO_REUSEADDR, socket.SO_REUSEPORT)}


def outcome(address, how):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        for option in OPTIONS[how]:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        with contextlib.suppress(OSError):
            sock.bind((address, int(sys.argv[1])))
            with contextlib.suppress(OSError):
                sock.listen(1)
                return "listens"
            return "binds"
        return "nothing"


print(json.dumps({f"{address} {how}": outcome(address, how)
                  for address, how in itertools.product(ADDRESSES, OPTIONS)}), flush=True)
