#include "punch/beside.h"

#include <netinet/in.h>

namespace synergy {

Socket open_beside(const ServerSocket &server, int protocol) {
    int family = server.local.family();
    Socket socket = Socket::open(family, SOCK_STREAM, protocol);
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

bool bind_beside(const Socket &socket, const ServerSocket &server, const Settings &settings,
                 bool is_v4) {
    Endpoint local = server.local;
    if (local.is_wildcard()) {
        Endpoint chosen = settings.local_for(is_v4 ? AF_INET : AF_INET6);
        if (!chosen.empty())
            local = (local.family() == AF_INET6 ? chosen.mapped() : chosen).with_port(local.port());
    }
    return ::bind(socket.fd(), local.data(), local.length()) == 0;
}

void set_hop_limit(const Socket &socket, bool is_v4, int hop_limit) {
    if (is_v4)
        socket.set(IPPROTO_IP, IP_TTL, hop_limit);
    else
        socket.set(IPPROTO_IPV6, IPV6_UNICAST_HOPS, hop_limit);
}

} // namespace synergy
