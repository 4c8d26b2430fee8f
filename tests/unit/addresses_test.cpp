#include "hops/addresses.h"

#include <doctest/doctest.h>

#include <arpa/inet.h>

using namespace synergy;

namespace {

Endpoint address(const char *text) {
    sockaddr_in6 in6{};
    sockaddr_in in{};
    in6.sin6_family = AF_INET6;
    in.sin_family = AF_INET;
    if (inet_pton(AF_INET6, text, &in6.sin6_addr) == 1)
        return Endpoint::from(reinterpret_cast<sockaddr *>(&in6), sizeof in6);
    inet_pton(AF_INET, text, &in.sin_addr);
    return Endpoint::from(reinterpret_cast<sockaddr *>(&in), sizeof in);
}

} // namespace

TEST_CASE("addresses: private ones, to the bit") {
    for (const char *text :
         {"10.0.0.0", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1",
          "100.127.255.255", "fc00::1", "fdff::1", "::ffff:192.168.1.1"})
        CHECK_MESSAGE(is_private(address(text)), text);
    for (const char *text : {"9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0",
                             "192.167.255.255", "192.169.0.0", "100.63.255.255", "100.128.0.0",
                             "fbff::1", "fe00::1", "fe80::1", "2001:db8::1", "198.51.100.11"})
        CHECK_MESSAGE(!is_private(address(text)), text);
}

TEST_CASE("addresses: one site") {
    CHECK(is_same_site(address("2001:db8:a:1100::1"), address("2001:db8:a:11ff::2")));
    CHECK_FALSE(is_same_site(address("2001:db8:a:1100::1"), address("2001:db8:a:1200::1")));
    CHECK(is_same_site(address("198.51.100.1"), address("198.51.100.254")));
    CHECK_FALSE(is_same_site(address("198.51.100.1"), address("198.51.101.1")));
    CHECK_FALSE(is_same_site(address("198.51.100.1"), address("2001:db8::1")));
    CHECK_FALSE(is_same_site({}, {}));
}

TEST_CASE("addresses: what speaks against a hole") {
    CHECK(private_objection(address("2001:db8::11"), address("2001:db8:b::5")) == "");
    CHECK(private_objection(address("192.168.1.2"), address("192.168.7.5")) == "");
    CHECK(private_objection(address("192.168.1.2"), address("203.0.113.5")) != "");
    CHECK(private_objection(address("198.51.100.11"), address("10.0.0.5")) != "");
    CHECK(link_objection(address("169.254.1.2"), address("203.0.113.5")) != "");
    CHECK(link_objection(address("fe80::1"), address("2001:db8:b::5")) != "");
    CHECK(link_objection(address("fe80::1"), address("fe80::5")) == "");
    CHECK(link_objection(address("2001:db8::11"), address("2001:db8:b::5")) == "");
    CHECK(private_objection(address("fe80::1"), address("2001:db8:b::5")) == "");
    CHECK(private_objection({}, address("10.0.0.5")) == "");
    CHECK(private_objection(address("10.0.0.5"), address("127.0.0.1")) == "");
}

TEST_CASE("addresses: this host's own") {
    CHECK(is_own_address(address("127.0.0.1")));
    CHECK(is_own_address(address("127.0.0.1").mapped()));
    // What is sent there leaves from another one of the network's.
    CHECK(is_own_address(address("127.0.0.2")));
    CHECK_FALSE(is_own_address(address("192.0.2.77")));
    CHECK(other_addresses(address("192.0.2.77"), address("203.0.113.5")).empty());
    CHECK(foreign_source(address("203.0.113.5"), address("192.0.2.77")) == "");
}
