#include "tools/peer_argument.h"

#include <charconv>
#include <cstdlib>
#include <iostream>
#include <netdb.h>

namespace synergy {

Endpoint resolve(const std::string &host, int flags, std::string &error) {
    addrinfo hints{};
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
    error = "the address of one host";
    return {};
}

Endpoint parse_peer(const std::string &text, std::string &error) {
    std::vector<Problem> problems;
    if (const std::vector<Peer> peers = parse_peers(text, "PEER", problems); peers.size() == 1) {
        const Peer &peer = peers[0];
        return (peer.host.empty() ? peer.address : resolve(peer.host, AI_ADDRCONFIG, error))
            .with_port(peer.first_port);
    }
    if (const Endpoint bare = resolve(text, AI_NUMERICHOST, error); !bare.empty())
        return bare;
    std::string host = text;
    std::uint16_t port = 0;
    if (text.starts_with('[') && text.ends_with(']')) {
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

Settings settings_of_environment() {
    Settings settings =
        load_settings([](const char *name) -> const char * { return std::getenv(name); });
    for (const Problem &problem : settings.problems)
        std::cerr << "synergy: " << problem.line() << '\n';
    return settings;
}

int refuse_argument(const std::string &place, const std::string &text,
                    const std::string &expected) {
    std::cerr << "synergy: " << Problem{place, text, expected}.line() << '\n';
    constexpr int exit_refused = 2;
    return exit_refused;
}

} // namespace synergy
