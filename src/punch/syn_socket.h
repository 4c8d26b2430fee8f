// The socket beside the listener that TCP's punches leave from: how it is made, what it hears, and
// what the kernel tells of it.
#pragma once

#include "base/socket.h"
#include "punch/guard.h"
#include "punch/punch.h"

#include <cstdint>

struct tcp_info;

namespace synergy {

/// RFC 9293 3.3.2 in the kernel's numbers (netinet/tcp.h can't be had beside linux/tcp.h).
enum : std::uint8_t { state_established = 1, state_syn_sent = 2, state_syn_received = 3 };

/// The least hop limit of what is heard: IPV6_MINHOPCOUNT, IP_MINTTL.
constexpr int hears_all = 0;
/// Nearly all routers send their errors with 64: this keeps them out, and hears the peers that
/// start above (Windows has 128).
constexpr int deaf_to_most = 65;
/// GTSM (RFC 5082): takes only what no router has forwarded, so neither the ICMP error nor anything
/// else from beyond the link. Where routers send their errors with 255, and for as long as a SYN is
/// awaited with the hop limit low: who was heard then would get an answer that dies on its way.
constexpr int deaf_to_all = 255;

/// A socket bound beside the hole's listener, with what is negotiated by a SYN; it hears what the
/// listener would. Empty and errno set if there can be none: EADDRNOTAVAIL where the listener's
/// address is none of this host's.
Socket syn_socket_beside(const Hole &hole, const Settings &settings);

/// From now on the socket hears nothing that comes with less than `least`, than what the listener
/// asks for, or in IPv4 than what a punch with this hop limit can bring back. False and errno where
/// the kernel refuses.
bool let_hear(const Socket &socket, const Hole &hole, int least, int hop_limit);

/// TCP_INFO; all zero where it can't be had.
tcp_info info_of(const Socket &socket);
/// Whether the latest retransmission has left this host, or waits for an answer of the next hop's.
bool has_left(const tcp_info &info);
/// What the guard goes by.
SynTimer timer_of(const tcp_info &info);

/// Whether this host has an address to send from. Nothing is sent.
bool has_source_toward(const Endpoint &peer);

/// Whether this host has another address toward the peer than when the socket connected: peers call
/// that one, or will. Never where it is chosen by the server or by the settings. Nothing is sent.
bool would_leave_from_elsewhere(const Socket &socket, const Hole &hole, const Settings &settings);

} // namespace synergy
