#include "handoff/bell_way.h"

#include "hops/addresses.h"
#include "server/tcp_keys.h"
#include "wire.h"

#include <cstring>
#include <fstream>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

namespace synergy {

namespace {

/// Where several listeners share a port, it depends on the port that a bell comes from which of
/// them hears it: by so many one is found that the right one hears, of a hundred workers, too.
int ports_tried(const ServerSocket &listener) {
    constexpr int of_one_alone = 64;
    return listener.is_shared ? SYNERGY_BELL_PORTS : of_one_alone;
}

std::uint16_t bell_port(unsigned number) {
    return static_cast<std::uint16_t>(SYNERGY_FIRST_BELL_PORT + number % SYNERGY_BELL_PORTS);
}

} // namespace

bool is_loopback_up() {
    const Socket any = Socket::open(AF_UNIX, SOCK_DGRAM);
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    return ioctl(any.fd(), SIOCGIFFLAGS, &request) != 0 || (request.ifr_flags & IFF_UP) != 0;
}

namespace {

struct Loopback {
    Endpoint first;
    Endpoint otherwise; ///< if this host has not the first; empty: none
};

/// By which a listener at the wildcard address is reached.
Loopback loopback_for(const ServerSocket &listener) {
    const Endpoint &local = listener.local;
    const Endpoint v4 = Endpoint::loopback(AF_INET, local.port());
    if (local.family() == AF_INET)
        return {.first = v4, .otherwise = {}};
    if (local.is_v4_mapped())
        return {.first = v4.mapped(), .otherwise = {}};
    // Containers often have no IPv6 on their loopback interface.
    return {.first = Endpoint::loopback(AF_INET6, local.port()),
            .otherwise = listener.takes_v4 ? v4.mapped() : Endpoint()};
}

} // namespace

const Obstacle *loopback_obstacle(int family) {
    if (is_own_address(Endpoint::loopback(family, 0)))
        return nullptr;
    if (family == AF_INET)
        return &without_v4_loopback;
    int is_disabled = 0;
    std::ifstream("/proc/sys/net/ipv6/conf/lo/disable_ipv6") >> is_disabled;
    return is_disabled != 0 ? &v6_loopback_is_disabled : &without_v6_loopback;
}

Endpoint bell_address(const ServerSocket &listener) {
    if (!listener.local.is_wildcard())
        return listener.local;
    const auto [first, otherwise] = loopback_for(listener);
    return otherwise.empty() || is_own_address(first) ? first : otherwise;
}

unsigned interface_of(const Endpoint &to) {
    unsigned found = loopback_interface;
    ifaddrs *all = nullptr;
    if (to.family() != AF_INET6 || to.is_v4_mapped() || to.is_loopback() || getifaddrs(&all) != 0)
        return found;
    for (const ifaddrs *each = all; each != nullptr; each = each->ifa_next)
        if (each->ifa_addr != nullptr && each->ifa_addr->sa_family == AF_INET6 &&
            Endpoint::from(each->ifa_addr, sizeof(sockaddr_in6)).same_address(to))
            found = if_nametoindex(each->ifa_name);
    freeifaddrs(all);
    return found;
}

/// A bell that another's listener heard would hand it the peer's connection.
Heard BellWay::would_hear(const ServerSocket &listener, const Endpoint &from,
                          const Endpoint &to) const {
    if (listener.transport != Transport::tcp)
        return Heard::by_the_server; // of SCTP the kernel does not say it
    const auto found = socket_diag_.who_hears(from, to, interface_of(to));
    if (found)
        return listener.sought().is(*found) || is_ours_(found->cookie) ? Heard::by_the_server
                                                                       : Heard::by_others;
    return errno == ENOENT ? Heard::by_nobody : Heard::by_the_server;
}

const Obstacle *BellWay::obstacle(const ServerSocket &listener) {
    if (const Obstacle *why = hearing_obstacle(listener))
        return why;
    return reserve_ports(listener.transport);
}

/// Any user could take all ports that bells come from, and leave peers connected to nobody. Beside
/// these a bell can be bound whatever happens; the keepers of one user share them. Why there are
/// none; or nullptr.
const Obstacle *BellWay::reserve_ports(Transport transport) {
    constexpr std::size_t enough = 2;
    constexpr unsigned tried_anyway = 16;
    std::vector<Socket> &reserved = reserved_[transport];
    for (unsigned i = 0; reserved.size() < enough && i < SYNERGY_BELL_PORTS; i++) {
        int family = AF_INET6; // and of both
        Socket socket = Socket::open(family, SOCK_STREAM, protocol_of(transport));
        if (!socket)
            socket = Socket::open(family = AF_INET, SOCK_STREAM, protocol_of(transport));
        if (!socket)
            return nullptr; // what is short now may be had later
        if (family == AF_INET6)
            socket.set(IPPROTO_IPV6, IPV6_V6ONLY, 0);
        socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
        const Endpoint at = Endpoint::wildcard(family, bell_port(i));
        if (::bind(socket.fd(), at.data(), at.length()) == 0)
            reserved.push_back(std::move(socket));
        else if (errno != EADDRINUSE)
            return errno == EACCES || errno == EPERM ? &forbidden_ports : nullptr;
        if (!reserved.empty() && i >= tried_anyway)
            break;
    }
    return reserved.empty() ? &without_port : nullptr;
}

const Obstacle *BellWay::hearing_obstacle(const ServerSocket &listener) const {
    if (!is_loopback_up())
        return &loopback_is_down;
    Endpoint to = listener.local;
    if (to.is_wildcard()) {
        const auto [first, otherwise] = loopback_for(listener);
        to = is_own_address(first) ? first : otherwise;
        if (to.empty() || (to == otherwise && !is_own_address(to)))
            return loopback_obstacle(first.unmapped().family());
    }
    Heard heard{};
    for (int i = 0; i < ports_tried(listener); i++) {
        heard = would_hear(listener, to.with_port(bell_port(static_cast<unsigned>(i))), to);
        if (heard == Heard::by_the_server)
            return nullptr;
        // From whatever port.
        if (heard == Heard::by_nobody)
            break;
    }
    // Before listen() nobody hears it, wherever it is bound to.
    if (heard == Heard::by_nobody && !listener.listens && !listener.has_device)
        return nullptr;
    return heard == Heard::by_nobody ? &bound_to_device : &anothers;
}

/// To a port that is free; empty and errno.
Socket BellWay::bound_bell(const ServerSocket &listener, const Endpoint &to) {
    Socket bell = Socket::open(to.family(), SOCK_STREAM, protocol_of(listener.transport));
    if (!bell)
        return {};
    // Reset when closed, so that no four-tuple of the server's port rests in TIME_WAIT.
    bell.reset_when_closed();
    // A listener whose queue is full forgets it in the end, without a word: asked every second,
    // the kernel answers with a reset then, and as soon as there is room with the connection.
    bell.set(SOL_SOCKET, SO_KEEPALIVE, 1);
    bell.set(IPPROTO_TCP, TCP_KEEPIDLE, 1);
    bell.set(IPPROTO_TCP, TCP_KEEPINTVL, 1);
    // A listener may ask for a least hop limit (GTSM, RFC 5082), of 255 at most.
    bell.set(IPPROTO_IP, IP_TTL, 255);
    if (to.family() == AF_INET6)
        bell.set(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 255);
    // A key may be for everybody.
    for (const OptionValue &value : listener.chosen)
        if (is_key(value))
            ::setsockopt(bell.fd(), value.level, value.name, value.bytes.data(), value.length);
    for (int i = 0; i < SYNERGY_BELL_PORTS; i++) {
        const Endpoint from = to.with_port(bell_port(next_port_++));
        // A port may be taken by another bell, on another address.
        if (is_ringing_(from.port()))
            errno = EADDRINUSE;
        else if (::bind(bell.fd(), from.data(), from.length()) == 0)
            return bell;
        if (errno != EADDRINUSE)
            break;
    }
    if (errno == EADDRINUSE) {
        bell.set(SOL_SOCKET, SO_REUSEPORT, 1);
        for (const Socket &reserved : reserved_[listener.transport]) {
            const Endpoint from = to.with_port(reserved.local().port());
            if (!is_ringing_(from.port()) && ::bind(bell.fd(), from.data(), from.length()) == 0)
                return bell;
        }
        errno = EADDRINUSE;
    }
    bell.reset();
    return bell;
}

Bell BellWay::bell_for(const ServerSocket &listener, const Endpoint &to) {
    Heard heard{};
    for (int attempt = 0; attempt < ports_tried(listener); attempt++) {
        Socket bell = bound_bell(listener, to);
        if (!bell)
            return {};
        heard = would_hear(listener, bell.local(), to);
        if (heard == Heard::by_the_server)
            return {.socket = std::move(bell), .heard = heard};
    }
    return {.socket = {}, .heard = heard};
}

} // namespace synergy
