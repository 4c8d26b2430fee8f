// What two sides have found out by `synergy test`, and what it means.
#pragma once

#include "tools/trial.h"

#include <map>
#include <optional>
#include <vector>

namespace synergy {

struct TestReport {
    Endpoint peer;   ///< port 0
    Endpoint source; ///< of this side; port 0
    std::uint16_t port = 0;
    int hop_limit = hop_limit_guess; ///< of this side's punches
    Endpoint router;                 ///< where they die; empty: nobody answers there
    std::optional<Endpoint> seen_as; ///< this side by the peer, nullopt: the peer heard nothing
    std::optional<Endpoint> peer_seen_as; ///< the peer by this side
    Endpoint peer_source;                 ///< as the peer says
    std::uint64_t kept_out = 0;           ///< packets, by a firewall on this host, meanwhile
    bool is_over = false;                 ///< all was tried
    struct Row {
        TrialKind kind;
        Outcome peer_calls = Outcome::pending;
        Outcome this_side_calls = Outcome::pending;
    };
    std::vector<Row> rows;

    /// Whether anything passes in any direction.
    [[nodiscard]] bool works() const;
};

/// What follows from it, a sentence each: what the two sides can do, and what is to be changed.
std::vector<std::string> findings(const TestReport &report);

/// The table, and the findings; a line each.
std::vector<std::string> report_picture(const TestReport &report);

} // namespace synergy
