#include "server/reach.h"

#include <algorithm>

namespace synergy {

namespace {

/// "4444, 5000-5010"
std::string text(const std::vector<PortRange> &ports) {
    std::string all;
    for (const PortRange &range : ports) {
        all.append(all.empty() ? "" : ", ").append(std::to_string(range.first));
        if (range.last != range.first)
            all.append("-").append(std::to_string(range.last));
    }
    return all;
}

/// Who says which ports count.
std::string port_setting(const Settings &settings) {
    return settings.environment.contains("SYNERGY_PORTS") ? "SYNERGY_PORTS" : settings.file;
}

std::string families(const Settings &settings, const ServerSocket &socket, const Target &first) {
    const bool is_v4_peer = first.peer.family() == AF_INET;
    std::string who = first.peer.text();
    // A name is what the user wrote.
    for (const auto &[host, addresses] : settings.addresses)
        for (const Endpoint &address : addresses)
            if (address.same_address(first.peer))
                who = host + " (" + first.peer.address_text() + ")";
    const std::string speaks = is_v4_peer ? "IPv6" : "IPv4";
    const std::string has = is_v4_peer ? "IPv4" : "IPv6";
    std::string advice;
    if (!socket.local.is_wildcard())
        advice = "let it listen on " + std::string(is_v4_peer ? "0.0.0.0" : "::") + " or on an " +
                 has + " address of this host";
    else if (is_v4_peer)
        advice = "let it listen on 0.0.0.0 as well, or on :: without IPV6_V6ONLY";
    else
        advice = "let it listen on ::";
    return "it speaks " + speaks + " alone, and the peer " + who + " has an " + has +
           " address: " + advice;
}

/// Where what is sent comes to many hosts, or to all of a network: a peer answers elsewhere.
bool is_of_many(const Endpoint &local) {
    return local.is_multicast() || local.is_broadcast();
}

} // namespace

Endpoint reachable(const ServerSocket &socket, const Endpoint &peer) {
    const Endpoint &local = socket.local;
    // Packets from a link's own address don't leave it (RFC 4291 2.5.6, RFC 3927 2.6.2).
    if (local.is_loopback() || is_of_many(local) ||
        (local.is_link_local() && !peer.is_link_local()))
        return {};
    bool is_v6_socket = local.family() == AF_INET6;
    if (peer.family() == AF_INET6)
        return is_v6_socket && !local.is_v4_mapped() ? peer : Endpoint{};
    if (!is_v6_socket)
        return peer;
    bool has_v4 = socket.takes_v4 && (local.is_wildcard() || local.is_v4_mapped());
    return has_v4 ? peer.mapped() : Endpoint{};
}

bool has_declared(const Settings &settings, const ServerSocket &socket) {
    const std::vector<Target> targets = settings.targets_for(socket.transport, socket.local.port());
    return std::any_of(targets.begin(), targets.end(), [&](const Target &target) {
        return !reachable(socket, target.peer).empty();
    });
}

std::string why_nobody(const Settings &settings, const ServerSocket &socket) {
    if (!settings.is_sound || !settings.has_peers() || has_declared(settings, socket))
        return {};
    const std::uint16_t port = socket.local.port();
    const std::vector<Target> targets = settings.targets_for(socket.transport, port);
    if (socket.local.is_loopback())
        return "it listens on " + socket.local.address_text() +
               ", where nobody but this host comes: let it listen on :: or on an address of this "
               "host";
    if (socket.local.is_link_local())
        return "it listens on " + socket.local.address_text() +
               ", which counts on its own link alone, and no peer is there: let it listen on :: or "
               "on another address of this host";
    if (is_of_many(socket.local))
        return "it is bound to " + socket.local.address_text() +
               ", which stands for many hosts: let it be bound to :: or to an address of this host";
    if (!targets.empty())
        return families(settings, socket, targets.front());
    const std::vector<PortRange> concerned = settings.concerned_ports(socket.transport);
    const auto holds = [port](const PortRange &range) {
        return range.first <= port && port <= range.last;
    };
    if (std::any_of(concerned.begin(), concerned.end(), holds))
        return {}; // a name that does not resolve yet, which is said where it is looked up
    const std::string ports = text(concerned);
    if (ports.empty())
        return "no peers are set for " + std::string(name(socket.transport)) + " in " +
               port_setting(settings);
    return "port " + std::to_string(port) + " is not among those of " + port_setting(settings) +
           ": " + ports;
}

const char *why_unreachable(const ServerSocket &socket, const Endpoint &peer) {
    if (!reachable(socket, peer).empty())
        return nullptr;
    if (socket.local.is_loopback())
        return "nobody but this host comes to this socket's address";
    if (socket.local.is_link_local() && socket.local.unmapped().family() == peer.family())
        return "this socket's address counts on its own link alone";
    return "this socket can't reach a peer of that address family";
}

std::string why_not_beside(const ServerSocket &socket, uid_t user) {
    // SO_REUSEPORT (socket(7)) is for sockets of one user.
    if (!socket.accepts() || socket.owner == user)
        return {};
    return "user " + std::to_string(socket.owner) +
           " made this listener, and no other user (this process is user " + std::to_string(user) +
           ") can bind beside it";
}

} // namespace synergy
