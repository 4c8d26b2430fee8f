#include "punch/beside.h"

#include "base/last_descriptors.h"

#include <cerrno>
#include <fstream>
#include <netinet/in.h>

namespace synergy {

Socket open_beside(const ServerSocket &server, int protocol) {
    int family = server.local.family();
    Socket socket = Socket::open(family, SOCK_STREAM, protocol);
    if (socket && is_one_of_the_last(socket, spared_by_punches)) {
        errno = EMFILE;
        return {};
    }
    // SO_REUSEPORT lets it stand beside the listener, SO_REUSEADDR beside what that has accepted:
    // connections of another user's process, or of SCTP, which do not inherit the other.
    if (!socket || !socket.set(SOL_SOCKET, SO_REUSEPORT, 1) ||
        !socket.set(SOL_SOCKET, SO_REUSEADDR, 1))
        return {};
    // What is negotiated by the SYN or INIT must be there before it.
    if (give_options(server.chosen, socket.fd(), When::before_connecting) != nullptr)
        return {};
    // A wildcard beside a dual-stack listener must be dual-stack too.
    if (family == AF_INET6)
        socket.set(IPPROTO_IPV6, IPV6_V6ONLY, server.takes_v4 ? 0 : 1);
    return socket;
}

Endpoint address_beside(const ServerSocket &server, const Settings &settings, bool is_v4) {
    const Endpoint &local = server.local;
    const Endpoint chosen =
        local.is_wildcard() ? settings.local_for(is_v4 ? AF_INET : AF_INET6) : Endpoint{};
    if (chosen.empty())
        return local;
    return (local.family() == AF_INET6 ? chosen.mapped() : chosen).with_port(local.port());
}

bool bind_beside(const Socket &socket, const ServerSocket &server, const Settings &settings,
                 bool is_v4) {
    const Endpoint local = address_beside(server, settings, is_v4);
    return ::bind(socket.fd(), local.data(), local.length()) == 0;
}

namespace {

/// Who may be one of several users, and seems to be this one.
bool may_be_another(uid_t user) {
    uid_t unmapped = 65534;
    std::ifstream("/proc/sys/kernel/overflowuid") >> unmapped;
    if (user != unmapped)
        return false;
    constexpr std::uint64_t all_users = 0xffffffff;
    std::uint64_t first = 1, outside = 1, count = 0;
    std::ifstream("/proc/self/uid_map") >> first >> outside >> count;
    return count != all_users;
}

} // namespace

std::string why_not_beside_nobody(const ServerSocket &server, const Settings &settings) {
    if (!server.accepts() || !server.listens || !may_be_another(server.owner))
        return {};
    const bool is_v4 = server.local.unmapped().family() == AF_INET;
    const Socket socket = open_beside(server, protocol_of(server.transport));
    if (!socket || bind_beside(socket, server, settings, is_v4) || errno != EADDRINUSE)
        return {};
    return "a user of another user namespace made this listener, and no other user (this process "
           "is user " +
           std::to_string(server.owner) +
           ", as all are who have no number here) can bind beside it";
}

int ordinary_hop_limit(const ServerSocket &server, bool is_v4) {
    const int chosen = is_v4 ? chosen_number(server.chosen, IPPROTO_IP, IP_TTL)
                             : chosen_number(server.chosen, IPPROTO_IPV6, IPV6_UNICAST_HOPS);
    return chosen > 0 ? chosen : default_hop_limit;
}

void set_hop_limit(const Socket &socket, bool is_v4, int hop_limit) {
    if (is_v4)
        socket.set(IPPROTO_IP, IP_TTL, hop_limit);
    else
        socket.set(IPPROTO_IPV6, IPV6_UNICAST_HOPS, hop_limit);
}

bool set_least_hop_limit_heard(const Socket &socket, bool is_v4, int least) {
    return is_v4 ? socket.set(IPPROTO_IP, IP_MINTTL, least)
                 : socket.set(IPPROTO_IPV6, IPV6_MINHOPCOUNT, least);
}

} // namespace synergy
