"""What a hole needs in order to be renewed, measured without the library: one sequence number for
all its SYNs, and TCP_USER_TIMEOUT as the clock of the kernel's retransmissions."""

import errno
import socket
import threading
import time

import pytest

import firewall
from test_facts import ERROR_HAS_COME, LEVEL, Hole

TCP_USER_TIMEOUT = socket.TCP_USER_TIMEOUT


def retransmissions(sock):
    """tcpi_retransmits of struct tcp_info (linux/tcp.h)."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[2]


class Renewed(Hole):
    def be_low(self, hop_limit):
        self.puncher.setsockopt(LEVEL[6], socket.IPV6_UNICAST_HOPS, hop_limit)
        self.puncher.setsockopt(LEVEL[6], 73, 255)  # IPV6_MINHOPCOUNT

    def renew_with_another_sequence_number(self, hop_limit):
        """Out of SYN_SENT and into it again: connect() to AF_UNSPEC, which Python's socket can't
        express, so a new socket on the same port, which comes to the same for the firewall."""
        self.puncher.close()
        self.puncher = self._bound()
        self.puncher.setblocking(False)
        self.punch(hop_limit, guarded=True)


@pytest.mark.parametrize("profile, same_number, gets_in", (
    ("strict", True, True), ("strict", False, False), ("lax", False, True)))
def test_missed_syn_binds_the_hole_to_its_sequence_number(stand, profile, same_number, gets_in):
    """The firewall has seen the peer's SYN, the deaf socket has not. From then on the firewall
    takes nothing of ours that does not fit the SYN that it saw before."""
    firewall.set_profile(stand.path, profile)
    port = 5030
    low = stand.path.hops
    with Renewed(stand.path, 6, port) as hole:
        start = time.monotonic()

        def at(seconds):
            time.sleep(max(0, start + seconds - time.monotonic()))

        answer = []
        hole.punch(low, guarded=True)
        at(0.4)
        peer = threading.Thread(target=lambda: answer.append(hole.peer_talks(timeout=1.8)))
        peer.start()  # its SYN goes out now, unheard, and again at 1.4 s
        at(0.5)
        if same_number:
            hole.open_up()
            at(0.9)
            hole.be_low(low)  # the kernel retransmits at 1.0 s
            at(1.0 + ERROR_HAS_COME + 0.1)
        else:
            hole.renew_with_another_sequence_number(low)
            at(0.5 + ERROR_HAS_COME)
        hole.open_up()
        peer.join()
        assert answer == [gets_in]


def test_user_timeout_is_the_clock_of_retransmissions(stand):
    """It shortens the interval that follows; moved in time it makes the kernel retransmit when it
    is over, and left alone it makes the kernel give up without another packet."""
    for extended in (True, False):
        with Hole(stand.path, 6, 5031) as hole:
            hole.puncher.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 1700)
            hole.punch(stand.path.hops, guarded=True)
            start = time.monotonic()
            while retransmissions(hole.puncher) < 1:
                assert time.monotonic() < start + 1.3
                time.sleep(0.005)
            assert time.monotonic() - start > 0.95
            if extended:
                hole.puncher.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 2400)
                while retransmissions(hole.puncher) < 2:
                    assert time.monotonic() < start + 1.9, "not before the full second was over"
                    time.sleep(0.005)
                assert time.monotonic() - start > 1.65
            else:
                time.sleep(1.95 - (time.monotonic() - start))
                assert hole.error() == errno.ETIMEDOUT
