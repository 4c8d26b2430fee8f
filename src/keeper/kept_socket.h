// A socket of the server's that has holes, and the holes.
#pragma once

#include "handoff/bell_way.h"
#include "punch/udp_punch.h"
#include "server/reach.h"

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace synergy {

struct KeptSocket {
    using Punches = std::unordered_map<Endpoint, std::unique_ptr<Punch>>;

    explicit KeptSocket(Scheduler &scheduler)
        : advising(scheduler), silence(scheduler), loopback(scheduler), trying(scheduler),
          aside(scheduler) {}

    ServerSocket socket;
    Socket duplicate;
    bool is_full = false;               ///< of peers; the log says so
    bool is_reached = false;            ///< a peer has come in
    Timer advising;                     ///< what else there is to say
    Timer silence;                      ///< nobody has come in
    Timer loopback;                     ///< of a peer on this host, too
    const Obstacle *obstacle = nullptr; ///< what keeps bells from it; the log says so
    Timer trying;                       ///< whether it has passed
    std::vector<Target> declared;       ///< by the settings
    std::vector<Target> on_link;        ///< of them, not punched; the log says so
    std::vector<Target> asked;          ///< by synergy_to()
    ErrorsAside aside;                  ///< of its punches
    Punches punches;
    /// Of peers that are none any more, for as long as firewalls may hold their holes.
    Punches ending;
    std::size_t turn = 0;            ///< of those who share its port, whose the next connection is
    Time parked_at{};                ///< when the listener was closed, or the server ended
    Time in_use_at{};                ///< when it was last seen to have a connection
    Duration kept_for{};             ///< from then on, if nothing else keeps the port from others
    bool is_only_remembered = false; ///< its holes have ended; the server's next one may come
};

using KeptSockets = std::unordered_map<std::uint64_t, KeptSocket>; ///< by cookie

} // namespace synergy
