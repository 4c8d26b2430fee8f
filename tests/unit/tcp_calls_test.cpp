// What becomes of a hole when the peer calls, and after.
#include "tcp_bench.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <thread>

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

using namespace synergy;
using Bench = harness::TcpBench;
using harness::Network;
using harness::Packet;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

/// Runs before an option is set, as whatever else has the processor then.
std::function<void(int fd, int option, int value)> comes_between;

/// What a case returns whose thread was kept from running between two of its calls, which no timer
/// tells: a SYN has left then before its hop limit was set, or after, or an error has ended the
/// socket. Not each time.
const std::string late = "the thread was kept from running: what it has done was not in time";

std::string in_child_in_time(const std::function<std::string()> &look) {
    std::string result = late;
    for (int tries = 0; tries < 10 && result == late; tries++)
        result = harness::in_child(look);
    return result;
}

} // namespace

/// libc's, but for that.
extern "C" int setsockopt(int fd, int level, int option, const void *value,
                          socklen_t length) noexcept {
    if (comes_between && level == IPPROTO_IPV6 && length == sizeof(int))
        comes_between(fd, option, *static_cast<const int *>(value));
    return static_cast<int>(syscall(SYS_setsockopt, fd, level, option, value, length));
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
              // (That it was no reset another port may have asked.)
              EXPECT_IN_CHILD(Bench::numbers_of(bench.own_syns()).size() == 1);
              return "";
          }) == "");
}

TEST_CASE("tcp punch: a peer that called a deaf socket is waited for where its next SYN is heard" *
          doctest::skip(geteuid() != 0)) {
    CHECK(in_child_in_time([]() -> std::string {
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
              // (A busy machine: it is deaf for longer, and a SYN that is not met goes all the
              // way.)
              if (bench.scheduler.lateness() > 2 * Guard::least_lead)
                  return "";
              EXPECT_IN_CHILD(Clock::now() - called > milliseconds(900));
              // No SYN of ours has reached the peer.
              const auto syns = bench.network.syns();
              if (!std::all_of(syns.begin(), syns.end(), [&](const Packet &syn) {
                      return syn.hop_limit == 3 || syn.from.port() != bench.server.local.port();
                  }))
                  return late;
              EXPECT_IN_CHILD(bench.answers().size() == 1);
              return "";
          }) == "");
}

TEST_CASE("tcp punch: a peer that called a deaf socket is not lost by an error that is late" *
          doctest::skip(geteuid() != 0)) {
    CHECK(in_child_in_time([]() -> std::string {
              Bench bench;
              bench.round_trip = milliseconds(20);
              bench.network.error_delay = milliseconds(150);
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0 && Bench::is_deaf());
              const Socket caller = bench.network.call_from_there(AF_INET6);
              EXPECT_IN_CHILD(
                  bench.run_until([&] { return !bench.delivered.empty(); }, milliseconds(1400)));
              // Of firewalls that have seen the peer's SYN none would take another number before
              // the peer calls again.
              const std::size_t numbers = Bench::numbers_of(bench.own_syns()).size();
              if (numbers > 1 && bench.scheduler.lateness() > milliseconds(20))
                  return late;
              EXPECT_IN_CHILD(numbers == 1);
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

TEST_CASE(
    "tcp punch: a SYN that slips out to a peer that calls unheard is not one that goes too far" *
    doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_heard());
              bench.network.lets_pass = [](const Packet &packet) {
                  return packet.is_from_here || !packet.is_syn();
              };
              const Socket caller = bench.network.call_from_there(AF_INET6);
              // The kernel's first timer heeds no TCP_USER_TIMEOUT (guard.h). What happens on the
              // way is between the timers that hold the thread up.
              const Time now = Clock::now();
              for (const int held : {1200, 5, 5, 5})
                  bench.scheduler.at(now + std::chrono::microseconds(1200 / held),
                                     [held] { std::this_thread::sleep_for(milliseconds(held)); });
              EXPECT_IN_CHILD(bench.run_until([&] { return !bench.delivered.empty(); }));
              EXPECT_IN_CHILD(bench.network.syns().back().hop_limit == 64);
              EXPECT_IN_CHILD(bench.too_high.empty());
              return "";
          }) == "");
}

TEST_CASE("tcp punch: what is answered after another SYN has gone is not one that goes too far" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              bench.network.lets_pass = [](const Packet &packet) { return packet.is_from_here; };
              EXPECT_IN_CHILD(punch.open() == 0);
              const Socket caller = bench.network.call_from_there(AF_INET6);
              // Until the kernel's first timer has run out.
              bench.scheduler.at(Clock::now() + milliseconds(900),
                                 [] { std::this_thread::sleep_for(milliseconds(160)); });
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(3); }));
              const auto syns = bench.network.syns();
              EXPECT_IN_CHILD(syns[1].hop_limit == 64 && syns[2].hop_limit == 3);
              EXPECT_IN_CHILD(bench.run_until_heard());
              bench.network.lets_pass = [](const Packet &) { return true; };
              EXPECT_IN_CHILD(bench.run_until([&] { return !bench.delivered.empty(); }));
              EXPECT_IN_CHILD(Bench::numbers_of(bench.own_syns()).size() == 1);
              EXPECT_IN_CHILD(bench.too_high.empty());
              return "";
          }) == "");
}

TEST_CASE(
    "tcp punch: a SYN that leaves just when the hop limit is lifted is none that goes too far" *
    doctest::skip(geteuid() != 0)) {
    const auto look = []() -> std::string {
        Bench bench;
        bench.round_trip = milliseconds(20);
        bench.serve(Network::here(AF_INET6));
        TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
        EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_heard());
        EXPECT_IN_CHILD(bench.run_until([] { return Bench::is_deaf(); }));
        const Socket caller = bench.network.call_from_there(AF_INET6);
        comes_between = [](int fd, int option, int value) {
            tcp_info info{};
            socklen_t length = sizeof info;
            while (option == IPV6_MINHOPCOUNT && value == 0 &&
                   getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
                   info.tcpi_state == TCP_SYN_SENT && info.tcpi_total_retrans == 0)
                std::this_thread::yield();
        };
        EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(2); }));
        comes_between = nullptr;
        if (bench.network.syns()[1].hop_limit == 3)
            return late;
        EXPECT_IN_CHILD(bench.run_until([&] { return !bench.delivered.empty(); }));
        EXPECT_IN_CHILD(Bench::numbers_of(bench.own_syns()).size() == 1);
        EXPECT_IN_CHILD(bench.too_high.empty());
        return "";
    };
    CHECK(in_child_in_time(look) == "");
}

TEST_CASE("tcp punch: another listener's punch goes on with what it is given, and its number" *
          doctest::skip(geteuid() != 0)) {
    // Whether the peer's first call is unheard; whether it comes while nobody has the punch.
    for (const auto &[is_deaf_then, comes_between] :
         {std::pair{false, false}, {true, false}, {false, true}})
        for (const int family : {AF_INET6, AF_INET})
            CHECK(in_child_in_time([=, is_deaf_then = is_deaf_then,
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
                          bench.run_for(milliseconds(60)); // its error has come
                      EXPECT_IN_CHILD(bench.run_until([&] {
                          return Bench::is_deaf() == (is_deaf_then && family == AF_INET6);
                      }));
                      const auto cookies = punch.cookies();
                      auto given = punch.give_away();
                      EXPECT_IN_CHILD(given && punch.cookies().empty() && !punch.give_away());
                      EXPECT_IN_CHILD(!punch.may_take_over());
                      Socket caller;
                      if (comes_between) {
                          caller = bench.network.call_from_there(family);
                          bench.run_for(milliseconds(20));
                      }
                      other.take_over(std::move(*given));
                      EXPECT_IN_CHILD(comes_between ||
                                      (other.cookies() == cookies && !other.may_take_over()));
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
                      EXPECT_IN_CHILD(cookie_of(bench.delivered[0].connection.fd()) ==
                                      cookies.front());
                      if (bench.scheduler.lateness() > 2 * Guard::least_lead)
                          return ""; // a busy machine
                      const auto syns = bench.own_syns();
                      for (const Packet &packet : syns)
                          if (packet.hop_limit != (packet.is_syn() ? 3 : 64))
                              return late;
                      if (Bench::numbers_of(syns).size() != 1)
                          return late; // a socket that it was late for is lost
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
              EXPECT_IN_CHILD(punch.cookies().empty() && !punch.give_away());
              return "";
          }) == "");
}

TEST_CASE("tcp punch: who calls while nobody looks after the socket is not the listener's" *
          doctest::skip(geteuid() != 0)) {
    for (const int family : {AF_INET6, AF_INET})
        for (const bool is_dual : {false, true})
            CHECK(harness::in_child([=]() -> std::string {
                      Bench bench;
                      bench.serve(is_dual ? Endpoint::wildcard(AF_INET6, Network::server_port)
                                          : Network::here(family));
                      TcpPunch punch(bench.context, bench.hole(family, 3));
                      EXPECT_IN_CHILD(punch.open() == 0);
                      // (The first timer of the kernel's is not subject to TCP_USER_TIMEOUT.)
                      EXPECT_IN_CHILD(bench.run_until([&] { return bench.has_seen_syns(2); }));
                      EXPECT_IN_CHILD(bench.run_until_heard());
                      bench.run_for(milliseconds(100));
                      // The kernel gives the punching socket up when its next SYN is due.
                      std::this_thread::sleep_for(milliseconds(1500));
                      EXPECT_IN_CHILD(Bench::punching() == -1);
                      const Socket caller = bench.network.call_from_there(family);
                      std::this_thread::sleep_for(milliseconds(100));
                      EXPECT_IN_CHILD(bench.answers().empty());
                      EXPECT_IN_CHILD(bench.run_until([&] { return !bench.delivered.empty(); },
                                                      milliseconds(2300)));
                      // Its number comes soon after the one that firewalls have seen: they take it
                      // when the peer has called again.
                      const auto numbers = Bench::numbers_of(bench.own_syns());
                      EXPECT_IN_CHILD(numbers.size() == 2 &&
                                      *numbers.rbegin() - *numbers.begin() < 10);
                      return "";
                  }) == "");
}

TEST_CASE(
    "tcp punch: a call that was not heard is answered once, and not by each punch from then on" *
    doctest::skip(geteuid() != 0)) {
    CHECK(in_child_in_time([]() -> std::string {
              Bench bench;
              bench.network.error_delay = milliseconds(30);
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0 && Bench::is_deaf());
              {
                  const Socket caller = bench.network.call_from_there(AF_INET6);
                  bench.run_for(milliseconds(20));
              } // gives up
              bench.run_for(seconds(9));
              if (bench.scheduler.lateness() > milliseconds(20))
                  return late;
              const auto syns = bench.network.syns();
              EXPECT_IN_CHILD(std::count_if(syns.begin(), syns.end(), [](const Packet &packet) {
                                  return packet.is_from_here && packet.hop_limit > 3;
                              }) <= 1);
              EXPECT_IN_CHILD(syns.size() >= 4);
              return "";
          }) == "");
}

TEST_CASE("tcp punch: where none is to be, nothing keeps the peer from the listener" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              TcpPunch punch(bench.context, bench.hole(AF_INET6, 3));
              EXPECT_IN_CHILD(punch.open() == 0 && punch.cookies().size() == 2);
              EXPECT_IN_CHILD(punch.make_way() && punch.cookies().empty());
              const Socket caller = bench.network.call_from_there(AF_INET6);
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.answers().size() == 1; }));
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
