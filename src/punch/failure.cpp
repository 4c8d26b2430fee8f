#include "punch/failure.h"

#include "hops/addresses.h"
#include "hops/route.h"
#include "punch/beside.h"

#include <algorithm>
#include <cstring>
#include <netinet/in.h>
#include <poll.h>

namespace synergy {

using std::chrono::milliseconds;

namespace {

const char *family_name(const Endpoint &peer) {
    return peer.unmapped().family() == AF_INET ? "IPv4" : "IPv6";
}

/// For who wants to see for himself: with the ports, where the route goes by these.
std::string route_command(const Endpoint &source, const Endpoint &peer, Transport transport) {
    std::string command = std::string("ip ") + (peer.unmapped().family() == AF_INET ? "-4" : "-6") +
                          " route get " + peer.unmapped().address_text();
    if (!route_whatever_source(peer, source))
        return command;
    command.append(" ipproto ").append(name(transport));
    if (source.port() != 0)
        command.append(" sport ").append(std::to_string(source.port()));
    return command + " dport " + std::to_string(peer.port());
}

/// Only broadcast is allowed by SO_BROADCAST.
bool is_broadcast(const Endpoint &peer) {
    const Endpoint to = peer.unmapped();
    const Socket socket = Socket::open(AF_INET, SOCK_DGRAM);
    if (to.family() != AF_INET || ::connect(socket.fd(), to.data(), to.length()) == 0 ||
        errno != EACCES)
        return false;
    return socket.set(SOL_SOCKET, SO_BROADCAST, 1) &&
           ::connect(socket.fd(), to.data(), to.length()) == 0;
}

/// What connecting a datagram socket fails with; or `source` is what it leaves from.
int connecting_error(const Endpoint &peer, Endpoint *source) {
    const Endpoint to = peer.unmapped();
    const Socket socket = Socket::open(to.family(), SOCK_DGRAM);
    // (Where no local port is left, EAGAIN, this socket has none; punches have the server's.)
    if (socket && ::connect(socket.fd(), to.data(), to.length()) != 0 && errno != EAGAIN)
        return errno;
    if (source != nullptr)
        *source = socket.local();
    return 0;
}

} // namespace

int route_error(const Endpoint &local, const Endpoint &peer, Transport transport,
                Endpoint *source) {
    const int error = connecting_error(peer, source);
    return error != 0 ? error : flow_error(peer, local, protocol_of(transport)).value_or(0);
}

Socket begin_to_first_router(const Endpoint &source, const Endpoint &peer, Transport transport) {
    Socket socket = Socket::open(peer.family(), SOCK_STREAM, protocol_of(transport));
    const Endpoint from = source.with_port(0);
    socket.reset_when_closed();
    if (peer.family() == AF_INET6)
        socket.set(IPPROTO_IPV6, IPV6_V6ONLY, 0);
    set_hop_limit(socket, peer.unmapped().family() == AF_INET, hop_limit_min);
    if (::bind(socket.fd(), from.data(), from.length()) != 0 ||
        (::connect(socket.fd(), peer.data(), peer.length()) != 0 && errno != EINPROGRESS))
        return {};
    return socket;
}

bool is_refused_by_this_host(const Endpoint &source, const Endpoint &peer, Transport transport,
                             Duration lateness) {
    const Socket socket = begin_to_first_router(source, peer, transport);
    if (!socket)
        return false;
    // What comes from this host has come by now, or as soon as this processor has a moment. (What
    // comes from the first router ends the wait as well.)
    pollfd came{.fd = socket.fd(), .events = POLLOUT, .revents = 0};
    const auto moment = std::clamp<Duration>(2 * lateness, milliseconds(1), milliseconds(20));
    const auto moment_ms = std::chrono::ceil<milliseconds>(moment).count();
    const bool is_felt = ::poll(&came, 1, static_cast<int>(moment_ms)) > 0;
    const int error = socket.get(SOL_SOCKET, SO_ERROR, 0);
    if (transport == Transport::sctp) // which tells of an ICMP error only who asks
        return error == ECONNREFUSED || error == EACCES;
    return is_felt && error == ECONNREFUSED;
}

std::string local_setting_cause(const Settings &settings, int family) {
    const Endpoint chosen = settings.local_for(family);
    if (chosen.empty() || is_own_address(chosen))
        return {};
    const bool is_variable = settings.environment.contains("SYNERGY_LOCAL");
    return std::string(is_variable ? "SYNERGY_LOCAL" : "`local` in " + settings.file) + " is " +
           chosen.address_text() + ", which is no address of this host";
}

std::string local_cause(int error, const Endpoint &source, const Endpoint &peer,
                        const Settings &settings, Transport transport) {
    const auto route_cause = [&](const char *what) {
        return std::string(what) + " (" + route_command(source, peer, transport) + ")";
    };
    const bool is_wildcard = source.empty() || source.is_wildcard();
    // (What the kernel says of an address that has gone depends on what has gone with it.)
    const bool is_about_source =
        error == EADDRNOTAVAIL || error == EINVAL || error == ENETUNREACH || error == EHOSTUNREACH;
    if (is_about_source && !is_wildcard && !is_own_address(source))
        return source.unmapped().address_text() + " is no address of this host";
    // (Which of them it is depends on the family, and on who tells the kernel of the address.)
    if (error == EADDRNOTAVAIL || error == EINVAL || error == ENETUNREACH)
        if (std::string cause = local_setting_cause(settings, peer.unmapped().family());
            is_wildcard && !cause.empty())
            return cause;
    if ((error == EACCES || error == ENETUNREACH) && is_broadcast(peer))
        return "that is the broadcast address of a network of this host's, and no host's";
    switch (error) {
    case EADDRINUSE:
        return "another socket holds the port";
    case EMFILE:
        return "no descriptor is left: raise the limit of open files (RLIMIT_NOFILE; LimitNOFILE= "
               "in a systemd unit)";
    case ENFILE:
        return "this system has no descriptor left (fs.file-max)";
    case ENETUNREACH:
        return route_cause("Network is unreachable: this host has no route to it");
    case EHOSTUNREACH:
        return route_cause("this host's routing table has it as unreachable");
    case EACCES:
        if (route_error(source, peer, transport) != EACCES)
            return std::string("the server's sandbox lets nothing connect by ") + name(transport) +
                   " (Landlock, or another security module)";
        return route_cause("this host's routing table prohibits it");
    case EADDRNOTAVAIL:
        if (std::string cause = link_objection(public_source(peer), peer);
            is_wildcard && !cause.empty())
            return cause;
        return std::string("Cannot assign requested address: this host has no ") +
               family_name(peer) + " address for it";
    case EINVAL:
        if (peer.is_link_local())
            return "an address of the link's own needs its interface, as " +
                   peer.unmapped().address_text() + "%eth0";
        if (route_error(source, peer, transport) != EINVAL)
            return strerrordesc_np(error);
        return route_cause("this host's routing table drops it (a blackhole route)");
    case EPERM:
        if (connecting_error(peer, nullptr) == EPERM)
            return "an IPsec policy of this host forbids it (ip xfrm policy), or a BPF program of "
                   "its control group";
        return "a firewall on this host lets it not out (OUTPUT)";
    case EAFNOSUPPORT:
        return std::string("this host, or the server's sandbox, has no ") + family_name(peer);
    case ENETDOWN:
        return "the network interface is down";
    default:
        return strerrordesc_np(error);
    }
}

std::string silent_cause(const Endpoint &source, const Endpoint &peer, const Settings &settings,
                         bool was_tried) {
    if (!source.empty() && !source.is_wildcard() && !is_own_address(source))
        return local_cause(EADDRNOTAVAIL, source, peer, settings, Transport::tcp);
    if (std::string cause = mute_gateway_cause(source, peer); !cause.empty())
        return cause;
    if (!was_tried)
        return {};
    return "no SYN leaves this host: a firewall on it lets none out (OUTPUT)";
}

namespace {

std::string no_carrier_cause(const Route &route) {
    const std::string interface = interface_without_carrier(route);
    return interface.empty() ? ""
                             : interface + ", which leads there, has no carrier: a cable, or what "
                                           "is at its other end (ip link)";
}

} // namespace

std::string no_carrier_cause(const Endpoint &source, const Endpoint &peer) {
    const auto route = route_whatever_source(peer, source);
    return route ? no_carrier_cause(*route) : "";
}

std::string mute_gateway_cause(const Endpoint &source, const Endpoint &peer) {
    const auto route = route_whatever_source(peer, source);
    if (!route)
        return {};
    if (std::string cause = no_carrier_cause(*route); !cause.empty())
        return cause;
    if (!is_gateway_mute(*route))
        return {};
    return "the router " + route->gateway.address_text() + " does not answer this host (ip neigh)";
}

} // namespace synergy
