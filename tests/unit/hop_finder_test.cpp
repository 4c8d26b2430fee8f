#include "hops/hop_finder.h"

#include "base/log.h"
#include "harness.h"
#include "network.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sched.h>
#include <unistd.h>

using namespace synergy;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

struct Bench {
    Scheduler scheduler;
    HopBounds bounds;
    unsigned found = 0;
    HopFinder finder{scheduler, bounds, "", [this](const Endpoint &) { found++; }};

    bool run_until(const std::function<bool()> &is_done, Duration limit = seconds(5)) {
        return harness::run_until(scheduler, is_done, limit);
    }
};

const Endpoint here = Endpoint::loopback(AF_INET6, 5555);

/// A network of its own where the way to some peers leads through routers that say nothing.
bool enter_silent_network() {
    return unshare(CLONE_NEWNET) == 0 &&
           std::system(
               "ip link set lo up && ip link add va type veth peer name vb && "
               "ip addr add 192.0.2.1/24 dev va && ip link set va up && ip link set vb up && "
               "ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev va && "
               "ip route add default via 192.0.2.2") == 0;
}

Endpoint silent_peer() {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(5555);
    in.sin_addr.s_addr = htonl(0xc6336405); // 198.51.100.5
    return Endpoint::from(reinterpret_cast<const sockaddr *>(&in), sizeof in);
}

} // namespace

TEST_CASE("hop finder: told when it is found, and the same from then on") {
    Bench bench;
    CHECK_FALSE(bench.finder.find_hops(here, {}));
    CHECK(bench.found == 0);
    CHECK(bench.run_until([&] { return bench.found == 1; }));
    CHECK(bench.finder.find_hops(here, {}));
    CHECK(bench.finder.find_hops(here.with_port(1), {}) == bench.finder.find_hops(here, {}));
    bench.run_until([] { return false; }, milliseconds(300));
    CHECK(bench.found == 1);
}

TEST_CASE("hop finder: a hop limit of the user's and an automatic one toward the same peer") {
    Bench bench;
    // The round trip of the first is being measured when the other is asked for.
    CHECK_FALSE(bench.finder.find_dying_hop(here, {}, 3));
    CHECK_FALSE(bench.finder.find_hops(here, {}));
    CHECK(bench.run_until([&] { return bench.found == 1; }));
    CHECK(bench.finder.find_hops(here, {}));
}

TEST_CASE("hop finder: what has proved right is what is told, to all" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              EXPECT_IN_CHILD(enter_silent_network());
              Bench bench;
              const Endpoint peer = silent_peer();
              EXPECT_IN_CHILD(!bench.finder.find_hops(peer, {}));
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.found == 1; }));
              const auto guess = bench.finder.find_hops(peer, {});
              EXPECT_IN_CHILD(guess && guess->least < guess->most);
              bench.finder.proved(peer, {}, guess->most);
              // Not from within: the punch that says so is one of those that change.
              EXPECT_IN_CHILD(bench.found == 1);
              EXPECT_IN_CHILD(bench.finder.find_hops(peer, {}) == HopRange::only(guess->most));
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.found == 2; }));
              // Known already.
              bench.finder.proved(peer, {}, guess->most);
              bench.run_until([] { return false; }, milliseconds(100));
              EXPECT_IN_CHILD(bench.found == 2);
              return "";
          }) == "");
}

TEST_CASE("hop finder: what was too high is not told again" * doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              EXPECT_IN_CHILD(enter_silent_network());
              Bench bench;
              const Endpoint peer = silent_peer();
              const IcmpError refusal{.answer = HopAnswer::refused, .from = {}};
              static_cast<void>(bench.finder.find_hops(peer, {}));
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.found == 1; }));
              bench.finder.refused(peer, {}, 3, refusal);
              EXPECT_IN_CHILD(bench.found == 1);
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.found == 2; }));
              EXPECT_IN_CHILD(bench.finder.find_hops(peer, {})->most == 2);
              bench.finder.refused(peer, {}, hop_limit_min, refusal); // lower there is none
              bench.run_until([] { return false; }, milliseconds(100));
              EXPECT_IN_CHILD(bench.finder.find_hops(peer, {})->most == 2);
              return "";
          }) == "");
}

TEST_CASE("hop finder: ways that nobody wants are forgotten, in whatever state") {
    const auto before = harness::open_descriptors();
    {
        Bench bench;
        static_cast<void>(bench.finder.find_hops(here, {}));
        bench.finder.keep_only([](const Endpoint &) { return false; });
        bench.run_until([] { return false; }, milliseconds(50));
        CHECK(bench.found == 0);
        static_cast<void>(bench.finder.find_hops(here, {}));
        bench.run_until([&] { return bench.found == 1; });
        bench.finder.proved(here, {}, 1);
        bench.finder.keep_only([](const Endpoint &) { return false; });
        bench.run_until([] { return false; }, milliseconds(50));
        CHECK_FALSE(bench.finder.find_hops(here, {}));
    }
    CHECK(harness::open_descriptors() == before);
}

TEST_CASE("hop finder: half the way, and how long its errors take" *
          doctest::skip(geteuid() != 0)) {
    for (const int family : {AF_INET6, AF_INET})
        CHECK(harness::in_child([family]() -> std::string {
                  Bench bench;
                  harness::Network network(bench.scheduler);
                  network.routers = 5;
                  network.error_delay = milliseconds(60);
                  const Endpoint peer = harness::Network::there(family);
                  EXPECT_IN_CHILD(!bench.finder.find_hops(peer, {}));
                  EXPECT_IN_CHILD(bench.run_until([&] { return bench.found == 1; }));
                  const auto hops = bench.finder.find_hops(peer, {});
                  EXPECT_IN_CHILD(hops && hops->best == 3); // of six
                  EXPECT_IN_CHILD(hops->most < 5);          // the last router is the peer's
                  // Once all is measured.
                  std::optional<Hop> dying;
                  EXPECT_IN_CHILD(bench.run_until([&] {
                      dying = bench.finder.find_dying_hop(peer, {}, 3);
                      return dying.has_value();
                  }));
                  EXPECT_IN_CHILD(dying->round_trip >= milliseconds(60));
                  EXPECT_IN_CHILD(dying->round_trip < milliseconds(500));
                  EXPECT_IN_CHILD(dying->from == harness::Network::router(family));
                  // Nothing of it comes from the server's port, or goes to the peer's.
                  for (const harness::Packet &packet : network.sent_here()) {
                      EXPECT_IN_CHILD(packet.from.port() != harness::Network::server_port);
                      EXPECT_IN_CHILD(packet.to.port() != harness::Network::peer_port);
                  }
                  return "";
              }) == "");
}

TEST_CASE("hop finder: of a hop limit of the user's only the round trip is measured, there alone" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              harness::Network network(bench.scheduler);
              network.error_delay = milliseconds(60);
              const Endpoint peer = harness::Network::there(AF_INET6);
              EXPECT_IN_CHILD(!bench.finder.find_dying_hop(peer, {}, 2));
              std::optional<Hop> dying;
              EXPECT_IN_CHILD(bench.run_until([&] {
                  dying = bench.finder.find_dying_hop(peer, {}, 2);
                  return dying.has_value();
              }));
              EXPECT_IN_CHILD(dying->round_trip >= milliseconds(60));
              EXPECT_IN_CHILD(dying->round_trip < milliseconds(500));
              EXPECT_IN_CHILD(dying->from == harness::Network::router(AF_INET6));
              EXPECT_IN_CHILD(!network.sent_here().empty());
              for (const harness::Packet &packet : network.sent_here())
                  EXPECT_IN_CHILD(packet.hop_limit == 2);
              EXPECT_IN_CHILD(bench.found == 0);
              return "";
          }) == "");
}

TEST_CASE("hop finder: who refuses is named once, whichever way it is heard of first" *
          doctest::skip(geteuid() != 0)) {
    const harness::Directory directory;
    const std::string file = directory.path("log");
    for (const bool is_told_first : {true, false}) {
        ::unlink(file.c_str());
        CHECK(harness::in_child([&]() -> std::string {
                  log::configure({.level = LogLevel::warn, .where = file});
                  Bench bench;
                  const harness::Network network(bench.scheduler);
                  const Endpoint peer = harness::Network::there(AF_INET6);
                  constexpr int too_high = 10;
                  const auto tell = [&] {
                      bench.finder.refused(peer, {}, too_high,
                                           {.answer = HopAnswer::refused, .from = {}});
                  };
                  const auto look = [&] { bench.finder.look_at(peer, {}, too_high); };
                  const auto lines = [&] {
                      std::ifstream said(file);
                      return std::count(std::istreambuf_iterator<char>(said), {}, '\n');
                  };
                  is_told_first ? tell() : look();
                  EXPECT_IN_CHILD(bench.run_until([&] { return lines() == 1; }));
                  bench.run_until([] { return false; }, milliseconds(50));
                  is_told_first ? look() : tell();
                  bench.run_until([] { return false; }, seconds(2));
                  EXPECT_IN_CHILD(lines() == 1);
                  return "";
              }) == "");
    }
}
