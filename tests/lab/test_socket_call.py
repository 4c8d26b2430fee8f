"""Programs that make the call themselves: linked with -lsynergy, in C and in C++."""

import pathlib
import subprocess

import pytest

import clients
import sctp
from programs import SCRATCH, STAGE, Preload, fresh_peer_ports, fresh_port
from topology import PEER, SERVER
from trials import NO_ANSWER, PATIENCE, peers

pytestmark = pytest.mark.usefixtures("library")

HEADERS = pathlib.Path(__file__).parents[2] / "src/include"
ECHO_SERVER, HELLO = STAGE / "preload/echo_server", STAGE / "preload/hello"
CLIENTS = {"tcp": clients.tcp_client, "udp": clients.udp_client, "sctp": clients.sctp_client}


def serve(stand, transport, family, port, source_port, **options):
    if transport == "sctp":
        sctp.skip_if_missing()
    server = stand.start("A", [ECHO_SERVER, transport, SERVER[family], port, PEER[family],
                               source_port], **options)
    server.wait_for("ready")
    return server


@pytest.mark.parametrize("family", (6, 4))
@pytest.mark.parametrize("transport", ("tcp", "udp", "sctp"))
def test_c_program(stand, transport, family):
    """The call opens a hole for its peer and for nobody else."""
    port, (source_port, stranger) = fresh_port(), fresh_peer_ports(2)
    serve(stand, transport, family, port, source_port)
    with CLIENTS[transport](stand, family, source_port, port, PATIENCE) as client:
        client.send("through the hole\n")
        client.receive_until("through the hole\n")
    with pytest.raises(TimeoutError):
        with CLIENTS[transport](stand, family, stranger, port, NO_ANSWER) as client:
            client.send("through the wall\n")
            client.receive_until("through the wall\n")


@pytest.mark.parametrize("family", (6, 4))
@pytest.mark.parametrize("transport", ("tcp", "udp", "sctp"))
def test_both_sides_call(stand, transport, family):
    """A client in C++ makes the call before connect(), as its server does after listen()."""
    port, (source_port,) = fresh_port(), fresh_peer_ports(1)
    serve(stand, transport, family, port, source_port)
    client = stand.start("B", [HELLO, transport, PEER[family], source_port, SERVER[family], port])
    assert client.wait_exit() == 0
    assert client.stdout() == "hello\n"


def test_preloaded_as_well(stand):
    """One library and one keeper for both: peers by the call and by the settings get in."""
    port, source_ports = fresh_port(), fresh_peer_ports(2)
    serve(stand, "tcp", 6, port, source_ports[0],
          preload=Preload(peers=peers(6, source_ports[1]), hops=stand.path.hops))
    for source_port in source_ports:
        with clients.tcp_client(stand, 6, source_port, port, PATIENCE) as client:
            client.send("one of two\n")
            client.receive_until("one of two\n")


CALLS = r"""
#include <sys/socketsynergy.h>
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_in6 peer = {.sin6_family = AF_INET6};
static struct sockaddr_in peer4 = {.sin_family = AF_INET};

static void said(const char *what, int result) {
    printf("%s: %s\n", what, result == 0 ? "0" : strerrorname_np(errno));
}

static int bound(int family, int type, const char *address, int is_listening) {
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    inet_pton(family, address, family == AF_INET6 ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr);
    int fd = socket(family, type, 0);
    if (bind(fd, family == AF_INET6 ? (void *)&v6 : (void *)&v4,
             family == AF_INET6 ? sizeof v6 : sizeof v4) != 0)
        perror("bind");
    if (is_listening)
        listen(fd, 1);
    return fd;
}

int main(void) {
    inet_pton(AF_INET6, "2001:db8:b::5", &peer.sin6_addr);
    inet_pton(AF_INET, "203.0.113.5", &peer4.sin_addr);
    peer.sin6_port = peer4.sin_port = htons(5555);
    int tcp = bound(AF_INET6, SOCK_STREAM, "::", 1), udp = bound(AF_INET6, SOCK_DGRAM, "::", 0);
    int udp4 = bound(AF_INET, SOCK_DGRAM, "0.0.0.0", 0), pipes[2];
    said("closed", synergy(99, 2, &peer));
    if (pipe(pipes) == 0)
        said("pipe", synergy(pipes[0], 2, &peer));
    said("unix", synergy(socket(AF_UNIX, SOCK_STREAM, 0), 2, &peer));
    said("raw", synergy(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6), 2, &peer));
    said("hops 0", synergy(udp, 0, &peer));
    said("hops 255", synergy(udp, 255, &peer));
    said("hops -2", synergy_to(udp, (void *)&peer, sizeof peer, -2));
    said("automatic", synergy_to(udp, (void *)&peer, sizeof peer, -1));
    said("short", synergy_to(udp, (void *)&peer, 8, 2));
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    said("family", synergy_to(udp, (void *)&local, sizeof local, 2));
    struct sockaddr_in6 portless = peer;
    portless.sin6_port = 0;
    said("port 0", synergy(udp, 2, &portless));
    said("v6 peer, v4 socket", synergy(udp4, 2, &peer));
    said("v4 peer, v6 socket", synergy_to(udp, (void *)&peer4, sizeof peer4, 2));
    said("v4 peer, v4 socket", synergy_to(udp4, (void *)&peer4, sizeof peer4, 2));
    said("loopback", synergy(bound(AF_INET6, SOCK_DGRAM, "::1", 0), 2, &peer));
    said("no peer", synergy(udp, 2, NULL));
    said("listener", synergy(tcp, 2, &peer));
    said("listener again", synergy(tcp, 2, &peer));
    said("unbound UDP", synergy(socket(AF_INET6, SOCK_DGRAM, 0), 2, &peer));
    said("before connect()", synergy(bound(AF_INET6, SOCK_STREAM, "::", 0), 2, &peer));
    int connected = socket(AF_INET6, SOCK_DGRAM, 0);
    if (connect(connected, (void *)&peer, sizeof peer) == 0)
        said("connected UDP", synergy(connected, 2, NULL));
    return 0;
}
"""

EXPECTED = """\
closed: EBADF
pipe: ENOTSOCK
unix: EAFNOSUPPORT
raw: EOPNOTSUPP
hops 0: EINVAL
hops 255: EINVAL
hops -2: EINVAL
automatic: 0
short: EINVAL
family: EAFNOSUPPORT
port 0: EINVAL
v6 peer, v4 socket: EAFNOSUPPORT
v4 peer, v6 socket: 0
v4 peer, v4 socket: 0
loopback: EINVAL
no peer: ENOTCONN
listener: 0
listener again: 0
unbound UDP: 0
before connect(): 0
connected UDP: 0
"""


def compile_here(name, source, *flags):
    SCRATCH.mkdir(mode=0o755, exist_ok=True)
    file, program = SCRATCH / f"{name}.c", SCRATCH / name
    file.write_text(source, encoding="ascii")
    subprocess.run(["cc", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", *flags, file, "-o",
                    program, f"-I{HEADERS}", f"-L{STAGE / 'preload'}", "-lsynergy",
                    f"-Wl,-rpath,{STAGE / 'preload'}"], check=True)
    return program


@pytest.mark.needs("cc")
def test_errors(stand):
    """Every line of the header's table that a single user can bring about."""
    program = stand.start("A", [compile_here("calls", CALLS)], user="root")
    assert program.wait_exit() == 0
    assert program.stdout() == EXPECTED


ANOTHER_USERS = r"""
#include <sys/socketsynergy.h>
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(void) {
    struct sockaddr_in6 peer = {.sin6_family = AF_INET6, .sin6_port = htons(5555)}, any = {
        .sin6_family = AF_INET6};
    inet_pton(AF_INET6, "2001:db8:b::5", &peer.sin6_addr);
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (bind(fd, (void *)&any, sizeof any) != 0 || listen(fd, 1) != 0 || setuid(65534) != 0)
        return 1;
    printf("%s\n", synergy(fd, 2, &peer) == 0 ? "0" : strerrorname_np(errno));
    return 0;
}
"""


@pytest.mark.needs("cc")
@pytest.mark.other_users
def test_another_users_listener(stand):
    program = stand.start("A", [compile_here("another", ANOTHER_USERS)], user="root")
    assert program.wait_exit() == 0
    assert program.stdout() == "EADDRINUSE\n"
