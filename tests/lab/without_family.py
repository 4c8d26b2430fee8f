"""Runs a program that may open no sockets of an address family, as RestrictAddressFamilies= of a systemd
unit has it, and as it is on a host without IPv6.

    without_family.py FAMILY PROGRAM [ARGUMENT]...
"""

import ctypes
import os
import platform
import socket
import struct
import sys

SYS_SOCKET = 41 if platform.machine() == "x86_64" else 198
NO_NEW_PRIVS, SET_SECCOMP, FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, FIRST_ARGUMENT = 0, 16  # struct seccomp_data
ALLOW, FAIL = 0x7fff0000, 0x00050000


def main():
    family = getattr(socket, sys.argv[1])
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in (
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 0, 3, SYS_SOCKET),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (JUMP_IF_EQUAL, 0, 1, family),
        (RETURN, 0, 0, FAIL | 97),  # EAFNOSUPPORT
        (RETURN, 0, 0, ALLOW))))
    program = struct.pack("HxxxxxxP", 6, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or libc.prctl(SET_SECCOMP, FILTER, program, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no system call filter")
    os.execvp(sys.argv[2], sys.argv[2:])


main()
