// A server's socket as the engine needs to know it, read in the thread that has the descriptor.
#pragma once

#include "keeper/control.h"

#include <optional>

namespace synergy {

/// What the socket is; nullopt and errno set if it is none (EBADF, ENOTSOCK), not of a transport or
/// address family of ours (EOPNOTSUPP, EAFNOSUPPORT).
std::optional<ServerSocket> describe(int fd);

} // namespace synergy
