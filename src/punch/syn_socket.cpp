#include "punch/syn_socket.h"

#include "hops/addresses.h"
#include "punch/beside.h"

#include <algorithm>
#include <cerrno>

#include <linux/in6.h> // IPV6_PREFER_SRC_PUBLIC
#include <linux/tcp.h>
#include <netinet/in.h>

namespace synergy {

namespace {

/// IP_MINTTL is compared with the TTL of the packet within the error, which is less than the
/// punch's own: so nothing that is sent about a punch is heard, from wherever on its way. What
/// comes from the peer itself has to be heard: it starts with 64 mostly, and paths are shorter than
/// half of that.
constexpr int v4_min_ttl_most = 32;
int v4_min_ttl(int hop_limit) {
    return std::min(hop_limit + 1, v4_min_ttl_most);
}

/// When a retransmission is not even queued on the way out, the kernel tries again after this
/// (TCP_RESOURCE_PROBE_INTERVAL in net/tcp.h), whatever TCP_USER_TIMEOUT says.
constexpr Duration congested_timeout = std::chrono::milliseconds(500);

} // namespace

bool let_hear(const Socket &socket, const Hole &hole, int least, int hop_limit) {
    const bool is_v4 = hole.is_v4();
    const auto &chosen = hole.server.chosen;
    // What the listener would hear.
    least = std::max(least, is_v4 ? chosen_number(chosen, IPPROTO_IP, IP_MINTTL)
                                  : chosen_number(chosen, IPPROTO_IPV6, IPV6_MINHOPCOUNT));
    if (is_v4)
        least = std::max(least, v4_min_ttl(hop_limit));
    return set_least_hop_limit_heard(socket, is_v4, least);
}

Socket syn_socket_beside(const Hole &hole, const Settings &settings) {
    const ServerSocket &server = hole.server;
    Socket socket = open_beside(server, IPPROTO_TCP);
    if (!socket)
        return {};
    // As many retransmissions as can be had (tcp(7): at most 255, Linux takes 127).
    socket.set(IPPROTO_TCP, TCP_SYNCNT, 127);
    // RFC 6724 5 rule 7 would prefer temporary addresses, which no peer can know.
    if (server.local.family() == AF_INET6)
        socket.set(IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, IPV6_PREFER_SRC_PUBLIC);
    if (!let_hear(socket, hole, hears_all, hop_limit_min))
        return {};
    // Who sent the error that ends the socket, and why.
    if (!hole.is_v4())
        socket.set(IPPROTO_IPV6, IPV6_RECVERR, 1);
    if (!bind_beside(socket, server, settings, hole.is_v4()))
        socket.reset();
    // It may be the other's of two servers, for whom this one stands by (ip_nonlocal_bind).
    if (socket && !server.local.is_wildcard() && !is_own_address(server.local)) {
        socket.reset();
        errno = EADDRNOTAVAIL;
    }
    return socket;
}

tcp_info info_of(const Socket &socket) {
    tcp_info info{};
    socklen_t length = sizeof info;
    getsockopt(socket.fd(), IPPROTO_TCP, TCP_INFO, &info, &length);
    return info;
}

bool has_left(const tcp_info &info) {
    return info.tcpi_retransmits == 0 || info.tcpi_retrans > 0;
}

SynTimer timer_of(const tcp_info &info) {
    const Duration timeout = std::chrono::microseconds(info.tcpi_rto);
    return {info.tcpi_retransmits, has_left(info) ? timeout : std::min(timeout, congested_timeout)};
}

bool has_source_toward(const Endpoint &peer) {
    const Socket socket = Socket::open(peer.family(), SOCK_DGRAM);
    return !socket || ::connect(socket.fd(), peer.data(), peer.length()) == 0 ||
           errno != EADDRNOTAVAIL;
}

bool would_leave_from_elsewhere(const Socket &socket, const Hole &hole, const Settings &settings) {
    const Endpoint &local = hole.server.local;
    if (!local.is_wildcard() || !settings.local_for(hole.is_v4() ? AF_INET : AF_INET6).empty())
        return false;
    const Socket asking = Socket::open(local.family(), SOCK_DGRAM);
    if (!asking)
        return false;
    if (local.family() == AF_INET6) {
        asking.set(IPPROTO_IPV6, IPV6_V6ONLY, 0);
        asking.set(IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, IPV6_PREFER_SRC_PUBLIC);
    }
    return ::connect(asking.fd(), hole.peer.data(), hole.peer.length()) == 0 &&
           !asking.local().same_address(socket.local());
}

} // namespace synergy
