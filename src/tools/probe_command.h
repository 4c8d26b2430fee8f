// `synergy probe`: measures the path to a peer, and says where a punch should die.
#pragma once

#include <string>

namespace synergy {

struct ProbeOptions {
    std::string peer;
    std::string from;
    bool json = false;
};

/// The exit status: 0 where a hop limit was found, 1 where not, 2 where nothing was tried.
int run_probe(const ProbeOptions &options);

} // namespace synergy
