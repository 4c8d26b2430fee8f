// When a socket in COOKIE_WAIT sends its INIT again.
//
// The kernel repeats it by a timer that no call tells of, with the hop limit that the socket has
// then: that must be the punch's, and the ordinary one between, or the answer to the peer's INIT
// would die on its way. The timer is late by a little each time, so what is known of it becomes
// less and less exact, unless the error that an INIT died with says that it has left.
#pragma once

#include "base/scheduler.h"

namespace synergy {

class InitClock {
  public:
    /// The kernel's timer for the repetition. Shorter than the 3 s for which a tracker may keep a
    /// half-open association (nf_conntrack_sctp_timeout_cookie_wait), and such that the timer wheel
    /// is exact to 80 ms with every HZ that kernels are built with: less than 504 jiffies at 100,
    /// 250 and 300 Hz, 1650 at 1000 Hz. A peer's repetition, 3 s after the first (Linux; RFC 9260
    /// 16 has RTO.Initial 1 s), comes at another phase of ours.
    static constexpr Duration period = std::chrono::milliseconds(1650);
    /// Being late by the timer wheel, and by what runs before the timer's interrupt is served.
    static constexpr Duration lateness = std::chrono::milliseconds(120);
    /// The thread must have run by this long before the kernel may repeat the INIT.
    static constexpr Duration lead = std::chrono::milliseconds(40);
    /// How long to wait for an error beyond that where they have come so far.
    static constexpr Duration patience = std::chrono::milliseconds(300);
    /// By so much the timer wheel alone makes it late, always the same while a socket lives.
    static constexpr Duration wheel_lateness = std::chrono::milliseconds(80);
    /// Two errors may follow each other by so much later than others did, for our looking now and
    /// then.
    static constexpr Duration jitter = std::chrono::milliseconds(20);
    /// The peer's INIT is not answered in vain for longer than this.
    static constexpr Duration widest = std::chrono::milliseconds(500);

    /// The first INIT has just left.
    void sent(Time now);
    /// The first INIT's error has come back.
    void first_error_came(Time now);
    /// A repetition's error has come back; `asked` is when there was none yet.
    void error_came(Time asked, Time now);
    /// The time for the repetition is over, and no error has come.
    void unseen();

    /// The next INIT leaves between the two.
    [[nodiscard]] Time from() const { return earliest_ + period - lead; }
    [[nodiscard]] Time until() const {
        return latest_ + period + lateness + (errors_come_ ? patience : Duration::zero());
    }
    /// The next one can't be told well enough any more.
    [[nodiscard]] bool is_vague() const {
        return is_path_slower_ || latest_ - earliest_ + lateness > widest;
    }

  private:
    Time earliest_{}; ///< the last INIT left between the two
    Time latest_{};
    bool errors_come_ = false;
    Duration round_trip_{}; ///< to where the INIT dies; zero: not known
    Time last_error_{};     ///< of the last INIT; zero: none came
    Duration least_gap_{};  ///< between two errors so far
    bool is_path_slower_ = false;
};

} // namespace synergy
