// How far a punch goes.
#pragma once

#include "hops/icmp_error.h"
#include "hops/path.h"
#include "settings/settings.h"

#include <string>

namespace synergy {

/// The hop limits that punches use in turns, first the best.
struct HopRange {
    int best = hop_limit_guess;
    int least = hop_limit_guess;
    int most = hop_limit_guess;

    static HopRange only(int hops) { return {hops, hops, hops}; }
    bool operator==(const HopRange &) const = default;
};

/// A hop limit, and why this one.
struct HopChoice {
    int hops = hop_limit_guess;
    /// Worth trying where punches with `hops` let nobody in: still short of what the peer's side is
    /// known to filter with.
    int most = hop_limit_guess;
    int length = 0; ///< hops to the peer, at the least; 0: not known
    /// False: nothing in the path says where to die. `hops` is the guess then, or for a
    /// neighbour 1.
    bool is_found = false;
    std::string reason; ///< in words, a clause without full stop
};

/// What a measured path says, within the bounds that the user set.
HopChoice choose_hop_limit(const Path &path, const HopBounds &bounds);

/// What a path, or this hop of it alone, says against a hop limit of the user's, in words; empty:
/// nothing.
std::string hop_limit_objection(const Path &path, int hops, const HopBounds &bounds);

/// Whether somebody refuses or prohibits punches with this hop limit.
bool is_refused(const Path &path, int hops);

/// What speaks for a higher one, though the path can't say that it is needed.
std::string hop_limit_doubt(const Path &path, int hops, const HopBounds &bounds);

/// Why no router's answer gets in, as far as this host shows; empty: it is not this host that keeps
/// them out.
std::string unheard_cause(const Path &path);

/// That packets go round between routers and never arrive; empty: they do not, as far as it shows.
std::string circle_cause(const Path &path);

/// "punches with hop limit 5 go too far: 2001:db8:f::1 prohibits them"
std::string refusal_text(int hops, const IcmpError &how, const Endpoint &peer);

} // namespace synergy
