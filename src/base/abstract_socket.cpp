#include "base/abstract_socket.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <sys/time.h>

namespace synergy {

socklen_t abstract_address(sockaddr_un &address, std::string_view name) {
    address = {};
    address.sun_family = AF_UNIX;
    name = name.substr(0, sizeof address.sun_path - 1);
    std::copy(name.begin(), name.end(), address.sun_path + 1);
    return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

Socket connected_to(std::string_view name, std::chrono::seconds patience, int flags) {
    Socket socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0));
    if (!socket)
        return {};
    const timeval limit{.tv_sec = patience.count(), .tv_usec = 0};
    ::setsockopt(socket.fd(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(socket.fd(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    sockaddr_un address;
    socklen_t length = abstract_address(address, name);
    int connected;
    do
        connected = ::connect(socket.fd(), reinterpret_cast<sockaddr *>(&address), length);
    while (connected != 0 && errno == EINTR);
    if (connected != 0)
        socket.reset();
    return socket;
}

bool send_with(const Socket &connection, const void *bytes, std::size_t size, int pass) {
    iovec data{.iov_base = const_cast<void *>(bytes), .iov_len = size};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof pass)> control{};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    if (pass >= 0) {
        header.msg_control = control.data();
        header.msg_controllen = control.size();
        cmsghdr *extra = CMSG_FIRSTHDR(&header);
        extra->cmsg_level = SOL_SOCKET;
        extra->cmsg_type = SCM_RIGHTS;
        extra->cmsg_len = CMSG_LEN(sizeof pass);
        std::memcpy(CMSG_DATA(extra), &pass, sizeof pass);
    }
    return ::sendmsg(connection.fd(), &header, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

Socket descriptor_in(msghdr &message) {
    int fd = -1;
    const cmsghdr *extra = CMSG_FIRSTHDR(&message);
    if (extra != nullptr && extra->cmsg_level == SOL_SOCKET && extra->cmsg_type == SCM_RIGHTS &&
        extra->cmsg_len == CMSG_LEN(sizeof fd))
        std::memcpy(&fd, CMSG_DATA(extra), sizeof fd);
    return Socket(fd);
}

std::optional<ucred> peer_credentials(const Socket &socket) {
    ucred owner{};
    socklen_t length = sizeof owner;
    if (getsockopt(socket.fd(), SOL_SOCKET, SO_PEERCRED, &owner, &length) != 0)
        return std::nullopt;
    return owner;
}

} // namespace synergy
