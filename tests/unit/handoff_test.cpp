#include "handoff/handoff.h"

#include "harness.h"
#include "server/server_socket.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <future>
#include <linux/tcp.h>
#include <map>
#include <mutex>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace synergy;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

/// A handoff in a thread of its own, and what it shares with whoever accepts.
class Bench {
  public:
    Bench() : thread_([this] { run(); }) {}
    ~Bench() {
        stop_ = true;
        thread_.join();
    }

    void offer(Socket connection, const Endpoint &peer, const Socket &listener) {
        auto socket = std::make_shared<Socket>(std::move(connection));
        auto described = describe(listener.fd());
        REQUIRE(described);
        ServerSocket at = *described;
        in_thread([this, socket, peer, at] {
            ServerSocket &known = listeners_[at.cookie];
            known = at;
            handoff_.offer(std::move(*socket), peer, known);
        });
    }
    void feel(const Socket &listener) {
        in_thread([this, at = *describe(listener.fd())] {
            ServerSocket &known = listeners_[at.cookie];
            known = at;
            handoff_.feel(known);
        });
    }
    void withdraw(std::uint64_t cookie) {
        in_thread([this, cookie] { handoff_.withdraw(cookie); });
    }
    std::string obstacle(const Socket &listener) {
        std::promise<const Obstacle *> answer;
        in_thread([&] { answer.set_value(handoff_.obstacle(*describe(listener.fd()))); });
        const Obstacle *why = answer.get_future().get();
        return why == nullptr ? "" : why->text;
    }
    std::optional<Handoff::Fetched> fetch(const Socket &accepted, bool is_blocking) {
        std::promise<std::optional<Handoff::Fetched>> answer;
        in_thread([&] { answer.set_value(handoff_.fetch(accepted, is_blocking)); });
        return answer.get_future().get();
    }
    std::atomic<std::uint64_t> stranger{0};          ///< a listener that is not the server's
    std::atomic<std::uint64_t> given_up{0};          ///< a listener that is said to be out of reach
    std::atomic<Activity> activity{Activity::rests}; ///< of the server
    std::atomic<unsigned> ends{0};                   ///< of the server's processes
    std::atomic<Duration> ring_takes{Duration{}};    ///< as on a machine that has no time for it
    /// For so long it does nothing, as one that gets no processor.
    void is_late_by(Duration time) {
        in_thread([time] { std::this_thread::sleep_for(time); });
    }

    [[nodiscard]] synergy_page &page() const { return *page_; }
    [[nodiscard]] std::uint32_t ringing() const {
        return __atomic_load_n(&page_->ringing, __ATOMIC_ACQUIRE);
    }

  private:
    void in_thread(std::function<void()> task) {
        std::lock_guard guard(lock_);
        tasks_.push_back(std::move(task));
    }
    void run() {
        for (bool is_last = false; !is_last;) {
            is_last = stop_; // what was asked for before the end is still done
            std::vector<std::function<void()>> now;
            {
                std::lock_guard guard(lock_);
                now.swap(tasks_);
            }
            for (auto &task : now)
                task();
            scheduler_.run_once(milliseconds(2));
        }
    }

    std::atomic<bool> stop_{false};
    std::mutex lock_;
    std::vector<std::function<void()>> tasks_;
    std::unique_ptr<synergy_page> page_ = std::make_unique<synergy_page>();
    Scheduler scheduler_;
    SocketDiag socket_diag_;
    std::map<std::uint64_t, ServerSocket> listeners_; ///< by cookie
    Handoff handoff_{scheduler_,
                     *page_,
                     socket_diag_,
                     {.is_ours = [this](std::uint64_t cookie) { return cookie != stranger; },
                      .out_of_reach = [this](std::uint64_t cookie) { given_up = cookie; },
                      .in_reach = [this](std::uint64_t) { given_up = 0; },
                      .activity = [this] { return activity.load(); },
                      .ends =
                          [this] {
                              std::this_thread::sleep_for(ring_takes.load());
                              return ends.load();
                          },
                      .has_one_ended_since = [this](unsigned then) { return ends != then; },
                      .has_unseen_filter = [](const ServerSocket &) { return false; }}};
    std::thread thread_;
};

struct Accepted {
    Socket socket;
    bool is_punched = false;
    Endpoint peer;
};

/// accept4() as the shim does it.
Accepted accept_from(Bench &bench, const Socket &listener, int flags = 0,
                     Duration limit = seconds(10)) {
    Accepted accepted;
    if (!harness::is_readable(listener.fd(), limit))
        return accepted;
    accepted.socket = Socket(accept4(listener.fd(), nullptr, nullptr, flags));
    if (!accepted.socket || bench.ringing() == 0 ||
        !accepted.socket.remote().same_address(accepted.socket.local()) ||
        !synergy_is_bell_port(accepted.socket.remote().port()))
        return accepted;
    auto fetched = bench.fetch(accepted.socket, (flags & SOCK_NONBLOCK) == 0);
    if (!fetched)
        return accepted;
    accepted.is_punched = true;
    accepted.peer = fetched->peer;
    dup3(fetched->connection.fd(), accepted.socket.fd(),
         (flags & SOCK_CLOEXEC) != 0 ? O_CLOEXEC : 0);
    return accepted;
}

/// As the punch makes a connection: non-blocking and closed on exec.
Socket punched(Socket connection) {
    fcntl(connection.fd(), F_SETFL, O_NONBLOCK);
    fcntl(connection.fd(), F_SETFD, FD_CLOEXEC);
    return connection;
}

Socket client_of(const Socket &listener, const Endpoint &to) {
    (void)listener;
    Socket client(::socket(to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::connect(client.fd(), to.data(), to.length()) == 0);
    return client;
}

/// The port of the bell that rings at an IPv4 listener; 0: there is none.
std::uint16_t bell_at(const Socket &listener) {
    const Endpoint to = Endpoint::loopback(AF_INET, listener.local().port());
    SocketDiag socket_diag;
    for (unsigned i = 0; i < SYNERGY_BELL_PORTS; i++) {
        const auto port = static_cast<std::uint16_t>(SYNERGY_FIRST_BELL_PORT + i);
        const auto end = socket_diag.who_hears(to.with_port(port), to, if_nametoindex("lo"));
        if (end && !end->listens)
            return port;
    }
    return 0;
}

bool says_hello(const Socket &from, const Socket &to) {
    char got[5];
    return ::send(from.fd(), "hello", 5, MSG_NOSIGNAL) == 5 &&
           harness::is_readable(to.fd(), seconds(5)) && ::recv(to.fd(), got, 5, 0) == 5 &&
           std::memcmp(got, "hello", 5) == 0;
}

const Endpoint some_peer = Endpoint::loopback(AF_INET, 5555);

} // namespace

TEST_CASE("handoff: an offered connection comes out of accept(), on every kind of listener") {
    for (const Endpoint &at :
         {Endpoint::loopback(AF_INET, 0), Endpoint::wildcard(AF_INET, 0),
          Endpoint::loopback(AF_INET6, 0), Endpoint::wildcard(AF_INET6, 0),
          Endpoint::loopback(AF_INET, 0).mapped(), Endpoint::wildcard(AF_INET, 0).mapped()}) {
        CAPTURE(at.text());
        Socket listener(::socket(at.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (at.family() == AF_INET6)
            listener.set(IPPROTO_IPV6, IPV6_V6ONLY, 0);
        REQUIRE(::bind(listener.fd(), at.data(), at.length()) == 0);
        REQUIRE(::listen(listener.fd(), 16) == 0);
        Bench bench;
        auto [ours, theirs] = harness::tcp_pair();
        bench.offer(punched(std::move(ours)), some_peer, listener);
        Accepted accepted = accept_from(bench, listener);
        CHECK(accepted.is_punched);
        CHECK(accepted.peer == some_peer);
        REQUIRE(accepted.socket);
        CHECK(accepted.socket.remote() == theirs.local());
        CHECK(says_hello(theirs, accepted.socket));
        CHECK(says_hello(accepted.socket, theirs));
        // The doorbell is gone: nothing else to accept.
        CHECK_FALSE(harness::is_readable(listener.fd(), milliseconds(100)));
    }
}

TEST_CASE("handoff: the flags are those that accept4() was asked for") {
    Socket listener = harness::listening_tcp(Endpoint::loopback(AF_INET, 0));
    Bench bench;
    for (int flags : {0, int{SOCK_NONBLOCK}, int{SOCK_CLOEXEC}, SOCK_NONBLOCK | SOCK_CLOEXEC}) {
        CAPTURE(flags);
        auto [ours, theirs] = harness::tcp_pair();
        bench.offer(punched(std::move(ours)), some_peer, listener);
        Accepted accepted = accept_from(bench, listener, flags);
        REQUIRE(accepted.is_punched);
        Socket client = client_of(listener, listener.local());
        Accepted ordinary = accept_from(bench, listener, flags);
        REQUIRE_FALSE(ordinary.is_punched);
        CHECK(fcntl(accepted.socket.fd(), F_GETFL) == fcntl(ordinary.socket.fd(), F_GETFL));
        CHECK(fcntl(accepted.socket.fd(), F_GETFD) == fcntl(ordinary.socket.fd(), F_GETFD));
    }
}

TEST_CASE("handoff: clients of this host are left alone while a doorbell rings") {
    Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET6, 0));
    Bench bench;
    auto [ours, theirs] = harness::tcp_pair();
    Socket before = client_of(listener, Endpoint::loopback(AF_INET6, listener.local().port()));
    bench.offer(punched(std::move(ours)), some_peer, listener);
    REQUIRE(harness::is_readable(listener.fd(), seconds(5)));
    Socket after = client_of(listener, Endpoint::loopback(AF_INET, listener.local().port()));
    int replaced = 0;
    std::vector<Accepted> all;
    for (int i = 0; i < 3; i++) {
        all.push_back(accept_from(bench, listener));
        REQUIRE(all.back().socket);
        replaced += all.back().is_punched;
    }
    CHECK(replaced == 1);
    for (Accepted &one : all)
        if (!one.is_punched) {
            bool is_first = one.socket.remote().unmapped() == before.local().unmapped();
            CHECK(says_hello(one.socket, is_first ? before : after));
        }
}

TEST_CASE("handoff: a client from a bell's port that rings no bell is left alone") {
    Socket listener = harness::listening_tcp(Endpoint::loopback(AF_INET, 0));
    Bench bench;
    Socket client = harness::bound_tcp(
        Endpoint::loopback(AF_INET, SYNERGY_FIRST_BELL_PORT + SYNERGY_BELL_PORTS - 1));
    const Endpoint to = listener.local();
    REQUIRE(::connect(client.fd(), to.data(), to.length()) == 0);
    bench.page().ringing = 1;
    Accepted accepted = accept_from(bench, listener);
    CHECK_FALSE(accepted.is_punched);
    CHECK(says_hello(client, accepted.socket));
}

TEST_CASE("handoff: only the bell's other end fetches") {
    Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET, 0));
    Bench bench;
    auto [ours, theirs] = harness::tcp_pair();
    bench.offer(punched(std::move(ours)), some_peer, listener);
    REQUIRE(harness::is_readable(listener.fd(), seconds(5)));
    const std::uint16_t port = bell_at(listener);
    CHECK(bench.ringing() == 1U);
    // Connections to another listener: a client's, one from the bell's port, and no connection.
    Socket other = harness::listening_tcp(Endpoint::loopback(AF_INET, 0));
    Socket client = client_of(other, other.local());
    Socket accepted(::accept(other.fd(), nullptr, nullptr));
    CHECK_FALSE(bench.fetch(accepted, true));
    CHECK_FALSE(bench.fetch(client, true));
    CHECK_FALSE(bench.fetch(listener, true));
    CHECK_FALSE(bench.fetch(theirs, true));
    Socket udp(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const Endpoint from = Endpoint::loopback(AF_INET, port), to = listener.local();
    const Endpoint at = Endpoint::loopback(AF_INET, to.port());
    REQUIRE(::bind(udp.fd(), at.data(), at.length()) == 0);
    REQUIRE(::connect(udp.fd(), from.data(), from.length()) == 0);
    CHECK_FALSE(bench.fetch(udp, true));
    CHECK(accept_from(bench, listener).is_punched);
    CHECK(bench.ringing() == 0U);
    CHECK(bell_at(listener) == 0);
}

TEST_CASE("handoff: a client from the port of a doorbell, but another address, is left alone") {
    Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET, 0));
    Bench bench;
    auto [ours, theirs] = harness::tcp_pair();
    bench.offer(punched(std::move(ours)), some_peer, listener);
    REQUIRE(harness::is_readable(listener.fd(), seconds(5)));
    const std::uint16_t port = bell_at(listener);
    REQUIRE(port != 0);
    sockaddr_in other{};
    other.sin_family = AF_INET;
    other.sin_port = htons(port);
    other.sin_addr.s_addr = htonl(0x7f000002); // 127.0.0.2, to itself
    Socket client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::bind(client.fd(), reinterpret_cast<sockaddr *>(&other), sizeof other) == 0);
    other.sin_port = htons(listener.local().port());
    REQUIRE(::connect(client.fd(), reinterpret_cast<sockaddr *>(&other), sizeof other) == 0);
    Accepted first = accept_from(bench, listener), second = accept_from(bench, listener);
    Accepted &replaced = first.is_punched ? first : second;
    Accepted &ordinary = first.is_punched ? second : first;
    CHECK(replaced.is_punched);
    CHECK_FALSE(ordinary.is_punched);
    CHECK(says_hello(theirs, replaced.socket));
    CHECK(says_hello(client, ordinary.socket));
}

TEST_CASE("handoff: a bell rings only for who has the listener") {
    // Two that share a port, as two programs of one user can; each hears half of what comes.
    const auto sharing = [](const Endpoint &at) {
        Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
        REQUIRE(::bind(socket.fd(), at.data(), at.length()) == 0);
        REQUIRE(::listen(socket.fd(), 64) == 0);
        return socket;
    };
    Socket listener = sharing(Endpoint::wildcard(AF_INET, 0));
    Socket other = sharing(listener.local());
    constexpr int count = 20;
    for (bool is_known : {true, false}) {
        CAPTURE(is_known);
        Bench bench;
        bench.stranger = is_known ? cookie_of(other.fd()) : 0;
        std::vector<Socket> theirs;
        for (int i = 0; i < count; i++) {
            auto [ours, there] = harness::tcp_pair();
            bench.offer(punched(std::move(ours)), some_peer, listener);
            theirs.push_back(std::move(there));
        }
        int heard = 0;
        while (heard < count && accept_from(bench, listener, 0, milliseconds(300)).is_punched)
            heard++;
        // The control: without knowing of the other, it hears some.
        CHECK((heard == count) == is_known);
        CHECK(harness::is_readable(other.fd(), milliseconds(0)) != is_known);
        bench.withdraw(cookie_of(listener.fd()));
    }
}

namespace {

bool is_reset(const Socket &peer, Duration limit) {
    char byte;
    return harness::is_readable(peer.fd(), limit) &&
           ::recv(peer.fd(), &byte, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET;
}

/// A network of this process's own, with two addresses on a device beside the loopback interface.
bool enters_a_network() {
    return ::unshare(CLONE_NEWNET) == 0 &&
           std::system("ip link set lo up && ip link add va type veth peer name vb && "
                       "ip link set va up && ip link set vb up && "
                       "ip addr add 192.0.2.1/24 dev va && "
                       "ip addr add 2001:db8::11/64 dev va nodad && "
                       // (The kernel makes the route to a new address a moment later.)
                       "until ip -6 route show table local | grep -q 2001:db8::11; do :; done") ==
               0;
}

Socket listener_on(const Endpoint &at, const char *device, int backlog = 16) {
    Socket socket(::socket(at.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
    if (at.family() == AF_INET6)
        socket.set(IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (device != nullptr)
        ::setsockopt(socket.fd(), SOL_SOCKET, SO_BINDTODEVICE, device,
                     static_cast<socklen_t>(std::strlen(device)));
    if (::bind(socket.fd(), at.data(), at.length()) != 0 || ::listen(socket.fd(), backlog) != 0)
        socket.reset();
    return socket;
}

Endpoint address_of_device(std::uint16_t port) {
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(port);
    in6.sin6_addr = {{{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11}}};
    return Endpoint::from(reinterpret_cast<sockaddr *>(&in6), sizeof in6);
}

/// What keeps bells from this listener; "": nothing.
std::string obstacle_of(const Socket &listener) {
    Scheduler scheduler;
    auto page = std::make_unique<synergy_page>();
    SocketDiag socket_diag;
    Handoff handoff(scheduler, *page, socket_diag,
                    {.is_ours = [](std::uint64_t) { return false; },
                     .out_of_reach = {},
                     .in_reach = {},
                     .activity = {},
                     .ends = {},
                     .has_one_ended_since = {},
                     .has_unseen_filter = [](const ServerSocket &) { return false; }});
    const Obstacle *obstacle = handoff.obstacle(*describe(listener.fd()));
    return obstacle == nullptr ? "" : obstacle->text;
}

/// Offers a connection at the listener: whether it comes out; if not, the peer must have been reset
/// within `limit`, and the listener be out of reach.
std::string outcome_at(const Socket &listener, Duration limit) {
    Bench bench;
    auto [ours, theirs] = harness::tcp_pair();
    bench.offer(punched(std::move(ours)), some_peer, listener);
    const bool is_punched = accept_from(bench, listener, 0, milliseconds(1500)).is_punched;
    if (is_punched)
        return "comes out";
    if (!is_reset(theirs, limit))
        return "the peer waits";
    if (!harness::wait_until([&] { return bench.given_up == cookie_of(listener.fd()); }))
        return "the listener is still punched for";
    // Who comes later does not wait either.
    auto [later, their_later] = harness::tcp_pair();
    bench.offer(punched(std::move(later)), some_peer, listener);
    if (!is_reset(their_later, milliseconds(500)) || bench.ringing() != 0)
        return "the next peer waits";
    return "reset";
}

const auto as_root = doctest::skip(geteuid() != 0);

} // namespace

TEST_CASE("handoff: a listener of another's in the bell's way never gets it" * as_root) {
    CHECK(harness::in_child([]() -> std::string {
              EXPECT_IN_CHILD(enters_a_network());
              for (int family : {AF_INET, AF_INET6}) {
                  Socket listener = listener_on(Endpoint::wildcard(family, 0), "va");
                  EXPECT_IN_CHILD(listener);
                  EXPECT_IN_CHILD(obstacle_of(listener).find("bound to a device") !=
                                  std::string::npos);
                  Socket stranger =
                      listener_on(Endpoint::loopback(family, listener.local().port()), "lo");
                  EXPECT_IN_CHILD(stranger);
                  EXPECT_IN_CHILD(obstacle_of(listener).find("another program's") !=
                                  std::string::npos);
                  Bench bench;
                  bench.stranger = cookie_of(stranger.fd());
                  auto [ours, theirs] = harness::tcp_pair();
                  bench.offer(punched(std::move(ours)), some_peer, listener);
                  EXPECT_IN_CHILD(is_reset(theirs, seconds(1)));
                  EXPECT_IN_CHILD(!harness::is_readable(stranger.fd(), milliseconds(100)));
                  EXPECT_IN_CHILD(harness::wait_until(
                      [&] { return bench.given_up == cookie_of(listener.fd()); }));
              }
              return "";
          }) == "");
}

TEST_CASE("handoff: who takes all ports that bells come from keeps none from ringing" * as_root) {
    CHECK(harness::in_child([]() -> std::string {
              EXPECT_IN_CHILD(enters_a_network());
              constexpr rlimit many{.rlim_cur = 4096, .rlim_max = 4096};
              EXPECT_IN_CHILD(setrlimit(RLIMIT_NOFILE, &many) == 0);
              const auto take_all = [] {
                  std::vector<Socket> taken;
                  for (unsigned i = 0; i < SYNERGY_BELL_PORTS; i++) {
                      Socket socket(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
                      const Endpoint at = Endpoint::wildcard(
                          AF_INET6, static_cast<std::uint16_t>(SYNERGY_FIRST_BELL_PORT + i));
                      if (::bind(socket.fd(), at.data(), at.length()) == 0)
                          taken.push_back(std::move(socket));
                  }
                  return taken;
              };
              for (int family : {AF_INET, AF_INET6}) {
                  Socket listener = harness::listening_tcp(Endpoint::wildcard(family, 0));
                  std::vector<Socket> taken = take_all();
                  EXPECT_IN_CHILD(taken.size() == SYNERGY_BELL_PORTS);
                  EXPECT_IN_CHILD(obstacle_of(listener).find("holds all ports") !=
                                  std::string::npos);
                  taken.clear();
                  Bench bench;
                  EXPECT_IN_CHILD(bench.obstacle(listener).empty());
                  taken = take_all();
                  EXPECT_IN_CHILD(!taken.empty());
                  for (int i = 0; i < 3; i++) {
                      auto [ours, theirs] = harness::tcp_pair();
                      bench.offer(punched(std::move(ours)), some_peer, listener);
                      EXPECT_IN_CHILD(accept_from(bench, listener, 0, seconds(2)).is_punched);
                  }
              }
              return "";
          }) == "");
}

TEST_CASE("handoff: a bell to an IPv6 address comes in by the device that has it" * as_root) {
    CHECK(harness::in_child([]() -> std::string {
              EXPECT_IN_CHILD(enters_a_network());
              Socket listener = listener_on(address_of_device(0), "va");
              EXPECT_IN_CHILD(listener);
              EXPECT_IN_CHILD(obstacle_of(listener).empty());
              EXPECT_IN_CHILD(outcome_at(listener, seconds(5)) == "comes out");
              // One of the loopback interface's does not hear it, though it has the address.
              Socket other = listener_on(address_of_device(0), "lo");
              EXPECT_IN_CHILD(!obstacle_of(other).empty());
              return "";
          }) == "");
}

TEST_CASE("handoff: without ::1 a listener for both families hears IPv4" * as_root) {
    CHECK(harness::in_child([]() -> std::string {
              EXPECT_IN_CHILD(enters_a_network());
              EXPECT_IN_CHILD(std::system("ip addr del ::1/128 dev lo") == 0);
              Socket both = listener_on(Endpoint::wildcard(AF_INET6, 0), nullptr);
              EXPECT_IN_CHILD(obstacle_of(both).empty());
              EXPECT_IN_CHILD(outcome_at(both, seconds(1)) == "comes out");
              Socket only(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
              only.set(IPPROTO_IPV6, IPV6_V6ONLY, 1);
              EXPECT_IN_CHILD(::listen(only.fd(), 4) == 0);
              EXPECT_IN_CHILD(obstacle_of(only).find("has no ::1") != std::string::npos);
              EXPECT_IN_CHILD(std::system("ip link set lo down") == 0);
              EXPECT_IN_CHILD(obstacle_of(both).find("is down") != std::string::npos);
              return "";
          }) == "");
}

TEST_CASE("handoff: a listener that asks for a least hop limit hears the bell") {
    for (int family : {AF_INET, AF_INET6}) {
        CAPTURE(family);
        Socket listener = harness::bound_tcp(Endpoint::loopback(family, 0));
        if (family == AF_INET)
            REQUIRE(listener.set(IPPROTO_IP, IP_MINTTL, 255));
        else
            REQUIRE(listener.set(IPPROTO_IPV6, IPV6_MINHOPCOUNT, 255));
        REQUIRE(::listen(listener.fd(), 4) == 0);
        CHECK(outcome_at(listener, seconds(5)) == "comes out");
    }
}

TEST_CASE("handoff: where the host's firewall keeps bells out the peer is reset" * as_root) {
    // "": without a rule.
    for (const char *target : {"DROP", "REJECT", "REJECT --reject-with tcp-reset", ""}) {
        CAPTURE(target);
        CHECK(harness::in_child([target]() -> std::string {
                  EXPECT_IN_CHILD(enters_a_network());
                  for (int family : {AF_INET, AF_INET6}) {
                      Socket listener = listener_on(Endpoint::wildcard(family, 0), nullptr);
                      const std::string rule =
                          std::string(family == AF_INET ? "iptables" : "ip6tables") +
                          " -A INPUT -i lo -p tcp --dport " +
                          std::to_string(listener.local().port()) + " -j " + target;
                      EXPECT_IN_CHILD(*target == '\0' || std::system(rule.c_str()) == 0);
                      const std::string outcome = outcome_at(listener, milliseconds(2500));
                      if (outcome != (*target == '\0' ? "comes out" : "reset"))
                          return rule + ": " + outcome;
                  }
                  return "";
              }) == "");
    }
}

TEST_CASE("handoff: a firewall that keeps bells out is felt before one rings" * as_root) {
    // "": without a rule.
    for (const char *target : {"DROP", ""}) {
        CAPTURE(target);
        CHECK(harness::in_child([target]() -> std::string {
                  EXPECT_IN_CHILD(enters_a_network());
                  for (int family : {AF_INET, AF_INET6}) {
                      const Socket listener =
                          listener_on(Endpoint::wildcard(family, 0), nullptr, 0);
                      const std::string rule =
                          std::string(family == AF_INET ? "iptables" : "ip6tables") +
                          " -A INPUT -p tcp --dport " + std::to_string(listener.local().port()) +
                          " -j " + target;
                      EXPECT_IN_CHILD(*target == '\0' || std::system(rule.c_str()) == 0);
                      Bench bench;
                      bench.feel(listener);
                      const bool is_out_of_reach = harness::wait_until(
                          [&] { return bench.given_up == cookie_of(listener.fd()); },
                          milliseconds(2500));
                      if (is_out_of_reach != (*target != '\0'))
                          return rule + (is_out_of_reach ? ": given up" : ": not felt");
                      if (harness::is_readable(listener.fd(), milliseconds(0)))
                          return rule + ": the server sees it";
                  }
                  return "";
              }) == "");
    }
}

TEST_CASE("handoff: what is felt leaves no trace at the listener" * as_root) {
    CHECK(harness::in_child([]() -> std::string {
              EXPECT_IN_CHILD(enters_a_network());
              // Where half connections are kept, and where they are not.
              for (const char *cookies : {"0", "1", "2"}) {
                  EXPECT_IN_CHILD(std::system(("echo " + std::string(cookies) +
                                               " >/proc/sys/net/ipv4/tcp_syncookies")
                                                  .c_str()) == 0);
                  for (int family : {AF_INET, AF_INET6}) {
                      const Socket listener =
                          listener_on(Endpoint::wildcard(family, 0), nullptr, 1);
                      Bench bench;
                      bench.feel(listener);
                      std::this_thread::sleep_for(milliseconds(50));
                      const Endpoint to = Endpoint::loopback(family, listener.local().port());
                      const auto began = std::chrono::steady_clock::now();
                      const Socket client = client_of(listener, to);
                      EXPECT_IN_CHILD(std::chrono::steady_clock::now() - began < milliseconds(500));
                      const Socket accepted(accept(listener.fd(), nullptr, nullptr));
                      EXPECT_IN_CHILD(accepted.remote() == client.local());
                      EXPECT_IN_CHILD(!harness::is_readable(listener.fd(), milliseconds(0)));
                  }
              }
              return "";
          }) == "");
}

TEST_CASE("handoff: a full queue is not felt as a firewall") {
    Socket listener = harness::listening_tcp(Endpoint::loopback(AF_INET, 0), 0);
    const Socket filling = client_of(listener, listener.local());
    Bench bench;
    bench.feel(listener);
    std::this_thread::sleep_for(seconds(3));
    CHECK(bench.given_up == 0);
}

TEST_CASE("handoff: a bell that waits in a full queue is no bell that is kept out") {
    Socket listener = harness::listening_tcp(Endpoint::loopback(AF_INET, 0), 0);
    const Socket filling = client_of(listener, listener.local());
    Bench bench;
    auto [ours, theirs] = harness::tcp_pair();
    bench.offer(punched(std::move(ours)), some_peer, listener);
    CHECK_FALSE(harness::is_readable(theirs.fd(), seconds(4)));
    CHECK(bench.given_up == 0);
    CHECK_FALSE(accept_from(bench, listener).is_punched);
    CHECK(accept_from(bench, listener).is_punched);
}

TEST_CASE("handoff: a bell that waits to be accepted waits for as long as it takes") {
    Socket listener = harness::listening_tcp(Endpoint::loopback(AF_INET6, 0));
    Bench bench;
    auto [ours, theirs] = harness::tcp_pair();
    bench.offer(punched(std::move(ours)), some_peer, listener);
    CHECK_FALSE(harness::is_readable(theirs.fd(), seconds(3)));
    CHECK(accept_from(bench, listener).is_punched);
}

TEST_CASE("handoff: who accepts and does not answer, keeps nobody waiting") {
    for (const Endpoint &at : {Endpoint::wildcard(AF_INET, 0), Endpoint::wildcard(AF_INET6, 0)}) {
        CAPTURE(at.text());
        Socket listener = harness::listening_tcp(at);
        Bench bench;
        auto [ours, theirs] = harness::tcp_pair();
        bench.offer(punched(std::move(ours)), some_peer, listener);
        std::vector<Socket> kept;
        const Time end = Clock::now() + milliseconds(2500);
        while (Clock::now() < end && !harness::is_readable(theirs.fd(), milliseconds(0)))
            if (harness::is_readable(listener.fd(), milliseconds(20)))
                kept.emplace_back(::accept(listener.fd(), nullptr, nullptr));
        CHECK(is_reset(theirs, milliseconds(0)));
        CHECK(kept.size() == 1);
        CHECK(harness::wait_until([&] { return bench.given_up == cookie_of(listener.fd()); }));
    }
}

TEST_CASE("handoff: who is kept from answering has all the time that it is kept for") {
    Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET6, 0));
    for (const Activity activity : {Activity::stopped, Activity::rests}) {
        const bool is_waited_for = activity == Activity::stopped;
        CAPTURE(is_waited_for);
        Bench bench;
        bench.activity = activity;
        auto [ours, theirs] = harness::tcp_pair();
        bench.offer(punched(std::move(ours)), some_peer, listener);
        REQUIRE(harness::is_readable(listener.fd(), seconds(5)));
        const Socket bell(::accept(listener.fd(), nullptr, nullptr));
        CHECK(harness::is_readable(theirs.fd(), milliseconds(2500)) != is_waited_for);
        bench.activity = Activity::rests;
        CHECK(bench.fetch(bell, true).has_value() == is_waited_for);
        CHECK(harness::wait_until([&] { return (bench.given_up == 0) == is_waited_for; }));
    }
}

TEST_CASE("handoff: a keeper that is late does not take its own time for the server's") {
    Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET6, 0));
    Bench bench;
    auto [ours, theirs] = harness::tcp_pair();
    bench.offer(punched(std::move(ours)), some_peer, listener);
    REQUIRE(harness::is_readable(listener.fd(), seconds(5)));
    const Socket bell(::accept(listener.fd(), nullptr, nullptr));
    CHECK(!harness::is_readable(theirs.fd(), milliseconds(300))); // seen in somebody's hand
    bench.is_late_by(seconds(2));
    CHECK(!harness::is_readable(theirs.fd(), milliseconds(2100)));
    for (int i = 0; i < 3; i++) { // and again and again
        bench.is_late_by(milliseconds(600));
        CHECK(!harness::is_readable(theirs.fd(), milliseconds(700)));
    }
    CHECK(bench.fetch(bell, true).has_value());
    CHECK(bench.given_up == 0);
}

TEST_CASE("handoff: processes that end with a bell in their hands say nothing of who accepts") {
    Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET6, 0));
    Bench bench;
    auto [ours, theirs] = harness::tcp_pair();
    bench.offer(punched(std::move(ours)), some_peer, listener);
    for (int i = 0; i < 4; i++) {
        REQUIRE(harness::is_readable(listener.fd(), seconds(5)));
        const Socket bell(::accept(listener.fd(), nullptr, nullptr));
        bench.ends++;
    }
    REQUIRE(harness::is_readable(listener.fd(), seconds(5)));
    const Socket bell(::accept(listener.fd(), nullptr, nullptr));
    CHECK(bench.fetch(bell, true).has_value());
    CHECK(bench.given_up == 0);
}

TEST_CASE("handoff: who says that it can't fetch is not waited for") {
    Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET6, 0));
    Bench bench;
    auto [ours, theirs] = harness::tcp_pair();
    bench.offer(punched(std::move(ours)), some_peer, listener);
    REQUIRE(harness::is_readable(listener.fd(), seconds(5)));
    Socket bell(::accept(listener.fd(), nullptr, nullptr));
    synergy_refusal refusal{};
    std::memcpy(refusal.text, SYNERGY_REFUSAL_TEXT, sizeof refusal.text);
    refusal.error = 12345; // is no errno
    CHECK(::send(bell.fd(), &refusal, sizeof refusal, MSG_NOSIGNAL) == sizeof refusal);
    bell.reset();
    CHECK(is_reset(theirs, milliseconds(300)));
    CHECK(harness::wait_until([&] { return bench.given_up == cookie_of(listener.fd()); }));
}

TEST_CASE("handoff: a listener whose bells nobody has answered yet hears one at a time") {
    constexpr int offers = 5;
    Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET6, 0));
    Bench bench;
    std::vector<Socket> theirs;
    for (int i = 0; i < offers; i++) {
        auto [our_end, their_end] = harness::tcp_pair();
        theirs.push_back(std::move(their_end));
        bench.offer(punched(std::move(our_end)), some_peer, listener);
    }
    std::vector<Socket> kept;
    const Time end = Clock::now() + milliseconds(2000);
    while (Clock::now() < end && !harness::is_readable(theirs.back().fd(), milliseconds(0)))
        if (harness::is_readable(listener.fd(), milliseconds(20)))
            kept.emplace_back(::accept(listener.fd(), nullptr, nullptr));
    CHECK(kept.size() == 1);
    for (const Socket &each : theirs)
        CHECK(is_reset(each, milliseconds(200)));
}

TEST_CASE("handoff: who closes a bell without a word is soon believed not to know what it is") {
    constexpr std::size_t tolerated = 1; // a process may be killed with a bell in its hand
    for (const bool has_read : {false, true}) {
        CAPTURE(has_read);
        Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET6, 0));
        Bench bench;
        auto [ours, theirs] = harness::tcp_pair();
        bench.offer(punched(std::move(ours)), some_peer, listener);
        std::size_t seen = 0;
        const Time end = Clock::now() + milliseconds(1000);
        while (Clock::now() < end && !harness::is_readable(theirs.fd(), milliseconds(0)))
            if (harness::is_readable(listener.fd(), milliseconds(20))) {
                const Socket bell(::accept(listener.fd(), nullptr, nullptr));
                char text[64];
                if (has_read && harness::is_readable(bell.fd(), milliseconds(200)))
                    static_cast<void>(::recv(bell.fd(), text, sizeof text, 0));
                seen++;
            }
        CHECK(is_reset(theirs, milliseconds(0)));
        CHECK(seen == tolerated + 1);
        CHECK(harness::wait_until([&] { return bench.given_up == cookie_of(listener.fd()); }));
    }
}

TEST_CASE("handoff: who says that it can't fetch just now is asked again") {
    Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET6, 0));
    Bench bench;
    auto [ours, theirs] = harness::tcp_pair();
    bench.offer(punched(std::move(ours)), some_peer, listener);
    for (int i = 0; i < 4; i++) {
        REQUIRE(harness::is_readable(listener.fd(), seconds(5)));
        const Socket bell(::accept(listener.fd(), nullptr, nullptr));
        synergy_refusal refusal{};
        std::memcpy(refusal.text, SYNERGY_REFUSAL_TEXT, sizeof refusal.text);
        refusal.error = ETIMEDOUT;
        CHECK(::send(bell.fd(), &refusal, sizeof refusal, MSG_NOSIGNAL) == sizeof refusal);
    }
    const Accepted accepted = accept_from(bench, listener);
    CHECK(accepted.is_punched);
    CHECK(bench.given_up == 0);
    CHECK(says_hello(accepted.socket, theirs));
}

TEST_CASE(
    "handoff: many connections at once, each comes out once, in the order in which they came") {
    Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET6, 0), 64);
    Bench bench;
    SUBCASE("at once") {}
    SUBCASE("on a machine that is slow to ring") {
        bench.ring_takes = milliseconds(1);
    }
    std::vector<Socket> theirs;
    for (int i = 0; i < 20; i++) {
        auto [ours, there] = harness::tcp_pair();
        bench.offer(punched(std::move(ours)), some_peer, listener);
        theirs.push_back(std::move(there));
    }
    std::vector<Accepted> accepted;
    std::vector<std::string> peers, wanted;
    for (int i = 0; i < 20; i++) {
        accepted.push_back(accept_from(bench, listener));
        REQUIRE(accepted.back().socket);
        REQUIRE(accepted.back().is_punched);
        peers.push_back(accepted.back().socket.remote().text());
    }
    for (const Socket &socket : theirs)
        wanted.push_back(socket.local().text());
    CHECK(peers == wanted);
}

// Linux forgets a connection that waited too long for room in the queue (the
// doorbell has been acknowledged all the same), and the doorbell, which says nothing, never learns
// of it.
TEST_CASE("handoff: nothing is lost when more ring than the listener has room for") {
    Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET6, 0), 2);
    Bench bench;
    std::vector<Socket> theirs;
    for (int i = 0; i < 16; i++) {
        auto [ours, there] = harness::tcp_pair();
        bench.offer(punched(std::move(ours)), some_peer, listener);
        theirs.push_back(std::move(there));
    }
    std::this_thread::sleep_for(milliseconds(200)); // a server that is busy for a moment
    int replaced = 0;
    std::vector<Accepted> accepted;
    while (replaced < 16) {
        accepted.push_back(accept_from(bench, listener, 0, seconds(8)));
        if (!accepted.back().is_punched)
            break;
        replaced++;
    }
    bench.withdraw(describe(listener.fd())->cookie);
    CHECK(replaced == 16);
}

TEST_CASE("handoff: where many wait for a queue of one, each comes as soon as there is room") {
    constexpr int offers = 30;
    Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET6, 0), 0);
    Bench bench;
    std::vector<Socket> theirs;
    for (int i = 0; i < offers; i++) {
        auto [our_end, their_end] = harness::tcp_pair();
        bench.offer(punched(std::move(our_end)), some_peer, listener);
        theirs.push_back(std::move(their_end));
    }
    const Time began = Clock::now();
    std::vector<Accepted> accepted;
    for (int i = 0; i < offers; i++) {
        std::this_thread::sleep_for(milliseconds(5)); // what a server has to do for each
        accepted.push_back(accept_from(bench, listener, 0, seconds(3)));
        CHECK(accepted.back().is_punched);
    }
    CHECK(Clock::now() - began < milliseconds(1000));
}

TEST_CASE("handoff: a listener that does not listen yet is rung again") {
    Socket listener = harness::bound_tcp(Endpoint::loopback(AF_INET, 0));
    Bench bench;
    auto [ours, theirs] = harness::tcp_pair();
    bench.offer(punched(std::move(ours)), some_peer, listener);
    std::this_thread::sleep_for(milliseconds(100));
    REQUIRE(::listen(listener.fd(), 4) == 0);
    Accepted accepted = accept_from(bench, listener);
    CHECK(accepted.is_punched);
    CHECK(says_hello(theirs, accepted.socket));
}

TEST_CASE("handoff: a listener that waits for data (TCP_DEFER_ACCEPT) gets the peer's alone") {
    Socket listener = harness::bound_tcp(Endpoint::loopback(AF_INET, 0));
    REQUIRE(listener.set(IPPROTO_TCP, TCP_DEFER_ACCEPT, 30));
    REQUIRE(::listen(listener.fd(), 4) == 0);
    Bench bench;
    auto [ours, theirs] = harness::tcp_pair();
    bench.offer(punched(std::move(ours)), some_peer, listener);
    // Another that is silent keeps nobody waiting, nor one that is reset before it says anything.
    auto [silent, its_end] = harness::tcp_pair();
    bench.offer(punched(std::move(silent)), some_peer, listener);
    auto [reset, reset_end] = harness::tcp_pair();
    bench.offer(punched(std::move(reset)), some_peer, listener);
    reset_end.reset_when_closed();
    reset_end.reset();
    CHECK_FALSE(harness::is_readable(listener.fd(), milliseconds(100)));
    REQUIRE(::send(theirs.fd(), "first", 5, MSG_NOSIGNAL) == 5);
    Accepted accepted = accept_from(bench, listener);
    REQUIRE(accepted.is_punched);
    char got[8];
    CHECK(::recv(accepted.socket.fd(), got, sizeof got, 0) == 5);
    // Nothing of the doorbell's: only what the peer says.
    CHECK_FALSE(harness::is_readable(accepted.socket.fd(), milliseconds(50)));
    CHECK(says_hello(theirs, accepted.socket));
    bench.withdraw(describe(listener.fd())->cookie);
    CHECK(harness::is_readable(its_end.fd(), seconds(5)));
}

TEST_CASE("handoff: what waits for a listener that has gone is closed, and no mark stays") {
    auto before = harness::open_descriptors();
    {
        Socket listener = harness::listening_tcp(Endpoint::loopback(AF_INET, 0));
        auto cookie = describe(listener.fd())->cookie;
        Bench bench;
        auto [ours, theirs] = harness::tcp_pair();
        bench.offer(punched(std::move(ours)), some_peer, listener);
        REQUIRE(harness::is_readable(listener.fd(), seconds(5)));
        bench.withdraw(cookie + 1); // another's
        CHECK_FALSE(harness::is_readable(theirs.fd(), milliseconds(50)));
        listener.reset();
        bench.withdraw(cookie);
        REQUIRE(harness::is_readable(theirs.fd(), seconds(5)));
        char byte;
        CHECK(::recv(theirs.fd(), &byte, 1, MSG_DONTWAIT) <= 0); // ended
        CHECK(bench.ringing() == 0U);
    }
    CHECK(harness::open_descriptors() == before);
}

TEST_CASE("handoff: no descriptor stays behind") {
    auto before = harness::open_descriptors();
    {
        Socket listener = harness::listening_tcp(Endpoint::loopback(AF_INET, 0));
        Bench bench;
        for (int i = 0; i < 10; i++) {
            auto [ours, theirs] = harness::tcp_pair();
            bench.offer(punched(std::move(ours)), some_peer, listener);
            CHECK(accept_from(bench, listener).is_punched);
        }
    }
    CHECK(harness::open_descriptors() == before);
}
