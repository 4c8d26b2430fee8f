// A measured path: what answered at each hop limit.
#pragma once

#include "base/endpoint.h"

#include <chrono>
#include <cstdint>
#include <vector>

namespace synergy {

/// What came back for a probe.
enum class HopAnswer : std::uint8_t {
    none,
    time_exceeded, ///< it died on a router, which says so
    prohibited,    ///< a firewall names itself
    unreachable,   ///< a router knows no way on
    refused,       ///< port unreachable, or a TCP reset
    accepted,      ///< the peer took it
};

/// "none", "time-exceeded" and so on.
const char *name(HopAnswer answer);

/// What is known of the probes of one hop limit.
struct Hop {
    int limit = 0;
    HopAnswer answer = HopAnswer::none;
    Endpoint from; ///< who answered, port 0
    std::chrono::microseconds round_trip{};
    Transport by = Transport::udp; ///< the transport of the probe that was answered
    int answer_hop_limit =
        0; ///< what was left of the answer's own, on arrival; 0: not known (IPv4)

    bool operator==(const Hop &) const = default;
};

struct Path {
    Endpoint peer;                      ///< port 0
    Endpoint source;                    ///< the address that probes left from, port 0
    bool on_link = false;               ///< no router lies between, says the routing table
    bool is_local = false;              ///< the peer is this host itself
    bool is_mute = false;               ///< on the link, where nobody answers for its address
    int error = 0;                      ///< errno where nothing could be sent
    bool is_kept_in = false;            ///< a firewall of this host lets probes not out
    bool is_without_port = false;       ///< this host had no port left for them
    bool is_without_descriptor = false; ///< nor this process a descriptor, for some of them
    // Where next to nothing was heard, what was kept out meanwhile: see KeptOut.
    std::uint64_t kept_out = 0;       ///< packets
    std::uint64_t from_elsewhere = 0; ///< packets
    std::vector<Hop> hops;            ///< of hop limits 1, 2, ... as far as something answered

    /// The lowest hop limit with which something other than a router's time exceeded came back:
    /// from the peer, or from what stands in its way. Nullptr: silence.
    [[nodiscard]] const Hop *end() const;
    /// The highest hop limit that was answered; 0 if none was.
    [[nodiscard]] int last_answer() const;
};

} // namespace synergy
