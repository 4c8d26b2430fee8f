#include "punch/sctp_associations.h"

#include <doctest/doctest.h>

#include <arpa/inet.h>

using namespace synergy;

namespace {

Endpoint v6(const char *address, std::uint16_t port) {
    sockaddr_in6 value{};
    value.sin6_family = AF_INET6;
    REQUIRE(inet_pton(AF_INET6, address, &value.sin6_addr) == 1);
    return Endpoint::from(reinterpret_cast<sockaddr *>(&value), sizeof value).with_port(port);
}

Endpoint v4(const char *address, std::uint16_t port) {
    sockaddr_in value{};
    value.sin_family = AF_INET;
    REQUIRE(inet_pton(AF_INET, address, &value.sin_addr) == 1);
    return Endpoint::from(reinterpret_cast<sockaddr *>(&value), sizeof value).with_port(port);
}

// As Linux 6.1 writes them.
const std::string header = " ASSOC     SOCK   STY SST ST HBKT ASSOC-ID TX_QUEUE RX_QUEUE UID INODE "
                           "LPORT RPORT LADDRS <-> RADDRS HBINT INS OUTS MAXRT T1X T2X RTXC wmema "
                           "wmemq sndbuf rcvbuf";
const std::string line6 =
    "       0        0 2   1   3  0       4        0        0   65534 1234  4444  5555  "
    "*2001:0db8:000a:0000:0000:0000:0000:0011 2001:0db8:000a:0000:0000:0000:0000:0012 <-> "
    "*2001:0db8:000b:0000:0000:0000:0000:0005 \t    1000    10    10   10    0    0        0 "
    "       1        0   212992   212992";
const std::string line4 =
    "       0        0 2   1   3  0       4     1234        0   65534 1234  4444  5555  "
    "*198.51.100.11 <-> *203.0.113.5 203.0.113.6 \t    1000    10    10   10    0    0        0 "
    "       1        0   212992   212992";

bool is_there(const std::string &line, const Endpoint &local, const Endpoint &peer) {
    return read_association(line, local, peer).is_there;
}

} // namespace

TEST_CASE("SCTP associations: a line is told by both ends") {
    Endpoint peer = v6("2001:db8:b::5", 5555);
    CHECK(is_there(line6, v6("2001:db8:a::11", 4444), peer));
    CHECK(is_there(line6, v6("2001:db8:a::12", 4444), peer));
    CHECK(is_there(line6, v6("::", 4444), peer));
    CHECK_FALSE(is_there(line6, v6("2001:db8:a::13", 4444), peer));
    CHECK_FALSE(is_there(line6, v6("2001:db8:a::11", 4445), peer));
    CHECK_FALSE(is_there(line6, v6("::", 4444), v6("2001:db8:b::5", 5556)));
    CHECK_FALSE(is_there(line6, v6("::", 4444), v6("2001:db8:b::6", 5555)));
    // Its own addresses are not the peer's.
    CHECK_FALSE(is_there(line6, v6("::", 4444), v6("2001:db8:a::11", 5555)));
}

TEST_CASE("SCTP associations: IPv4, also as AF_INET6 sockets see it") {
    for (const Endpoint &peer : {v4("203.0.113.5", 5555), v4("203.0.113.6", 5555)}) {
        CHECK(is_there(line4, v4("198.51.100.11", 4444), peer));
        CHECK(is_there(line4, v4("0.0.0.0", 4444), peer));
        CHECK(is_there(line4, v6("::", 4444), peer.mapped()));
        CHECK(is_there(line4, v4("198.51.100.11", 4444).mapped(), peer.mapped()));
        CHECK_FALSE(is_there(line4, v4("198.51.100.12", 4444), peer));
    }
    CHECK_FALSE(is_there(line4, v4("0.0.0.0", 4444), v4("203.0.113.7", 5555)));
    CHECK_FALSE(is_there(line4, v6("::", 4444), v6("2001:db8:b::5", 5555)));
}

TEST_CASE("SCTP associations: what is queued") {
    CHECK(read_association(line6, v6("::", 4444), v6("2001:db8:b::5", 5555)).queued == 0);
    CHECK(read_association(line4, v4("0.0.0.0", 4444), v4("203.0.113.5", 5555)).queued == 1234);
    CHECK(read_association(line4, v4("0.0.0.0", 4444), v4("203.0.113.7", 5555)).queued == 0);
}

TEST_CASE("SCTP associations: what is no association is none") {
    for (const std::string &line : {header, std::string(), std::string("1 2 3"),
                                    line6.substr(0, 90), std::string(10000, '*')}) {
        CAPTURE(line);
        CHECK_FALSE(is_there(line, v6("::", 4444), v6("2001:db8:b::5", 5555)));
    }
}
