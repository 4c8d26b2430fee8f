#include "base/scheduler.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <system_error>
#include <unistd.h>

namespace synergy {

namespace {

/// At what epoll has no room for.
constexpr Duration between_looks = std::chrono::milliseconds(20);

/// Where many timers are due, whoever asks meanwhile is heard after this long.
constexpr Duration slice = std::chrono::milliseconds(3);

/// What is left of a lateness after that time: the half for each half-life, and straight in
/// between. (By exp2() the keeper, for which a server's listen() waits, would have to load the
/// mathematical library.)
Duration faded(Duration lateness, Duration after) {
    constexpr std::int64_t most = 62;
    const std::int64_t halvings = std::min(after / Scheduler::lateness_half_life, most);
    const std::chrono::duration<double> rest = after % Scheduler::lateness_half_life;
    const double left = 1 - rest / Scheduler::lateness_half_life / 2;
    return std::chrono::duration_cast<Duration>(lateness * left) / (std::int64_t{1} << halvings);
}

} // namespace

Scheduler::Scheduler() : epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    if (!epoll_)
        throw std::system_error(errno, std::generic_category(), "epoll_create1");
}

/// 0, or an errno.
int Scheduler::add(int fd, std::uint32_t events, std::uint32_t generation) {
    epoll_event event{};
    event.events = events;
    event.data.u64 =
        (static_cast<std::uint64_t>(generation) << 32) | static_cast<std::uint32_t>(fd);
    const bool is_there = watched_.contains(fd) && !rest_.contains(fd);
    const int operation = is_there ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    return epoll_ctl(epoll_.fd(), operation, fd, &event) == 0 ? 0 : errno;
}

bool Scheduler::watch(int fd, std::uint32_t events, Handler handler) {
    const std::uint32_t generation = ++generation_;
    const int error = add(fd, events, generation);
    if (error != 0 && error != ENOSPC && error != ENOMEM) {
        errno = error;
        return false;
    }
    if (error == 0)
        rest_.erase(fd);
    else
        rest_[fd] = events;
    watched_[fd] = {generation, std::make_shared<Handler>(std::move(handler))};
    return true;
}

void Scheduler::unwatch(int fd) {
    if (watched_.erase(fd) != 0 && rest_.erase(fd) == 0)
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
    if (!rest_.empty())
        longest = std::min(longest, between_looks);
    std::array<epoll_event, 64> events{};
    int count = -1;
#ifdef SYS_epoll_pwait2 // Linux 5.11
    const auto whole = std::chrono::floor<std::chrono::seconds>(longest);
    const timespec exactly{.tv_sec = whole.count(), .tv_nsec = (longest - whole).count()};
    count = static_cast<int>(syscall(SYS_epoll_pwait2, epoll_.fd(), events.data(), events.size(),
                                     &exactly, nullptr, std::size_t{0}));
    if (count < 0 && (errno == ENOSYS || errno == EPERM))
#endif
        // Rounded up: a timer must not be looked at a fraction of a millisecond too early.
        count = epoll_wait(epoll_.fd(), events.data(), static_cast<int>(events.size()),
                           static_cast<int>(std::chrono::ceil<milliseconds>(longest).count()));
    run_timers();
    for (int i = 0; i < count; i++) {
        const epoll_event &event = events[static_cast<std::size_t>(i)];
        report(static_cast<int>(event.data.u64 & 0xffffffffU),
               static_cast<std::uint32_t>(event.data.u64 >> 32), event.events);
    }
    look_at_rest();
}

void Scheduler::report(int fd, std::uint32_t generation, std::uint32_t events) {
    const auto found = watched_.find(fd);
    if (found == watched_.end() || found->second.generation != generation)
        return;
    const auto handler = found->second.handler; // it may unwatch itself
    (*handler)(events);
}

void Scheduler::look_at_rest() {
    const std::map<int, std::uint32_t> rest = rest_; // a handler may change it
    for (const auto &[fd, events] : rest) {
        const auto found = watched_.find(fd);
        if (found == watched_.end() || !rest_.contains(fd))
            continue;
        const std::uint32_t generation = found->second.generation;
        if (add(fd, events, generation) == 0) {
            rest_.erase(fd);
            continue;
        }
        // (poll(2) has epoll's numbers for events.)
        pollfd now{.fd = fd, .events = static_cast<short>(events), .revents = 0};
        if (::poll(&now, 1, 0) == 1)
            report(fd, generation, static_cast<std::uint32_t>(now.revents));
    }
}

void Scheduler::run_timers() {
    const Time begun = Clock::now();
    Time now = begun;
    while (!timers_.empty() && timers_.begin()->first.first <= begun && now < begun + slice) {
        // What came before it has taken its time, too.
        was_late(now - timers_.begin()->first.first, now);
        Task task = std::move(timers_.begin()->second);
        timers_.erase(timers_.begin());
        task();
        now = Clock::now();
    }
}

/// By the clock, since the timers of many holes run in one moment, and then none for seconds.
void Scheduler::was_late(Duration late, Time now) {
    lateness_ = std::max(late, faded(lateness_, now - late_at_));
    late_at_ = now;
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
