// What a command is told: a peer and an address of this host as arguments, the settings in the
// environment; and what is said of wrong ones.
#pragma once

#include "base/endpoint.h"
#include "settings/settings.h"

#include <optional>
#include <string>

namespace synergy {

/// The exit status of a command that has not begun, for wrong arguments or settings.
constexpr int exit_refused = 2;

/// The two ends of a path, of one family.
struct PathEnds {
    Endpoint peer;               ///< port 0 where none was named
    Endpoint other;              ///< of the other family, where the peer's name has both; port 0
    bool has_port_range = false; ///< of which the peer's port is the first
    Endpoint source;             ///< port 0; empty or a wildcard: as the kernel chooses
};

/// By what was said for PEER (as in SYNERGY_PEERS, or without a port, or a host name), and for
/// --from, which may be nothing: then the settings choose. What is wrong with them is said on
/// stderr.
std::optional<PathEnds> path_ends(const std::string &peer, const std::string &from,
                                  const Settings &settings);

/// As the environment has them; what is wrong with them is said on stderr.
Settings settings_of_environment(const std::string &hops_option = {});

/// What `error`, of sending from one end to the other, comes from.
std::string why_not_sent(int error, const PathEnds &ends, const Settings &settings);

/// Says on stderr what is wrong with an argument: exit_refused.
int refuse_argument(const std::string &place, const std::string &text, const std::string &expected);

} // namespace synergy
