#include "tools/peer_argument.h"

#include "hops/addresses.h"
#include "punch/failure.h"
#include "settings/load_settings.h"
#include "settings/peer_list.h"

#include "tools/own_environment.h"

#include <arpa/inet.h>
#include <charconv>
#include <cstdlib>
#include <iostream>
#include <netdb.h>
#include <unistd.h>

namespace synergy {

namespace {

constexpr const char *no_host = "the address of one host, neither wildcard nor multicast";

/// The first address of a host, or with AI_NUMERICHOST of the address that `host` is; port 0.
/// Empty, and `error` in words, if there is none.
Endpoint resolve(const std::string &host, int flags, std::string &error, int family = AF_UNSPEC) {
    // To getaddrinfo() "10.1" is 10.0.0.1 (inet_aton(3)), and to whoever wrote it a mistake.
    in_addr number{};
    if (inet_aton(host.c_str(), &number) != 0 && inet_pton(AF_INET, host.c_str(), &number) != 1) {
        error = "four decimal numbers, as 198.51.100.5";
        return {};
    }
    addrinfo hints{};
    hints.ai_family = family;
    hints.ai_flags = flags;
    hints.ai_socktype = SOCK_DGRAM;
    addrinfo *list = nullptr;
    if (const int status = getaddrinfo(host.c_str(), nullptr, &hints, &list); status != 0) {
        error = gai_strerror(status);
        return {};
    }
    Endpoint first = Endpoint::from(list->ai_addr, list->ai_addrlen).unmapped();
    freeaddrinfo(list);
    if (!first.is_wildcard() && !first.is_multicast())
        return first;
    error = no_host;
    return {};
}

/// As in SYNERGY_PEERS, or without a port (0), or a host name, which `host` then is.
Endpoint parse_peer(const std::string &text, std::string &host, bool &is_range,
                    std::string &error) {
    std::vector<Problem> problems;
    if (const std::vector<Peer> peers = parse_peers(text, "PEER", problems); peers.size() == 1) {
        const Peer &peer = peers[0];
        is_range = peer.first_port != peer.last_port;
        host = peer.host;
        return (peer.host.empty() ? peer.address : resolve(peer.host, AI_ADDRCONFIG, error))
            .with_port(peer.first_port);
    }
    if (const Endpoint bare = resolve(text, AI_NUMERICHOST, error); !bare.empty())
        return bare;
    if (error == no_host)
        return {};
    const bool is_in_brackets = text.starts_with('[') && text.ends_with(']');
    if (text.find_first_of("[]") != std::string::npos && !is_in_brackets && !problems.empty()) {
        error = problems[0].expected;
        return {};
    }
    // (These have no port, which may be all that is missing; else what is wrong is known.)
    if (text.find_first_of(", ") != std::string::npos || text.find('/') != std::string::npos) {
        error = text.find('/') != std::string::npos && !problems.empty() ? problems[0].expected
                                                                         : "one alone";
        return {};
    }
    host = text;
    std::uint16_t port = 0;
    if (is_in_brackets) {
        host = text.substr(1, text.size() - 2);
    } else if (const std::size_t colon = text.rfind(':'); colon != std::string::npos) {
        const char *end = text.data() + text.size();
        const auto [stopped, status] = std::from_chars(text.data() + colon + 1, end, port);
        if (status != std::errc() || stopped != end || port == 0) {
            error = "a port from 1 to 65535";
            return {};
        }
        host = text.substr(0, colon);
    }
    return resolve(host, AI_ADDRCONFIG, error).with_port(port);
}

/// An IPv6 address whose last group is what a port looks like, as where the brackets are left out:
/// with them. Empty: it is none.
std::string with_port_instead(const std::string &text) {
    constexpr int least = 1024; // of four digits: what has less is a group more often
    const std::size_t colon = text.rfind(':');
    in6_addr address{};
    if (colon == std::string::npos || inet_pton(AF_INET6, text.c_str(), &address) != 1 ||
        inet_pton(AF_INET6, text.substr(0, colon).c_str(), &address) != 1)
        return {};
    const std::string group = text.substr(colon + 1);
    int port = 0;
    const auto [stopped, status] = std::from_chars(group.data(), group.data() + group.size(), port);
    return stopped == group.data() + group.size() && port >= least
               ? "[" + text.substr(0, colon) + "]:" + group
               : "";
}

} // namespace

std::optional<PathEnds> path_ends(const std::string &peer, const std::string &from,
                                  const Settings &settings) {
    const auto refused = [](const char *place, const std::string &text, const std::string &what) {
        refuse_argument(place, text, what);
        return std::nullopt;
    };
    PathEnds ends;
    std::string error;
    std::string host;
    ends.peer = parse_peer(peer, host, ends.has_port_range, error);
    if (ends.peer.empty())
        return refused("PEER", peer, "an address or host name, as [2001:db8::5]:5555: " + error);
    if (const std::string other = with_port_instead(peer); !other.empty())
        std::cerr << "synergy: " << peer
                  << " is taken for an address without a port: with one it is " << other << '\n';
    // (Also where this host has none of that family itself, and AI_ADDRCONFIG leaves it out.)
    if (!host.empty())
        ends.other = resolve(host, 0, error, ends.peer.family() == AF_INET ? AF_INET6 : AF_INET);
    ends.source = settings.local_for(ends.peer.family());
    if (from.empty())
        return ends;
    ends.source = resolve(from, AI_NUMERICHOST, error);
    if (ends.source.empty())
        return refused("--from", from, "an address of this host, as 2001:db8::11");
    if (ends.source.family() != ends.peer.family())
        return refused("--from", from, "an address of the peer's family");
    return ends;
}

Settings settings_of_environment(const std::string &hops_option) {
    if (!hops_option.empty())
        ::setenv("SYNERGY_HOPS", hops_option.c_str(), 1);
    Settings settings = load_settings(own_variable, environ);
    for (Problem &problem : settings.problems) {
        if (problem.place == "SYNERGY_HOPS" && !hops_option.empty())
            problem.place = "--hops";
        std::cerr << "synergy: " << problem.line() << '\n';
    }
    return settings;
}

std::string why_not_sent(int error, const PathEnds &ends, const Settings &settings) {
    const Endpoint &source = ends.source;
    if (!source.empty() && !source.is_wildcard() && !is_own_address(source))
        return source.address_text() + " is no address of this host";
    return local_cause(error, {}, ends.peer, settings, Transport::udp);
}

int refuse_argument(const std::string &place, const std::string &text,
                    const std::string &expected) {
    std::cerr << "synergy: " << Problem{place, text, expected}.line() << '\n';
    return exit_refused;
}

} // namespace synergy
