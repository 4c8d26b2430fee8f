#include "punch/udp_punch.h"

#include "punch_bench.h"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <fstream>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <thread>
#include <unistd.h>

using namespace synergy;
using harness::Network;
using harness::Packet;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

struct Bench : harness::PunchBench {
    ErrorsAside aside{scheduler};

    Bench() { settings.refresh = seconds(1); }
    void serve_udp(const Endpoint &at) { serve(at, SOCK_DGRAM); }

    [[nodiscard]] std::vector<Packet> punches() const {
        return network.sent_here([](const Packet &p) { return p.protocol == IPPROTO_UDP; });
    }
    bool run_until_punched(std::size_t times) {
        return run_until([&] { return punches().size() >= times; });
    }
    /// What the shim writes of the server's traffic with the peer, now.
    void note(synergy_way way, const Endpoint &peer) {
        const synergy_endpoint wire = wire_endpoint(peer);
        const synergy_place place = synergy_place_of(way, server.cookie, &wire);
        const auto now =
            std::chrono::duration_cast<seconds>(Clock::now().time_since_epoch()).count();
        page->traffic[place.number] = synergy_traffic(place.mark, static_cast<std::uint32_t>(now));
    }
};

} // namespace

TEST_CASE("udp punch: an empty datagram with the hop limit, from the server's port" *
          doctest::skip(geteuid() != 0)) {
    for (const int family : {AF_INET6, AF_INET})
        for (const bool is_dual : {false, true})
            for (const bool is_own : {false, true})
                CHECK(harness::in_child([=]() -> std::string {
                          Bench bench;
                          bench.serve_udp(is_dual
                                              ? Endpoint::wildcard(AF_INET6, Network::server_port)
                                              : Network::here(family));
                          const auto before = harness::open_descriptors();
                          UdpPunch punch(bench.context, bench.hole(family, 3),
                                         is_own ? bench.socket.fd() : -1, bench.aside);
                          EXPECT_IN_CHILD(punch.open() == 0);
                          // Nobody holds the server's port but the server.
                          EXPECT_IN_CHILD(harness::open_descriptors() == before);
                          EXPECT_IN_CHILD(bench.run_until_punched(1));
                          const Packet sent = bench.punches()[0];
                          EXPECT_IN_CHILD(sent.hop_limit == 3 && sent.payload == 0);
                          EXPECT_IN_CHILD(sent.from == Network::here(family));
                          EXPECT_IN_CHILD(sent.to == Network::there(family));
                          // The server's own go all the way.
                          const Endpoint to =
                              is_dual ? Network::there(family).mapped() : Network::there(family);
                          EXPECT_IN_CHILD(
                              ::sendto(bench.socket.fd(), "x", 1, 0, to.data(), to.length()) == 1);
                          EXPECT_IN_CHILD(bench.run_until_punched(2));
                          EXPECT_IN_CHILD(bench.punches()[1].hop_limit == 64);
                          return "";
                      }) == "");
}

// What all network devices had to drop since the processors had no time for it.
static int dropped_on_the_way() {
    std::ifstream processors("/proc/net/softnet_stat");
    int dropped = 0;
    for (std::string line; std::getline(processors, line);)
        dropped += std::stoi(line.substr(9, 8), nullptr, 16);
    return dropped;
}

TEST_CASE("udp punch: a socket that is bound beside takes next to none of the server's datagrams" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.network.error_delay = Duration(-1);
              bench.serve_udp(Network::here(AF_INET6));
              bench.socket.set(SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20);
              UdpPunch punch(bench.context, bench.hole(AF_INET6, 3), -1, bench.aside);
              const int dropped_before = dropped_on_the_way();
              // As many as one thread can send, from this host itself.
              std::atomic<bool> is_over{false};
              std::atomic<int> sent{0};
              std::thread flood([&] {
                  const Socket caller = Socket::open(AF_INET6, SOCK_DGRAM);
                  const Endpoint to = Network::here(AF_INET6);
                  while (!is_over)
                      sent += ::sendto(caller.fd(), "x", 1, 0, to.data(), to.length()) == 1;
              });
              // What arrives while another program runs in between is not the punch's doing.
              const sched_param first{.sched_priority = 1};
              EXPECT_IN_CHILD(::sched_setscheduler(0, SCHED_FIFO, &first) == 0);
              // And who runs for 95 % of a second is kept from running, wherever it stands then
              // (sched(7), "throttling").
              auto since = std::chrono::steady_clock::now();
              const auto rest = [&] {
                  const auto ran = std::chrono::steady_clock::now() - since;
                  if (ran < milliseconds(4))
                      return;
                  std::this_thread::sleep_for(ran / 4);
                  since = std::chrono::steady_clock::now();
              };
              int punches = 0, heard = 0;
              const auto drain = [&] {
                  char byte;
                  while (::recv(bench.socket.fd(), &byte, 1, MSG_DONTWAIT) == 1) {
                      heard++;
                      rest();
                  }
              };
              while (punches < 4000 || sent < 60000) {
                  punches += punch.open() == 0;
                  rest();
                  drain();
              }
              is_over = true;
              flood.join();
              drain();
              std::array<std::uint32_t, 16> meminfo{};
              socklen_t length = sizeof meminfo;
              constexpr int so_meminfo = 55;
              getsockopt(bench.socket.fd(), SOL_SOCKET, so_meminfo, meminfo.data(), &length);
              const int lost = sent - heard - static_cast<int>(meminfo[8]) -
                               (dropped_on_the_way() - dropped_before);
              // A few in thousands, as those whose socket closes while they are on their way to it;
              // untold, the kernel would give the socket beside half of what comes.
              if (lost > 20)
                  return std::to_string(lost) + " of " + std::to_string(sent) + " lost in " +
                         std::to_string(punches) + " punches";
              return "";
          }) == "");
}

TEST_CASE("udp punch: a server that asks for errors gets its datagrams, and no punch's error" *
          doctest::skip(geteuid() != 0)) {
    for (const int family : {AF_INET6, AF_INET})
        for (const bool asks : {true, false}) // the control: then it is woken
            CHECK(harness::in_child([=]() -> std::string {
                      Bench bench;
                      bench.network.error_delay = milliseconds(20);
                      bench.serve_udp(Network::here(family));
                      bench.socket.set(IPPROTO_IP, IP_RECVERR, 1);
                      if (family == AF_INET6)
                          bench.socket.set(IPPROTO_IPV6, IPV6_RECVERR, 1);
                      bench.server.asks_for_errors = asks;
                      const auto before = harness::open_descriptors();
                      constexpr int holes = 40;
                      std::vector<std::unique_ptr<UdpPunch>> punches;
                      for (int i = 0; i < holes; i++) {
                          Hole hole = bench.hole(family, 3);
                          hole.peer = hole.peer.with_port(static_cast<std::uint16_t>(20000 + i));
                          punches.push_back(std::make_unique<UdpPunch>(
                              bench.context, std::move(hole), -1, bench.aside));
                          EXPECT_IN_CHILD(punches.back()->open() == 0);
                      }
                      EXPECT_IN_CHILD(bench.run_until_punched(holes));
                      EXPECT_IN_CHILD(bench.punches()[0].hop_limit == 3);
                      bench.run_for(milliseconds(100));
                      pollfd waits{.fd = bench.socket.fd(), .events = 0, .revents = 0};
                      EXPECT_IN_CHILD(::poll(&waits, 1, 0) == (asks ? 0 : 1));
                      if (!asks)
                          return "";
                      const Endpoint to = Network::here(family);
                      char byte;
                      EXPECT_IN_CHILD(punches[0]->open() == 0);
                      for (int i = 0; i < holes; i++) {
                          const Socket caller = Socket::open(family, SOCK_DGRAM);
                          EXPECT_IN_CHILD(
                              ::sendto(caller.fd(), "x", 1, 0, to.data(), to.length()) == 1);
                          EXPECT_IN_CHILD(::recv(bench.socket.fd(), &byte, 1, MSG_DONTWAIT) == 1);
                      }
                      // Nobody holds its port for longer.
                      EXPECT_IN_CHILD(
                          bench.run_until([&] { return harness::open_descriptors() == before; }));
                      return "";
                  }) == "");
}

TEST_CASE("udp punch: an error that waits at the server's socket is the server's for a second" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              const Endpoint here = Network::here(AF_INET);
              bench.serve_udp(here);
              const int fd = bench.socket.fd();
              // Of a client that has gone, to which it was connected: port 1 of its own host.
              const Endpoint nobody = here.with_port(1);
              EXPECT_IN_CHILD(::connect(fd, nobody.data(), nobody.length()) == 0);
              EXPECT_IN_CHILD(::send(fd, "x", 1, 0) == 1);
              const sockaddr none{};
              EXPECT_IN_CHILD(::connect(fd, &none, sizeof none) == 0);
              const auto has_error = [&] {
                  pollfd waiting{.fd = fd, .events = 0, .revents = 0};
                  return ::poll(&waiting, 1, 0) == 1 && (waiting.revents & POLLERR) != 0;
              };
              EXPECT_IN_CHILD(has_error());
              UdpPunch punch(bench.context, bench.hole(AF_INET, 3), fd, bench.aside);
              const Time before = Clock::now();
              EXPECT_IN_CHILD(punch.open() == 0);
              EXPECT_IN_CHILD(has_error() && bench.punches().empty());
              // A server that does not ask for it is punched for all the same.
              EXPECT_IN_CHILD(bench.run_until_punched(1));
              EXPECT_IN_CHILD(Clock::now() - before >= milliseconds(900));
              return "";
          }) == "");
}

TEST_CASE("udp punch: it is renewed, in turns of its hop limits, until the peer is heard" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve_udp(Network::here(AF_INET6));
              const Hole hole = bench.hole(AF_INET6, {.best = 3, .least = 2, .most = 4});
              UdpPunch punch(bench.context, hole, -1, bench.aside);
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_punched(3));
              std::vector<int> hops;
              for (const Packet &sent : bench.punches())
                  hops.push_back(sent.hop_limit);
              EXPECT_IN_CHILD(hops == std::vector({3, 3, 4}));
              const Duration between = bench.punches()[2].seen - bench.punches()[1].seen;
              EXPECT_IN_CHILD(between > milliseconds(900) && between < milliseconds(1500));
              EXPECT_IN_CHILD(bench.proofs.empty());
              bench.note(SYNERGY_RECEIVED, hole.peer);
              EXPECT_IN_CHILD(bench.run_until([&] { return !bench.proofs.empty(); }));
              bench.run_for(milliseconds(1200));
              EXPECT_IN_CHILD(bench.proofs == std::vector{4}); // once, with the hop limit of then
              EXPECT_IN_CHILD(bench.said("the peer is heard") == 1);
              return "";
          }) == "");
}

TEST_CASE("udp punch: what the server itself sends saves a renewal" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.settings.refresh = seconds(2);
              bench.serve_udp(Network::here(AF_INET6));
              const Hole hole = bench.hole(AF_INET6, 3);
              UdpPunch punch(bench.context, hole, -1, bench.aside);
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_punched(1));
              bench.run_for(milliseconds(1500));
              bench.note(SYNERGY_SENT, hole.peer);
              const Time noted = Clock::now();
              EXPECT_IN_CHILD(bench.run_until_punched(2));
              // (In whole seconds.)
              EXPECT_IN_CHILD(Clock::now() - noted > milliseconds(900));
              EXPECT_IN_CHILD(Clock::now() - noted < milliseconds(2400));
              return "";
          }) == "");
}

TEST_CASE("udp punch: a wildcard server's leave from the address that is set" *
          doctest::skip(geteuid() != 0)) {
    for (const int family : {AF_INET6, AF_INET})
        CHECK(harness::in_child([family]() -> std::string {
                  Bench bench;
                  bench.network.run("ip addr add 2001:db8:a::77/64 dev path nodad && "
                                    "ip addr add 198.51.100.77/24 dev path");
                  const Endpoint chosen =
                      harness::endpoint(family == AF_INET6 ? "2001:db8:a::77" : "198.51.100.77", 0);
                  bench.settings.local = {chosen};
                  bench.serve_udp(Endpoint::wildcard(AF_INET6, Network::server_port));
                  for (const int fd : {-1, bench.socket.fd()}) {
                      bench.network.seen.clear();
                      UdpPunch punch(bench.context, bench.hole(family, 3), fd, bench.aside);
                      EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_punched(1));
                      EXPECT_IN_CHILD(bench.punches()[0].from ==
                                      chosen.with_port(Network::server_port));
                  }
                  return "";
              }) == "");
}

TEST_CASE("udp punch: a wildcard server's leave from a public address rather than a temporary" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              // Temporary ones (RFC 8981) are made from what a router announces; mngtmpaddr does
              // the same by hand.
              bench.network.run("echo 2 >/proc/sys/net/ipv6/conf/path/use_tempaddr; "
                                "ip addr add 2001:db8:aaaa::1/64 dev path nodad mngtmpaddr; "
                                "ip addr del 2001:db8:a::11/64 dev path");
              bench.serve_udp(Endpoint::wildcard(AF_INET6, Network::server_port));
              bench.settings.local.clear();
              UdpPunch punch(bench.context, bench.hole(AF_INET6, 3), -1, bench.aside);
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_punched(1));
              EXPECT_IN_CHILD(bench.punches()[0].from ==
                              harness::endpoint("2001:db8:aaaa::1", Network::server_port));
              return "";
          }) == "");
}

TEST_CASE("udp punch: what can't be sent is said once, and tried again" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve_udp(Endpoint::wildcard(AF_INET6, Network::server_port));
              bench.network.run("ip -6 route del default");
              UdpPunch punch(bench.context, bench.hole(AF_INET6, 3), -1, bench.aside);
              EXPECT_IN_CHILD(punch.open() == ENETUNREACH);
              bench.run_for(milliseconds(1500));
              EXPECT_IN_CHILD(bench.said("can't punch") == 1);
              EXPECT_IN_CHILD(bench.punches().empty());
              bench.network.run("ip -6 route add default dev path");
              EXPECT_IN_CHILD(bench.run_until_punched(1));
              // What comes and goes is one cause, and another one is named all the same.
              bench.network.run("ip -6 route del default");
              EXPECT_IN_CHILD(bench.run_until([&] { return punch.record().error == ENETUNREACH; }));
              EXPECT_IN_CHILD(bench.said("can't punch") == 1);
              bench.network.run("ip -6 route add prohibit default");
              EXPECT_IN_CHILD(bench.run_until([&] { return bench.said("can't punch") == 2; }));
              EXPECT_IN_CHILD(bench.said("prohibits it (ip -6 route get 2001:db8:b::5)") == 1);
              return "";
          }) == "");
}

TEST_CASE("udp punch: nothing leaves for a server that is gone, or for a hole that has ended" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve_udp(Network::here(AF_INET6));
              {
                  UdpPunch punch(bench.context, bench.hole(AF_INET6, 3), -1, bench.aside);
                  EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_punched(1));
              }
              bench.run_for(milliseconds(1200));
              EXPECT_IN_CHILD(bench.punches().size() == 1);
              UdpPunch punch(bench.context, bench.hole(AF_INET6, 3), -1, bench.aside);
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_punched(2));
              bench.is_alive = false;
              EXPECT_IN_CHILD(punch.open() == EBADF);
              bench.run_for(milliseconds(1200));
              EXPECT_IN_CHILD(bench.punches().size() == 2);
              return "";
          }) == "");
}
