// What keeps descriptors free for what can't do without.
#pragma once

#include "base/socket.h"

#include <algorithm>
#include <sys/resource.h>

namespace synergy {

/// Bells, what hands connections over, and requests of the server's need descriptors: a peer that
/// is connected would wait for as long as there is none. So where they are few, punches don't take
/// the last ones, and what can be done without stops only a little later.
constexpr rlim_t spared_by_punches = 16;
constexpr rlim_t spared_by_all = 8;

/// With fewer, holes are opened of which nobody can be handed over (measured, with one hole), and
/// commands don't see what there is.
constexpr rlim_t fewest_descriptors = 24;

/// To be asked of one that has just been made.
inline bool is_one_of_the_last(const Socket &socket, rlim_t spared) {
    rlimit limit{};
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
           static_cast<rlim_t>(socket.fd()) >=
               limit.rlim_cur - std::min(spared, limit.rlim_cur / 2);
}

/// The same of what a punch can do without, of which there may be one for each: it is not to take
/// the place of other punches. (Descriptors are given out from the lowest number on.)
inline bool is_one_of_many(const Socket &socket) {
    rlimit limit{};
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
           static_cast<rlim_t>(socket.fd()) >= limit.rlim_cur / 8;
}

} // namespace synergy
