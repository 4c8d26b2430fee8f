// Whose error it is that an INIT has met. SCTP goes on all the same, and the kernel tells no more
// of it than an errno: not who has sent it.
#pragma once

#include "punch/punch.h"

#include <optional>

namespace synergy::sctp {

/// Whether it is a firewall's of this host's own. `error` was there `after` the INIT had left, and
/// `dies_at` is where that dies, as far as it is known. `lateness`: see punch/failure.h.
bool is_by_this_host(int error, const Hole &hole, Duration after, const std::optional<Hop> &dies_at,
                     Duration lateness);

/// What it says if it is somebody else's; nothing where that may be no more than the punch's end.
/// (In IPv4 a prohibition is EHOSTUNREACH as well, icmp_err_convert[].)
std::optional<IcmpError> refusal_of(int error);

} // namespace synergy::sctp
