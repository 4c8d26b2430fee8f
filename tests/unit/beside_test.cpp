#include "punch/beside.h"

#include "harness.h"
#include "network.h"

#include <doctest/doctest.h>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <unistd.h>

using namespace synergy;
using harness::endpoint;

namespace {

/// A listener that lets others of its user be bound beside it.
struct Listener {
    Socket socket;
    ServerSocket known;

    explicit Listener(const Endpoint &at, bool is_v6_only = false) {
        socket = Socket::open(at.family(), SOCK_STREAM);
        socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
        if (at.family() == AF_INET6)
            socket.set(IPPROTO_IPV6, IPV6_V6ONLY, is_v6_only ? 1 : 0);
        REQUIRE(::bind(socket.fd(), at.data(), at.length()) == 0);
        REQUIRE(::listen(socket.fd(), 1) == 0);
        known = describe(socket.fd()).value();
    }
};

} // namespace

TEST_CASE("beside: bound to the listener's own address, of whatever family") {
    for (const Endpoint &at : {Endpoint::loopback(AF_INET6, 0), Endpoint::loopback(AF_INET, 0),
                               Endpoint::loopback(AF_INET, 0).mapped(),
                               Endpoint::wildcard(AF_INET6, 0), Endpoint::wildcard(AF_INET, 0)}) {
        for (const bool is_v6_only : {false, true}) {
            if (at.is_v4_mapped() && is_v6_only)
                continue;
            const Listener listener(at, is_v6_only);
            const Socket socket = open_beside(listener.known, IPPROTO_TCP);
            REQUIRE(socket);
            CHECK(bind_beside(socket, listener.known, Settings(), at.family() == AF_INET));
            CHECK(socket.local() == listener.known.local);
            // A second one, and one more after the server has closed its own.
            const Socket second = open_beside(listener.known, IPPROTO_TCP);
            CHECK(bind_beside(second, listener.known, Settings(), at.family() == AF_INET));
        }
    }
}

TEST_CASE("beside: not where the listener lets nobody") {
    const Listener listener(Endpoint::loopback(AF_INET, 0));
    const Socket alone = Socket::open(AF_INET, SOCK_STREAM);
    const Endpoint at = Endpoint::loopback(AF_INET, 0);
    REQUIRE(::bind(alone.fd(), at.data(), at.length()) == 0);
    REQUIRE(::listen(alone.fd(), 1) == 0);
    ServerSocket known = describe(alone.fd()).value();
    const Socket socket = open_beside(known, IPPROTO_TCP);
    REQUIRE(socket);
    CHECK_FALSE(bind_beside(socket, known, Settings(), true));
    CHECK(errno == EADDRINUSE);
}

TEST_CASE("beside: what is negotiated by the SYN is as the server has it") {
    const Listener listener(Endpoint::loopback(AF_INET, 0));
    const ServerSocket &known = listener.known;
    const Socket plain = open_beside(known, IPPROTO_TCP);
    const Socket fresh = Socket::open(AF_INET, SOCK_STREAM);
    for (const int option : {SO_RCVBUF, SO_SNDBUF})
        CHECK(plain.get(SOL_SOCKET, option, 0) == fresh.get(SOL_SOCKET, option, 1));
    listener.socket.set(SOL_SOCKET, SO_RCVBUF, 10000);
    listener.socket.set(SOL_SOCKET, SO_SNDBUF, 20000);
    const Socket chosen = open_beside(describe(listener.socket.fd()).value(), IPPROTO_TCP);
    CHECK(chosen.get(SOL_SOCKET, SO_RCVBUF, 0) == 20000);
    CHECK(chosen.get(SOL_SOCKET, SO_SNDBUF, 0) == 40000);
}

TEST_CASE("beside: a wildcard listener's punches leave from the address that is set" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              EXPECT_IN_CHILD(::unshare(CLONE_NEWNET) == 0);
              EXPECT_IN_CHILD(std::system("ip link set lo up && "
                                          "ip addr add 2001:db8::7/128 dev lo nodad && "
                                          "ip addr add 192.0.2.7/32 dev lo") == 0);
              Settings settings;
              settings.local = {endpoint("2001:db8::7"), endpoint("192.0.2.7")};
              const Listener dual(Endpoint::wildcard(AF_INET6, 4444));
              const Socket v6 = open_beside(dual.known, IPPROTO_TCP);
              EXPECT_IN_CHILD(bind_beside(v6, dual.known, settings, false));
              EXPECT_IN_CHILD(v6.local() == endpoint("2001:db8::7", 4444));
              const Socket mapped = open_beside(dual.known, IPPROTO_TCP);
              EXPECT_IN_CHILD(bind_beside(mapped, dual.known, settings, true));
              EXPECT_IN_CHILD(mapped.local() == endpoint("192.0.2.7", 4444).mapped());
              const Listener v4_only(Endpoint::wildcard(AF_INET, 4445));
              const Socket v4 = open_beside(v4_only.known, IPPROTO_TCP);
              EXPECT_IN_CHILD(bind_beside(v4, v4_only.known, settings, true));
              EXPECT_IN_CHILD(v4.local() == endpoint("192.0.2.7", 4445));
              // The server's own choice is above that.
              const Listener bound(Endpoint::loopback(AF_INET, 4446));
              const Socket own = open_beside(bound.known, IPPROTO_TCP);
              EXPECT_IN_CHILD(bind_beside(own, bound.known, settings, true));
              EXPECT_IN_CHILD(own.local() == Endpoint::loopback(AF_INET, 4446));
              return "";
          }) == "");
}

TEST_CASE("beside: hop limits, and back to the ordinary one") {
    const Socket v6 = Socket::open(AF_INET6, SOCK_STREAM);
    const int ordinary_v6 = v6.get(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 0);
    const int ordinary_v4 = v6.get(IPPROTO_IP, IP_TTL, 0);
    set_hop_limit(v6, false, 3);
    CHECK(v6.get(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 0) == 3);
    CHECK(v6.get(IPPROTO_IP, IP_TTL, 0) == ordinary_v4);
    set_hop_limit(v6, true, 4); // toward a v4-mapped peer
    CHECK(v6.get(IPPROTO_IP, IP_TTL, 0) == 4);
    set_hop_limit(v6, false, default_hop_limit);
    set_hop_limit(v6, true, default_hop_limit);
    CHECK(v6.get(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 0) == ordinary_v6);
    CHECK(v6.get(IPPROTO_IP, IP_TTL, 0) == ordinary_v4);
}
