#include "server/socket_diag.h"

#include "server/sctp_socket.h"
#include "server/server_socket.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <sys/time.h>

namespace synergy {

namespace {

// The kernel's numbers for the states of sockets (include/net/tcp_states.h), as bits.
constexpr std::uint32_t established = 1U << 1; // a connected UDP socket
constexpr std::uint32_t time_wait = 1U << 6;
constexpr std::uint32_t closed = 1U << 7; // any other UDP socket
constexpr std::uint32_t listens = 1U << 10;
constexpr std::uint32_t bound = 1U << 13; // TCP, and no more than that; to ask by: Linux 6.8

struct Question {
    nlmsghdr header{};
    inet_diag_req_v2 request{};
};

Question about(Transport transport, int family, std::uint16_t flags, std::uint32_t sequence) {
    Question question;
    question.header.nlmsg_len = sizeof question;
    question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    question.header.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
    question.header.nlmsg_seq = sequence;
    question.request.sdiag_family = static_cast<std::uint8_t>(family);
    question.request.sdiag_protocol = static_cast<std::uint8_t>(protocol_of(transport));
    question.request.idiag_states = transport == Transport::udp ? established | closed : listens;
    question.request.idiag_ext = 1U << (INET_DIAG_SKMEMINFO - 1);
    if (transport == Transport::sctp)
        question.request.idiag_ext |= 1U << (INET_DIAG_INFO - 1);
    std::fill(std::begin(question.request.id.idiag_cookie),
              std::end(question.request.id.idiag_cookie), INET_DIAG_NOCOOKIE);
    return question;
}

void put(const Endpoint &endpoint, __be32 *address, __be16 &port) {
    if (endpoint.family() == AF_INET) {
        const auto *in = reinterpret_cast<const sockaddr_in *>(endpoint.data());
        std::memcpy(address, &in->sin_addr, sizeof in->sin_addr);
        port = in->sin_port;
    } else {
        const auto *in6 = reinterpret_cast<const sockaddr_in6 *>(endpoint.data());
        std::memcpy(address, &in6->sin6_addr, sizeof in6->sin6_addr);
        port = in6->sin6_port;
    }
}

/// A number at this place within what comes along under this name.
template <typename T>
std::optional<T> number_in(nlmsghdr *header, unsigned short name, std::size_t place) {
    auto *attribute =
        reinterpret_cast<rtattr *>(static_cast<inet_diag_msg *>(NLMSG_DATA(header)) + 1);
    auto left = static_cast<int>(NLMSG_PAYLOAD(header, sizeof(inet_diag_msg)));
    for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left))
        if (attribute->rta_type == name && RTA_PAYLOAD(attribute) >= place + sizeof(T)) {
            T number{};
            std::memcpy(&number, static_cast<char *>(RTA_DATA(attribute)) + place, sizeof number);
            return number;
        }
    return std::nullopt;
}

/// SO_MEMINFO's numbers.
std::uint32_t option_memory_in(nlmsghdr *header) {
    constexpr std::size_t place = SK_MEMINFO_OPTMEM * sizeof(std::uint32_t);
    return number_in<std::uint32_t>(header, INET_DIAG_SKMEMINFO, place).value_or(0);
}

} // namespace

SocketDiag::SocketDiag()
    : netlink_(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)) {
    // The kernel answers within sendto(), and a dump as fast as it is read: this is for a kernel
    // that has lost it.
    constexpr timeval patience{.tv_sec = 1, .tv_usec = 0};
    if (netlink_)
        ::setsockopt(netlink_.fd(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
}

SocketDiag::Reply SocketDiag::ask(const void *question, std::size_t size, std::uint32_t sequence) {
    Reply reply;
    sockaddr_nl kernel{};
    kernel.nl_family = AF_NETLINK;
    if (::sendto(netlink_.fd(), question, size, MSG_NOSIGNAL, reinterpret_cast<sockaddr *>(&kernel),
                 sizeof kernel) < 0) {
        reply.error = errno;
        return reply;
    }
    const bool is_dump =
        (static_cast<const nlmsghdr *>(question)->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
    alignas(nlmsghdr) std::array<char, 32768> buffer{};
    for (;;) {
        const ssize_t got = ::recv(netlink_.fd(), buffer.data(), buffer.size(), 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            reply.error = got < 0 ? errno : EIO;
            return reply;
        }
        auto left = static_cast<std::size_t>(got);
        for (auto *header = reinterpret_cast<nlmsghdr *>(buffer.data()); NLMSG_OK(header, left);
             header = NLMSG_NEXT(header, left)) {
            if (header->nlmsg_seq != sequence)
                continue; // of a question that was given up
            if (header->nlmsg_type == NLMSG_ERROR) {
                reply.error = -static_cast<nlmsgerr *>(NLMSG_DATA(header))->error;
                return reply;
            }
            if (header->nlmsg_type == NLMSG_DONE) {
                // A dump that could not be had ends with a negative errno.
                int error = 0;
                if (NLMSG_PAYLOAD(header, 0) >= sizeof error)
                    std::memcpy(&error, NLMSG_DATA(header), sizeof error);
                reply.error = -error;
                return reply;
            }
            if (header->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
                header->nlmsg_len < NLMSG_LENGTH(sizeof(inet_diag_msg)))
                continue;
            const auto *found = static_cast<const inet_diag_msg *>(NLMSG_DATA(header));
            reply.sockets.push_back(
                {.cookie =
                     std::uint64_t{found->id.idiag_cookie[1]} << 32 | found->id.idiag_cookie[0],
                 .inode = found->idiag_inode,
                 .user = found->idiag_uid,
                 .port = ntohs(found->id.idiag_sport),
                 .listens = listens == 1U << found->idiag_state,
                 .rests = time_wait == 1U << found->idiag_state,
                 .waiting = found->idiag_rqueue,
                 .room = found->idiag_wqueue,
                 .option_memory = option_memory_in(header),
                 .control_chunks = number_in<__u64>(header, INET_DIAG_INFO,
                                                    offsetof(sctp_info, sctpi_ictrlchunks)),
                 .address = {found->id.idiag_src[0], found->id.idiag_src[1], found->id.idiag_src[2],
                             found->id.idiag_src[3]}});
            if (!is_dump)
                return reply;
        }
    }
}

bool SocketDiag::Sought::is(const Listener &listed) const {
    return inode != 0 ? listed.inode == inode : listed.cookie == cookie;
}

SocketDiag::Found SocketDiag::look_for(Transport transport, const Endpoint &local, Sought which) {
    if (!netlink_ || local.empty())
        return {};
    const auto among = [which](const Reply &reply) -> std::optional<Listener> {
        const auto found = std::find_if(reply.sockets.begin(), reply.sockets.end(),
                                        [which](const Listener &each) { return which.is(each); });
        return found == reply.sockets.end() ? std::nullopt : std::optional(*found);
    };
    // A look-up finds whom a packet to the address would reach: mostly the very socket. (SCTP's
    // finds associations.)
    if (transport != Transport::sctp) {
        Question question = about(transport, local.family(), 0, ++sequence_);
        auto &id = question.request.id;
        if (transport == Transport::udp)
            put(local, id.idiag_dst,
                id.idiag_dport); // UDP's look-up has the ends the other way round
        else
            put(local, id.idiag_src, id.idiag_sport);
        if (auto it = among(ask(&question, sizeof question, sequence_)))
            return {.socket = it, .is_known = true};
    }
    // Another of a SO_REUSEPORT group was found, or none, as with a socket that is bound to a
    // device: all sockets of the port are looked through.
    Question question = about(transport, local.family(), NLM_F_DUMP, ++sequence_);
    __be32 any_address[4]{};
    put(local, any_address, question.request.id.idiag_sport);
    const Reply reply = ask(&question, sizeof question, sequence_);
    const auto it = among(reply);
    return {.socket = it, .is_known = it || reply.error == 0};
}

SocketDiag::Life SocketDiag::life(Transport transport, const Endpoint &local, Sought which) {
    const Found found = look_for(transport, local, which);
    if (found.socket)
        return Life::lives;
    return found.is_known ? Life::gone : Life::unknown;
}

/// (Of those that are bound and no more it tells whatever port is asked for, in 2 ms.)
const SocketDiag::BoundOnes *SocketDiag::look_for_bound_ones(int family) {
    Question question = about(Transport::tcp, family, NLM_F_DUMP, ++sequence_);
    question.request.idiag_states = bound | listens;
    const Reply reply = netlink_ ? ask(&question, sizeof question, sequence_)
                                 : Reply{.error = EBADF, .sockets = {}};
    BoundOnes &found = bound_ones_[family] = {.cookies = {}, .inodes = {}, .at = Clock::now()};
    for (const Listener &each : reply.sockets) {
        found.cookies.insert(each.cookie);
        found.inodes.insert(each.inode);
    }
    return reply.error == 0 ? &found : nullptr;
}

/// An older kernel passes over a state that it does not know.
bool SocketDiag::tells_of_bound_ones() {
    if (!tells_of_bound_ones_) {
        const Endpoint any_port = Endpoint::wildcard(AF_INET, 0);
        const Socket sample = Socket::open(AF_INET, SOCK_STREAM);
        const BoundOnes *found = ::bind(sample.fd(), any_port.data(), any_port.length()) == 0
                                     ? look_for_bound_ones(AF_INET)
                                     : nullptr;
        if (found == nullptr)
            return false;
        tells_of_bound_ones_ = found->cookies.contains(cookie_of(sample.fd()));
    }
    return *tells_of_bound_ones_;
}

SocketDiag::Life SocketDiag::life_until_it_listens(const Endpoint &local, Sought which) {
    // Less than bind() waits for what is about to go; there may be a hundred to be asked for.
    constexpr Duration time_to_rely_on = std::chrono::milliseconds(5);
    const BoundOnes &before = bound_ones_[local.family()];
    if (Clock::now() - before.at < time_to_rely_on && before.has(which))
        return Life::lives;
    if (!tells_of_bound_ones())
        return Life::unknown;
    // The kernel goes through those that listen, and then through those that are bound: it misses
    // who begins to listen in between, once.
    constexpr int looks = 2;
    for (int look = 0; look < looks; look++) {
        const BoundOnes *now = look_for_bound_ones(local.family());
        if (now == nullptr)
            return Life::unknown;
        if (now->has(which))
            return Life::lives;
    }
    return Life::gone;
}

std::optional<SocketDiag::Listener> SocketDiag::find(Transport transport, const Endpoint &local,
                                                     Sought which) {
    return look_for(transport, local, which).socket;
}

bool SocketDiag::has_connection(const Endpoint &from, const Endpoint &to) {
    const auto found = who_hears(to, from, 0);
    return found && !found->listens;
}

std::optional<std::uint64_t> SocketDiag::control_chunks(const Endpoint &from, const Endpoint &to) {
    const auto found = who_hears(from, to, 0, Transport::sctp);
    return found ? found->control_chunks : std::nullopt;
}

bool SocketDiag::has_others(std::uint16_t port, const std::unordered_set<std::uint64_t> &than) {
    for (const int family : {AF_INET6, AF_INET}) {
        Question question = about(Transport::tcp, family, NLM_F_DUMP, ++sequence_);
        question.request.id.idiag_sport = htons(port);
        question.request.idiag_states = ~0U;
        const Reply reply = netlink_ ? ask(&question, sizeof question, sequence_)
                                     : Reply{.error = EBADF, .sockets = {}};
        if (reply.error != 0 ||
            // (Of sockets that are bound and no more, those of every port are told, Linux 6.8 on.)
            std::any_of(reply.sockets.begin(), reply.sockets.end(), [&](const Listener &socket) {
                return socket.port == port && !than.contains(socket.cookie);
            }))
            return true;
    }
    return false;
}

std::vector<std::uint64_t> SocketDiag::listeners_at(const Endpoint &local, uid_t user) {
    Question question = about(Transport::tcp, local.family(), NLM_F_DUMP, ++sequence_);
    std::array<__be32, 4> address{};
    put(local, address.data(), question.request.id.idiag_sport);
    std::vector<std::uint64_t> cookies;
    if (netlink_)
        for (const Listener &each : ask(&question, sizeof question, sequence_).sockets)
            if (each.user == user && each.address == address)
                cookies.push_back(each.cookie);
    std::sort(cookies.begin(), cookies.end());
    return cookies;
}

bool SocketDiag::has_listener(const Endpoint &local) {
    Question question = about(Transport::tcp, local.family(), NLM_F_DUMP, ++sequence_);
    question.request.id.idiag_sport = htons(local.port());
    return netlink_ && !ask(&question, sizeof question, sequence_).sockets.empty();
}

std::optional<SocketDiag::Listener> SocketDiag::who_hears(const Endpoint &from, const Endpoint &to,
                                                          unsigned interface, Transport transport) {
    if (!netlink_ || from.family() != to.family()) {
        errno = EOPNOTSUPP;
        return std::nullopt;
    }
    Question question = about(transport, to.family(), 0, ++sequence_);
    auto &id = question.request.id;
    put(to, id.idiag_src, id.idiag_sport);
    put(from, id.idiag_dst, id.idiag_dport);
    id.idiag_if = interface;
    const Reply reply = ask(&question, sizeof question, sequence_);
    if (reply.error != 0 || reply.sockets.empty()) {
        errno = reply.error != 0 ? reply.error : ENOENT;
        return std::nullopt;
    }
    return reply.sockets.front();
}

} // namespace synergy
