// This host's addresses, and what kind of address may meet which.
#pragma once

#include "base/endpoint.h"

#include <string>
#include <vector>

namespace synergy {

/// The loopback interface's number, of every network namespace: LOOPBACK_IFINDEX,
/// include/net/flow.h.
constexpr unsigned loopback_interface = 1;

/// For use within a network only: RFC 1918, RFC 6598 (a provider's NAT), RFC 4193.
bool is_private(const Endpoint &address);
/// Whether two addresses belong to one customer's network, as far as numbers tell: /56 (RFC 6177),
/// or in IPv4 /24.
bool is_same_site(const Endpoint &one, const Endpoint &other);

/// Whether this host has the address: what can't be told counts as yes.
bool is_own_address(const Endpoint &address);

/// Further addresses by which a peer may call this host: of the same kind as the one that packets
/// for it leave from, not for a while only (RFC 8981), and of the same interface or of another one
/// by which there is a way to the peer.
std::vector<Endpoint> other_addresses(const Endpoint &own, const Endpoint &peer);

/// Where no router answers: that packets leave by another interface than the one that has the
/// address they leave from, which firewalls and providers may not let pass. Empty: they don't.
std::string foreign_source(const Endpoint &peer, const Endpoint &source);

/// Where this host has no address for the peer but the link's own: that nobody there can answer, in
/// words. Empty: it has, or will have in a moment.
std::string link_objection(const Endpoint &source, const Endpoint &peer);

/// What a private address of one of the two ends says against a hole, in words; empty: nothing.
std::string private_objection(const Endpoint &source, const Endpoint &peer);

} // namespace synergy
