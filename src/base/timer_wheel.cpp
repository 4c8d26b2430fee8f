#include "base/timer_wheel.h"

#include "base/log.h"

#include <algorithm>

#include <ctime>
#include <sys/times.h>
#include <unistd.h>

namespace synergy {

namespace {

/// kernel/time/timer.c: LVL_CLK_SHIFT 3, so each level is 8 times as coarse as the one below, and
/// LVL_START(n) = (LVL_SIZE - 1) << ((n - 1) * LVL_CLK_SHIFT), where level n begins.
constexpr std::int64_t coarser = 8;
constexpr std::int64_t first_level = 63;
constexpr std::int64_t coarsest = std::int64_t{1} << 24;

/// CONFIG_HZ is 100 to 1000 (1024 on some).
constexpr Duration shortest_tick = std::chrono::microseconds(900);
constexpr Duration longest_tick = std::chrono::milliseconds(10);

/// Whoever sets a timer, or sees that it was set, does not know when to the jiffy.
constexpr Duration inexactness = std::chrono::milliseconds(20);

Duration duration_of(const timespec &time) {
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

constexpr std::int64_t floor_to(std::int64_t value, std::int64_t width) {
    return value / width * width - (value % width < 0 ? width : 0);
}

} // namespace

TimerWheel::TimerWheel() {
    timespec resolution{}; // clock_getres(2): that of the coarse clock is the tick
    if (clock_getres(CLOCK_MONOTONIC_COARSE, &resolution) == 0)
        tick_ = duration_of(resolution);
    if (tick_ < shortest_tick || tick_ > longest_tick)
        tick_ = {}; // some other kernel's clock
    for (int tries = 0; tries < 5 && !is_sampled_; tries++)
        sample();
}

TimerWheel::TimerWheel(Duration tick, Time epoch)
    : tick_(tick), is_sampled_(tick > Duration::zero()), earliest_epoch_(epoch),
      latest_epoch_(epoch) {}

void TimerWheel::sample() {
    const long per_second = sysconf(_SC_CLK_TCK);
    if (tick_ <= Duration::zero() || per_second <= 0)
        return;
    const Duration unit = Duration(std::chrono::seconds(1)) / per_second;
    // (The coarse clock does not tell when the last tick was: by the kernel's corrections of the
    // clock its own steps drift away from the ticks, and it may be two of them behind.)
    const Time before = Clock::now();
    const clock_t count = times(nullptr);
    const Time after = Clock::now();
    if (after - before > tick_ / 8)
        return; // something came between; another time
    // times(2) rounds down: it was one of the jiffies from the first to the one before `next`.
    const auto first = (count * unit + tick_ - Duration(1)) / tick_;
    const auto next = ((count + 1) * unit + tick_ - Duration(1)) / tick_;
    const Time earliest = before - next * tick_;
    const Time latest = after - first * tick_;
    if (is_sampled_ && earliest <= latest_epoch_ && latest >= earliest_epoch_) {
        earliest_epoch_ = std::max(earliest, earliest_epoch_);
        latest_epoch_ = std::min(latest, latest_epoch_);
        return;
    }
    // The first one; or one of these and the earlier ones was taken while a tick was overdue.
    is_sampled_ = true;
    earliest_epoch_ = earliest;
    latest_epoch_ = latest;
}

void TimerWheel::distrust() {
    if (++doubts_ == doubts_allowed)
        log::info("this kernel's timers do not run out when expected: peers may have to try for "
                  "seconds longer");
}

/// Of those that it can be, the latest epoch's: the lowest.
std::int64_t TimerWheel::jiffy_at(Time time) const {
    return floor_to((time - latest_epoch_).count(), tick_.count()) / tick_.count();
}

Time TimerWheel::time_of(std::int64_t jiffy) const {
    return earliest_epoch_ + jiffy * tick_;
}

/// In jiffies, of the slot that a timer of this length is put into.
std::int64_t TimerWheel::width(Duration length) const {
    const std::int64_t jiffies = length / tick_;
    std::int64_t width = 1;
    for (std::int64_t level = first_level; jiffies >= level && width < coarsest; level *= coarser)
        width *= coarser;
    return width;
}

bool TimerWheel::is_surely(std::int64_t slot, Duration length) const {
    return width(length - inexactness) == slot && width(length + inexactness) == slot;
}

Time TimerWheel::earliest_end(Time set, Time due) const {
    if (!is_known())
        return due;
    const std::int64_t slot = width(due - set - inexactness);
    return std::max(due, time_of(floor_to(jiffy_at(due), slot) + slot));
}

// In the middle of a slot there is no doubt which one it is.

Time TimerWheel::due_from(Time set, Time wanted) const {
    if (!is_known())
        return wanted;
    const std::int64_t slot = width(wanted - set);
    const std::int64_t end = floor_to(jiffy_at(wanted), slot) + slot;
    const Time due = time_of(end) - slot * tick_ / 2;
    return is_surely(slot, due - set) ? due : wanted;
}

Time TimerWheel::due_until(Time set, Time latest) const {
    if (!is_known())
        return latest;
    for (std::int64_t slot = width(latest - set);; slot /= coarser) {
        const Time last = std::min(latest, set + slot * first_level * tick_ - inexactness);
        const Time due = time_of(floor_to(jiffy_at(last), slot)) - slot * tick_ / 2;
        if (slot == 1 || is_surely(slot, due - set))
            return due;
    }
}

} // namespace synergy
