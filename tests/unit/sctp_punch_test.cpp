// On a kernel without SCTP most of it is skipped: scripts/test-uml -k sctp_strategies.
#include "punch/sctp_punch.h"

#include "punch/sctp_hole.h"
#include "sctp_bench.h"
#include "server/sctp_socket.h"

#include <doctest/doctest.h>

#include <unistd.h>

using namespace synergy;
using harness::Network;
using harness::Packet;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

struct Bench : harness::SctpBench {
    void serve_sctp(int family) { serve(Network::here(family), SOCK_STREAM, IPPROTO_SCTP); }
};

} // namespace

TEST_CASE("sctp punch: every INIT is low, and the hop limits have their turns" *
          doctest::skip(!harness::has_sctp())) {
    for (const int family : {AF_INET6, AF_INET})
        CHECK(harness::in_child([family]() -> std::string {
                  Bench bench;
                  bench.serve_sctp(family);
                  SctpPunch punch(bench.context,
                                  bench.hole(family, {.best = 3, .least = 2, .most = 4}));
                  EXPECT_IN_CHILD(punch.open() == 0);
                  EXPECT_IN_CHILD(punch.open() == 0); // once it is open, nothing more
                  EXPECT_IN_CHILD(bench.run_until_sent(4));
                  std::vector<int> hops;
                  for (const Packet &init : bench.network.inits()) {
                      hops.push_back(init.hop_limit);
                      EXPECT_IN_CHILD(init.from == Network::here(family));
                      EXPECT_IN_CHILD(init.to == Network::there(family));
                  }
                  EXPECT_IN_CHILD(hops == std::vector({3, 3, 4, 2}));
                  return "";
              }) == "");
}

TEST_CASE("sctp punch: a peer that calls is connected, and its association kept warm" *
          doctest::skip(!harness::has_sctp())) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve_sctp(AF_INET6);
              SctpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              Socket caller = bench.get_in(punch);
              EXPECT_IN_CHILD(caller);
              EXPECT_IN_CHILD(bench.delivered[0].peer == Network::there(AF_INET6));
              EXPECT_IN_CHILD(bench.delivered[0].cookie == bench.server.cookie);
              EXPECT_IN_CHILD(bench.proofs == std::vector{3});
              const int fd = bench.delivered[0].connection.fd();
              EXPECT_IN_CHILD(get_option(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS) == 64);
              EXPECT_IN_CHILD(get_option(fd, SOL_SOCKET, SO_ERROR) == 0);
              sctp_paddrparams parameters{};
              EXPECT_IN_CHILD(sctp::get(fd, SCTP_PEER_ADDR_PARAMS, parameters));
              EXPECT_IN_CHILD(parameters.spp_hbinterval == 1000);
              // What is not for the punch goes all the way.
              for (const Packet &packet : bench.network.sent_here())
                  EXPECT_IN_CHILD(packet.is_init() || packet.hop_limit == 64);
              // No second association of the same ends, while this one lives.
              const std::size_t before = bench.network.inits().size();
              bench.run_for(milliseconds(1500));
              EXPECT_IN_CHILD(bench.network.inits().size() == before);
              EXPECT_IN_CHILD(bench.said("waits for an earlier association") == 1);
              // And another as soon as it is over.
              bench.delivered.clear();
              caller.reset();
              EXPECT_IN_CHILD(bench.run_until_sent(before + 1));
              EXPECT_IN_CHILD(bench.network.inits().back().hop_limit == 3);
              return "";
          }) == "");
}

TEST_CASE("sctp punch: after a short connection the hole is soon open again" *
          doctest::skip(!harness::has_sctp())) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve_sctp(AF_INET6);
              SctpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              Socket caller = bench.get_in(punch);
              EXPECT_IN_CHILD(caller);
              const std::size_t before = bench.network.inits().size();
              bench.delivered.clear();
              caller.reset();
              EXPECT_IN_CHILD(bench.run_until_sent(before + 1, milliseconds(700)));
              return "";
          }) == "");
}

TEST_CASE("sctp punch: an abort says that it went too far" * doctest::skip(!harness::has_sctp())) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.network.routers = 2; // it reaches the peer's host, which refuses
              bench.serve_sctp(AF_INET6);
              SctpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0);
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.too_high.size() >= 4; }));
              EXPECT_IN_CHILD(bench.too_high[0] == 3);
              EXPECT_IN_CHILD(bench.refusals[0].answer == HopAnswer::refused);
              return "";
          }) == "");
}

TEST_CASE("sctp punch: nothing leaves for a server that is gone, and nothing is left of a hole" *
          doctest::skip(!harness::has_sctp())) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve_sctp(AF_INET6);
              bench.is_alive = false;
              const auto before = harness::open_descriptors();
              {
                  SctpPunch late(bench.context, bench.hole(AF_INET6, 3));
                  EXPECT_IN_CHILD(late.open() == EBADF);
                  bench.run_for(milliseconds(100));
                  EXPECT_IN_CHILD(bench.network.inits().empty());
                  bench.is_alive = true;
                  SctpPunch punch(bench.context, bench.hole(AF_INET6, 3));
                  EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_sent(1));
              }
              bench.run_for(milliseconds(100)); // what has left until then
              const std::size_t sent = bench.network.inits().size();
              bench.run_for(seconds(2));
              EXPECT_IN_CHILD(bench.network.inits().size() == sent);
              EXPECT_IN_CHILD(harness::open_descriptors() == before);
              return "";
          }) == "");
}

TEST_CASE("sctp punch: where the kernel has no SCTP it is said once, and tried again" *
          doctest::skip(harness::has_sctp() || geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              SctpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == EPROTONOSUPPORT);
              bench.run_for(seconds(1));
              EXPECT_IN_CHILD(bench.said("can't punch") == 1);
              EXPECT_IN_CHILD(bench.network.seen.empty());
              return "";
          }) == "");
}

TEST_CASE("sctp punch: a peer's INIT that comes as ours leaves is answered all the way" *
          doctest::skip(!harness::has_sctp())) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve_sctp(AF_INET6);
              return bench.meets_as_it_leaves([&] {
                  return std::make_unique<SctpPunch>(bench.context, bench.hole(AF_INET6, 3));
              });
          }) == "");
}

TEST_CASE("sctp punch: a peer that comes in as an INIT leaves stays" *
          doctest::skip(!harness::has_sctp())) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve_sctp(AF_INET6);
              return bench.comes_in_as_it_leaves([&] {
                  return std::make_unique<SctpPunch>(bench.context, bench.hole(AF_INET6, 3));
              });
          }) == "");
}

TEST_CASE("sctp punch: who has called and is there no more is not too far" *
          doctest::skip(!harness::has_sctp())) {
    CHECK(
        harness::in_child([]() -> std::string {
            Bench bench;
            bench.serve_sctp(AF_INET6);
            const auto punch = bench.called_as_it_leaves(
                [&] { return std::make_unique<SctpPunch>(bench.context, bench.hole(AF_INET6, 3)); },
                false);
            EXPECT_IN_CHILD(punch);
            const auto answers = [&] {
                const auto sent = bench.network.sent_here();
                return std::count_if(sent.begin(), sent.end(), [](const Packet &packet) {
                    return packet.is_init() && packet.hop_limit == 64;
                });
            };
            EXPECT_IN_CHILD(bench.run_until([&] { return bench.said("is there no more") == 1; }));
            EXPECT_IN_CHILD(answers() == 1);
            EXPECT_IN_CHILD(bench.too_high.empty());
            // The hole is open for the next.
            const std::size_t before = bench.network.inits().size();
            EXPECT_IN_CHILD(bench.run_until_sent(before + 1));
            EXPECT_IN_CHILD(bench.network.inits().back().hop_limit == 3);
            return "";
        }) == "");
}

TEST_CASE("sctp hole: INITs come when firewalls have forgotten it, and before the kernel's own") {
    const Time began{seconds(1000)};
    HoleBegin hole(sctp::hole_lifetime);
    hole.leaves(began);
    const Duration period = milliseconds(1650);
    const auto after = [&](Duration sent) {
        return sctp::next_init(began + sent, hole, period) - began;
    };
    CHECK(after(seconds(0)) == milliseconds(15));
    CHECK(after(milliseconds(17)) == milliseconds(80));
    CHECK(after(milliseconds(80)) == milliseconds(1730));
    CHECK(after(seconds(8)) == milliseconds(9650));
    CHECK(after(milliseconds(9650)) == milliseconds(10002));
    hole.leaves(began + milliseconds(10001));
    CHECK(hole.at() == began);
    hole.leaves(began + milliseconds(10002));
    CHECK(hole.at() == began + milliseconds(10002));
}
