// Which way the kernel sends a packet.
#pragma once

#include "base/endpoint.h"
#include "base/scheduler.h"

#include <optional>
#include <string>

namespace synergy {

struct Route {
    Endpoint gateway; ///< the first router; empty where there is none
    Endpoint source;  ///< the address that packets leave from
    unsigned interface = 0;
    /// No router lies between: the peer is a neighbour, or this host itself.
    bool on_link = false;
    bool is_local = false; ///< the peer is this host itself
};

/// Asks the kernel without sending anything. `source` may be empty: the kernel's choice, as
/// punches have it made, a public address before a temporary one. Nothing where there is no route.
std::optional<Route> route_to(const Endpoint &peer, const Endpoint &source);
/// The same at half the price, for who does not ask for the source: that may be another one.
std::optional<Route> route_whatever_source(const Endpoint &peer, const Endpoint &source);

/// route_whatever_source() for who asks again and again about one host: for the ports of a range,
/// and for what is done for each.
class RecentRoute {
  public:
    const std::optional<Route> &to(const Endpoint &peer, const Endpoint &source);

  private:
    Endpoint peer_, source_;
    std::optional<Route> route_;
    Time asked_{};
};

/// What the routing table has for a flow, with its rules by protocol and port (ip-rule(8)): the
/// errno that sending fails with, or 0. Ports of 0 are none. Nothing where the kernel does not say.
std::optional<int> flow_error(const Endpoint &peer, const Endpoint &source, int protocol);

/// The address, with port 0, that a socket with no address of its own sends from toward the peer
/// if it prefers public addresses to temporary ones (RFC 5014), which no peer can know. Empty where
/// there is none, or no route. Nothing is sent.
Endpoint public_source(const Endpoint &peer);

/// Whether this host's routing table has a router, or another host at the far end of a link with
/// two ends, by which that interface leads to the peer.
bool has_way_by(const Endpoint &peer, const std::string &interface);

/// The name of the interface that leads to the peer where that is up and has no carrier, as without
/// a cable: what leaves by it is dropped, and nobody is told. Empty: it has one.
std::string interface_without_carrier(const Route &route);

/// Whether the neighbour has not answered when this host asked for its link address, or has not
/// yet. False where it was not asked.
bool is_neighbour_mute(const Endpoint &neighbour, unsigned interface);

/// Whether the first router has not answered when this host asked for its link address, or has not
/// yet. False where there is none.
bool is_gateway_mute(const Route &route);

} // namespace synergy
