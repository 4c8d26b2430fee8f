// The keeper's one loop: what it waits for, and what it does when.
#pragma once

#include "base/socket.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>

namespace synergy {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
using Duration = Clock::duration;

/// Descriptors and timers of one thread. Nothing here may be called from another one.
class Scheduler {
  public:
    using Handler = std::function<void(std::uint32_t events)>;
    using Task = std::function<void()>;
    using TimerId = std::pair<Time, std::uint64_t>;

    /// Throws std::system_error.
    Scheduler();

    /// Calls `handler` whenever epoll_wait(2) reports one of `events`, an error or a hang-up.
    /// Replaces the handler that the descriptor had. Where the kernel has no room for one more (the
    /// user's limit of watches, memory), it is looked at from time to time. False and errno set if
    /// it can't be watched at all.
    bool watch(int fd, std::uint32_t events, Handler handler);
    /// To be called before the descriptor is closed. Does nothing for one that isn't watched.
    void unwatch(int fd);

    /// Calls `task` once, at `time` or as soon after as the thread can.
    TimerId at(Time time, Task task);
    void cancel(TimerId timer);

    /// How late timers have been of late: the most of it, half of which is forgotten in this time.
    [[nodiscard]] Duration lateness() const { return lateness_; }
    static constexpr std::chrono::seconds lateness_half_life{4};

    /// How many timers are set.
    [[nodiscard]] std::size_t pending() const { return timers_.size(); }

    /// Waits for the next event or timer, `longest` at most, and does what is due: all, unless that
    /// takes so long that it is to be looked at first who has come meanwhile.
    void run_once(Duration longest);

  private:
    struct Watched {
        std::uint32_t generation;
        std::shared_ptr<Handler> handler;
    };

    void run_timers();
    void was_late(Duration late, Time now);
    int add(int fd, std::uint32_t events, std::uint32_t generation);
    void report(int fd, std::uint32_t generation, std::uint32_t events);
    void look_at_rest();

    Socket epoll_;
    std::uint32_t generation_ = 0; ///< tells a reused descriptor from the one that an event was for
    std::unordered_map<int, Watched> watched_;
    std::map<int, std::uint32_t> rest_; ///< the events of those that epoll has no room for
    std::uint64_t next_timer_ = 0;
    std::map<TimerId, Task> timers_;
    Duration lateness_{}; ///< as it was at late_at_
    Time late_at_{};
};

/// A task that is cancelled with its owner: at most one is pending.
class Timer {
  public:
    explicit Timer(Scheduler &scheduler) : scheduler_(scheduler) {}
    ~Timer() { cancel(); }
    Timer(const Timer &) = delete;
    Timer &operator=(const Timer &) = delete;

    /// Replaces what was pending.
    void set(Time time, Scheduler::Task task);
    void cancel();
    /// Whether it is pending, for `time` or before.
    [[nodiscard]] bool is_due(Time time) const { return pending_ && id_.first <= time; }

  private:
    Scheduler &scheduler_;
    bool pending_ = false;
    Scheduler::TimerId id_{};
};

} // namespace synergy
