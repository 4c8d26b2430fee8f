"""What somebody who knows no secret can do to a keeper: stranger.py NAME VERSION MESSAGES IDLE. Sends forged
messages with descriptors of every kind to the abstract socket of that name, at least so many and
until its input ends, keeps idle connections there all the while, and says how many it were."""

import array
import os
import random
import resource
import select
import socket
import struct
import sys

# wire.h: version, kind, secret, cookie, fd, process, flags, hop limit, peer, and a key.
REQUEST = struct.Struct("<II16sQiiii28s224s4x")
KINDS = 10


def lingering(port):
    """Whose close() takes 30 s, since what it has sent is not read."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30))
    connection.setblocking(False)
    try:
        while connection.send(bytes(1 << 16)):
            pass
    except BlockingIOError:
        return connection


def descriptors(port):
    """One of each kind; what holds them."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    tcp.bind(("127.0.0.1", 0))
    tcp.listen()
    udp.bind(("127.0.0.1", 0))
    held = [here, there, tcp, udp, socket.create_connection(tcp.getsockname()), lingering(port)]
    numbers = [each.fileno() for each in held]
    numbers += [*os.pipe(), os.memfd_create("some"), select.epoll().fileno(), os.open("/", os.O_PATH),
                os.open("/dev/null", os.O_RDWR), os.eventfd(0), os.open("/proc/self/mem", os.O_RDONLY)]
    return [os.dup(number) for number in numbers], held


def main(name, version, messages, idle):
    dice = random.Random(1)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    unread = socket.create_server(("127.0.0.1", 0))
    numbers, held = descriptors(unread.getsockname()[1])
    silent = []
    sent = 0
    while sent < messages or not select.select([0], [], [], 0)[0]:
        for _ in range(idle // 100):
            if len(silent) == idle:
                silent.pop(0).close()
            silent.append(connected(name))
        for _ in range(messages // 100):
            kind = dice.choice([*range(KINDS), dice.getrandbits(32)])
            message = REQUEST.pack(dice.choice([version, version, version, 0, 77]), kind,
                                   dice.randbytes(16), dice.getrandbits(64),
                                   dice.randint(-5, 100), dice.choice([1, os.getpid(), -1]),
                                   dice.getrandbits(31), dice.randint(-2, 300), dice.randbytes(28), dice.randbytes(224))
            message = message[:dice.choice([len(message)] * 5 + [dice.randrange(len(message))])]
            count = dice.choice([0, 1, 1, 1, 1, 50])
            passed = array.array("i", dice.choices(numbers, k=count))
            with connected(name) as connection:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)] if count else []
                try:
                    connection.sendmsg([message], rights)
                except (BrokenPipeError, ConnectionResetError):
                    pass
            sent += 1
    print(sent, len(silent), len(held), flush=True)
    os._exit(0)  # without waiting for what lingers


def connected(name):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(b"\0" + name.encode())
    return connection


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
