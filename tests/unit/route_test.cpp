#include "hops/route.h"

#include "harness.h"
#include "network.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <net/if.h>
#include <sched.h>
#include <unistd.h>

using namespace synergy;
using harness::endpoint;

namespace {

/// In a network of its own that these commands make.
std::string in_network(const std::string &commands, const std::function<std::string()> &body) {
    return harness::in_child([&]() -> std::string {
        EXPECT_IN_CHILD(::unshare(CLONE_NEWNET) == 0);
        EXPECT_IN_CHILD(
            std::system(("set -e; ip link set lo up; ip link add va type veth peer name vb; "
                         "ip link set va up; ip link set vb up; "
                         "ip addr add 192.0.2.1/24 dev va; "
                         "ip addr add 2001:db8::1/64 dev va nodad; "
                         // (The kernel makes what a link and an address bring with them later.)
                         "until [ $(ip -6 route show table all | grep -c "
                         "'^fe80::/64 dev v\\|^local 2001:db8::1 ') = 3 ]; do :; done; " +
                         commands)
                            .c_str()) == 0);
        return body();
    });
}

const Endpoint far_v4 = endpoint("198.51.100.5", 5555);
const Endpoint far_v6 = endpoint("2001:db8:b::5", 5555);

} // namespace

TEST_CASE("route: this host itself") {
    for (const int family : {AF_INET6, AF_INET}) {
        const Endpoint here = Endpoint::loopback(family, 5555);
        for (const Endpoint &peer : {here, here.mapped()}) {
            const auto route = route_to(peer, {});
            REQUIRE(route);
            CHECK(route->on_link);
            CHECK(route->gateway.empty());
            CHECK(route->source.same_address(here));
            CHECK(route->interface == if_nametoindex("lo"));
        }
    }
}

TEST_CASE("route: by a router" * doctest::skip(geteuid() != 0)) {
    CHECK(in_network("ip route add default via 192.0.2.2; ip route add default via 2001:db8::2",
                     []() -> std::string {
                         const auto v4 = route_to(far_v4, {});
                         EXPECT_IN_CHILD(v4 && v4->gateway == endpoint("192.0.2.2"));
                         EXPECT_IN_CHILD(v4->source == endpoint("192.0.2.1"));
                         EXPECT_IN_CHILD(v4->interface == if_nametoindex("va"));
                         EXPECT_IN_CHILD(!v4->on_link);
                         const auto v6 = route_to(far_v6, Endpoint::wildcard(AF_INET6, 1));
                         EXPECT_IN_CHILD(v6 && v6->gateway == endpoint("2001:db8::2"));
                         EXPECT_IN_CHILD(v6->source == endpoint("2001:db8::1"));
                         EXPECT_IN_CHILD(!v6->on_link);
                         const auto mapped = route_to(far_v4.mapped(), {});
                         EXPECT_IN_CHILD(mapped && mapped->gateway == v4->gateway);
                         return "";
                     }) == "");
}

TEST_CASE("route: a neighbour, and a link with two ends, behind which there may be more" *
          doctest::skip(geteuid() != 0)) {
    CHECK(in_network("ip tuntap add dev p2p mode tun; ip link set p2p up; "
                     "ip addr add 203.0.113.1/32 dev p2p; ip route add 198.51.100.0/24 dev p2p",
                     []() -> std::string {
                         const auto neighbour = route_to(endpoint("192.0.2.9", 1), {});
                         EXPECT_IN_CHILD(neighbour && neighbour->on_link);
                         EXPECT_IN_CHILD(neighbour->gateway.empty());
                         const auto v6 = route_to(endpoint("2001:db8::9", 1), {});
                         EXPECT_IN_CHILD(v6 && v6->on_link);
                         const auto behind = route_to(far_v4, {});
                         EXPECT_IN_CHILD(behind && behind->gateway.empty() && !behind->on_link);
                         EXPECT_IN_CHILD(behind->interface == if_nametoindex("p2p"));
                         return "";
                     }) == "");
}

TEST_CASE("route: IPv4 by an IPv6 router" * doctest::skip(geteuid() != 0)) {
    CHECK(in_network("ip -4 route add default via inet6 fe80::2 dev va", []() -> std::string {
              const auto route = route_to(far_v4, {});
              EXPECT_IN_CHILD(route && route->gateway.same_address(endpoint("fe80::2")));
              EXPECT_IN_CHILD(!route->on_link);
              return "";
          }) == "");
}

TEST_CASE("route: none" * doctest::skip(geteuid() != 0)) {
    CHECK(in_network("ip route add unreachable 198.51.100.0/24; ip route add blackhole "
                     "2001:db8:b::/64; ip route add prohibit 203.0.113.0/24",
                     []() -> std::string {
                         EXPECT_IN_CHILD(!route_to(far_v4, {}));
                         EXPECT_IN_CHILD(!route_to(far_v6, {}));
                         EXPECT_IN_CHILD(!route_to(endpoint("203.0.113.1"), {}));
                         EXPECT_IN_CHILD(!route_to(endpoint("192.88.99.1"), {}));
                         EXPECT_IN_CHILD(!route_to(endpoint("192.0.2.255"), {}));
                         EXPECT_IN_CHILD(!route_to({}, {}));
                         // Of another family than the peer.
                         EXPECT_IN_CHILD(!route_to(endpoint("192.0.2.9"), endpoint("2001:db8::1")));
                         EXPECT_IN_CHILD(route_to(endpoint("192.0.2.9"), {}));
                         return "";
                     }) == "");
}

TEST_CASE("route: it may depend on the address that packets leave from" *
          doctest::skip(geteuid() != 0)) {
    CHECK(in_network("ip addr add 192.0.2.3/24 dev va; ip addr add 2001:db8::3/64 dev va nodad; "
                     "ip route add default via 192.0.2.2; ip route add default via 2001:db8::2; "
                     "ip rule add from 192.0.2.3 lookup 7; "
                     "ip -6 rule add from 2001:db8::3 lookup 7; "
                     "ip route add default via 192.0.2.99 table 7; "
                     "ip -6 route add default via 2001:db8::99 table 7",
                     []() -> std::string {
                         const auto first = route_to(far_v4, endpoint("192.0.2.1", 4444));
                         EXPECT_IN_CHILD(first && first->gateway == endpoint("192.0.2.2"));
                         const auto other = route_to(far_v4, endpoint("192.0.2.3", 4444));
                         EXPECT_IN_CHILD(other && other->gateway == endpoint("192.0.2.99"));
                         EXPECT_IN_CHILD(other->source.same_address(endpoint("192.0.2.3")));
                         const auto mapped =
                             route_to(far_v4.mapped(), endpoint("192.0.2.3").mapped());
                         EXPECT_IN_CHILD(mapped && mapped->gateway == other->gateway);
                         const auto v6 = route_to(far_v6, endpoint("2001:db8::3"));
                         EXPECT_IN_CHILD(v6 && v6->gateway == endpoint("2001:db8::99"));
                         return "";
                     }) == "");
}

TEST_CASE("route: a link-local peer is on the link that its scope names" *
          doctest::skip(geteuid() != 0)) {
    CHECK(in_network("", []() -> std::string {
              for (const char *interface : {"va", "vb"}) {
                  sockaddr_in6 peer{};
                  const Endpoint plain = endpoint("fe80::9", 5555);
                  std::memcpy(&peer, plain.data(), sizeof peer);
                  peer.sin6_scope_id = if_nametoindex(interface);
                  const auto route = route_to(
                      Endpoint::from(reinterpret_cast<sockaddr *>(&peer), sizeof peer), {});
                  EXPECT_IN_CHILD(route && route->on_link);
                  EXPECT_IN_CHILD(route->interface == if_nametoindex(interface));
              }
              return "";
          }) == "");
}

TEST_CASE("route: the source is what punches leave from, a public address before a temporary one" *
          doctest::skip(geteuid() != 0)) {
    CHECK(
        in_network("sysctl -qw net.ipv6.conf.va.use_tempaddr=2; "
                   "ip addr add 2001:db8:1::9/64 dev va nodad mngtmpaddr preferred_lft 900 "
                   "valid_lft 900; ip addr del 2001:db8::1/64 dev va; "
                   "ip route add 2001:db8:b::/64 via fe80::2 dev va; "
                   "until ip -6 addr show dev va temporary | grep inet6 | grep -v tentative; do :; "
                   "done > /dev/null",
                   []() -> std::string {
                       const auto route = route_to(far_v6, {});
                       EXPECT_IN_CHILD(route && route->gateway == endpoint("fe80::2"));
                       EXPECT_IN_CHILD(route->source.same_address(endpoint("2001:db8:1::9")));
                       // Whoever has chosen has what he has chosen.
                       const auto chosen = route_to(far_v6, endpoint("2001:db8:1::9"));
                       EXPECT_IN_CHILD(chosen && chosen->source == endpoint("2001:db8:1::9"));
                       return "";
                   }) == "");
}
