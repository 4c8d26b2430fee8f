// Hop limits that have proved right, kept from one run to the next. Processes of a user share a
// small file; whatever is wrong with it, nothing is known and nothing else happens.
#pragma once

#include "base/environment.h"
#include "hops/route.h"

#include <chrono>
#include <optional>
#include <string>

namespace synergy {

/// What a hop limit holds for: one way out toward one site. A laptop elsewhere has another gateway.
struct RouteKey {
    std::string peer;    ///< "2001:db8:b::/48", "203.0.113.0/24"
    std::string own;     ///< "2001:db8:a::11"
    std::string gateway; ///< "fe80::1%2"; "-" where there is none

    static RouteKey from(const Endpoint &peer, const Route &route);
    bool operator==(const RouteKey &) const = default;
};

struct LearnedHops {
    int hops = 0;
    int path_length = 0; ///< hops to the peer as they were measured; 0: not known
    std::chrono::seconds age{};
};

/// The user's file: $XDG_STATE_HOME/synergy/hops, or below ~/.local/state. Empty where there is no
/// home, and for a set-user-ID program, whose environment is another user's.
std::string learned_hops_file(const Environment &environment);

/// What the file says of this route; nothing that is older than a month.
std::optional<LearnedHops> find_learned_hops(const std::string &file, const RouteKey &route);

/// Makes the directories of the file. 0 or an errno: EPERM where root would write in what somebody
/// else can change.
int make_place_for(const std::string &file);

/// Puts it there in place of what was known of the route, and makes the directories. 0 or an errno.
/// Of two processes that store at once, one may lose: what it learned is learned again.
int store_learned_hops(const std::string &file, const RouteKey &route, int hops, int path_length);

} // namespace synergy
