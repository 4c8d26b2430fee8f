// Unix sockets with abstract names (unix(7)), by which a keeper is found.
#pragma once

#include "base/socket.h"

#include <chrono>
#include <optional>
#include <string_view>

#include <sys/un.h>

namespace synergy {

/// Fills in the address of an abstract name, given without its leading zero byte; its length.
socklen_t abstract_address(sockaddr_un &address, std::string_view name);

/// A SOCK_SEQPACKET socket connected to who listens under the name; empty and errno set if there
/// is nobody. Connecting, sending and receiving take no longer than `patience`. `flags` may be
/// SOCK_NONBLOCK.
Socket connected_to(std::string_view name, std::chrono::seconds patience, int flags = 0);

/// Sends a message by such a socket, and a descriptor along with it (-1: none), without waiting.
/// False and errno set where it can't be sent.
bool send_with(const Socket &connection, const void *bytes, std::size_t size, int pass);

/// The descriptor that has come along with a message of such a socket's, which had room for one.
Socket descriptor_in(msghdr &message);

/// The process at the other end as it was when it listened or connected (unix(7), SO_PEERCRED).
std::optional<ucred> peer_credentials(const Socket &socket);

} // namespace synergy
