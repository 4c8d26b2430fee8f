#include "server/server_socket.h"

#include "base/scheduler.h"
#include "base/socket.h"
#include "server/inimitable.h"
#include "server/sctp_socket.h"

#include <map>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <unistd.h>

namespace synergy {

namespace {

constexpr int protocol_mptcp = 262; // IPPROTO_MPTCP, RFC 8684 in Linux; not in every libc's headers

/// A new socket's options, which only the system's settings change: a hundred questions that a
/// listen() need not wait for each time.
const std::vector<std::optional<OptionValue>> &options_of_new(int family, int protocol, int fresh) {
    struct Known {
        Time read_at;
        std::vector<std::optional<OptionValue>> values;
    };
    static std::map<std::pair<int, int>, Known> known;
    Known &kind = known[{family, protocol}];
    const Time now = Clock::now();
    if (kind.values.empty() || now - kind.read_at > std::chrono::seconds(10))
        kind = {.read_at = now, .values = all_options(fresh)};
    return kind.values;
}

/// Whether all of it can be given is tried on a new socket.
void add_choices(ServerSocket &socket, int protocol, const std::vector<OptionValue> &keys,
                 When when) {
    const Socket fresh = Socket::open(socket.local.family(), SOCK_STREAM, protocol);
    if (!fresh)
        return;
    socket.chosen = chosen_options(
        socket.fd, fresh.fd(), options_of_new(socket.local.family(), protocol, fresh.fd()), when);
    socket.chosen.insert(socket.chosen.end(), keys.begin(), keys.end());
    const char *missing = give_options(socket.chosen, fresh.fd(), When::ever);
    const char *more = inimitable(socket.fd, fresh.fd());
    socket.not_to_be_given = more != nullptr ? more : missing;
    socket.option_memory = option_memory_of(fresh.fd());
}

void add_sctp_choices(ServerSocket &socket, When when) {
    add_choices(socket, IPPROTO_SCTP, {}, when);
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
    socket.asks_for_errors =
        socket.transport == Transport::udp && (get_option(fd, IPPROTO_IP, IP_RECVERR) != 0 ||
                                               get_option(fd, IPPROTO_IPV6, IPV6_RECVERR) != 0);
    if (socket.transport == Transport::tcp)
        socket.deferred = get_option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT);
    if (prepared != nullptr)
        take_choices(socket, *prepared);
    else if (socket.transport == Transport::tcp)
        add_choices(socket, IPPROTO_TCP, keys, when);
    else if (socket.transport == Transport::sctp && !socket.one_to_many)
        add_sctp_choices(socket, when);
    return socket;
}

void add_later_options(ServerSocket &socket, int fd) {
    const int protocol = protocol_of(socket.transport);
    const Socket fresh = Socket::open(socket.local.family(), SOCK_STREAM, protocol);
    if (!fresh)
        return;
    const auto later =
        chosen_options(fd, fresh.fd(), options_of_new(socket.local.family(), protocol, fresh.fd()),
                       When::afterwards);
    socket.chosen.insert(socket.chosen.end(), later.begin(), later.end());
    if (const char *missing = give_options(later, fresh.fd(), When::ever);
        socket.not_to_be_given == nullptr)
        socket.not_to_be_given = missing;
}

} // namespace synergy
