// How long a tracker keeps a hole of SCTP's, and when its INITs come: of one-to-one and one-to-many
// sockets alike.
#pragma once

#include "punch/hole_begin.h"

#include <algorithm>
#include <array>
#include <cerrno>

namespace synergy::sctp {

/// How long a Linux firewall keeps a hole (nf_conntrack_sctp_timeout_closed, 10 s), and the least
/// more. No INIT prolongs that: the first one after it opens the hole anew. A peer's that comes in
/// between is repeated 3 s later.
constexpr Duration hole_lifetime = std::chrono::milliseconds(10002);

/// Further INITs after one that was to open the hole anew, which may have been faster on its way
/// than the one that opened it before, and so have come too early.
constexpr std::array to_be_sure = {std::chrono::milliseconds(15), std::chrono::milliseconds(80)};

/// When the INIT is to come that follows one which left at `sent`; `period` later at most.
inline Time next_init(Time sent, const HoleBegin &hole, Duration period) {
    for (const Duration after : to_be_sure)
        if (sent < hole.at() + after)
            return hole.at() + after;
    return std::min(sent + period, hole.ends());
}

/// What connect() has failed with. (Where another socket has an association with the same two ends,
/// Linux says that the address is not available, sctp_connect_new_asoc(). It may be over by now.)
inline int connect_error(int error) {
    return error == EADDRNOTAVAIL ? EISCONN : error;
}

/// What comes while an INIT leaves is answered with the hop limit of that. It is looked for where
/// that took longer than it takes when nothing else keeps this process from running.
constexpr Duration unusual = std::chrono::milliseconds(1);

} // namespace synergy::sctp
