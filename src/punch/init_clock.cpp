#include "punch/init_clock.h"

#include <algorithm>

namespace synergy {

void InitClock::sent(Time now) {
    earliest_ = latest_ = now;
    round_trip_ = {};
    last_error_ = {};
    least_gap_ = period + wheel_lateness;
    is_path_slower_ = false;
}

void InitClock::first_error_came(Time now) {
    errors_come_ = true;
    round_trip_ = now - latest_;
    last_error_ = now;
}

void InitClock::error_came(Time asked, Time now) {
    errors_come_ = true;
    earliest_ += period;
    // Errors keep the timer's pace. One that is later than that has been on its way for longer, so
    // that it does not tell when its INIT left; and the next one might leave before it is expected.
    const Duration gap = now - last_error_;
    if (last_error_ != Time{}) {
        is_path_slower_ = gap > least_gap_ + jitter;
        least_gap_ = std::min(least_gap_, gap);
    }
    last_error_ = now;
    // A round trip is seldom half as long again as the one that was measured, or half as long.
    if (round_trip_ > Duration::zero() && !is_path_slower_)
        earliest_ = std::max(earliest_, asked - round_trip_ * 3 / 2);
    latest_ = std::max(earliest_, now - round_trip_ / 2);
}

void InitClock::unseen() {
    errors_come_ = false;
    last_error_ = {};
    earliest_ += period;
    latest_ += period + lateness;
}

} // namespace synergy
