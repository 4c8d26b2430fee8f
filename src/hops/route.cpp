#include "hops/route.h"

#include "base/socket.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <linux/in6.h> // IPV6_PREFER_SRC_PUBLIC
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <utility>

namespace synergy {

namespace {

/// The bytes of an address as rtnetlink(7) has them.
struct AddressBytes {
    const void *data;
    std::size_t size;
};

AddressBytes bytes_of(const Endpoint &endpoint) {
    if (endpoint.family() == AF_INET)
        return {&reinterpret_cast<const sockaddr_in *>(endpoint.data())->sin_addr, sizeof(in_addr)};
    return {&reinterpret_cast<const sockaddr_in6 *>(endpoint.data())->sin6_addr, sizeof(in6_addr)};
}

Endpoint endpoint_of(int family, const void *bytes, std::size_t size) {
    if (family == AF_INET && size == sizeof(in_addr)) {
        sockaddr_in in{};
        in.sin_family = AF_INET;
        std::memcpy(&in.sin_addr, bytes, size);
        return Endpoint::from(reinterpret_cast<const sockaddr *>(&in), sizeof in);
    }
    if (family == AF_INET6 && size == sizeof(in6_addr)) {
        sockaddr_in6 in6{};
        in6.sin6_family = AF_INET6;
        std::memcpy(&in6.sin6_addr, bytes, size);
        return Endpoint::from(reinterpret_cast<const sockaddr *>(&in6), sizeof in6);
    }
    return {};
}

/// RTM_GETROUTE for one destination.
class Question {
  public:
    /// `by`: 0, or the interface that it is to be.
    Question(const Endpoint &peer, const Endpoint &source, unsigned by) {
        const AddressBytes to = bytes_of(peer);
        header_.nlmsg_type = RTM_GETROUTE;
        header_.nlmsg_flags = NLM_F_REQUEST;
        route_.rtm_family = static_cast<unsigned char>(peer.family());
        route_.rtm_dst_len = static_cast<unsigned char>(to.size * 8);
        add(RTA_DST, to);
        if (!source.empty()) {
            const AddressBytes from = bytes_of(source);
            route_.rtm_src_len = static_cast<unsigned char>(from.size * 8);
            add(RTA_SRC, from);
        }
        if (by == 0 && peer.family() == AF_INET6)
            by = reinterpret_cast<const sockaddr_in6 *>(peer.data())->sin6_scope_id;
        if (by != 0)
            add(RTA_OIF, {&by, sizeof by});
    }

    void add_flow(std::uint16_t source_port, std::uint16_t port, int protocol) {
        const auto number = static_cast<std::uint8_t>(protocol);
        add(RTA_IP_PROTO, {&number, sizeof number});
        for (const auto &[type, each] : {std::pair(RTA_SPORT, source_port), {RTA_DPORT, port}})
            if (const std::uint16_t big_endian = htons(each); each != 0)
                add(type, {&big_endian, sizeof big_endian});
    }

    [[nodiscard]] bool send(const Socket &socket) {
        header_.nlmsg_len =
            static_cast<std::uint32_t>(sizeof header_ + NLMSG_ALIGN(sizeof route_) + used_);
        std::array<iovec, 3> parts{{{&header_, sizeof header_},
                                    {&route_, NLMSG_ALIGN(sizeof route_)},
                                    {attributes_.data(), used_}}};
        sockaddr_nl kernel{};
        kernel.nl_family = AF_NETLINK;
        msghdr message{};
        message.msg_name = &kernel;
        message.msg_namelen = sizeof kernel;
        message.msg_iov = parts.data();
        message.msg_iovlen = parts.size();
        return ::sendmsg(socket.fd(), &message, MSG_NOSIGNAL) >= 0;
    }

  private:
    void add(unsigned short type, AddressBytes value) {
        const rtattr attribute{static_cast<unsigned short>(RTA_LENGTH(value.size)), type};
        std::memcpy(attributes_.data() + used_, &attribute, sizeof attribute);
        std::memcpy(attributes_.data() + used_ + RTA_LENGTH(0), value.data, value.size);
        used_ += RTA_SPACE(value.size);
    }

    nlmsghdr header_{};
    rtmsg route_{};
    static_assert(NLMSG_ALIGN(sizeof(rtmsg)) == sizeof(rtmsg));
    alignas(rtattr) std::array<char, 96> attributes_{};
    std::size_t used_ = 0;
};

/// Its name and flags (netdevice(7)); without any where it can't be told.
ifreq interface_of(unsigned index) {
    const Socket any = Socket::open(AF_UNIX, SOCK_DGRAM);
    ifreq found{};
    found.ifr_ifindex = static_cast<int>(index);
    if (!any || ::ioctl(any.fd(), SIOCGIFNAME, &found) != 0 ||
        ::ioctl(any.fd(), SIOCGIFFLAGS, &found) != 0)
        return {};
    return found;
}

/// A link with two ends needs no address of the other one: a route over it names no gateway, and
/// yet there may be a whole path behind.
bool is_point_to_point(unsigned interface) {
    return (interface_of(interface).ifr_flags & (IFF_POINTOPOINT | IFF_NOARP)) != 0;
}

std::optional<Route> answer_of(nlmsghdr *header, std::size_t length) {
    if (!NLMSG_OK(header, length) || header->nlmsg_type != RTM_NEWROUTE)
        return std::nullopt;
    auto *found = static_cast<rtmsg *>(NLMSG_DATA(header));
    if (found->rtm_type != RTN_UNICAST && found->rtm_type != RTN_LOCAL)
        return std::nullopt;
    Route route;
    auto left = static_cast<int>(RTM_PAYLOAD(header));
    for (auto *each = RTM_RTA(found); RTA_OK(each, left); each = RTA_NEXT(each, left)) {
        const auto size = static_cast<std::size_t>(RTA_PAYLOAD(each));
        const auto *value = static_cast<const char *>(RTA_DATA(each));
        if (each->rta_type == RTA_GATEWAY)
            route.gateway = endpoint_of(found->rtm_family, value, size);
        else if (each->rta_type == RTA_VIA && size > sizeof(rtvia)) {
            // An IPv4 route by an IPv6 router (RFC 5549).
            rtvia via{};
            std::memcpy(&via, value, sizeof via);
            route.gateway = endpoint_of(via.rtvia_family, value + sizeof via, size - sizeof via);
        } else if (each->rta_type == RTA_PREFSRC)
            route.source = endpoint_of(found->rtm_family, value, size);
        else if (each->rta_type == RTA_OIF && size == sizeof route.interface)
            std::memcpy(&route.interface, value, size);
    }
    route.is_local = found->rtm_type == RTN_LOCAL;
    route.on_link =
        route.is_local || (route.gateway.empty() && !is_point_to_point(route.interface));
    return route;
}

using Answer = std::array<char, 4096>;

/// The length of the answer; 0: none.
std::size_t ask(Question question, Answer &answer) {
    const Socket socket = Socket::open(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    if (!socket || !question.send(socket))
        return 0;
    // The kernel answers within sendmsg(), so nothing is waited for.
    iovec part{answer.data(), answer.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    return static_cast<std::size_t>(
        std::max<ssize_t>(::recvmsg(socket.fd(), &message, MSG_DONTWAIT), 0));
}

std::optional<Route> ask(const Question &question) {
    alignas(nlmsghdr) Answer answer{};
    const std::size_t length = ask(question, answer);
    return answer_of(reinterpret_cast<nlmsghdr *>(answer.data()), length);
}

/// Routes that are there to send nothing (ip-route(8)).
int error_of(unsigned char route_type) {
    switch (route_type) {
    case RTN_BLACKHOLE:
        return EINVAL;
    case RTN_PROHIBIT:
        return EACCES;
    case RTN_UNREACHABLE:
        return EHOSTUNREACH;
    default:
        return 0;
    }
}

} // namespace

Endpoint public_source(const Endpoint &to) {
    const Endpoint peer = to.unmapped();
    const Socket socket = Socket::open(peer.family(), SOCK_DGRAM);
    if (peer.family() == AF_INET6 &&
        !socket.set(IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, IPV6_PREFER_SRC_PUBLIC))
        return {};
    if (!socket || ::connect(socket.fd(), peer.data(), peer.length()) != 0)
        return {};
    return socket.local().with_port(0);
}

std::optional<Route> route_whatever_source(const Endpoint &to, const Endpoint &from) {
    const Endpoint peer = to.unmapped();
    const Endpoint source = from.is_wildcard() ? Endpoint() : from.unmapped();
    if (peer.empty() || (!source.empty() && source.family() != peer.family()))
        return std::nullopt;
    std::optional<Route> route = ask(Question(peer, source, 0));
    if (route && !source.empty())
        route->source = source;
    return route;
}

const std::optional<Route> &RecentRoute::to(const Endpoint &peer, const Endpoint &source) {
    constexpr Duration recent = std::chrono::milliseconds(20);
    const Time now = Clock::now();
    if (asked_ == Time{} || now - asked_ > recent || !peer_.same_address(peer) ||
        source_ != source) {
        route_ = route_whatever_source(peer, source);
        peer_ = peer;
        source_ = source;
        asked_ = now;
    }
    return route_;
}

/// What rtnetlink(7) names is the address for who has no preference; punches have one.
std::optional<Route> route_to(const Endpoint &to, const Endpoint &from) {
    const Endpoint peer = to.unmapped();
    std::optional<Route> route = route_whatever_source(peer, from);
    if (route && !route->is_local && peer.family() == AF_INET6 &&
        (from.empty() || from.is_wildcard()))
        if (const Endpoint chosen = public_source(peer); !chosen.empty())
            route->source = chosen;
    return route;
}

std::optional<int> flow_error(const Endpoint &to, const Endpoint &from, int protocol) {
    const Endpoint peer = to.unmapped();
    const Endpoint source = from.is_wildcard() ? Endpoint() : from.unmapped();
    if (peer.empty() || (!source.empty() && source.family() != peer.family()))
        return std::nullopt;
    Question question(peer, source, 0);
    question.add_flow(from.port(), peer.port(), protocol);
    alignas(nlmsghdr) Answer answer{};
    const std::size_t length = ask(question, answer);
    auto *header = reinterpret_cast<nlmsghdr *>(answer.data());
    if (!NLMSG_OK(header, length))
        return std::nullopt;
    if (header->nlmsg_type != NLMSG_ERROR)
        return error_of(static_cast<rtmsg *>(NLMSG_DATA(header))->rtm_type);
    const int error = -static_cast<nlmsgerr *>(NLMSG_DATA(header))->error;
    return error == EOPNOTSUPP ? std::nullopt : std::optional(error); // it knows TCP and UDP
}

bool has_way_by(const Endpoint &peer, const std::string &interface) {
    const unsigned by = if_nametoindex(interface.c_str());
    const auto route = by != 0 ? ask(Question(peer.unmapped(), {}, by)) : std::nullopt;
    return route && route->interface == by && !route->on_link;
}

std::string interface_without_carrier(const Route &route) {
    const ifreq found = interface_of(route.interface);
    // (IFF_RUNNING is also what can't be told, of a tunnel say.)
    const bool has_none = (found.ifr_flags & IFF_UP) != 0 && (found.ifr_flags & IFF_RUNNING) == 0;
    return has_none ? found.ifr_name : "";
}

bool is_gateway_mute(const Route &route) {
    return !route.gateway.empty() && is_neighbour_mute(route.gateway, route.interface);
}

bool is_neighbour_mute(const Endpoint &neighbour, unsigned interface) {
    const AddressBytes to = bytes_of(neighbour);
    struct {
        nlmsghdr header{};
        ndmsg neighbour{};
        rtattr destination{};
        std::array<char, sizeof(in6_addr)> address{};
    } question;
    question.header.nlmsg_len =
        static_cast<std::uint32_t>(offsetof(decltype(question), address) + to.size);
    question.header.nlmsg_type = RTM_GETNEIGH;
    question.header.nlmsg_flags = NLM_F_REQUEST;
    question.neighbour.ndm_family = static_cast<unsigned char>(neighbour.family());
    question.neighbour.ndm_ifindex = static_cast<int>(interface);
    question.destination = {static_cast<unsigned short>(RTA_LENGTH(to.size)), NDA_DST};
    std::memcpy(question.address.data(), to.data, to.size);
    const Socket socket = Socket::open(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    if (!socket || ::send(socket.fd(), &question, question.header.nlmsg_len, MSG_NOSIGNAL) < 0)
        return false;
    alignas(nlmsghdr) std::array<char, 4096> buffer{};
    const ssize_t length = ::recv(socket.fd(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    auto *answer = reinterpret_cast<nlmsghdr *>(buffer.data());
    return length > 0 && NLMSG_OK(answer, static_cast<std::size_t>(length)) &&
           answer->nlmsg_type == RTM_NEWNEIGH &&
           (static_cast<ndmsg *>(NLMSG_DATA(answer))->ndm_state & (NUD_FAILED | NUD_INCOMPLETE)) !=
               0;
}

} // namespace synergy
