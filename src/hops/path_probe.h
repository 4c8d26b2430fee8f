// Measures the path to a peer, without privileges: packets with every hop limit at once, and who
// reports their death.
#pragma once

#include "base/scheduler.h"
#include "base/socket.h"
#include "hops/kept_out.h"
#include "hops/path.h"

#include <deque>
#include <functional>
#include <list>
#include <optional>

namespace synergy {

/// One measurement; done in less than 3 s, and usually in less than 1.
///
/// Probes leave from ports that the kernel picks and go to ports that are not the peer's (see
/// path_probe.cpp): no firewall can take one for part of a hole. Each has a socket of its own, so
/// that an answer belongs to it whatever little of it a router quotes (RFC 792: 8 bytes).
class PathProbe {
  public:
    using Done = std::function<void(const Path &path)>;
    /// Called with each hop's answer, the hops in any order; once more for a hop limit is possible.
    using PerHop = std::function<void(const Hop &hop)>;

    static constexpr int hops_max = 30; ///< as traceroute(8); longer paths are hardly ever seen

    /// Starts. `source` is the address that probes leave from, or empty: the kernel's choice.
    /// `done` is called once, by the scheduler, never from within this call; it may destroy the
    /// probe. Destroyed before, it calls nothing. `only`: one hop limit, with which alone probes
    /// are sent; 0: all.
    PathProbe(Scheduler &scheduler, const Endpoint &peer, const Endpoint &source, Done done,
              PerHop per_hop = {}, int only = 0);
    ~PathProbe();
    PathProbe(const PathProbe &) = delete;
    PathProbe &operator=(const PathProbe &) = delete;

    /// As far as it is known.
    [[nodiscard]] const Path &path() const { return path_; }

  private:
    struct Probe {
        int limit;
        Transport by;
        Time sent;
        Socket socket;
    };
    using Probes = std::list<Probe>;

    void next();
    void begin_round();
    [[nodiscard]] std::vector<int> unanswered(int beyond) const;
    void send(int limit, Transport by);
    int emit(Probe &probe) const;
    void hear(Probes::iterator probe, std::uint32_t events);
    void record(const Probe &probe, HopAnswer answer, const Endpoint &from, int hop_limit);
    [[nodiscard]] bool is_complete() const;
    [[nodiscard]] int end_limit() const;
    [[nodiscard]] Duration patience() const;
    void finish();

    Scheduler &scheduler_;
    Endpoint source_;
    std::uint16_t udp_port_;
    std::uint16_t tcp_port_;
    Done done_;
    PerHop per_hop_;
    const int only_;
    Path path_;
    Probes probes_;
    std::deque<std::pair<int, Transport>> to_send_; ///< hop limits
    int round_ = 0;
    std::optional<KeptOut> kept_out_; ///< from when on that is counted
    int last_before_ = 0; ///< the last hop limit that had been answered when the round began
    Timer timer_;
};

} // namespace synergy
