#include "base/scheduler.h"

#include <algorithm>
#include <array>
#include <sys/epoll.h>
#include <system_error>

namespace synergy {

Scheduler::Scheduler() : epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    if (!epoll_)
        throw std::system_error(errno, std::generic_category(), "epoll_create1");
}

bool Scheduler::watch(int fd, std::uint32_t events, Handler handler) {
    std::uint32_t generation = ++generation_;
    epoll_event event{};
    event.events = events;
    event.data.u64 =
        (static_cast<std::uint64_t>(generation) << 32) | static_cast<std::uint32_t>(fd);
    int operation = watched_.contains(fd) ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(epoll_.fd(), operation, fd, &event) != 0)
        return false;
    watched_[fd] = {generation, std::make_shared<Handler>(std::move(handler))};
    return true;
}

void Scheduler::unwatch(int fd) {
    if (watched_.erase(fd) != 0)
        epoll_ctl(epoll_.fd(), EPOLL_CTL_DEL, fd, nullptr);
}

Scheduler::TimerId Scheduler::at(Time time, Task task) {
    TimerId id{time, next_timer_++};
    timers_.emplace(id, std::move(task));
    return id;
}

void Scheduler::cancel(TimerId timer) {
    timers_.erase(timer);
}

void Scheduler::run_once(Duration longest) {
    using std::chrono::milliseconds;
    if (!timers_.empty())
        longest =
            std::clamp(timers_.begin()->first.first - Clock::now(), Duration::zero(), longest);
    // Rounded up: a timer must not be looked at a fraction of a millisecond too early.
    auto wait = std::chrono::ceil<milliseconds>(longest).count();
    std::array<epoll_event, 64> events{};
    int count = epoll_wait(epoll_.fd(), events.data(), static_cast<int>(events.size()),
                           static_cast<int>(wait));
    run_timers();
    for (int i = 0; i < count; i++) {
        auto fd = static_cast<int>(events[static_cast<std::size_t>(i)].data.u64 & 0xffffffffU);
        auto generation =
            static_cast<std::uint32_t>(events[static_cast<std::size_t>(i)].data.u64 >> 32);
        auto found = watched_.find(fd);
        if (found == watched_.end() || found->second.generation != generation)
            continue;
        auto handler = found->second.handler; // it may unwatch itself
        (*handler)(events[static_cast<std::size_t>(i)].events);
    }
}

void Scheduler::run_timers() {
    Time now = Clock::now();
    while (!timers_.empty() && timers_.begin()->first.first <= now) {
        // What came before it has taken its time, too. (Whole milliseconds are waited for.)
        constexpr int memory = 32;
        const Duration late = Clock::now() - timers_.begin()->first.first;
        lateness_ = std::max(late, lateness_ - lateness_ / memory);
        Task task = std::move(timers_.begin()->second);
        timers_.erase(timers_.begin());
        task();
    }
}

void Timer::set(Time time, Scheduler::Task task) {
    cancel();
    id_ = scheduler_.at(time, [this, task = std::move(task)] {
        pending_ = false;
        task();
    });
    pending_ = true;
}

void Timer::cancel() {
    if (pending_)
        scheduler_.cancel(id_);
    pending_ = false;
}

} // namespace synergy
