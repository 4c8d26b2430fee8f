#include "base/endpoint.h"

#include <arpa/inet.h>
#include <net/if.h>

#include <doctest/doctest.h>

#include <cstring>
#include <unordered_set>

using synergy::Endpoint;

namespace {

Endpoint v6(const char *address, std::uint16_t port, std::uint32_t scope = 0) {
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(port);
    in6.sin6_scope_id = scope;
    REQUIRE(inet_pton(AF_INET6, address, &in6.sin6_addr) == 1);
    return Endpoint::from(reinterpret_cast<const sockaddr *>(&in6), sizeof(in6));
}

Endpoint v4(const char *address, std::uint16_t port) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    REQUIRE(inet_pton(AF_INET, address, &in.sin_addr) == 1);
    return Endpoint::from(reinterpret_cast<const sockaddr *>(&in), sizeof(in));
}

} // namespace

TEST_CASE("transports have names") {
    CHECK(std::string(name(synergy::Transport::tcp)) == "tcp");
    CHECK(std::string(name(synergy::Transport::udp)) == "udp");
    CHECK(std::string(name(synergy::Transport::sctp)) == "sctp");
}

TEST_CASE("the default endpoint is empty") {
    const Endpoint empty;
    CHECK(empty.empty());
    CHECK(empty.family() == AF_UNSPEC);
    CHECK(empty.length() == 0);
    CHECK(empty.port() == 0);
    CHECK(empty.text().empty());
    CHECK(empty.address_text().empty());
    CHECK_FALSE(empty.is_wildcard());
    CHECK_FALSE(empty.is_loopback());
    CHECK_FALSE(empty.is_multicast());
    CHECK(empty == Endpoint());
    CHECK(empty.with_port(5) == empty);
    CHECK(empty.same_address(Endpoint()));
    CHECK_FALSE(empty == v4("192.0.2.1", 0));
}

TEST_CASE("what is no IP address of full length is empty") {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    const auto *address = reinterpret_cast<const sockaddr *>(&in);
    CHECK(Endpoint::from(nullptr, 16).empty());
    CHECK(Endpoint::from(address, 0).empty());
    CHECK(Endpoint::from(address, 1).empty());
    CHECK(Endpoint::from(address, sizeof(in) - 1).empty());
    CHECK_FALSE(Endpoint::from(address, sizeof(in)).empty());
    in.sin_family = AF_UNIX;
    CHECK(Endpoint::from(address, sizeof(in)).empty());
    in.sin_family = AF_INET6;
    CHECK(Endpoint::from(address, sizeof(in)).empty());
}

TEST_CASE("socket addresses are read where they stand, aligned or not, longer or not") {
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(5555);
    in6.sin6_flowinfo = 0x1234;
    in6.sin6_scope_id = 7;
    REQUIRE(inet_pton(AF_INET6, "fe80::1", &in6.sin6_addr) == 1);
    alignas(8) char buffer[sizeof(sockaddr_storage) + 1] = {};
    std::memcpy(buffer + 1, &in6, sizeof(in6));
    const void *odd = buffer + 1;

    const Endpoint endpoint =
        Endpoint::from(static_cast<const sockaddr *>(odd), sizeof(sockaddr_storage));
    CHECK(endpoint == v6("fe80::1", 5555, 7)); // the flow label doesn't count
    CHECK(endpoint.length() == sizeof(sockaddr_in6));
    // The kernel takes the length without scope (RFC 2133) too.
    CHECK(Endpoint::from(static_cast<const sockaddr *>(odd), 24) == v6("fe80::1", 5555));
    CHECK(Endpoint::from(static_cast<const sockaddr *>(odd), 23).empty());
}

TEST_CASE("data and length go back into the socket calls") {
    const Endpoint endpoint = v4("198.51.100.5", 5555);
    CHECK(endpoint.length() == sizeof(sockaddr_in));
    CHECK(Endpoint::from(endpoint.data(), endpoint.length()) == endpoint);
    const Endpoint other = v6("2001:db8::5", 5555);
    CHECK(Endpoint::from(other.data(), other.length()) == other);
}

TEST_CASE("text") {
    CHECK(v6("2001:db8::5", 5555).text() == "[2001:db8::5]:5555");
    CHECK(v6("2001:db8::5", 5555).address_text() == "2001:db8::5");
    CHECK(v6("fe80::1", 1, 4000000).address_text() == "fe80::1%4000000");
    CHECK(v6("fe80::1", 65535, 4000000).text() == "[fe80::1%4000000]:65535");
    CHECK(v6("fe80::1", 1, if_nametoindex("lo")).text() == "[fe80::1%lo]:1");
    CHECK(v4("198.51.100.5", 0).text() == "198.51.100.5:0");
    CHECK(v4("198.51.100.5", 80).address_text() == "198.51.100.5");
    CHECK(v6("::ffff:198.51.100.5", 80).text() == "[::ffff:198.51.100.5]:80");
}

TEST_CASE("wildcard and loopback") {
    CHECK(Endpoint::wildcard(AF_INET6, 80).text() == "[::]:80");
    CHECK(Endpoint::wildcard(AF_INET, 80).text() == "0.0.0.0:80");
    CHECK(Endpoint::wildcard(AF_UNIX, 80).empty());
    CHECK(Endpoint::loopback(AF_INET6, 80).text() == "[::1]:80");
    CHECK(Endpoint::loopback(AF_INET, 80).text() == "127.0.0.1:80");
    CHECK(Endpoint::loopback(AF_UNIX, 80).empty());

    CHECK(Endpoint::wildcard(AF_INET6, 0).is_wildcard());
    CHECK(Endpoint::wildcard(AF_INET, 0).is_wildcard());
    CHECK(v6("::ffff:0.0.0.0", 1).is_wildcard());
    CHECK_FALSE(Endpoint::loopback(AF_INET6, 0).is_wildcard());

    CHECK(Endpoint::loopback(AF_INET6, 0).is_loopback());
    CHECK(v4("127.255.0.9", 0).is_loopback());
    CHECK(v6("::ffff:127.0.0.1", 0).is_loopback());
    CHECK_FALSE(v4("128.0.0.1", 0).is_loopback());
    CHECK_FALSE(Endpoint::wildcard(AF_INET6, 0).is_loopback());
}

TEST_CASE("multicast") {
    CHECK(v6("ff02::1", 0).is_multicast());
    CHECK(v4("224.0.0.1", 0).is_multicast());
    CHECK(v4("239.255.255.255", 0).is_multicast());
    CHECK(v6("::ffff:224.0.0.1", 0).is_multicast());
    CHECK_FALSE(v4("240.0.0.1", 0).is_multicast());
    CHECK_FALSE(v6("fe80::1", 0).is_multicast());
}

TEST_CASE("IPv4 in IPv6 and back") {
    const Endpoint plain = v4("198.51.100.5", 5555);
    const Endpoint mapped = v6("::ffff:198.51.100.5", 5555);
    CHECK(plain.mapped() == mapped);
    CHECK(mapped.unmapped() == plain);
    CHECK(mapped.is_v4_mapped());
    CHECK_FALSE(plain.is_v4_mapped());
    CHECK_FALSE(plain == mapped);
    CHECK_FALSE(plain.same_address(mapped));
    CHECK(mapped.mapped() == mapped);
    CHECK(plain.unmapped() == plain);
    const Endpoint v6_only = v6("2001:db8::5", 1);
    CHECK(v6_only.mapped() == v6_only);
    CHECK(v6_only.unmapped() == v6_only);
    CHECK(Endpoint().mapped().empty());
}

TEST_CASE("equality and the same address") {
    const Endpoint endpoint = v6("fe80::1", 5, 2);
    CHECK(endpoint == v6("fe80::1", 5, 2));
    CHECK_FALSE(endpoint == v6("fe80::1", 6, 2));
    CHECK_FALSE(endpoint == v6("fe80::1", 5, 3));
    CHECK_FALSE(endpoint == v6("fe80::1", 5));
    CHECK(endpoint.same_address(v6("fe80::1", 6, 2)));
    CHECK(endpoint.same_address(v6("fe80::1", 6)));
    CHECK(v6("fe80::1", 6).same_address(endpoint));
    CHECK_FALSE(endpoint.same_address(v6("fe80::1", 5, 3)));
    CHECK_FALSE(endpoint.same_address(v6("fe80::2", 5, 2)));
    CHECK(v4("192.0.2.1", 5).same_address(v4("192.0.2.1", 6)));
    CHECK_FALSE(v4("192.0.2.1", 5) == v4("192.0.2.1", 6));
    CHECK_FALSE(v4("192.0.2.1", 5).same_address(v4("192.0.2.2", 5)));
    CHECK(v6("2001:db8::5", 5).with_port(65535).port() == 65535);
    CHECK(v6("2001:db8::5", 5).with_port(6) == v6("2001:db8::5", 6));
}

TEST_CASE("endpoints are keys of hash tables") {
    std::unordered_set<Endpoint> set;
    for (unsigned port = 1; port <= 1000; ++port) {
        set.insert(v6("2001:db8::5", static_cast<std::uint16_t>(port)));
        set.insert(v6("2001:db8::5", static_cast<std::uint16_t>(port)));
    }
    set.insert(v4("192.0.2.1", 5));
    set.insert(Endpoint());
    CHECK(set.size() == 1002);
    CHECK(set.contains(v6("2001:db8::5", 700)));
    CHECK_FALSE(set.contains(v6("2001:db8::5", 700, 1)));
}
