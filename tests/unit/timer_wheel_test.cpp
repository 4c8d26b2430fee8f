#include "base/timer_wheel.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <thread>

using namespace synergy;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_CASE("a timer's slot is the wider the farther away it ends") {
    const TimerWheel wheel(milliseconds(4), Time{}); // 250 jiffies a second
    const Time now{milliseconds(4 * 8 * 512 * 10)};
    struct {
        Duration length;
        Duration slot;
    } constexpr cases[] = {
        {milliseconds(100), milliseconds(4)},     {milliseconds(1000), milliseconds(32)},
        {milliseconds(2000), milliseconds(32)},   {milliseconds(2020), milliseconds(256)},
        {milliseconds(16000), milliseconds(256)}, {milliseconds(18000), milliseconds(2048)}};
    for (const auto &one : cases) {
        const Duration length = one.length;
        const Duration slot = one.slot;
        CAPTURE(length.count());
        Duration end = wheel.earliest_end(now, now + length) - Time{};
        CHECK(end > now - Time{} + length);
        CHECK(end <= now - Time{} + length + slot);
        CHECK(end % slot == Duration::zero());
    }
}

TEST_CASE("what a timer is set for is in the middle of a slot that ends when it is wanted") {
    for (int per_second : {100, 250, 300, 1000}) {
        const TimerWheel wheel(Duration(seconds(1)) / per_second, Time{});
        const Time now{milliseconds(1234567)};
        for (Duration length = milliseconds(300); length < seconds(70);
             length += milliseconds(13)) {
            CAPTURE(per_second);
            CAPTURE(std::chrono::duration_cast<milliseconds>(length).count());
            Time from = wheel.earliest_end(now, wheel.due_from(now, now + length));
            CHECK(from >= now + length);
            CHECK(from <= now + length * 8 / 7 + milliseconds(30));
            Time until = wheel.earliest_end(now, wheel.due_until(now, now + length));
            CHECK(until <= now + length);
            CHECK(until >= now + length * 6 / 8 - milliseconds(30));
        }
    }
}

TEST_CASE("nothing is told of a wheel that is not known") {
    TimerWheel wheel(milliseconds(4), Time{});
    const Time now{seconds(100)};
    wheel.distrust();
    CHECK(wheel.earliest_end(now, now + seconds(3)) > now + seconds(3));
    for (int i = 0; i < 5; i++)
        wheel.distrust();
    CHECK(wheel.earliest_end(now, now + seconds(3)) == now + seconds(3));
    CHECK(wheel.due_from(now, now + seconds(3)) == now + seconds(3));
    CHECK(wheel.due_until(now, now + seconds(3)) == now + seconds(3));
}

// The clock's coarse reading drifts away from the jiffies, and stands to them otherwise on each
// machine: what is known does not depend on it.
TEST_CASE("this kernel's wheel stays known, however often its jiffies are asked for") {
    TimerWheel wheel;
    for (int i = 0; i < 500; i++) {
        wheel.sample();
        std::this_thread::sleep_for(std::chrono::microseconds(1300));
    }
    const Time now = Clock::now();
    CHECK(wheel.earliest_end(now, now + seconds(3)) > now + seconds(3));
}

// SYNs to a listener whose queue is full get no answer (listen(2), tcp_abort_on_overflow 0).
TEST_CASE("this kernel's timers run out when it is said that they do") {
    Socket full = harness::listening_tcp(Endpoint::loopback(AF_INET, 0), 0);
    const Endpoint there = full.local();
    Socket first(socket(AF_INET, SOCK_STREAM, 0));
    REQUIRE(connect(first.fd(), there.data(), there.length()) == 0);
    Socket second(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));

    TimerWheel wheel;
    for (int i = 0; i < 30; i++) {
        wheel.sample();
        std::this_thread::sleep_for(milliseconds(3));
    }
    const Time start = Clock::now();
    const auto timeout_from_start = [&](Time due) {
        return static_cast<int>(std::chrono::ceil<milliseconds>(due - start).count());
    };
    REQUIRE(connect(second.fd(), there.data(), there.length()) == -1);
    Time set = start;
    Time due = start + seconds(1);
    Time next = wheel.due_from(due, due + milliseconds(900));
    int right = 0;
    for (unsigned count = 1; count <= 4; count++) {
        second.set(IPPROTO_TCP, TCP_USER_TIMEOUT, timeout_from_start(next));
        tcp_info info{};
        Time not_yet;
        do {
            not_yet = Clock::now();
            std::this_thread::sleep_for(milliseconds(1));
            socklen_t length = sizeof info;
            REQUIRE(getsockopt(second.fd(), IPPROTO_TCP, TCP_INFO, &info, &length) == 0);
            REQUIRE(Clock::now() < start + seconds(10));
        } while (info.tcpi_retransmits < count);
        Duration late = not_yet - wheel.earliest_end(set, due);
        CHECK(info.tcpi_retrans == 1); // it has left
        MESSAGE("set for ", std::chrono::duration_cast<milliseconds>(due - set).count(),
                " ms, ran out ",
                std::chrono::duration_cast<milliseconds>(Clock::now() - due).count(),
                " ms after that, ", std::chrono::duration_cast<milliseconds>(late).count(),
                " ms after what was said");
        CHECK(Clock::now() - wheel.earliest_end(set, due) >= -milliseconds(5));
        right += late <= milliseconds(20);
        set = Clock::now();
        due = std::min(next, set + std::chrono::microseconds(info.tcpi_rto));
        next = wheel.due_from(due, due + milliseconds(900));
    }
    CHECK(right >= 3); // one may have been looked at late, on a busy machine
}
