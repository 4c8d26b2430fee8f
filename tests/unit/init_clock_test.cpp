#include "punch/init_clock.h"

#include <doctest/doctest.h>

using namespace synergy;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

/// How Linux, a path and our thread behave; `round_trip` zero: no error comes back.
struct World {
    Duration kernel_late{};
    Duration thread_late{};
    Duration round_trip{};
};

struct Run {
    unsigned sent = 0;
    unsigned sent_high = 0; ///< with the ordinary hop limit
    Duration longest_low{}; ///< but for the window in which an INIT was missed
    Duration low{};         ///< all of them together
    Duration until_vague{}; ///< zero: never
};

/// A socket's life as SctpPunch leads it.
Run live(const World &world, Duration length) {
    constexpr Duration glance = milliseconds(10);
    Run run;
    InitClock clock;
    const Time start{seconds(1000)};
    clock.sent(start);
    if (world.round_trip > Duration::zero())
        clock.first_error_came(start + world.round_trip + glance / 2);
    Time leaves = start + InitClock::period + world.kernel_late;
    while (leaves < start + length) {
        if (clock.is_vague()) {
            run.until_vague = clock.from() - start;
            return run;
        }
        Time low_from = clock.from() + world.thread_late;
        run.sent++;
        run.sent_high += leaves < low_from ? 1 : 0;
        Time asked = low_from, now = low_from;
        Time error = leaves + world.round_trip;
        bool has_error = world.round_trip > Duration::zero();
        while (!(has_error && now >= error) && now < clock.until()) {
            asked = now;
            now += glance;
        }
        if (has_error && now >= error)
            clock.error_came(asked, now);
        else
            clock.unseen();
        run.sent_high += leaves > now ? 1 : 0;
        run.longest_low = std::max(run.longest_low, now - low_from);
        run.low += now - low_from;
        leaves += InitClock::period + world.kernel_late;
    }
    return run;
}

} // namespace

TEST_CASE("init clock: every INIT is low where errors come, for hours, and soon high again") {
    for (Duration kernel_late : {milliseconds(0), milliseconds(8), milliseconds(80)})
        for (Duration thread_late : {milliseconds(0), milliseconds(5), milliseconds(35)})
            for (Duration round_trip : {milliseconds(1), milliseconds(30), milliseconds(250)}) {
                CAPTURE(kernel_late.count());
                CAPTURE(thread_late.count());
                CAPTURE(round_trip.count());
                Run run = live({kernel_late, thread_late, round_trip}, std::chrono::hours(2));
                CHECK(run.sent > 4000);
                CHECK(run.sent_high == 0);
                CHECK(run.until_vague == Duration::zero());
                CHECK(run.longest_low <=
                      InitClock::lead + kernel_late + round_trip * 3 / 2 + milliseconds(30));
            }
}

TEST_CASE("init clock: a path that becomes slower lets no INIT out with the ordinary hop limit") {
    for (Duration kernel_late : {milliseconds(0), milliseconds(8), milliseconds(80)})
        for (Duration round_trip : {milliseconds(1), milliseconds(10), milliseconds(100)})
            for (Duration slower : {milliseconds(100), milliseconds(150), milliseconds(250)})
                for (int slow_from : {2, 3, 10}) {
                    CAPTURE(kernel_late.count());
                    CAPTURE(round_trip.count());
                    CAPTURE(slower.count());
                    CAPTURE(slow_from);
                    InitClock clock;
                    Time leaves{seconds(1000)};
                    clock.sent(leaves);
                    clock.first_error_came(leaves + round_trip);
                    bool is_high = false;
                    for (int i = 1; i < slow_from + 10 && !clock.is_vague(); i++) {
                        leaves += InitClock::period + kernel_late;
                        is_high |= leaves < clock.from();
                        const Time error =
                            leaves + round_trip + (i >= slow_from ? slower : Duration());
                        clock.error_came(error - milliseconds(10), error);
                    }
                    CHECK_FALSE(is_high);
                    // What is vague is given up at the next INIT's earliest time, which is early
                    // enough.
                    CHECK(clock.from() <= leaves + InitClock::period + kernel_late);
                }
}

TEST_CASE("init clock: without errors every INIT is low until it is too vague to go on") {
    for (Duration kernel_late : {milliseconds(0), milliseconds(8), milliseconds(80)}) {
        CAPTURE(kernel_late.count());
        Run run = live({kernel_late, milliseconds(5), {}}, std::chrono::hours(2));
        CHECK(run.sent_high == 0);
        CHECK(run.until_vague > seconds(4));
        CHECK(run.until_vague < seconds(10));
        CHECK(run.longest_low < InitClock::widest + InitClock::lateness);
    }
}

TEST_CASE("init clock: an error that is lost is made up for by the next") {
    InitClock clock;
    Time now{seconds(1000)};
    clock.sent(now);
    clock.first_error_came(now + milliseconds(30));
    auto width = [&] { return clock.until() - clock.from(); };
    auto sure = width();
    clock.unseen();
    CHECK_FALSE(clock.is_vague());
    auto unsure = width();
    now += 2 * InitClock::period + milliseconds(20);
    CHECK(clock.from() < now);
    CHECK(clock.until() > now);
    clock.error_came(now + milliseconds(20), now + milliseconds(30));
    CHECK(width() < sure + milliseconds(100));
    CHECK(unsure > InitClock::lateness);
}
