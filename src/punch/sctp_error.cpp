#include "punch/sctp_error.h"

#include "punch/failure.h"

#include <cerrno>

namespace synergy::sctp {

bool is_by_this_host(int error, const Hole &hole, Duration after, const std::optional<Hop> &dies_at,
                     Duration lateness) {
    // This host's own is there when the call returns; a router's takes its way, which may be half
    // as long as it was when this thread was late to measure it, and shorter still.
    constexpr Duration far_away = std::chrono::milliseconds(10);
    constexpr Duration at_once = std::chrono::milliseconds(3);
    switch (error) {
    case EACCES:
    case ECONNREFUSED:
        return is_refused_by_this_host(hole.server.local, hole.peer, Transport::sctp, lateness);
    case EHOSTUNREACH:
        return dies_at && dies_at->round_trip > far_away && after < at_once;
    default:
        return false;
    }
}

std::optional<IcmpError> refusal_of(int error) {
    if (error == EACCES)
        return IcmpError{.answer = HopAnswer::prohibited, .from = {}};
    if (error == ECONNREFUSED)
        return IcmpError{.answer = HopAnswer::refused, .from = {}};
    return std::nullopt;
}

} // namespace synergy::sctp
