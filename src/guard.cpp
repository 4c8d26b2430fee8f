#include "guard.h"

#include <algorithm>

namespace synergy {

using std::chrono::milliseconds;

void Guard::sent(Time now, Duration timeout) {
    seen_ = 0;
    settle(now, timeout);
}

void Guard::settle(Time sent_at, Duration timeout) {
    sent_at_ = sent_at;
    retransmission_ = sent_at + timeout;
    if (window_ > Duration::zero()) {
        step_ = Step::error_due;
        phase_ = Phase::low;
        next_ = sent_at + window_;
    } else {
        step_ = Step::hearing;
        phase_ = Phase::open;
        next_ = retransmission_ - lead;
    }
}

void Guard::error_came(Time now) {
    // Not so wide that the next retransmission, a second later, leaves no time to hear the peer.
    constexpr Duration widest = milliseconds(600);
    if (window_ > Duration::zero())
        window_ = std::clamp<Duration>((now - sent_at_) * 3 / 2, window_, widest);
}

void Guard::tick(Time now, SynTimer timer) {
    // Counted already: the thread came late, or the kernel's timer had started earlier than thought.
    if (timer.retransmits != seen_) {
        seen_ = timer.retransmits;
        settle(now, timer.timeout);
        return;
    }
    if (step_ == Step::error_due && now >= sent_at_ + window_) {
        step_ = Step::hearing;
        phase_ = Phase::open;
        next_ = retransmission_ - lead;
    }
    if (step_ == Step::hearing && now >= retransmission_ - lead) {
        step_ = Step::awaiting;
        phase_ = Phase::low;
        next_ = std::max(now, retransmission_) + milliseconds(1);
        return;
    }
    if (step_ == Step::awaiting) {
        // Kernel timers of seconds are tens of milliseconds coarse.
        bool is_overdue = now > retransmission_ + milliseconds(500);
        next_ = now + (is_overdue ? milliseconds(100) : milliseconds(4));
    }
}

} // namespace synergy
