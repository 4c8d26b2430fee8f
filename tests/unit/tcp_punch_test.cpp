#include "punch/tcp_punch.h"

#include "punch_bench.h"

#include <doctest/doctest.h>

#include <algorithm>

#include <netinet/tcp.h>
#include <unistd.h>

#include <set>

using namespace synergy;
using harness::Network;
using harness::Packet;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

#ifndef IPV6_MINHOPCOUNT
constexpr int IPV6_MINHOPCOUNT = 73;
#endif

struct Bench : harness::PunchBench {
    /// The socket that is in SYN_SENT; -1: there is none.
    [[nodiscard]] static int punching() {
        for (const int fd : harness::open_descriptors()) {
            tcp_info info{};
            socklen_t length = sizeof info;
            if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
                info.tcpi_state == TCP_SYN_SENT)
                return fd;
        }
        return -1;
    }
    [[nodiscard]] static bool is_deaf() {
        return get_option(punching(), IPPROTO_IPV6, IPV6_MINHOPCOUNT) != 0;
    }
    bool run_until_heard() {
        return run_until([] { return !is_deaf(); });
    }
    [[nodiscard]] std::vector<Packet> answers() const {
        return network.sent_here(
            [](const Packet &packet) { return packet.tcp_flags == (TH_SYN | TH_ACK); });
    }
    [[nodiscard]] bool has_seen_syns(std::size_t count) const {
        return network.syns().size() >= count;
    }
};

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
    for (const int family : {AF_INET6, AF_INET})
        CHECK(harness::in_child([family]() -> std::string {
                  Bench bench;
                  bench.serve(Network::here(family));
                  TcpPunch punch(bench.context,
                                 bench.hole(family, {.best = 3, .least = 2, .most = 4}));
                  EXPECT_IN_CHILD(punch.open() == 0);
                  EXPECT_IN_CHILD(
                      bench.run_until([&] { return bench.has_seen_syns(5); }, seconds(8)));
                  std::set<std::uint32_t> numbers;
                  std::vector<int> hops;
                  for (const Packet &syn : bench.network.syns()) {
                      numbers.insert(syn.sequence);
                      hops.push_back(syn.hop_limit);
                  }
                  EXPECT_IN_CHILD(numbers.size() == 1);
                  EXPECT_IN_CHILD(hops == std::vector({3, 3, 4, 2, 3}));
                  // Out of step with a client that repeats each second.
                  const auto syns = bench.network.syns();
                  EXPECT_IN_CHILD(syns[2].seen - syns[1].seen > milliseconds(600));
                  EXPECT_IN_CHILD(syns[2].seen - syns[1].seen < milliseconds(960));
                  EXPECT_IN_CHILD(bench.too_high.empty() && bench.proofs.empty());
                  return "";
              }) == "");
}

TEST_CASE("tcp punch: a peer that calls while it is heard is connected at once" *
          doctest::skip(geteuid() != 0)) {
    for (const int family : {AF_INET6, AF_INET})
        for (const bool is_dual : {false, true})
            CHECK(harness::in_child([=]() -> std::string {
                      Bench bench;
                      bench.serve(is_dual ? Endpoint::wildcard(AF_INET6, Network::server_port)
                                          : Network::here(family));
                      TcpPunch punch(bench.context, bench.hole(family, 3));
                      EXPECT_IN_CHILD(punch.open() == 0);
                      EXPECT_IN_CHILD(bench.run_until(
                          [&] { return bench.has_seen_syns(1) && !Bench::is_deaf(); }));
                      bench.run_for(milliseconds(60)); // the error of an IPv4 one
                      const std::uint32_t punched = bench.network.syns()[0].sequence;
                      const Socket caller = bench.network.call_from_there(family);
                      const Time called = Clock::now();
                      EXPECT_IN_CHILD(bench.run_until([&] { return !bench.delivered.empty(); }));
                      EXPECT_IN_CHILD(Clock::now() - called < milliseconds(500));
                      const auto &connection = bench.delivered[0];
                      EXPECT_IN_CHILD(connection.peer.unmapped() == Network::there(family));
                      EXPECT_IN_CHILD(connection.cookie == bench.server.cookie);
                      EXPECT_IN_CHILD(connection.connection.remote() == connection.peer);
                      EXPECT_IN_CHILD(bench.proofs == std::vector{3});
                      // With the number that the firewalls have seen, and all the way.
                      const auto answers = bench.answers();
                      EXPECT_IN_CHILD(answers.size() == 1 && answers[0].sequence == punched);
                      EXPECT_IN_CHILD(answers[0].hop_limit == 64);
                      EXPECT_IN_CHILD(get_option(connection.connection.fd(), IPPROTO_TCP,
                                                 TCP_USER_TIMEOUT) == 0);
                      // The next punch waits for this connection to be over.
                      bench.run_for(milliseconds(1300));
                      EXPECT_IN_CHILD(bench.network.syns().size() == 1);
                      EXPECT_IN_CHILD(bench.said("a connection has these ends already") == 1);
                      return "";
                  }) == "");
}

TEST_CASE("tcp punch: after a connection that ends by a reset it is punched again" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_heard());
              Socket caller = bench.network.call_from_there(AF_INET6);
              EXPECT_IN_CHILD(bench.run_until([&] { return !bench.delivered.empty(); }));
              const linger at_once{.l_onoff = 1, .l_linger = 0};
              ::setsockopt(caller.fd(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
              caller.reset();
              bench.run_for(milliseconds(50));
              bench.delivered.clear();
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(2); }));
              EXPECT_IN_CHILD(bench.network.syns()[1].hop_limit == 3);
              EXPECT_IN_CHILD(bench.run_until_heard());
              const Socket again = bench.network.call_from_there(AF_INET6);
              EXPECT_IN_CHILD(bench.run_until([&] { return !bench.delivered.empty(); }));
              return "";
          }) == "");
}

TEST_CASE("tcp punch: a peer that called a deaf socket gets in by its next SYN, or by ours" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0 && Bench::is_deaf());
              const Socket caller = bench.network.call_from_there(AF_INET6);
              bench.run_for(milliseconds(50));
              EXPECT_IN_CHILD(bench.delivered.empty() && Bench::is_deaf());
              EXPECT_IN_CHILD(
                  bench.run_until([&] { return !bench.delivered.empty(); }, milliseconds(1400)));
              std::set<std::uint32_t> numbers;
              // (That it was no reset another port may have asked.)
              for (const Packet &packet : bench.network.sent_here([&](const Packet &each) {
                       return (each.tcp_flags & TH_SYN) != 0 &&
                              each.from.port() == bench.server.local.port();
                   }))
                  numbers.insert(packet.sequence);
              EXPECT_IN_CHILD(numbers.size() == 1);
              return "";
          }) == "");
}

TEST_CASE("tcp punch: a peer that called a deaf socket is waited for where its next SYN is heard" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.round_trip = milliseconds(20);
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0);
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(2); }));
              EXPECT_IN_CHILD(Bench::is_deaf());
              const Socket caller = bench.network.call_from_there(AF_INET6);
              const Time called = Clock::now();
              EXPECT_IN_CHILD(
                  bench.run_until([&] { return !bench.delivered.empty(); }, milliseconds(1400)));
              EXPECT_IN_CHILD(Clock::now() - called > milliseconds(900));
              // No SYN of ours has reached the peer.
              const auto syns = bench.network.syns();
              EXPECT_IN_CHILD(std::all_of(syns.begin(), syns.end(), [&](const Packet &syn) {
                  return syn.hop_limit == 3 || syn.from.port() != bench.server.local.port();
              }));
              EXPECT_IN_CHILD(bench.answers().size() == 1);
              return "";
          }) == "");
}

TEST_CASE("tcp punch: a peer that called a deaf socket is not lost by an error that is late" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.round_trip = milliseconds(20);
              bench.network.error_delay = milliseconds(150);
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0 && Bench::is_deaf());
              const Socket caller = bench.network.call_from_there(AF_INET6);
              EXPECT_IN_CHILD(
                  bench.run_until([&] { return !bench.delivered.empty(); }, milliseconds(1400)));
              // Of firewalls that have seen the peer's SYN none would take another number.
              std::set<std::uint32_t> numbers;
              for (const Packet &syn : bench.network.syns())
                  if (syn.from.port() == bench.server.local.port())
                      numbers.insert(syn.sequence);
              EXPECT_IN_CHILD(numbers.size() == 1);
              return "";
          }) == "");
}

TEST_CASE("tcp punch: a peer that calls just before a SYN leaves is answered by that one" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_heard());
              EXPECT_IN_CHILD(bench.run_until([] { return Bench::is_deaf(); }));
              bool has_called = false;
              bench.network.lets_pass = [&](const Packet &packet) {
                  return packet.is_from_here || !packet.is_syn() ||
                         !std::exchange(has_called, true);
              };
              const Socket caller = bench.network.call_from_there(AF_INET6);
              EXPECT_IN_CHILD(bench.run_until([&] { return has_called; }));
              if (bench.network.syns().size() > 1)
                  return ""; // a busy machine: it has left before
              const Time called = Clock::now();
              EXPECT_IN_CHILD(bench.run_until([&] { return !bench.delivered.empty(); }));
              EXPECT_IN_CHILD(Clock::now() - called < milliseconds(500));
              EXPECT_IN_CHILD(bench.network.syns()[1].hop_limit == 64);
              return "";
          }) == "");
}

TEST_CASE("tcp punch: another listener's punch goes on with what it is given, and its number" *
          doctest::skip(geteuid() != 0)) {
    // Whether the peer's first call is unheard; whether it comes while nobody has the punch.
    for (const auto &[is_deaf_then, comes_between] :
         {std::pair{false, false}, {true, false}, {false, true}})
        for (const int family : {AF_INET6, AF_INET})
            CHECK(harness::in_child([=, is_deaf_then = is_deaf_then,
                                     comes_between = comes_between]() -> std::string {
                      Bench bench;
                      bench.round_trip = milliseconds(20);
                      bench.serve(Network::here(family));
                      TcpPunch punch(bench.context, bench.hole(family, 3));
                      ServerSocket another = bench.server; // the other listener
                      another.cookie = 77;
                      TcpPunch other(bench.context, {.server = another,
                                                     .peer = Network::there(family),
                                                     .hops = HopRange::only(3)});
                      EXPECT_IN_CHILD(!punch.give_away() && other.may_take_over());
                      EXPECT_IN_CHILD(punch.open() == 0 && !punch.may_take_over());
                      EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(2); }));
                      if (!is_deaf_then)
                          bench.run_for(milliseconds(60));
                      EXPECT_IN_CHILD(Bench::is_deaf() == (is_deaf_then && family == AF_INET6));
                      const std::uint64_t cookie = punch.cookie();
                      auto given = punch.give_away();
                      EXPECT_IN_CHILD(given && punch.cookie() == 0 && !punch.give_away());
                      EXPECT_IN_CHILD(!punch.may_take_over());
                      Socket caller;
                      if (comes_between) {
                          caller = bench.network.call_from_there(family);
                          bench.run_for(milliseconds(20));
                      }
                      other.take_over(std::move(*given));
                      EXPECT_IN_CHILD(comes_between ||
                                      (other.cookie() == cookie && !other.may_take_over()));
                      if (!is_deaf_then &&
                          !comes_between) // it is renewed by who has it now, as before
                          EXPECT_IN_CHILD(
                              bench.run_until([&] { return bench.has_seen_syns(3); }, seconds(3)) &&
                              bench.run_until_heard());
                      if (!comes_between)
                          caller = bench.network.call_from_there(family);
                      EXPECT_IN_CHILD(bench.run_until([&] { return !bench.delivered.empty(); },
                                                      milliseconds(1400)));
                      EXPECT_IN_CHILD(bench.delivered.size() == 1 &&
                                      bench.delivered[0].cookie == 77);
                      EXPECT_IN_CHILD(cookie_of(bench.delivered[0].connection.fd()) == cookie);
                      std::set<std::uint32_t> numbers;
                      for (const Packet &packet : bench.network.sent_here([&](const Packet &each) {
                               return (each.tcp_flags & TH_SYN) != 0 &&
                                      each.from.port() == bench.server.local.port();
                           })) {
                          numbers.insert(packet.sequence);
                          EXPECT_IN_CHILD(packet.hop_limit == (packet.is_syn() ? 3 : 64));
                      }
                      EXPECT_IN_CHILD(numbers.size() == 1);
                      EXPECT_IN_CHILD(bench.too_high.empty());
                      return "";
                  }) == "");
}

TEST_CASE("tcp punch: what it was given may have ended on the way" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              TcpPunch other(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_heard());
              auto given = punch.give_away();
              EXPECT_IN_CHILD(given.has_value());
              bench.network.refuse(bench.network.syns()[0]);
              bench.run_for(milliseconds(20));
              other.take_over(std::move(*given));
              // (One more asks on the first router whose reset it was.)
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(3); }));
              EXPECT_IN_CHILD(bench.too_high == std::vector{3});
              EXPECT_IN_CHILD(bench.network.syns().back().hop_limit == 3);
              EXPECT_IN_CHILD(bench.run_until_heard());
              const Socket caller = bench.network.call_from_there(AF_INET6);
              EXPECT_IN_CHILD(bench.run_until([&] { return !bench.delivered.empty(); }));
              // The first one is open for no more, and takes nothing back.
              EXPECT_IN_CHILD(punch.cookie() == 0 && !punch.give_away());
              return "";
          }) == "");
}

TEST_CASE("tcp punch: a peer that called and is gone again gets a handshake's time, and no more" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_heard());
              // Our answer gets lost, and the peer says nothing more.
              bool has_called = false;
              bench.network.lets_pass = [&](const Packet &packet) {
                  return !packet.is_from_here && packet.is_syn() &&
                         !std::exchange(has_called, true);
              };
              const Socket caller = bench.network.call_from_there(AF_INET6);
              EXPECT_IN_CHILD(bench.run_until([&] { return has_called; }));
              bench.run_for(seconds(14));
              EXPECT_IN_CHILD(bench.network.syns().size() == 1);
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(2); }));
              EXPECT_IN_CHILD(bench.network.syns()[1].hop_limit == 3);
              EXPECT_IN_CHILD(bench.said("the peer that called is gone") == 1);
              EXPECT_IN_CHILD(bench.delivered.empty() && bench.too_high.empty());
              return "";
          }) == "");
}

TEST_CASE("tcp punch: a hole that ends while a peer is calling leaves the port free" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              auto punch = std::make_unique<TcpPunch>(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch->open() == 0 && bench.run_until_heard());
              bench.network.lets_pass = [](const Packet &packet) { return !packet.is_from_here; };
              const Socket caller = bench.network.call_from_there(AF_INET6);
              EXPECT_IN_CHILD(bench.run_until([&] { return !bench.answers().empty(); }));
              bench.network.seen.clear();
              punch.reset();
              bench.socket.reset();
              const Socket next = Socket::open(AF_INET6, SOCK_STREAM);
              const Endpoint at = Network::here(AF_INET6);
              EXPECT_IN_CHILD(::bind(next.fd(), at.data(), at.length()) == 0);
              // And nothing of that is to be seen behind the first router.
              bench.run_for(milliseconds(300));
              for (const Packet &packet : bench.network.sent_here())
                  EXPECT_IN_CHILD(packet.hop_limit == 1 || packet.protocol != IPPROTO_TCP);
              return "";
          }) == "");
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
