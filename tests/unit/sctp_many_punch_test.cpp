// On a kernel without SCTP most of it is skipped: scripts/test-uml -k sctp_strategies.
#include "punch/sctp_many_punch.h"

#include "punch/sctp_hole.h"
#include "sctp_bench.h"
#include "server/sctp_socket.h"

#include <doctest/doctest.h>

#include <unistd.h>

#include <set>

using namespace synergy;
using harness::Network;
using harness::Packet;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

struct Bench : harness::SctpBench {
    void serve_sctp(int family) { serve(Network::here(family), SOCK_SEQPACKET, IPPROTO_SCTP); }
    [[nodiscard]] bool has_association(int family) const {
        const auto found = SctpAssociations().find(Network::here(family), Network::there(family));
        return found && found->is_there;
    }
};

} // namespace

TEST_CASE("sctp many punch: the server's own socket begins, again and again, and is as it was" *
          doctest::skip(!harness::has_sctp())) {
    for (const int family : {AF_INET6, AF_INET})
        CHECK(harness::in_child([family]() -> std::string {
                  Bench bench;
                  bench.serve_sctp(family);
                  const int fd = bench.socket.fd();
                  const int level = family == AF_INET6 ? int(IPPROTO_IPV6) : int(IPPROTO_IP);
                  const int option = family == AF_INET6 ? IPV6_UNICAST_HOPS : IP_TTL;
                  bench.socket.set(level, option, 44); // chosen by the server
                  const timeval timeout{.tv_sec = 7, .tv_usec = 0};
                  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
                  sctp_rtoinfo before{}, after{};
                  EXPECT_IN_CHILD(sctp::get(fd, SCTP_RTOINFO, before));
                  SctpManyPunch punch(bench.context,
                                      bench.hole(family, {.best = 3, .least = 3, .most = 4}), fd);
                  EXPECT_IN_CHILD(punch.open() == 0);
                  EXPECT_IN_CHILD(punch.open() == 0); // begun already
                  EXPECT_IN_CHILD(bench.socket.get(level, option, 0) == 44);
                  EXPECT_IN_CHILD(sctp::get(fd, SCTP_RTOINFO, after));
                  EXPECT_IN_CHILD(after.srto_initial == before.srto_initial);
                  EXPECT_IN_CHILD(after.srto_max == before.srto_max);
                  timeval kept{};
                  socklen_t length = sizeof kept;
                  getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kept, &length);
                  EXPECT_IN_CHILD(kept.tv_sec == 7);
                  EXPECT_IN_CHILD(bench.run_until_sent(3));
                  const auto inits = bench.network.inits();
                  EXPECT_IN_CHILD(inits[0].hop_limit == 3 && inits[1].hop_limit == 3);
                  EXPECT_IN_CHILD(inits[2].hop_limit == 4);
                  EXPECT_IN_CHILD(inits[0].sequence != inits[1].sequence);
                  EXPECT_IN_CHILD(inits[0].from == Network::here(family));
                  return "";
              }) == "");
}

TEST_CASE("sctp many punch: a peer that calls is the server's, until it has gone" *
          doctest::skip(!harness::has_sctp())) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve_sctp(AF_INET6);
              SctpManyPunch punch(bench.context, bench.hole(AF_INET6, 3), bench.socket.fd());
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_sent(1));
              bench.run_for(milliseconds(200));
              Socket caller = bench.call(AF_INET6);
              EXPECT_IN_CHILD(bench.run_until([&] { return !bench.proofs.empty(); }));
              EXPECT_IN_CHILD(bench.proofs == std::vector{3});
              EXPECT_IN_CHILD(bench.run_until(
                  [&] { return ::send(caller.fd(), "hello", 5, MSG_NOSIGNAL) == 5; }));
              char data[16];
              EXPECT_IN_CHILD(bench.run_until(
                  [&] { return ::recv(bench.socket.fd(), data, sizeof data, MSG_DONTWAIT) == 5; }));
              const std::size_t before = bench.network.inits().size();
              bench.run_for(milliseconds(2500));
              EXPECT_IN_CHILD(bench.network.inits().size() == before);
              caller.reset();
              EXPECT_IN_CHILD(bench.run_until_sent(before + 1));
              EXPECT_IN_CHILD(bench.network.inits().back().hop_limit == 3);
              return "";
          }) == "");
}

TEST_CASE("sctp many punch: with the hole goes what was begun, and nothing is sent for it" *
          doctest::skip(!harness::has_sctp())) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve_sctp(AF_INET6);
              bench.is_alive = false;
              SctpManyPunch late(bench.context, bench.hole(AF_INET6, 3), bench.socket.fd());
              EXPECT_IN_CHILD(late.open() == EBADF);
              bench.is_alive = true;
              {
                  SctpManyPunch punch(bench.context, bench.hole(AF_INET6, 3), bench.socket.fd());
                  EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_sent(1));
                  EXPECT_IN_CHILD(bench.has_association(AF_INET6));
              }
              EXPECT_IN_CHILD(!bench.has_association(AF_INET6));
              bench.run_for(milliseconds(100)); // for what was on its way
              const std::size_t before = bench.network.sent_here().size();
              bench.run_for(seconds(3));
              EXPECT_IN_CHILD(bench.network.sent_here().size() == before);
              return "";
          }) == "");
}

TEST_CASE("sctp many punch: an association that the server itself begins is left to it" *
          doctest::skip(!harness::has_sctp())) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.network.lets_pass = [](const Packet &) { return false; };
              bench.serve_sctp(AF_INET6);
              const Endpoint peer = Network::there(AF_INET6);
              EXPECT_IN_CHILD(::sendto(bench.socket.fd(), "x", 1, MSG_DONTWAIT, peer.data(),
                                       peer.length()) == 1 ||
                              errno == EAGAIN);
              EXPECT_IN_CHILD(bench.has_association(AF_INET6));
              SctpManyPunch punch(bench.context, bench.hole(AF_INET6, 3), bench.socket.fd());
              EXPECT_IN_CHILD(punch.open() == 0);
              bench.run_for(milliseconds(3500));
              EXPECT_IN_CHILD(bench.network.inits().size() >= 2); // repeated by the kernel
              for (const Packet &init : bench.network.inits())
                  EXPECT_IN_CHILD(init.hop_limit == 64);
              return "";
          }) == "");
}

TEST_CASE("sctp many punch: what can't be begun is said once, and tried again" *
          doctest::skip(harness::has_sctp() || geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve(Network::here(AF_INET6));
              SctpManyPunch punch(bench.context, bench.hole(AF_INET6, 3), bench.socket.fd());
              EXPECT_IN_CHILD(punch.open() != 0); // it is of TCP
              bench.run_for(seconds(1));
              EXPECT_IN_CHILD(bench.said("can't punch") == 1);
              EXPECT_IN_CHILD(bench.network.seen.empty());
              return "";
          }) == "");
}

TEST_CASE("sctp many punch: a peer's INIT that comes as ours leaves is answered all the way" *
          doctest::skip(!harness::has_sctp())) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve_sctp(AF_INET6);
              return bench.meets_as_it_leaves([&] {
                  return std::make_unique<SctpManyPunch>(bench.context, bench.hole(AF_INET6, 3),
                                                         bench.socket.fd());
              });
          }) == "");
}

TEST_CASE("sctp many punch: a peer that comes in as an INIT leaves stays" *
          doctest::skip(!harness::has_sctp())) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve_sctp(AF_INET6);
              return bench.comes_in_as_it_leaves([&] {
                  return std::make_unique<SctpManyPunch>(bench.context, bench.hole(AF_INET6, 3),
                                                         bench.socket.fd());
              });
          }) == "");
}

TEST_CASE("sctp many punch: a hole that firewalls forget is opened again at once" *
          doctest::skip(!harness::has_sctp())) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.serve_sctp(AF_INET6);
              const Time ends = Clock::now() + milliseconds(700);
              bench.begin = std::make_shared<HoleBegin>(sctp::hole_lifetime);
              bench.begin->leaves(ends - sctp::hole_lifetime);
              SctpManyPunch punch(bench.context, bench.hole(AF_INET6, 3), bench.socket.fd());
              EXPECT_IN_CHILD(punch.open() == 0 && bench.run_until_sent(3));
              const auto inits = bench.network.inits();
              EXPECT_IN_CHILD(inits[0].seen < ends && inits[1].seen > ends);
              EXPECT_IN_CHILD(inits[1].seen < ends + milliseconds(300));
              EXPECT_IN_CHILD(inits[2].seen < ends + milliseconds(600)); // to be sure
              return "";
          }) == "");
}
