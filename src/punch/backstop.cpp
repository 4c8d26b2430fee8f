#include "punch/backstop.h"

#include "base/last_descriptors.h"
#include "punch/beside.h"
#include "punch/syn_socket.h"

#include <linux/in6.h> // IPV6_PREFER_SRC_PUBLIC
#include <linux/tcp.h>
#include <netinet/in.h>

namespace synergy {

namespace {

/// connect() that leaves the SYN to the first write(), which there is none of (tcp(7),
/// TCP_FASTOPEN_CONNECT). If it had to ask for a cookie first (RFC 7413 4.1.2), it would send one.
bool connects_in_silence(const Socket &socket, const Endpoint &peer) {
    return socket.set(IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1) &&
           socket.set(IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1) &&
           ::connect(socket.fd(), peer.data(), peer.length()) == 0;
}

} // namespace

Socket backstop_of(const Hole &hole, const Settings &settings, const Route &route) {
    const ServerSocket &server = hole.server;
    const bool is_v4 = hole.is_v4();
    // The kernel takes two sockets with one four-tuple where the first one is bound to a device and
    // the other one is not, and looks for the device when a packet comes (socket(7),
    // SO_BINDTODEVICE; Linux 5.7 lets everybody do so). Beside a listener that has a device of its
    // own the punching socket has that, too.
    if (route.is_local || route.interface == 0 || server.has_device)
        return {};
    Socket socket = open_beside(server, IPPROTO_TCP);
    if (!socket || is_one_of_many(socket) ||
        !socket.set(SOL_SOCKET, bind_to_interface, static_cast<int>(route.interface)) ||
        !set_least_hop_limit_heard(socket, is_v4, deaf_to_all))
        return {};
    // As the punching one has it, for the same source address.
    if (server.local.family() == AF_INET6)
        socket.set(IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, IPV6_PREFER_SRC_PUBLIC);
    // Should it not be silent.
    set_hop_limit(socket, is_v4, hop_limit_min);
    if (!bind_beside(socket, server, settings, is_v4) || !connects_in_silence(socket, hole.peer))
        return {};
    return socket;
}

} // namespace synergy
