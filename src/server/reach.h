// Which peers a server's socket can have at all, and why it has none.
#pragma once

#include "server/server_socket.h"
#include "settings/settings.h"

namespace synergy {

/// The peer as this socket can reach it (v4-mapped where it must be); empty if it can't.
Endpoint reachable(const ServerSocket &socket, const Endpoint &peer);

/// Why the socket can't reach the peer, in words; nullptr: it can.
const char *why_unreachable(const ServerSocket &socket, const Endpoint &peer);

/// Whether the settings have a peer that the socket can reach.
bool has_declared(const Settings &settings, const ServerSocket &socket);

/// Why the settings have nobody whom this socket could reach, in words; empty: they have, or they
/// have no peers at all.
std::string why_nobody(const Settings &settings, const ServerSocket &socket);

/// Why TCP and SCTP listeners of this user can't be punched for; empty: they can.
std::string why_not_beside(const ServerSocket &socket, uid_t user);

} // namespace synergy
