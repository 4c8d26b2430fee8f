#include "server/reach.h"
#include "settings/load_settings.h"

#include <doctest/doctest.h>

#include <arpa/inet.h>
#include <map>

using namespace synergy;

namespace {

Settings settings_of(const std::map<std::string, std::string> &variables) {
    return load_settings([&](const char *name) -> const char * {
        const auto found = variables.find(name);
        return found == variables.end() ? nullptr : found->second.c_str();
    });
}

ServerSocket listener(const char *address, std::uint16_t port, bool takes_v4 = false) {
    ServerSocket socket;
    sockaddr_in6 in6{};
    sockaddr_in in{};
    in6.sin6_family = AF_INET6;
    in.sin_family = AF_INET;
    if (inet_pton(AF_INET6, address, &in6.sin6_addr) == 1)
        socket.local = Endpoint::from(reinterpret_cast<sockaddr *>(&in6), sizeof in6);
    else if (inet_pton(AF_INET, address, &in.sin_addr) == 1)
        socket.local = Endpoint::from(reinterpret_cast<sockaddr *>(&in), sizeof in);
    socket.local = socket.local.with_port(port);
    socket.takes_v4 = takes_v4;
    return socket;
}

constexpr const char *v6_peer = "[2001:db8::5]:5555";
constexpr const char *v4_peer = "203.0.113.5:5555";

} // namespace

TEST_CASE("reach: a listener that has a peer has no reason for having none") {
    const Settings v6 = settings_of({{"SYNERGY_PEERS", v6_peer}});
    const Settings both =
        settings_of({{"SYNERGY_PEERS", std::string(v6_peer) + " " + std::string(v4_peer)}});
    CHECK(why_nobody(v6, listener("::", 4444)) == "");
    CHECK(why_nobody(both, listener("0.0.0.0", 4444)) == "");
    CHECK(why_nobody(both, listener("2001:db8::11", 4444)) == "");
    CHECK(why_nobody(settings_of({{"SYNERGY_PEERS", v4_peer}}), listener("::", 4444, true)) == "");
    // Where there are no peers at all nothing is missing.
    CHECK(why_nobody(settings_of({}), listener("127.0.0.1", 4444)) == "");
}

TEST_CASE("reach: why a listener has nobody") {
    const Settings v6 = settings_of({{"SYNERGY_PEERS", v6_peer}});
    const Settings v4 = settings_of({{"SYNERGY_PEERS", v4_peer}});
    CHECK(
        why_nobody(v6, listener("::1", 4444)) ==
        "it listens on ::1, where nobody but this host comes: let it listen on :: or on an address "
        "of this host");
    CHECK(why_nobody(v6, listener("127.0.0.1", 4444)).starts_with("it listens on 127.0.0.1, "));
    CHECK(why_nobody(v6, listener("fe80::1", 4444)) ==
          "it listens on fe80::1, which counts on its own link alone, and no peer is there: let it "
          "listen on :: or on another address of this host");
    CHECK(why_nobody(v4, listener("169.254.1.1", 4444)).starts_with("it listens on 169.254.1.1, "));
    CHECK(
        why_nobody(v6, listener("0.0.0.0", 4444)) ==
        "it speaks IPv4 alone, and the peer [2001:db8::5]:5555 has an IPv6 address: let it listen "
        "on ::");
    CHECK(
        why_nobody(v4, listener("::", 4444)) ==
        "it speaks IPv6 alone, and the peer 203.0.113.5:5555 has an IPv4 address: let it listen on "
        "0.0.0.0 as well, or on :: without IPV6_V6ONLY");
    CHECK(why_nobody(v4, listener("2001:db8::11", 4444))
              .ends_with("let it listen on 0.0.0.0 or on an IPv4 address of this host"));
    const Settings ports =
        settings_of({{"SYNERGY_PEERS", v6_peer}, {"SYNERGY_PORTS", "4444,5000-5010"}});
    CHECK(why_nobody(ports, listener("::", 4444)) == "");
    CHECK(why_nobody(ports, listener("::", 4445)) ==
          "port 4445 is not among those of SYNERGY_PORTS: 4444, 5000-5010");
}

TEST_CASE("reach: a socket of a group has nobody") {
    for (const char *group : {"239.1.1.1", "255.255.255.255", "ff02::1"}) {
        const ServerSocket socket = listener(group, 4444);
        const Settings settings =
            settings_of({{"SYNERGY_PEERS", std::string(v6_peer) + " " + std::string(v4_peer)}});
        CHECK_FALSE(has_declared(settings, socket));
        CHECK(why_nobody(settings, socket) ==
              std::string("it is bound to ") + group +
                  ", which stands for many hosts: let it be bound to :: or to an address of this "
                  "host");
    }
}

TEST_CASE("reach: who can bind beside a listener") {
    ServerSocket socket = listener("::", 4444);
    socket.owner = 7;
    CHECK(why_not_beside(socket, 7) == "");
    CHECK(
        why_not_beside(socket, 8) ==
        "user 7 made this listener, and no other user (this process is user 8) can bind beside it");
    socket.transport = Transport::udp;
    CHECK(why_not_beside(socket, 8) == "");
}

TEST_CASE("reach: a link's own address reaches peers on that link alone") {
    const Endpoint near = listener("fe80::5", 5555).local;
    const Endpoint far = listener("2001:db8::5", 5555).local;
    CHECK(reachable(listener("fe80::1", 4444), near) == near);
    CHECK(reachable(listener("::", 4444), far) == far);
    CHECK(reachable(listener("fe80::1", 4444), far).empty());
    CHECK(reachable(listener("169.254.1.1", 4444), listener("203.0.113.5", 5555).local).empty());
    CHECK(why_unreachable(listener("fe80::1", 4444), near) == nullptr);
    CHECK(why_unreachable(listener("fe80::1", 4444), far) ==
          std::string("this socket's address counts on its own link alone"));
    CHECK(why_unreachable(listener("::1", 4444), far) ==
          std::string("nobody but this host comes to this socket's address"));
    CHECK(why_unreachable(listener("fe80::1", 4444), listener("203.0.113.5", 5555).local) ==
          std::string("this socket can't reach a peer of that address family"));
}
