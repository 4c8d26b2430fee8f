"""Doing things inside a network namespace, without leaving this process."""

import contextlib
import ctypes
import os
import socket

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _setns(descriptor):
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def inside(name):
    """The calling thread is in the namespace for the length of the block: sockets made and
    children started there belong to it, and stay there when the thread is back."""
    back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(back)
    finally:
        os.close(back)


def open_socket(name, family, kind, protocol=0):
    with inside(name):
        return socket.socket(family, kind, protocol)


def sysctl(name, settings):
    """Sets {"net/ipv4/ip_forward": 1, ...} in the namespace."""
    with inside(name):
        for key, value in settings.items():
            with open(f"/proc/sys/{key}", "w", encoding="ascii") as file:
                file.write(str(value))


def identity(name):
    """What /proc/PID/ns/net of a process in the namespace has for an inode number."""
    return os.stat(f"/run/netns/{name}").st_ino
