// The hop limits of peers for which it is automatic: measured, remembered where they proved right,
// and measured anew when the way changes. Also how long the error of a punch may take.
#pragma once

#include "hops/hop_choice.h"
#include "hops/icmp_error.h"
#include "hops/learned_hops.h"
#include "hops/path_probe.h"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>

namespace synergy {

class HopFinder {
  public:
    /// `found` is called by the scheduler when there is another answer to find_hops() for an
    /// address, port 0. `learned_file`: see learned_hops.h; empty: nothing is remembered.
    /// `bounds` are looked at whenever there is something to choose.
    HopFinder(Scheduler &scheduler, const HopBounds &bounds, std::string learned_file,
              std::function<void(const Endpoint &peer)> found)
        : scheduler_(scheduler), bounds_(bounds), learned_file_(std::move(learned_file)),
          found_(std::move(found)) {}

    /// The hop limits for punches from `source` (or, if it is empty, the kernel's choice), which
    /// are measured from here on. Nothing yet: `found` will be called, within a second. Ports don't
    /// matter.
    std::optional<HopRange> find_hops(const Endpoint &peer, const Endpoint &source);
    /// The peer has come in through a hole that such a punch opened last.
    void proved(const Endpoint &peer, const Endpoint &source, int hops);
    /// Somebody has refused such a punch: it is named, and an automatic hop limit stays below.
    void refused(const Endpoint &peer, const Endpoint &source, int hops, const IcmpError &how);
    /// Looks at where punches with this hop limit of the user's die, and warns of what it finds.
    void look_at(const Endpoint &peer, const Endpoint &source, int hops);
    /// How long the error takes to come back from where a punch with this hop limit dies. Nothing
    /// yet: it is being measured.
    std::optional<Hop> find_dying_hop(const Endpoint &peer, const Endpoint &source, int hops);
    /// The router where such a punch dies; empty: nobody answered there, or nobody has asked.
    [[nodiscard]] Endpoint dies_at(const Endpoint &peer, const Endpoint &source, int hops) const;
    /// Whether somebody refuses or prohibits such a punch, as far as the path was measured: sockets
    /// of IPv4 are not told of it.
    [[nodiscard]] bool is_refused(const Endpoint &peer, const Endpoint &source, int hops) const;
    /// Forgets the ways to all other peers, and looks at them no more.
    void keep_only(const std::function<bool(const Endpoint &peer)> &is_wanted);

  private:
    /// What is being done about a way, or waited for.
    enum class Stage {
        idle,
        measuring,  ///< all hops; when its time is over, what is known by then is used
        asking_why, ///< all hops: which of them refuses a hop limit of the user's
        checking,   ///< one hop
        queued,     ///< to be checked, when fewer ways are
        resting,    ///< until the next check
        settling,   ///< it has changed, and is to be measured when that is over
    };

    /// The way to one peer's address.
    struct Way {
        explicit Way(Scheduler &scheduler) : alarm(scheduler), telling(scheduler) {}

        Endpoint peer, source;
        RouteKey route;
        Stage stage = Stage::idle;
        Timer alarm;                                  ///< ends a stage that has its time
        std::unique_ptr<PathProbe> all_hops, one_hop; ///< at most one of them
        Path path;                                    ///< as last measured
        std::optional<LearnedHops> learned;
        std::optional<HopRange> hops;      ///< automatic ones
        std::map<int, Hop> dying_hops;     ///< where punches with these hop limits die
        std::set<int> asked;               ///< the hop limits of the user's that are looked at
        std::map<int, IcmpError> refusals; ///< of hop limits of the user's, to be looked into
        std::set<int> looked_into;         ///< those for which that was done
        int ceiling = hop_limit_max;       ///< no punch goes further, since one was too high
        bool is_proved = false;
        bool is_wanted = false; ///< an automatic hop limit, and not only a round trip
        int looked_at = 0;      ///< the hop limit that was looked at last
        Timer telling;          ///< of another answer
        std::string said_guess; ///< the log says so
    };

    [[nodiscard]] static std::string key_of(const Endpoint &peer, const Endpoint &source);
    Way &way_to(const Endpoint &peer, const Endpoint &source);
    [[nodiscard]] static bool is_busy(const Way &way);
    static void enter(Way &way, Stage stage);
    void wait(Way &way, Stage stage, Duration duration);
    void wake(Way &way);
    void measure(Way &way);
    void measured(Way &way, const Path &path);
    void check(Way &way, int hops);
    void checked(Way &way, int hops, const Path &path);
    void choose(Way &way, const Path &path);
    void use(Way &way, HopRange hops);
    void tell(Way &way);
    [[nodiscard]] static int next_of_users(const Way &way);
    [[nodiscard]] static bool is_route_another(Way &way);
    void look_into(Way &way, int hops);
    void say_objection(Way &way, int hops, const Path &path) const;
    void say_guess(Way &way, const Path &path) const;
    static void say_unheard(const Way &way, const Path &path);
    static bool say_foreign_source(const Way &way);
    [[nodiscard]] HopRange within(const Way &way, HopRange hops) const;

    Scheduler &scheduler_;
    const HopBounds &bounds_;
    const std::string learned_file_;
    const std::function<void(const Endpoint &peer)> found_;
    std::map<std::string, std::unique_ptr<Way>> ways_; ///< by both addresses
};

} // namespace synergy
