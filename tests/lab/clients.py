"""The peer: it connects from B, always from a port of its choosing."""

import re
import socket
import time

import pytest

import namespace
from topology import PEER, SERVER

AF = {6: socket.AF_INET6, 4: socket.AF_INET}


MPTCP = 262  # IPPROTO_MPTCP; in Python from 3.10 on, where the C library knows it


def skip_without_mptcp(stand):
    try:
        namespace.open_socket(stand.path.namespace("B"), socket.AF_INET6, socket.SOCK_STREAM,
                              MPTCP).close()
    except OSError as error:
        pytest.skip(f"no MPTCP in this kernel ({error})")


def prepared_client(stand, family, source_port, protocol=0):
    """A TCP socket on B that only has to connect."""
    sock = namespace.open_socket(stand.path.namespace("B"), AF[family], socket.SOCK_STREAM, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((PEER[family], source_port))
    return sock


def connects(sock, port):
    """False where the server's side has refused it meanwhile."""
    try:
        sock.connect((SERVER[6], port))
        return True
    except ConnectionError:
        return False


class SocketClient:
    """A socket on B. Whatever does not come within the timeout raises TimeoutError."""

    def __init__(self, path, family, kind, source_port, port, timeout, protocol=0, prepare=None):
        self.timeout = timeout
        self.received = b""
        self.sock = namespace.open_socket(path.namespace("B"), AF[family], kind, protocol)
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.sock.bind((PEER[family], source_port))
            if prepare:
                prepare(self.sock)
            self.sock.settimeout(timeout)
            self.sock.connect((SERVER[family], port))
        except OSError:
            self.sock.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, text):
        self.sock.sendall(text.encode())

    def receive_until(self, text, timeout=None):
        end = time.monotonic() + (timeout or self.timeout)
        while text.encode() not in self.received:
            self.sock.settimeout(max(0.001, end - time.monotonic()))
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError(f"closed before {text!r} came; so far {self.received!r}")
            self.received += data
        return self.received.decode()

    def receive_all(self):
        """Everything up to the server's end of the connection."""
        self.sock.settimeout(self.timeout)
        while data := self.sock.recv(65536):
            self.received += data
        return self.received.decode()

    def close(self):
        self.sock.close()


def tcp_client(stand, family, source_port, port, timeout):
    return SocketClient(stand.path, family, socket.SOCK_STREAM, source_port, port, timeout)


def udp_client(stand, family, source_port, port, timeout):
    return SocketClient(stand.path, family, socket.SOCK_DGRAM, source_port, port, timeout)


def sctp_client(stand, family, source_port, port, timeout, prepare=None):
    return SocketClient(stand.path, family, socket.SOCK_STREAM, source_port, port, timeout,
                        socket.IPPROTO_SCTP, prepare)


class ProgramClient:
    """A netcat on B, with what SocketClient has."""

    def __init__(self, stand, command, timeout):
        self.timeout = timeout
        self.program = stand.start("B", command)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.program.stop()

    def send(self, text):
        self.program.write(text)

    def receive_until(self, text, timeout=None):
        self.program.wait_for(re.escape(text), timeout or self.timeout)
        return self.program.stdout()


def ncat_client(stand, family, source_port, port, timeout):
    return ProgramClient(
        stand, ["ncat", f"-{family}", "-n", "-p", source_port, SERVER[family], port], timeout)


def ncat_sctp_client(stand, family, source_port, port, timeout):
    return ProgramClient(
        stand, ["ncat", f"-{family}", "-n", "--sctp", "-p", source_port, SERVER[family], port],
        timeout)


def openbsd_client(stand, family, source_port, port, timeout):
    return ProgramClient(
        stand, ["nc.openbsd", f"-{family}", "-n", "-p", source_port, SERVER[family], port], timeout)


def traditional_client(stand, family, source_port, port, timeout):
    assert family == 4, "this netcat knows no IPv6"
    return ProgramClient(
        stand, ["nc.traditional", "-n", "-p", source_port, SERVER[family], port], timeout)
