#include "hops/path_probe.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <memory>

using namespace synergy;

namespace {

/// Measures, and checks that nothing of it is left.
Path measure(const Endpoint &peer, const Endpoint &source = {}) {
    const std::set<int> before = harness::open_descriptors();
    Path path;
    {
        Scheduler scheduler;
        bool is_done = false;
        PathProbe probe(scheduler, peer, source, [&](const Path &measured) {
            CHECK_FALSE(is_done);
            is_done = true;
            path = measured;
        });
        CHECK_FALSE(is_done);
        CHECK(harness::run_until(
            scheduler, [&] { return is_done; }, std::chrono::seconds(3)));
    }
    CHECK(harness::open_descriptors() == before);
    return path;
}

} // namespace

TEST_CASE("a path to this host itself") {
    for (const int family : {AF_INET6, AF_INET}) {
        const Endpoint here = Endpoint::loopback(family, 5555);
        for (const Endpoint &peer : {here, here.mapped()}) {
            for (const Endpoint &source : {Endpoint(), Endpoint::wildcard(family, 0), here}) {
                const Path path = measure(peer, source);
                CHECK(path.error == 0);
                CHECK(path.on_link);
                CHECK(path.peer == here.with_port(0));
                CHECK(path.source == here.with_port(0));
                REQUIRE(path.hops.size() == 1);
                CHECK(path.hops[0].answer == HopAnswer::refused);
                CHECK(path.hops[0].from == here.with_port(0));
                CHECK(path.end() == &path.hops[0]);
            }
        }
    }
}

TEST_CASE("each hop is told, before the end") {
    Scheduler scheduler;
    std::vector<Hop> told;
    bool is_done = false;
    PathProbe probe(
        scheduler, Endpoint::loopback(AF_INET6, 1), {},
        [&](const Path &path) {
            is_done = true;
            CHECK(path.hops == told);
        },
        [&](const Hop &hop) {
            CHECK_FALSE(is_done);
            told.push_back(hop);
        });
    CHECK(harness::run_until(scheduler, [&] { return is_done; }));
    CHECK(told.size() == 1);
}

TEST_CASE("the end may destroy the probe, and an early end calls nothing") {
    Scheduler scheduler;
    std::unique_ptr<PathProbe> probe;
    bool is_done = false;
    const auto done = [&](const Path &) {
        is_done = true;
        probe.reset();
    };
    probe =
        std::make_unique<PathProbe>(scheduler, Endpoint::loopback(AF_INET6, 1), Endpoint(), done);
    CHECK(harness::run_until(scheduler, [&] { return is_done; }));
    CHECK(probe == nullptr);

    is_done = false;
    const std::set<int> before = harness::open_descriptors();
    for (int steps = 0; steps < 3; steps++) {
        probe = std::make_unique<PathProbe>(scheduler, Endpoint::loopback(AF_INET6, 1), Endpoint(),
                                            done);
        for (int step = 0; step < steps && probe; step++)
            scheduler.run_once(std::chrono::milliseconds(1));
        probe.reset();
        CHECK(harness::open_descriptors() == before);
    }
    scheduler.run_once(std::chrono::milliseconds(20));
}

TEST_CASE("an address that is not of this host") {
    const Path path = measure(Endpoint::loopback(AF_INET, 1),
                              Endpoint::from(reinterpret_cast<const sockaddr *>("\2\0\0\0\1\2\3\4"
                                                                                "\0\0\0\0\0\0\0\0"),
                                             sizeof(sockaddr_in)));
    CHECK(path.error == EADDRNOTAVAIL);
    CHECK(path.hops.empty());
}

TEST_CASE("without descriptors everything is silent, and still over in time") {
    CHECK(harness::in_child([]() -> std::string {
              Scheduler scheduler;
              bool is_done = false;
              Path path;
              const rlimit none{.rlim_cur = 0, .rlim_max = 0};
              EXPECT_IN_CHILD(setrlimit(RLIMIT_NOFILE, &none) == 0);
              const PathProbe probe(scheduler, Endpoint::loopback(AF_INET6, 1), Endpoint(),
                                    [&](const Path &measured) {
                                        is_done = true;
                                        path = measured;
                                    });
              EXPECT_IN_CHILD(harness::run_until(
                  scheduler, [&] { return is_done; }, std::chrono::seconds(3)));
              EXPECT_IN_CHILD(path.error == 0);
              EXPECT_IN_CHILD(path.hops.empty());
              EXPECT_IN_CHILD(path.end() == nullptr);
              return "";
          }) == "");
}

TEST_CASE("where UDP is not let out, TCP finds the end" * doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              EXPECT_IN_CHILD(unshare(CLONE_NEWNET) == 0);
              EXPECT_IN_CHILD(
                  std::system("ip link set lo up && ip6tables -A OUTPUT -p udp -j DROP") == 0);
              const Path path = measure(Endpoint::loopback(AF_INET6, 1));
              EXPECT_IN_CHILD(path.hops.size() == 1);
              EXPECT_IN_CHILD(path.hops[0].by == Transport::tcp);
              EXPECT_IN_CHILD(path.hops[0].answer == HopAnswer::refused ||
                              path.hops[0].answer == HopAnswer::accepted);
              return "";
          }) == "");
}
