#include "punch/guard.h"

#include <algorithm>
#include <utility>

namespace synergy {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

/// Whether a SYN has left before its time, so that the kernel's timers are not what they are taken
/// for, is looked at so long before that; and who has called meanwhile, as late as can be.
constexpr Duration early_look = milliseconds(5);
constexpr Duration last_look = microseconds(300);

/// How late a timer of less than two seconds may be (base/timer_wheel.h).
constexpr Duration timer_slot = milliseconds(32);

/// Not so wide that the next SYN leaves no time to hear the peer.
constexpr Duration widest = milliseconds(450);

} // namespace

/// For when to set the timer so that the SYN comes in time that follows one which leaves at `syn`.
Time Guard::next_after(Time syn, unsigned retransmits) {
    const Time began = std::min(hole_->with(syn), socket_.with(syn));
    const Time reopening = std::max(began + hole_lifetime, syn + out_of_step);
    // Less than a number of whole seconds, to stay out of step.
    Duration longest = std::max(refresh_ * 15 / 16, out_of_step);
    Duration interval = longest;
    if (retransmits < short_ones_)
        interval = retransmits == 1 ? out_of_step_first : out_of_step;
    else if (!std::exchange(is_staggered_, true))
        // From here on each hole goes its own way. (The kernel's own intervals are no shorter.)
        interval = out_of_step + std::chrono::duration_cast<Duration>(stagger_ * seconds(1));
    Time renewal = interval < longest ? wheel_.due_from(syn, syn + interval)
                                      : wheel_.due_until(syn, syn + longest);
    return std::min(renewal, wheel_.due_from(syn, reopening));
}

void Guard::sent(Time asked, Time now, bool is_again) {
    short_ones_ = is_again ? short_intervals_again : short_intervals;
    seen_ = 0;
    has_gone_far_ = false;
    next_call_ = {};
    is_staggered_ = false;
    first_sent_ = now;
    socket_ = HoleBegin(hole_lifetime);
    socket_.leaves(now);
    hole_->leaves(now);
    // The kernel's first timer is not subject to TCP_USER_TIMEOUT, the second is. Were it late by
    // less than is believed, a SYN would slip out: nothing is believed of it.
    retransmission_ = asked + first_timeout;
    deadline_ = next_after(retransmission_, 1);
    left(now);
}

/// A SYN left at about `now`; retransmission_ says when the next one will.
void Guard::left(Time now) {
    last_sent_ = now;
    is_peer_missed_ = false;
    hole_->leaves(now);
    socket_.leaves(now);
    not_before_ = retransmission_;
    if (window_ > Duration::zero()) {
        step_ = Step::error_due;
        next_ = error_has_come();
    } else {
        step_ = Step::hearing;
        next_ = look_at_lead(now);
    }
}

GuardStanding Guard::standing() const {
    return {.step = static_cast<std::uint32_t>(step_),
            .retransmits = seen_,
            .short_intervals = short_ones_,
            .is_staggered = is_staggered_,
            .has_gone_far = has_gone_far_,
            .hole_began = socket_.at(),
            .first_sent = first_sent_,
            .last_sent = last_sent_,
            .next = next_,
            .retransmission = retransmission_,
            .not_before = not_before_,
            .deadline = deadline_,
            .window = window_};
}

void Guard::take_over(const GuardStanding &standing) {
    step_ = static_cast<Step>(std::min(standing.step, static_cast<std::uint32_t>(Step::answering)));
    seen_ = standing.retransmits;
    short_ones_ = standing.short_intervals;
    is_staggered_ = standing.is_staggered;
    has_gone_far_ = standing.has_gone_far;
    socket_.began(standing.hole_began);
    hole_->began(standing.hole_began);
    first_sent_ = standing.first_sent;
    last_sent_ = standing.last_sent;
    next_ = standing.next;
    retransmission_ = standing.retransmission;
    not_before_ = standing.not_before;
    deadline_ = standing.deadline;
    window_ = standing.window;
}

void Guard::expect_error_within(Duration window) {
    if (window_ == Duration::zero())
        return;
    window_ = std::clamp(window, least_window_, widest);
    if (step_ == Step::error_due)
        next_ = error_has_come();
}

void Guard::peer_was_missed() {
    if (step_ != Step::error_due)
        return;
    is_peer_missed_ = true;
    next_ = error_has_come();
}

bool Guard::wait_for_next_call() {
    const Time from = last_sent_ - lead_now() + first_timeout;
    const Time until = last_sent_ + window_ + first_timeout;
    const Time deaf_from = retransmission_ - lead_now();
    const Time deaf_until = retransmission_ + timer_slot + window_;
    if (until >= deaf_from && deaf_until >= from)
        return false;
    next_call_ = from;
    deadline_ = next_after(retransmission_, seen_ + 1);
    return true;
}

/// By when it has.
Time Guard::error_has_come() const {
    if (is_peer_missed_)
        return last_sent_ + widest;
    return last_sent_ + std::clamp(next_call_ - last_sent_, window_, widest);
}

void Guard::peer_was_heard(Time now) {
    if (window_ > Duration::zero() && phase() != Phase::open && step_ != Step::answering_deaf) {
        step_ = Step::answering_deaf;
        next_ = now + window_;
    } else if (step_ != Step::answering_deaf || now >= next_) {
        step_ = Step::answering;
    }
}

void Guard::expect_lateness(Duration lateness) {
    lead_ = std::clamp(3 * lateness, least_lead, longest_first_lead);
}

void Guard::error_came(Time now) {
    if (window_ == Duration::zero())
        return;
    least_window_ = std::clamp<Duration>((now - last_sent_) * 3 / 2, window_, widest);
    window_ = least_window_;
}

void Guard::tick(Time now, SynTimer timer) {
    if (!knows_all(timer)) {
        has_gone_far_ = has_gone_far_ || phase() == Phase::open;
        seen_ = timer.retransmits;
        // Where the kernel's own interval is the shorter one, it shall not retransmit unless told.
        Time left_at = now < retransmission_ ? not_before_ : std::max(not_before_, retransmission_);
        deadline_ = std::min(left_at + timer.timeout, deadline_);
        retransmission_ = wheel_.earliest_end(now, deadline_);
        left(now);
        return;
    }
    if (step_ == Step::error_due && now >= error_has_come())
        step_ = Step::hearing;
    if (step_ == Step::hearing) {
        next_ = look_at_lead(now);
        if (now < next_)
            return;
        step_ = Step::awaiting;
        not_before_ = now;
        deadline_ = next_after(std::max(now, retransmission_), seen_ + 1);
        next_ = next_look(now);
        return;
    }
    if (step_ == Step::awaiting) {
        not_before_ = now;
        next_ = next_look(now);
    }
}

/// When the lead begins, for a SYN that nobody waits for yet; or when to ask that again, since how
/// late the thread may be is known the better the nearer the SYN is.
Time Guard::look_at_lead(Time now) const {
    const Time begin = retransmission_ - lead_now();
    for (const Duration longest : {longest_first_lead, longest_lead})
        if (now < retransmission_ - longest && (seen_ == 0 || longest == longest_lead))
            return std::min(begin, retransmission_ - longest);
    return begin;
}

/// For a SYN that is about to leave.
Time Guard::next_look(Time now) const {
    if (now < retransmission_ - early_look)
        return retransmission_ - early_look;
    if (now < retransmission_ - last_look)
        return retransmission_ - last_look;
    // Where nothing is known of the wheel, timers of seconds are late by a slot.
    const Duration overdue = now - retransmission_;
    return now + (overdue < milliseconds(10)    ? microseconds(500)
                  : overdue < milliseconds(500) ? milliseconds(4)
                                                : milliseconds(100));
}

} // namespace synergy
