#include "punch/guard.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <iterator>
#include <set>

using namespace synergy;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

/// No wheel: nothing is known of when timers run out.
const TimerWheel unknown(Duration::zero(), Time{});

/// kernel/time/timer.c with this many jiffies a second; none: timers run out when they are due.
struct Timers {
    int per_second = 0;
    Time epoch{}; ///< jiffy 0

    [[nodiscard]] TimerWheel wheel() const {
        return TimerWheel(per_second == 0 ? Duration::zero() : Duration(seconds(1)) / per_second,
                          epoch);
    }
    [[nodiscard]] Time end(Time set, Time due) const {
        if (per_second == 0)
            return due;
        const Duration tick = Duration(seconds(1)) / per_second;
        auto expires = (due - epoch + tick - Duration(1)) / tick;
        auto delta = expires - (set - epoch) / tick;
        int shift = delta < 63 ? 0 : delta < 504 ? 3 : delta < 4032 ? 6 : delta < 32256 ? 9 : 12;
        return epoch + (((expires >> shift) + 1) << shift) * tick;
    }
};

/// What Linux does with a socket in SYN_SENT whose guard is `guard`: retransmits when its timer
/// runs out or TCP_USER_TIMEOUT does, whichever is first, unless that time is over by then.
struct Kernel {
    explicit Kernel(unsigned linear, Timers the_timers = {})
        : linear_timeouts(linear), timers(the_timers) {}

    unsigned linear_timeouts; ///< net.ipv4.tcp_syn_linear_timeouts
    Timers timers;
    SynTimer timer{.retransmits = 0, .timeout = seconds(1)};
    Time fires{};
    bool gave_up = false;

    void retransmit(Time now, Time deadline) {
        if (timer.retransmits > 0 && now >= deadline) {
            gave_up = true;
            return;
        }
        timer.retransmits++;
        if (timer.retransmits > linear_timeouts)
            timer.timeout = std::min<Duration>(timer.timeout * 2, seconds(120)); // TCP_RTO_MAX
        fires = timers.end(now, now + std::min<Duration>(timer.timeout, deadline - now));
    }
};

struct Run {
    std::vector<Duration> sent;                      ///< SYNs, since the first
    std::vector<std::pair<Duration, Duration>> deaf; ///< when the guard was low
    bool stayed_low_for_each = true;
    bool gave_up = false;
};

const Time start{seconds(1000)};

/// Of a hole that no firewall knows yet.
Guard guard_of(Duration window, Duration refresh, const TimerWheel &wheel, double stagger = 0) {
    return {window, refresh, wheel, std::make_shared<HoleBegin>(Guard::hole_lifetime), stagger};
}

/// A socket's life from `began`, with timers of kernel and thread as late as told.
Run live(Guard guard, unsigned linear, Duration kernel_late, Duration thread_late, Duration length,
         Timers timers = {}, Duration connect_took = {}, Time began = start) {
    Run run;
    Kernel kernel(linear, timers);
    Duration user_timeout{};
    guard.sent(began, began + connect_took);
    user_timeout = guard.user_timeout();
    run.sent.emplace_back(0);
    kernel.fires = timers.end(began, began + seconds(1)) + kernel_late;
    Time low_since = began;
    auto phase = guard.phase();
    if (phase == Guard::Phase::open)
        run.deaf.emplace_back(Duration{}, Duration{});
    for (Time now = began; now < began + length;
         now =
             std::max(now + milliseconds(1), std::min(kernel.fires, guard.next() + thread_late))) {
        if (now >= kernel.fires) {
            kernel.retransmit(now, began + user_timeout);
            if (kernel.gave_up)
                break;
            kernel.fires += kernel_late;
            run.sent.push_back(now - began);
            run.stayed_low_for_each &= phase == Guard::Phase::low;
        }
        if (now >= guard.next() + thread_late) {
            guard.tick(now, kernel.timer);
            user_timeout = guard.user_timeout();
            if (guard.phase() != phase) {
                phase = guard.phase();
                if (phase == Guard::Phase::low) {
                    low_since = now;
                } else {
                    run.deaf.emplace_back(low_since - began, now - began);
                }
            }
        }
    }
    run.gave_up = kernel.gave_up;
    return run;
}

bool is_deaf_at(const Run &run, Duration time) {
    const auto after = std::upper_bound(run.deaf.begin(), run.deaf.end(), time,
                                        [](Duration at, auto deaf) { return at < deaf.first; });
    return after != run.deaf.begin() && time <= std::prev(after)->second;
}

} // namespace

TEST_CASE("no SYN leaves in the open phase, however late the timers") {
    for (unsigned linear : {0U, 4U})
        for (auto kernel_late : {milliseconds(0), milliseconds(60), milliseconds(300)})
            for (auto thread_late : {milliseconds(0), milliseconds(30)}) {
                CAPTURE(linear);
                Run run = live(guard_of(milliseconds(150), seconds(13), unknown), linear,
                               kernel_late, thread_late, seconds(120));
                CHECK(run.stayed_low_for_each);
                CHECK(!run.gave_up);
                CHECK(run.sent.size() > 8);
            }
}

TEST_CASE("a thread that is kept from running loses the socket rather than a SYN") {
    Guard guard = guard_of(milliseconds(150), seconds(13), unknown);
    const Time start{seconds(1000)};
    guard.sent(start, start);
    guard.tick(start + milliseconds(150), {0, seconds(1)});
    guard.tick(guard.next(), {0, seconds(1)});
    guard.tick(guard.next(), {1, seconds(1)});
    Kernel kernel(4);
    kernel.timer.retransmits = 1;
    // Nobody ticks: the kernel's next timer runs out at the end of TCP_USER_TIMEOUT.
    kernel.retransmit(start + guard.user_timeout(), start + guard.user_timeout());
    CHECK(kernel.gave_up);
}

TEST_CASE("a thread that is known to be late is not too late for the first retransmission") {
    for (auto thread_late = milliseconds(10); thread_late <= milliseconds(780);
         thread_late += milliseconds(10)) {
        CAPTURE(thread_late.count());
        Guard guard = guard_of(milliseconds(150), seconds(13), unknown);
        guard.expect_lateness(thread_late);
        const Run run = live(guard, 4, milliseconds(0), thread_late, seconds(1) + milliseconds(1));
        CHECK(run.sent.size() == 2);
        CHECK(run.stayed_low_for_each);
    }
}

TEST_CASE("SYNs come no further apart than the refresh interval") {
    for (auto refresh : {seconds(1), seconds(2), seconds(5), seconds(20)}) {
        Run run = live(guard_of(milliseconds(150), refresh, unknown), 4, milliseconds(20),
                       milliseconds(1), seconds(200));
        Duration longest = std::max<Duration>(seconds(1), refresh) + milliseconds(100);
        for (std::size_t i = 1; i < run.sent.size(); i++)
            CHECK(run.sent[i] - run.sent[i - 1] <= longest);
    }
}

TEST_CASE("a SYN comes as soon as a firewall has forgotten the hole that was not prolonged") {
    constexpr Duration lifetime = seconds(120); // nf_conntrack_tcp_timeout_syn_sent
    for (auto refresh : {seconds(3), seconds(20), seconds(50), seconds(200)})
        for (auto kernel_late : {milliseconds(0), milliseconds(250)}) {
            CAPTURE(refresh.count());
            Run run = live(guard_of(milliseconds(150), refresh, unknown), 4, kernel_late,
                           milliseconds(1), seconds(700));
            CHECK(!run.gave_up);
            Duration opened{};
            int times = 0;
            for (Duration syn : run.sent)
                if (syn >= opened + lifetime) {
                    CHECK(syn <= opened + lifetime + seconds(2));
                    opened = syn;
                    times++;
                }
            CHECK(times >= 5);
        }
}

TEST_CASE("what a firewall has forgotten is opened again, though another socket had opened it") {
    constexpr Duration lifetime = seconds(120); // nf_conntrack_tcp_timeout_syn_sent
    for (auto lost_after : {seconds(1), seconds(4), seconds(50), seconds(119)}) {
        CAPTURE(lost_after.count());
        Guard guard = guard_of(milliseconds(150), seconds(60), unknown);
        guard.sent(start, start);
        guard.begin();
        Run run = live(guard, 4, {}, milliseconds(1), seconds(500), {}, {}, start + lost_after);
        // A firewall that had not seen the first socket's counts from the second's.
        for (Duration opened : {Duration{}, Duration(lost_after)}) {
            CAPTURE(opened.count());
            for (Duration syn : run.sent)
                if (syn + lost_after >= opened + lifetime) {
                    CHECK(syn + lost_after <= opened + lifetime + seconds(1));
                    opened = syn + lost_after;
                }
            CHECK(opened > seconds(360));
        }
    }
}

TEST_CASE("a peer whose first SYN meets the guard gets in with its fourth at the latest") {
    // Clients retransmit after 1, 2, 3 s with linear time-outs, after 1, 3, 7 s without.
    for (unsigned linear : {0U, 4U})
        for (auto refresh : {seconds(2), seconds(20)})
            for (double stagger : {0.0, 0.3, 0.62, 1.0})
                for (auto kernel_late : {milliseconds(0), milliseconds(60)}) {
                    CAPTURE(stagger);
                    Run run = live(guard_of(milliseconds(150), refresh, unknown, stagger), linear,
                                   kernel_late, milliseconds(1), seconds(100));
                    CAPTURE(linear);
                    CAPTURE(refresh.count());
                    for (Duration arrival{}; arrival < seconds(90); arrival += milliseconds(5)) {
                        bool heard = false;
                        for (Duration retry : {seconds(0), seconds(1), seconds(linear ? 2 : 3),
                                               seconds(linear ? 3 : 7)})
                            heard = heard || !is_deaf_at(run, arrival + retry);
                        if (heard)
                            continue;
                        CAPTURE(std::chrono::duration_cast<milliseconds>(arrival).count());
                        FAIL_CHECK("nothing of the peer's was heard");
                    }
                }
}

TEST_CASE("a socket that can tell the error from a SYN is never deaf longer than a timer is late") {
    Run run = live(guard_of(Duration::zero(), seconds(13), unknown), 4, milliseconds(60),
                   milliseconds(1), seconds(60));
    CHECK(run.stayed_low_for_each);
    for (auto [from, to] : run.deaf)
        CHECK(to - from <= Guard::lead + milliseconds(60 + 10));
}

TEST_CASE("what is known of the kernel's timers keeps a socket from being deaf for long") {
    for (int per_second : {100, 250, 300, 1000})
        for (auto refresh : {seconds(2), seconds(5), seconds(20), seconds(60)})
            for (unsigned linear : {0U, 4U})
                for (int phase = 0; phase < 2048; phase += 123) {
                    CAPTURE(per_second);
                    CAPTURE(refresh.count());
                    CAPTURE(phase);
                    const Timers timers{per_second, Time{milliseconds(phase)}};
                    const TimerWheel wheel = timers.wheel();
                    Run run = live(guard_of(milliseconds(80), refresh, wheel), linear,
                                   milliseconds(1), milliseconds(1), seconds(150), timers);
                    CHECK(run.stayed_low_for_each);
                    CHECK(!run.gave_up);
                    int long_ones = 0;
                    for (auto [from, to] : run.deaf)
                        long_ones += to - from > milliseconds(150);
                    // Where it is the kernel's own interval that counts, not ours, it may end so
                    // near to the end of a slot that either slot must be reckoned with.
                    CHECK(long_ones <= 2);
                    for (std::size_t i = 1; i < run.sent.size(); i++)
                        CHECK(run.sent[i] - run.sent[i - 1] <= refresh + milliseconds(100));
                }
}

TEST_CASE("whatever is believed of the kernel's timers, no SYN slips out") {
    int gave_up = 0;
    for (int believed : {100, 250, 300, 1000})
        for (int real : {0, 100, 250, 300, 1000})
            for (auto connect_took : {milliseconds(0), milliseconds(5), milliseconds(20)})
                for (int phase = 0; phase < 512; phase += 37) {
                    CAPTURE(believed);
                    CAPTURE(real);
                    CAPTURE(phase);
                    CAPTURE(connect_took.count());
                    const TimerWheel wheel = Timers{believed, Time{milliseconds(phase)}}.wheel();
                    Run run =
                        live(guard_of(milliseconds(80), seconds(20), wheel), 4, milliseconds(1),
                             milliseconds(1), seconds(150), Timers{real, Time{}}, connect_took);
                    CHECK(run.stayed_low_for_each);
                    gave_up += run.gave_up;
                }
    CHECK(gave_up > 0);
}

TEST_CASE("a hole that another punch has begun is opened anew when its time is over") {
    const Duration passed = seconds(50), ends = Guard::hole_lifetime - passed;
    const auto opens_anew = [&](Guard guard) {
        const Run run = live(std::move(guard), 4, milliseconds(20), milliseconds(4), seconds(130),
                             {}, {}, start + passed);
        return std::any_of(run.sent.begin(), run.sent.end(),
                           [&](Duration at) { return at >= ends && at < ends + seconds(3); });
    };
    const auto hole = std::make_shared<HoleBegin>(Guard::hole_lifetime);
    Guard(milliseconds(150), seconds(60), unknown, hole).sent(start, start);
    CHECK(opens_anew(Guard(milliseconds(150), seconds(60), unknown, hole)));
    CHECK_FALSE(opens_anew(guard_of(milliseconds(150), seconds(60), unknown)));
}

TEST_CASE("an error that came late widens the window, within bounds") {
    Guard guard = guard_of(milliseconds(150), seconds(13), unknown);
    const Time start{seconds(1000)};
    guard.sent(start, start);
    CHECK(guard.next() == start + milliseconds(150));
    guard.error_came(start + milliseconds(200));
    guard.sent(start, start);
    CHECK(guard.next() == start + milliseconds(300));
    guard.error_came(start + seconds(5));
    guard.sent(start, start);
    CHECK(guard.next() <= start + milliseconds(450));
    guard.error_came(start + milliseconds(1));
    guard.sent(start, start);
    CHECK(guard.next() == start + milliseconds(450));
}
