// What has become of the server's sockets, and of each hole, for who asks.
#pragma once

#include "handoff/handoff.h"
#include "hops/hop_finder.h"
#include "keeper/kept_socket.h"

#include <string>
#include <vector>

namespace synergy {

/// A peer that is declared and has no hole.
struct Unpunched {
    Endpoint peer;
    std::string reason; ///< in words, a clause without full stop
};
struct HoleStatus {
    const Hole &hole;
    const HoleRecord &record;
    Endpoint source;         ///< port 0; empty: there is no route
    Endpoint router;         ///< where punches die; empty: not known
    bool is_refused = false; ///< by somebody on the path, says the path
    bool is_in_use = false;
};
struct SocketStatus {
    const ServerSocket &socket;
    std::vector<HoleStatus> holes;
    std::vector<Unpunched> unpunched;
};

/// What there is at this moment: what it refers to may go with the next event.
std::vector<SocketStatus> status_of(const KeptSockets &servers, const Settings &settings,
                                    const HopFinder &hop_finder, const Handoff &handoff);

} // namespace synergy
