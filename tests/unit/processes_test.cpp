#include "keeper/processes.h"

#include <doctest/doctest.h>

#include <csignal>
#include <sys/wait.h>
#include <unistd.h>

using namespace synergy;

TEST_CASE("processes: one that has ended is not at rest before that has been reported") {
    Scheduler scheduler;
    int reported = 0;
    const synergy_page page{};
    Processes processes(scheduler, page, [&reported] { reported++; });
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0)
        for (;;)
            pause();
    processes.add(child);
    while (activity_of(child) != Activity::rests)
        usleep(1000);
    CHECK(processes.activity() == Activity::rests);

    REQUIRE(kill(child, SIGKILL) == 0);
    siginfo_t end{};
    REQUIRE(waitid(P_PID, static_cast<id_t>(child), &end, WEXITED | WNOWAIT) == 0);
    CHECK(activity_of(child) == Activity::rests);
    CHECK(processes.activity() == Activity::runs);
    // Nor when /proc knows it no more.
    REQUIRE(waitpid(child, nullptr, 0) == child);
    CHECK(processes.activity() == Activity::runs);

    REQUIRE(reported == 0);
    scheduler.run_once(std::chrono::seconds(5));
    CHECK(reported == 1);
    CHECK(processes.activity() == Activity::rests);
    CHECK(processes.are_gone());
}
