// Sockets bound beside a server's listener, as punches for TCP and one-to-one SCTP need them.
#pragma once

#include "base/socket.h"
#include "server/server_socket.h"
#include "settings/settings.h"

#include <string>

namespace synergy {

/// A stream socket that may be bound beside the listener, with what is negotiated when it connects;
/// empty and errno set if there can be none.
Socket open_beside(const ServerSocket &server, int protocol);

/// The listener's address, or where that is the wildcard, what the settings say.
Endpoint address_beside(const ServerSocket &server, const Settings &settings, bool is_v4);
bool bind_beside(const Socket &socket, const ServerSocket &server, const Settings &settings,
                 bool is_v4);

/// Why no socket can be bound beside the listener though its user seems to be this process's, in
/// words; empty: one can. Those who have no number in this user namespace all seem to be one user
/// (user_namespaces(7)), nobody mostly.
std::string why_not_beside_nobody(const ServerSocket &server, const Settings &settings);

/// The system's hop limit, as the kernel has it (ipv6(7), ip(7)).
constexpr int default_hop_limit = -1;

/// Of what is to get to the peer: the one that the server has set, as its listener would answer
/// with it, or the system's.
int ordinary_hop_limit(const ServerSocket &server, bool is_v4);

void set_hop_limit(const Socket &socket, bool is_v4, int hop_limit);

/// What comes with less is not heard (IPV6_MINHOPCOUNT, IP_MINTTL).
bool set_least_hop_limit_heard(const Socket &socket, bool is_v4, int least);

} // namespace synergy
