#include "server/server_socket.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace synergy;

namespace {

Socket make(int family, int type, int protocol = 0) {
    return Socket(::socket(family, type | SOCK_CLOEXEC, protocol));
}

Socket make_bound(int family, int type, const Endpoint &at, int v6_only = -1) {
    Socket socket = make(family, type);
    REQUIRE(socket);
    if (v6_only >= 0)
        REQUIRE(socket.set(IPPROTO_IPV6, IPV6_V6ONLY, v6_only));
    REQUIRE(::bind(socket.fd(), at.data(), at.length()) == 0);
    return socket;
}

} // namespace

TEST_CASE("server socket: TCP and UDP, IPv4 and IPv6, with the address they are bound to") {
    for (int family : {AF_INET, AF_INET6})
        for (int type : {SOCK_STREAM, SOCK_DGRAM}) {
            CAPTURE(family);
            CAPTURE(type);
            Socket socket = make_bound(family, type, Endpoint::loopback(family, 0));
            auto described = describe(socket.fd());
            REQUIRE(described);
            CHECK(described->fd == socket.fd());
            struct stat status {};
            REQUIRE(fstat(socket.fd(), &status) == 0);
            CHECK(described->inode == status.st_ino);
            CHECK(described->owner == geteuid());
            CHECK(described->cookie != 0);
            CHECK(described->cookie == cookie_of(socket.fd()));
            CHECK_FALSE(described->listens);
            CHECK(described->transport == (type == SOCK_STREAM ? Transport::tcp : Transport::udp));
            CHECK(described->local == socket.local());
            CHECK(described->local.port() != 0);
            CHECK(described->local.is_loopback());
            CHECK(described->connected.empty());
            CHECK(described->chosen.empty());
            CHECK(described->not_to_be_given == nullptr);
        }
}

TEST_CASE("server socket: each has a cookie, whatever descriptor it is behind") {
    Socket one = make(AF_INET, SOCK_STREAM), two = make(AF_INET, SOCK_STREAM);
    Socket same(dup(one.fd()));
    CHECK(cookie_of(one.fd()) != cookie_of(two.fd()));
    CHECK(cookie_of(one.fd()) == cookie_of(same.fd()));
    CHECK(cookie_of(-1) == 0);
    CHECK(network_of(one.fd()) == network_of(two.fd()));
}

TEST_CASE("server socket: one that listens") {
    Socket listener = harness::listening_tcp(Endpoint::loopback(AF_INET, 0));
    CHECK(describe(listener.fd())->listens);
}

TEST_CASE("server socket: an unbound one has port 0") {
    Socket socket = make(AF_INET6, SOCK_STREAM);
    auto described = describe(socket.fd());
    REQUIRE(described);
    CHECK(described->local.port() == 0);
    CHECK(described->local.is_wildcard());
}

TEST_CASE("server socket: only a dual-stack socket takes IPv4 too") {
    Socket dual = make_bound(AF_INET6, SOCK_STREAM, Endpoint::wildcard(AF_INET6, 0), 0);
    Socket v6 = make_bound(AF_INET6, SOCK_STREAM, Endpoint::wildcard(AF_INET6, 0), 1);
    Socket v4 = make_bound(AF_INET, SOCK_STREAM, Endpoint::wildcard(AF_INET, 0));
    CHECK(describe(dual.fd())->takes_v4);
    CHECK_FALSE(describe(v6.fd())->takes_v4);
    CHECK_FALSE(describe(v4.fd())->takes_v4);
}

TEST_CASE("server socket: whom a UDP socket is connected to") {
    Socket one = make_bound(AF_INET, SOCK_DGRAM, Endpoint::loopback(AF_INET, 0));
    Socket two = make_bound(AF_INET, SOCK_DGRAM, Endpoint::loopback(AF_INET, 0));
    Endpoint to = two.local();
    REQUIRE(::connect(one.fd(), to.data(), to.length()) == 0);
    CHECK(describe(one.fd())->connected == to);
}

TEST_CASE("server socket: what the server has chosen for its buffers and segments") {
    Socket socket = make_bound(AF_INET, SOCK_STREAM, Endpoint::loopback(AF_INET, 0));
    REQUIRE(socket.set(SOL_SOCKET, SO_RCVBUF, 30000));
    REQUIRE(socket.set(SOL_SOCKET, SO_SNDBUF, 20000));
    REQUIRE(socket.set(IPPROTO_TCP, TCP_MAXSEG, 1000));
    auto described = describe(socket.fd());
    REQUIRE(described);
    CHECK(chosen_number(described->chosen, SOL_SOCKET, SO_RCVBUF) == 60000);
    CHECK(chosen_number(described->chosen, SOL_SOCKET, SO_SNDBUF) == 40000);
    CHECK(chosen_number(described->chosen, IPPROTO_TCP, TCP_MAXSEG) == 1000);
}

TEST_CASE("server socket: what is none of ours says why") {
    auto reason = [](int fd) {
        errno = 0;
        CHECK_FALSE(describe(fd));
        return errno;
    };
    CHECK(reason(-1) == EBADF);
    CHECK(reason(9999) == EBADF);
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    Socket in(ends[0]), out(ends[1]);
    CHECK(reason(in.fd()) == ENOTSOCK);
    for (int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET})
        CHECK(reason(make(AF_UNIX, type).fd()) == EAFNOSUPPORT);
    if (Socket netlink = make(AF_NETLINK, SOCK_RAW); netlink)
        CHECK(reason(netlink.fd()) == EAFNOSUPPORT);
    // Neither the one nor the other, though datagrams over IPv4.
    if (Socket ping = make(AF_INET, SOCK_DGRAM, IPPROTO_ICMP); ping)
        CHECK(reason(ping.fd()) == EOPNOTSUPP);
    if (Socket lite = make(AF_INET6, SOCK_DGRAM, 136 /* IPPROTO_UDPLITE */); lite)
        CHECK(reason(lite.fd()) == EOPNOTSUPP);
}

TEST_CASE("server socket: a look at it leaves no descriptor and changes no option") {
    Socket socket = make_bound(AF_INET6, SOCK_STREAM, Endpoint::loopback(AF_INET6, 0));
    auto before = harness::open_descriptors();
    for (int i = 0; i < 50; i++)
        describe(socket.fd());
    CHECK(harness::open_descriptors() == before);
    CHECK(socket.get(SOL_SOCKET, SO_REUSEPORT, -1) == 0);
    CHECK(socket.get(SOL_SOCKET, SO_REUSEADDR, -1) == 0);
}
