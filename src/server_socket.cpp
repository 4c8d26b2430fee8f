#include "server_socket.h"

#include "server_descriptors.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

namespace synergy {

namespace {

constexpr int protocol_mptcp = 262; // IPPROTO_MPTCP, RFC 8684 in Linux; not in every libc's headers

int option(int fd, int level, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    return getsockopt(fd, level, name, &value, &length) == 0 ? value : 0;
}

/// The size that the server gave to a buffer; 0 if it is what every new socket has.
int chosen_size(int fd, const Socket &fresh, int name) {
    int size = option(fd, SOL_SOCKET, name);
    // The kernel doubles what is set (socket(7)).
    return size == fresh.get(SOL_SOCKET, name, size) ? 0 : size / 2;
}

} // namespace

std::optional<ServerSocket> describe(int fd) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    auto *any = reinterpret_cast<sockaddr *>(&address);
    if (getsockname(fd, any, &length) != 0)
        return std::nullopt;
    ServerSocket socket;
    socket.fd = fd;
    socket.local = Endpoint::from(any, length);
    if (socket.local.empty()) {
        errno = EAFNOSUPPORT;
        return std::nullopt;
    }
    int type = option(fd, SOL_SOCKET, SO_TYPE);
    int protocol = option(fd, SOL_SOCKET, SO_PROTOCOL);
    if (type == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == protocol_mptcp)) {
        socket.transport = Transport::tcp;
    } else if (type == SOCK_DGRAM && protocol == IPPROTO_UDP) {
        socket.transport = Transport::udp;
    } else {
        errno = EOPNOTSUPP;
        return std::nullopt;
    }
    socket.inode = socket_inode(fd);
    socket.takes_v4 =
        socket.local.family() == AF_INET6 && option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 0;
    length = sizeof address;
    if (getpeername(fd, any, &length) == 0)
        socket.connected = Endpoint::from(any, length);
    if (socket.transport == Transport::udp)
        return socket;
    if (Socket fresh = Socket::open(socket.local.family(), SOCK_STREAM, IPPROTO_TCP); fresh) {
        socket.receive_buffer = chosen_size(fd, fresh, SO_RCVBUF);
        socket.send_buffer = chosen_size(fd, fresh, SO_SNDBUF);
        int segment = option(fd, IPPROTO_TCP, TCP_MAXSEG);
        socket.max_segment = segment == fresh.get(IPPROTO_TCP, TCP_MAXSEG, segment) ? 0 : segment;
    }
    socket.defer_accept = option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT) != 0;
    return socket;
}

} // namespace synergy
