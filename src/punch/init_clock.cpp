#include "punch/init_clock.h"

#include <algorithm>

namespace synergy {

void InitClock::sent(Time now) {
    earliest_ = latest_ = now;
    round_trip_ = {};
}

void InitClock::first_error_came(Time now) {
    errors_come_ = true;
    round_trip_ = now - latest_;
}

void InitClock::error_came(Time asked, Time now) {
    errors_come_ = true;
    earliest_ += period;
    // A round trip is seldom half as long again as the one that was measured, or half as long.
    if (round_trip_ > Duration::zero())
        earliest_ = std::max(earliest_, asked - round_trip_ * 3 / 2);
    latest_ = std::max(earliest_, now - round_trip_ / 2);
}

void InitClock::unseen() {
    errors_come_ = false;
    earliest_ += period;
    latest_ += period + lateness;
}

} // namespace synergy
