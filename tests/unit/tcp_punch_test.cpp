#include "tcp_bench.h"

#include <doctest/doctest.h>

#include <algorithm>

#include <unistd.h>

using namespace synergy;
using Bench = harness::TcpBench;
using harness::Network;
using harness::Packet;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

bool is_before(const Packet &one, const Packet &other, Duration longest) {
    return other.seen - one.seen <= longest;
}

} // namespace

TEST_CASE("tcp punch: a SYN with the hop limit, deaf for its error, heard with the ordinary one" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0);
              const int fd = Bench::punching();
              // To routers, and whoever starts with their hop limit.
              EXPECT_IN_CHILD(get_option(fd, IPPROTO_IPV6, IPV6_MINHOPCOUNT) == 65);
              EXPECT_IN_CHILD(get_option(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS) == 64);
              EXPECT_IN_CHILD(bench.run_until_heard());
              // The error has come in the meantime, and has done no harm.
              EXPECT_IN_CHILD(Bench::punching() == fd);
              EXPECT_IN_CHILD(get_option(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS) == 64);
              const auto syns = bench.network.syns();
              EXPECT_IN_CHILD(syns.size() == 1 && syns[0].hop_limit == 3);
              EXPECT_IN_CHILD(syns[0].from == Network::here(AF_INET6));
              EXPECT_IN_CHILD(syns[0].to == Network::there(AF_INET6));
              // The same hole is not opened twice.
              EXPECT_IN_CHILD(punch.open() == 0);
              EXPECT_IN_CHILD(Bench::punching() == fd);
              return "";
          }) == "");
}

TEST_CASE("tcp punch: when the hole began, the next one knows that has it" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              const Time before = Clock::now();
              EXPECT_IN_CHILD(TcpPunch(bench.context, bench.hole(AF_INET6, 3)).open() == 0);
              const Time began = bench.begin->at();
              EXPECT_IN_CHILD(began >= before && began <= Clock::now());
              EXPECT_IN_CHILD(TcpPunch(bench.context, bench.hole(AF_INET6, 3)).open() == 0);
              EXPECT_IN_CHILD(bench.begin->at() == began);
              return "";
          }) == "");
}

TEST_CASE("tcp punch: all SYNs of a socket have one number, and the hop limits their turns" *
          doctest::skip(geteuid() != 0)) {
    const std::string late = "the thread was kept from running, which costs a socket (guard.h)";
    const auto look = [&late](int family) -> std::string {
        Bench bench;
        bench.serve(Network::here(family));
        TcpPunch punch(bench.context, bench.hole(family, {.best = 3, .least = 2, .most = 4}));
        EXPECT_IN_CHILD(punch.open() == 0);
        EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(5); }, seconds(8)));
        const auto syns = bench.network.syns();
        std::vector<int> hops;
        for (const Packet &syn : syns)
            hops.push_back(syn.hop_limit);
        if (Bench::numbers_of(syns).size() > 1 &&
            bench.scheduler.lateness() > Guard::least_lead / 2)
            return late;
        EXPECT_IN_CHILD(Bench::numbers_of(syns).size() == 1);
        EXPECT_IN_CHILD(hops == std::vector({3, 3, 4, 2, 3}));
        // Out of step with a client that repeats each second.
        EXPECT_IN_CHILD(syns[2].seen - syns[1].seen > milliseconds(600));
        EXPECT_IN_CHILD(syns[2].seen - syns[1].seen < milliseconds(960));
        EXPECT_IN_CHILD(bench.too_high.empty() && bench.proofs.empty());
        return "";
    };
    for (const int family : {AF_INET6, AF_INET}) {
        std::string result = late;
        for (int tries = 0; tries < 5 && result == late; tries++)
            result = harness::in_child([&] { return look(family); });
        CHECK(result == "");
    }
}

TEST_CASE("tcp punch: an error that is later than was expected is met at once, and once" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.network.error_delay = milliseconds(200);
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0);
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(4); }));
              const auto syns = bench.network.syns();
              // A firewall takes a number for the new one that comes after the last; the clock's
              // (a new one each 64 ns) does not always.
              const std::uint32_t ahead = syns[1].sequence - syns[0].sequence;
              EXPECT_IN_CHILD(ahead > 0 && ahead < 65536);
              EXPECT_IN_CHILD(is_before(syns[0], syns[1], milliseconds(300)));
              EXPECT_IN_CHILD(syns[2].sequence == syns[1].sequence);
              EXPECT_IN_CHILD(syns[3].sequence == syns[1].sequence);
              EXPECT_IN_CHILD(bench.too_high.empty());
              return "";
          }) == "");
}

TEST_CASE("tcp punch: it is deaf for as long as errors were measured to take" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.network.error_delay = milliseconds(170);
              bench.round_trip = milliseconds(170);
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              const Time punched = Clock::now();
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_heard());
              EXPECT_IN_CHILD(Clock::now() - punched >= milliseconds(215));
              EXPECT_IN_CHILD(bench.network.syns().size() == 1);
              return "";
          }) == "");
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.round_trip = milliseconds(30);
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              const Time punched = Clock::now();
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_heard());
              EXPECT_IN_CHILD(Clock::now() - punched < milliseconds(140));
              EXPECT_IN_CHILD(bench.network.syns().size() == 1);
              return "";
          }) == "");
}

TEST_CASE("tcp punch: a reset says that it went too far, and it is punched again" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.network.routers = 2; // a firewall stands on the third hop
              bench.network.lets_pass = [&](const Packet &packet) {
                  bench.network.refuse(packet);
                  return false;
              };
              bench.serve(Network::here(AF_INET));
              TcpPunch punch(bench.context, bench.hole(AF_INET, 3));
              EXPECT_IN_CHILD(punch.open() == 0);
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.too_high.size() >= 2; }));
              EXPECT_IN_CHILD(bench.too_high[0] == 3);
              EXPECT_IN_CHILD(bench.refusals[0].answer == HopAnswer::refused);
              // The longer it goes on, the seldomer.
              bench.run_for(seconds(2));
              // (Each reset is asked by a SYN that dies on the first router whether it is this
              // host's.)
              const std::vector<Packet> syns = bench.network.syns();
              EXPECT_IN_CHILD(std::count_if(syns.begin(), syns.end(), [](const Packet &syn) {
                                  return syn.hop_limit == 3;
                              }) <= 6);
              return "";
          }) == "");
}

TEST_CASE("tcp punch: a firewall that prohibits says that it went too far" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.network.routers = 2;
              bench.network.lets_pass = [&](const Packet &packet) {
                  // Heard again: RFC 4443 3.1, code 1.
                  bench.scheduler.at(Clock::now() + milliseconds(200),
                                     [&bench, packet] { bench.network.report(packet, 64, 1, 1); });
                  return false;
              };
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0);
              EXPECT_IN_CHILD(bench.run_until([&] { return !bench.too_high.empty(); }));
              EXPECT_IN_CHILD(bench.too_high[0] == 3);
              EXPECT_IN_CHILD(bench.refusals[0].answer == HopAnswer::prohibited);
              EXPECT_IN_CHILD(!bench.refusals[0].from.empty());
              return "";
          }) == "");
}

TEST_CASE("tcp punch: nothing leaves for a server that is gone" * doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              bench.is_alive = false;
              TcpPunch late(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(late.open() == EBADF);
              bench.run_for(milliseconds(50));
              EXPECT_IN_CHILD(bench.network.syns().empty());
              bench.is_alive = true;
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_heard());
              bench.is_alive = false;
              bench.run_for(milliseconds(2500));
              // (The kernel's first repetition is not for us to take back.)
              for (const Packet &syn : bench.network.syns())
                  EXPECT_IN_CHILD(is_before(bench.network.syns()[0], syn, milliseconds(1400)));
              return "";
          }) == "");
}

TEST_CASE("tcp punch: nothing is left of it when it ends" * doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              const auto before = harness::open_descriptors();
              {
                  TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
                  EXPECT_IN_CHILD(punch.open() == 0);
                  EXPECT_IN_CHILD(harness::open_descriptors() != before);
              }
              EXPECT_IN_CHILD(harness::open_descriptors() == before);
              bench.run_for(milliseconds(1300));
              EXPECT_IN_CHILD(bench.network.syns().size() == 1);
              return "";
          }) == "");
}

TEST_CASE("tcp punch: it is told when there is no room beside, and goes on trying" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              bench.socket.set(SOL_SOCKET, SO_REUSEPORT, 0);
              // Somebody shares the port who lets nobody else.
              Socket other = Socket::open(AF_INET6, SOCK_STREAM);
              bench.socket.reset();
              const Endpoint at = Network::here(AF_INET6);
              EXPECT_IN_CHILD(::bind(other.fd(), at.data(), at.length()) == 0);
              EXPECT_IN_CHILD(::listen(other.fd(), 1) == 0);
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == EADDRINUSE);
              bench.run_for(milliseconds(800));
              EXPECT_IN_CHILD(bench.said("another socket holds the port") == 1);
              EXPECT_IN_CHILD(bench.network.syns().empty());
              other.reset();
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(1); }));
              return "";
          }) == "");
}

TEST_CASE("tcp punch: what the server has chosen is in the SYN, also when it has changed" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              const auto choose = [&](int max_segment) {
                  bench.socket.set(IPPROTO_TCP, TCP_MAXSEG, max_segment);
                  bench.server.chosen = describe(bench.socket.fd()).value().chosen;
              };
              choose(1000);
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0);
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(1); }));
              EXPECT_IN_CHILD(bench.network.syns()[0].max_segment == 1000);
              // A prohibition ends that socket; the next one asks the server's socket anew.
              choose(800);
              EXPECT_IN_CHILD(bench.run_until_heard());
              bench.network.report(bench.network.syns()[0], 64, 1, 1);
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(2); }));
              EXPECT_IN_CHILD(bench.network.syns()[1].max_segment == 800);
              return "";
          }) == "");
}

TEST_CASE("tcp punch: hop limits that it can't adopt take another punch" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context,
                             bench.hole(AF_INET6, {.best = 3, .least = 2, .most = 4}));
              EXPECT_IN_CHILD(!punch.adopt(HopRange::only(5)));
              EXPECT_IN_CHILD(punch.adopt(HopRange::only(2)));
              EXPECT_IN_CHILD(!punch.adopt(HopRange::only(3)));
              EXPECT_IN_CHILD(punch.open() == 0);
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(1); }));
              EXPECT_IN_CHILD(bench.network.syns()[0].hop_limit == 2);
              return "";
          }) == "");
}
