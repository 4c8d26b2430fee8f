// When the kernel's timers of seconds run out.
//
// Linux keeps them in a wheel whose slots are the wider the farther away they are (kernel/time/
// timer.c, "the wheel levels": "the farther out an timer expires the coarser the granularity
// becomes"): with 250 jiffies a second, a timer of 4 s runs out up to 256 ms late, one of 17 s up
// to 2 s. A socket that has to be deaf until its timer has run out is deaf for all that time,
// unless it is known where the slots end. They end at multiples of their width in jiffies since
// the jiffy 0, and what the jiffies are can be asked for: times(2) counts them in clock ticks.
#pragma once

#include "base/scheduler.h"

#include <cstdint>

namespace synergy {

class TimerWheel {
  public:
    /// This kernel's.
    TimerWheel();
    /// One with this tick (the time of a jiffy), whose jiffy 0 was at `epoch`. Zero: it is not
    /// known when its timers run out.
    TimerWheel(Duration tick, Time epoch);

    /// Asks once more what the jiffies are, which makes it known better: one system call.
    void sample();
    /// A timer ran out before its earliest_end(). If that happens again and again, the kernel's
    /// wheel is not the one described here: nothing is told of it any more.
    void distrust();

    /// A timer that is set at `set` for `due` does not run out before this.
    [[nodiscard]] Time earliest_end(Time set, Time due) const;
    /// For when to set a timer at `set` so that it runs out at `wanted` or as soon after as can be.
    [[nodiscard]] Time due_from(Time set, Time wanted) const;
    /// The same, as late as can be but, if the wheel is known, not after `latest`.
    [[nodiscard]] Time due_until(Time set, Time latest) const;

  private:
    [[nodiscard]] std::int64_t jiffy_at(Time time) const;
    [[nodiscard]] Time time_of(std::int64_t jiffy) const;
    [[nodiscard]] std::int64_t width(Duration length) const;
    [[nodiscard]] bool is_surely(std::int64_t slot, Duration length) const;

    [[nodiscard]] bool is_known() const { return is_sampled_ && doubts_ < doubts_allowed; }

    static constexpr unsigned doubts_allowed = 3;

    Duration tick_{};
    bool is_sampled_ = false;
    unsigned doubts_ = 0;
    Time earliest_epoch_{}; ///< jiffy 0 was between the two
    Time latest_epoch_{};
};

} // namespace synergy
