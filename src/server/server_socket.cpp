#include "server/server_socket.h"

#include "base/scheduler.h"
#include "base/socket.h"
#include "server/inimitable.h"
#include "server/sctp_socket.h"

#include <map>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <tuple>
#include <unistd.h>

namespace synergy {

namespace {

constexpr int protocol_mptcp = 262; // IPPROTO_MPTCP, RFC 8684 in Linux; not in every libc's headers

/// A socket that has been given nothing yet.
struct NewSocket {
    Time read_at{};
    HandedDown options;
    std::uint32_t option_memory = 0;
};

Socket fresh_like(const ServerSocket &socket) {
    return Socket::open(socket.local.family(), SOCK_STREAM, protocol_of(socket.transport));
}

/// What a new one of its kind has, which only the system's settings change: a hundred questions
/// that a listen() need not wait for each time. nullptr: there is none to be had.
const NewSocket *new_socket_like(const ServerSocket &socket, When when) {
    constexpr Duration known_for = std::chrono::seconds(10);
    static std::map<std::tuple<int, Transport, When>, NewSocket> known;
    NewSocket &kind = known[{socket.local.family(), socket.transport, when}];
    const Time now = Clock::now();
    if (!kind.options.values.empty() && now - kind.read_at <= known_for)
        return &kind;
    const Socket fresh = fresh_like(socket);
    if (!fresh)
        return nullptr;
    kind = {.read_at = now,
            .options = handed_down_by(fresh.fd(), when),
            .option_memory = option_memory_of(fresh.fd())};
    return &kind;
}

/// Adds what it has been given. Whether a connection can be given that, too, is tried on a new
/// socket.
void add_choices(ServerSocket &socket, int fd, When when,
                 const std::vector<OptionValue> &keys = {}) {
    const NewSocket *like = new_socket_like(socket, when);
    if (like == nullptr)
        return;
    std::vector<OptionValue> found = chosen_options(fd, like->options, when);
    found.insert(found.end(), keys.begin(), keys.end());
    const char *missing = nullptr;
    std::uint32_t option_memory = like->option_memory;
    if (!found.empty()) {
        const Socket fresh = fresh_like(socket);
        if (!fresh)
            return;
        missing = give_options(found, fresh.fd(), When::ever);
        option_memory = option_memory_of(fresh.fd());
    }
    socket.chosen.insert(socket.chosen.end(), found.begin(), found.end());
    // (Of the others none takes memory.)
    if (when != When::afterwards) {
        socket.not_to_be_given = inimitable(fd, option_memory);
        socket.option_memory = option_memory;
    }
    if (socket.not_to_be_given == nullptr)
        socket.not_to_be_given = missing;
}

void add_sctp_choices(ServerSocket &socket, When when) {
    add_choices(socket, socket.fd, when);
    sctp_initmsg init{};
    sctp::get(socket.fd, SCTP_INITMSG, init);
    socket.streams_out = init.sinit_num_ostreams;
    socket.streams_in = init.sinit_max_instreams;
    sctp::get(socket.fd, SCTP_EVENTS, socket.events);
}

void take_choices(ServerSocket &socket, const ServerSocket &from) {
    socket.chosen = from.chosen;
    socket.not_to_be_given = from.not_to_be_given;
    socket.option_memory = from.option_memory;
    socket.streams_out = from.streams_out;
    socket.streams_in = from.streams_in;
    socket.events = from.events;
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

std::optional<ServerSocket> describe(int fd, const std::vector<OptionValue> &keys,
                                     const ServerSocket *prepared, When when) {
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
        socket.is_multipath = protocol == protocol_mptcp;
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
        socket.group = status.st_gid;
    }
    socket.takes_v4 =
        socket.local.family() == AF_INET6 && get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 0;
    length = sizeof address;
    if (getpeername(fd, any, &length) == 0)
        socket.connected = Endpoint::from(any, length);
    socket.has_device = get_option(fd, SOL_SOCKET, bind_to_interface) != 0;
    socket.has_room_beside = socket.transport == Transport::udp && socket.connected.empty() &&
                             socket.owner == geteuid() &&
                             get_option(fd, SOL_SOCKET, SO_REUSEPORT, 1) == 0 &&
                             !socket.has_device && get_option(fd, SOL_SOCKET, SO_MARK) == 0;
    socket.asks_for_errors =
        socket.transport == Transport::udp && (get_option(fd, IPPROTO_IP, IP_RECVERR) != 0 ||
                                               get_option(fd, IPPROTO_IPV6, IPV6_RECVERR) != 0);
    if (socket.transport == Transport::tcp)
        socket.deferred = get_option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT);
    if (prepared != nullptr)
        take_choices(socket, *prepared);
    else if (socket.transport == Transport::tcp)
        add_choices(socket, fd, when, keys);
    else if (socket.transport == Transport::sctp && !socket.one_to_many)
        add_sctp_choices(socket, when);
    return socket;
}

void add_later_options(ServerSocket &socket, int fd) {
    add_choices(socket, fd, When::afterwards);
}

} // namespace synergy
