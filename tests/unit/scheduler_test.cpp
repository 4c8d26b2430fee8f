#include "base/scheduler.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <optional>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace synergy;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

Socket counter(unsigned value) {
    return Socket(eventfd(value, EFD_CLOEXEC | EFD_NONBLOCK));
}

} // namespace

TEST_CASE("scheduler: timers run in the order of their times, equal ones as they were set") {
    Scheduler scheduler;
    std::vector<int> order;
    Time now = Clock::now();
    scheduler.at(now + milliseconds(20), [&] { order.push_back(4); });
    scheduler.at(now + milliseconds(5), [&] { order.push_back(2); });
    scheduler.at(now + milliseconds(5), [&] { order.push_back(3); });
    scheduler.at(now, [&] { order.push_back(1); });
    CHECK(harness::run_until(scheduler, [&] { return order.size() == 4; }));
    CHECK(order == std::vector{1, 2, 3, 4});
}

TEST_CASE("scheduler: a timer is never early, and is run once") {
    Scheduler scheduler;
    Time due = Clock::now() + milliseconds(30);
    int runs = 0;
    Time ran{};
    scheduler.at(due, [&] {
        runs++;
        ran = Clock::now();
    });
    CHECK(harness::run_until(scheduler, [&] { return runs > 0; }));
    CHECK(ran >= due);
    scheduler.run_once(milliseconds(1));
    CHECK(runs == 1);
}

TEST_CASE("scheduler: run_once() ends after the longest wait") {
    Scheduler scheduler;
    Time before = Clock::now();
    scheduler.run_once(milliseconds(20));
    CHECK(Clock::now() - before >= milliseconds(20));
    CHECK(Clock::now() - before < seconds(2));
}

TEST_CASE("scheduler: a task may cancel one that is due as well") {
    Scheduler scheduler;
    bool cancelled_ran = false, later_ran = false;
    Time now = Clock::now();
    Scheduler::TimerId victim;
    scheduler.at(now - milliseconds(2), [&] { scheduler.cancel(victim); });
    victim = scheduler.at(now - milliseconds(1), [&] { cancelled_ran = true; });
    scheduler.at(now, [&] { later_ran = true; });
    CHECK(harness::run_until(scheduler, [&] { return later_ran; }));
    CHECK_FALSE(cancelled_ran);
}

TEST_CASE("scheduler: a timer set again replaces what was pending") {
    Scheduler scheduler;
    Timer timer(scheduler);
    std::vector<int> ran;
    timer.set(Clock::now(), [&] { ran.push_back(1); });
    timer.set(Clock::now() + milliseconds(10), [&] { ran.push_back(2); });
    CHECK(harness::run_until(scheduler, [&] { return !ran.empty(); }));
    CHECK(ran == std::vector{2});
}

TEST_CASE("scheduler: a timer may set itself in its own task") {
    Scheduler scheduler;
    Timer timer(scheduler);
    int runs = 0;
    std::function<void()> task = [&] {
        if (++runs < 3)
            timer.set(Clock::now(), task);
    };
    timer.set(Clock::now(), task);
    CHECK(harness::run_until(scheduler, [&] { return runs == 3; }));
    scheduler.run_once(milliseconds(1));
    CHECK(runs == 3);
}

TEST_CASE("scheduler: who comes does not wait for all timers that are due, nor they for him") {
    Scheduler scheduler;
    constexpr int all = 200;
    int ran = 0, ran_before = -1, heard = 0;
    for (int i = 0; i < all; i++)
        scheduler.at(Clock::now(), [&ran] {
            std::this_thread::sleep_for(milliseconds(1));
            ran++;
        });
    const Socket comes = counter(1);
    REQUIRE(scheduler.watch(comes.fd(), EPOLLIN, [&](std::uint32_t) {
        if (heard++ == 0)
            ran_before = ran; // and it comes again and again
    }));
    CHECK(harness::run_until(scheduler, [&] { return ran == all; }));
    CHECK(ran_before >= 0);
    CHECK(ran_before < all / 4);
    CHECK(heard > 1);
}

TEST_CASE("scheduler: how late it was is forgotten by the clock, however many timers run") {
    Scheduler scheduler;
    constexpr Duration late = milliseconds(100);
    const Time begun = Clock::now();
    scheduler.at(begun - late, [] {});
    scheduler.run_once(Duration::zero());
    CHECK(scheduler.lateness() >= late);
    int ran = 0;
    for (int i = 0; i < 500; i++)
        scheduler.at(Clock::now() + std::chrono::microseconds(100 * i), [&ran] { ran++; });
    CHECK(harness::run_until(scheduler, [&] { return ran == 500; }));
    // (A busy machine takes its time for them.)
    const Duration passed = Clock::now() - begun;
    if (passed < Scheduler::lateness_half_life)
        CHECK(scheduler.lateness() > late / 2);
    // And it is forgotten.
    const Time then = Clock::now() + milliseconds(1500);
    bool is_then = false;
    const Duration before = scheduler.lateness();
    scheduler.at(then, [&is_then] { is_then = true; });
    CHECK(harness::run_until(scheduler, [&] { return is_then; }));
    CHECK(scheduler.lateness() < before);
}

TEST_CASE("scheduler: a timer's end cancels it, also in the middle of its own task") {
    Scheduler scheduler;
    bool destroyed_ran = false;
    {
        Timer timer(scheduler);
        timer.set(Clock::now(), [&] { destroyed_ran = true; });
    }
    scheduler.run_once(milliseconds(1));
    CHECK_FALSE(destroyed_ran);

    auto timer = std::make_unique<Timer>(scheduler);
    std::string after;
    // The task owns what it uses after its timer has gone.
    timer->set(Clock::now(), [&, text = std::string(100, 'x')] {
        timer.reset();
        after = text;
    });
    CHECK(harness::run_until(scheduler, [&] { return !after.empty(); }));
    CHECK(after == std::string(100, 'x'));
}

TEST_CASE("scheduler: a task that throws is gone, the others run") {
    Scheduler scheduler;
    int thrown = 0;
    bool ran = false;
    scheduler.at(Clock::now() - milliseconds(2), [&] {
        thrown++;
        throw std::runtime_error("task");
    });
    scheduler.at(Clock::now() - milliseconds(1), [&] { ran = true; });
    CHECK_THROWS(scheduler.run_once(milliseconds(1)));
    scheduler.run_once(milliseconds(1));
    CHECK(ran);
    CHECK(thrown == 1);
}

TEST_CASE("scheduler: a descriptor's events reach its handler, until it is unwatched") {
    Scheduler scheduler;
    Socket ready = counter(1);
    int calls = 0;
    std::uint32_t seen = 0;
    REQUIRE(scheduler.watch(ready.fd(), EPOLLIN, [&](std::uint32_t events) {
        calls++;
        seen = events;
    }));
    scheduler.run_once(milliseconds(50));
    CHECK(calls == 1);
    CHECK((seen & EPOLLIN) != 0);
    scheduler.run_once(milliseconds(50)); // level-triggered
    CHECK(calls == 2);
    scheduler.unwatch(ready.fd());
    scheduler.run_once(milliseconds(1));
    CHECK(calls == 2);
    scheduler.unwatch(ready.fd()); // does nothing
}

TEST_CASE("scheduler: watching again replaces the handler and the events") {
    Scheduler scheduler;
    Socket ready = counter(1);
    int first = 0, second = 0;
    REQUIRE(scheduler.watch(ready.fd(), EPOLLIN, [&](std::uint32_t) { first++; }));
    REQUIRE(scheduler.watch(ready.fd(), EPOLLIN, [&](std::uint32_t) { second++; }));
    scheduler.run_once(milliseconds(50));
    CHECK(first == 0);
    CHECK(second == 1);
}

TEST_CASE("scheduler: a hang-up is told without being asked for") {
    Scheduler scheduler;
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    Socket here(ends[0]), there(ends[1]);
    std::uint32_t seen = 0;
    REQUIRE(scheduler.watch(here.fd(), 0, [&](std::uint32_t events) { seen = events; }));
    there.reset();
    scheduler.run_once(milliseconds(100));
    CHECK((seen & EPOLLHUP) != 0);
}

TEST_CASE("scheduler: what can't be watched is refused with errno") {
    Scheduler scheduler;
    errno = 0;
    CHECK_FALSE(scheduler.watch(9999, EPOLLIN, [](std::uint32_t) {}));
    CHECK(errno == EBADF);
}

namespace {

/// From now on epoll has no room for one more (fs.epoll.max_user_watches, which is the machine's).
bool fill_epoll() {
    std::array rules{
        sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_ctl, 0, 3),
        sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[1])),
        sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, EPOLL_CTL_ADD, 0, 1),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSPC),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const sock_fprog filter{.len = rules.size(), .filter = rules.data()};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

} // namespace

TEST_CASE("scheduler: what epoll has no room for is looked at all the same") {
    CHECK(harness::in_child([] {
              Scheduler scheduler;
              Socket one = counter(0), other = counter(0);
              unsigned ones = 0, others = 0;
              EXPECT_IN_CHILD(scheduler.watch(one.fd(), EPOLLIN, [&](std::uint32_t) { ones++; }));
              EXPECT_IN_CHILD(fill_epoll());
              epoll_event event{};
              const Socket epoll(epoll_create1(EPOLL_CLOEXEC));
              EXPECT_IN_CHILD(epoll_ctl(epoll.fd(), EPOLL_CTL_ADD, other.fd(), &event) != 0 &&
                              errno == ENOSPC);
              EXPECT_IN_CHILD(
                  scheduler.watch(other.fd(), EPOLLIN, [&](std::uint32_t) { others++; }));
              scheduler.run_once(milliseconds(1));
              EXPECT_IN_CHILD(ones == 0 && others == 0);
              eventfd_write(one.fd(), 1);
              eventfd_write(other.fd(), 1);
              scheduler.run_once(seconds(5));
              EXPECT_IN_CHILD(ones > 0 && others == 1);
              // The handler and the events may change, and it may be given up.
              unsigned writable = 0;
              EXPECT_IN_CHILD(
                  scheduler.watch(other.fd(), EPOLLOUT, [&](std::uint32_t) { writable++; }));
              scheduler.run_once(milliseconds(1));
              EXPECT_IN_CHILD(others == 1 && writable == 1);
              scheduler.unwatch(other.fd());
              scheduler.run_once(milliseconds(1));
              EXPECT_IN_CHILD(others == 1 && writable == 1);
              return std::string();
          }) == "");
}

TEST_CASE("scheduler: a handler may unwatch itself and go on with what it holds") {
    Scheduler scheduler;
    Socket ready = counter(1);
    std::string after;
    REQUIRE(scheduler.watch(ready.fd(), EPOLLIN, [&, text = std::string(100, 'x')](std::uint32_t) {
        scheduler.unwatch(ready.fd());
        after = text;
    }));
    scheduler.run_once(milliseconds(50));
    CHECK(after == std::string(100, 'x'));
    after.clear();
    scheduler.run_once(milliseconds(1));
    CHECK(after.empty());
}

TEST_CASE("scheduler: a reused descriptor does not get the event of the one before") {
    Scheduler scheduler;
    // Both are ready in one round; whichever handler runs first closes the other one and puts a
    // socket that has no event in its place, under the same number.
    Socket one = counter(1), two = counter(1);
    int old_calls = 0, new_calls = 0;
    bool number_was_reused = false;
    Socket replacement;
    auto replace = [&](Socket &other) {
        old_calls++;
        int number = other.fd();
        scheduler.unwatch(number);
        other.reset();
        replacement = counter(0);
        number_was_reused = replacement.fd() == number;
        scheduler.watch(number, EPOLLIN, [&](std::uint32_t) { new_calls++; });
    };
    REQUIRE(scheduler.watch(one.fd(), EPOLLIN, [&](std::uint32_t) { replace(two); }));
    REQUIRE(scheduler.watch(two.fd(), EPOLLIN, [&](std::uint32_t) { replace(one); }));
    scheduler.run_once(milliseconds(50));
    REQUIRE(number_was_reused);
    CHECK(old_calls == 1);
    CHECK(new_calls == 0);
    // And it does get its own.
    REQUIRE(eventfd_write(replacement.fd(), 1) == 0);
    (one ? scheduler.unwatch(one.fd()) : scheduler.unwatch(two.fd()));
    scheduler.run_once(milliseconds(50));
    CHECK(new_calls == 1);
}
