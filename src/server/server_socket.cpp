#include "server/server_socket.h"

#include "base/socket.h"
#include "server/sctp_socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <unistd.h>

namespace synergy {

namespace {

constexpr int protocol_mptcp = 262; // IPPROTO_MPTCP, RFC 8684 in Linux; not in every libc's headers

/// The size that the server gave to a buffer; 0 if it is what every new socket has.
int chosen_size(int fd, const Socket &fresh, int name) {
    int size = get_option(fd, SOL_SOCKET, name);
    // The kernel doubles what is set (socket(7)).
    return size == fresh.get(SOL_SOCKET, name, size) ? 0 : size / 2;
}

void add_buffer_choices(ServerSocket &socket, const Socket &fresh) {
    socket.receive_buffer = chosen_size(socket.fd, fresh, SO_RCVBUF);
    socket.send_buffer = chosen_size(socket.fd, fresh, SO_SNDBUF);
}

void add_tcp_choices(ServerSocket &socket) {
    if (Socket fresh = Socket::open(socket.local.family(), SOCK_STREAM, IPPROTO_TCP); fresh) {
        add_buffer_choices(socket, fresh);
        int segment = get_option(socket.fd, IPPROTO_TCP, TCP_MAXSEG);
        socket.max_segment = segment == fresh.get(IPPROTO_TCP, TCP_MAXSEG, segment) ? 0 : segment;
    }
}

void add_sctp_choices(ServerSocket &socket) {
    if (Socket fresh = Socket::open(socket.local.family(), SOCK_STREAM, IPPROTO_SCTP); fresh)
        add_buffer_choices(socket, fresh);
    sctp_initmsg init{};
    sctp::get(socket.fd, SCTP_INITMSG, init);
    socket.streams_out = init.sinit_num_ostreams;
    socket.streams_in = init.sinit_max_instreams;
    sctp::get(socket.fd, SCTP_EVENTS, socket.events);
}

std::uint64_t number_option(int fd, int option) {
    std::uint64_t number = 0;
    socklen_t length = sizeof number;
    return getsockopt(fd, SOL_SOCKET, option, &number, &length) == 0 ? number : 0;
}

} // namespace

std::uint64_t cookie_of(int fd) {
    return number_option(fd, SO_COOKIE);
}

std::uint64_t network_of(int fd) {
    constexpr int so_netns_cookie = 71; // asm-generic/socket.h, Linux 5.14
    return number_option(fd, so_netns_cookie);
}

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
    int type = get_option(fd, SOL_SOCKET, SO_TYPE);
    int protocol = get_option(fd, SOL_SOCKET, SO_PROTOCOL);
    if (type == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == protocol_mptcp)) {
        socket.transport = Transport::tcp;
    } else if (type == SOCK_DGRAM && protocol == IPPROTO_UDP) {
        socket.transport = Transport::udp;
    } else if ((type == SOCK_STREAM || type == SOCK_SEQPACKET) && protocol == IPPROTO_SCTP) {
        socket.transport = Transport::sctp;
        socket.one_to_many = type == SOCK_SEQPACKET;
    } else {
        errno = EOPNOTSUPP;
        return std::nullopt;
    }
    socket.cookie = cookie_of(fd);
    socket.listens = get_option(fd, SOL_SOCKET, SO_ACCEPTCONN) != 0;
    struct stat status {};
    if (fstat(fd, &status) == 0) {
        socket.inode = status.st_ino;
        socket.owner = status.st_uid;
    }
    socket.takes_v4 =
        socket.local.family() == AF_INET6 && get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 0;
    length = sizeof address;
    if (getpeername(fd, any, &length) == 0)
        socket.connected = Endpoint::from(any, length);
    constexpr int bind_to_interface = 62; // SO_BINDTOIFINDEX, asm-generic/socket.h, Linux 5.0
    socket.has_device = get_option(fd, SOL_SOCKET, bind_to_interface) != 0;
    socket.has_room_beside = socket.transport == Transport::udp && socket.connected.empty() &&
                             socket.owner == geteuid() &&
                             get_option(fd, SOL_SOCKET, SO_REUSEPORT, 1) == 0 &&
                             !socket.has_device && get_option(fd, SOL_SOCKET, SO_MARK) == 0;
    if (socket.transport == Transport::tcp)
        add_tcp_choices(socket);
    else if (socket.transport == Transport::sctp && !socket.one_to_many)
        add_sctp_choices(socket);
    return socket;
}

} // namespace synergy
