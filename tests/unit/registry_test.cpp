#include "keeper/registry.h"

#include "harness.h"
#include "server/server_socket.h"
#include "server/socket_diag.h"
#include "settings/load_settings.h"

#include <doctest/doctest.h>

#include <arpa/inet.h>
#include <cstring>
#include <filesystem>
#include <netinet/tcp.h>

using namespace synergy;
using std::chrono::milliseconds;

namespace {

Endpoint v6(const char *address, std::uint16_t port) {
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(port);
    inet_pton(AF_INET6, address, &in6.sin6_addr);
    return Endpoint::from(reinterpret_cast<sockaddr *>(&in6), sizeof in6);
}

Endpoint v4(const char *address, std::uint16_t port) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    inet_pton(AF_INET, address, &in.sin_addr);
    return Endpoint::from(reinterpret_cast<sockaddr *>(&in), sizeof in);
}

ServerSocket server(const Endpoint &local, bool takes_v4 = false) {
    ServerSocket socket;
    socket.local = local;
    socket.takes_v4 = takes_v4;
    return socket;
}

HopLimit hops(int number) {
    return HopLimit::from(number).value();
}

const Endpoint v6_peer = v6("2001:db8:b::5", 5555);
const Endpoint v4_peer = v4("198.51.100.5", 5555);

/// A port of this host where a listener takes no more connections: a SYN stays without an answer.
struct DeafPeer {
    Socket listener = harness::listening_tcp(Endpoint::loopback(AF_INET, 0), 0);
    Socket filling{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};

    DeafPeer() {
        Endpoint at = address();
        REQUIRE(::connect(filling.fd(), at.data(), at.length()) == 0);
    }
    [[nodiscard]] Endpoint address() const { return listener.local(); }
};

/// How many punches are on their way: sockets of this process that a SYN has left from (tcp(7),
/// TCP_INFO).
std::size_t punching() {
    std::size_t count = 0;
    for (int fd : harness::open_descriptors()) {
        tcp_info info{};
        socklen_t length = sizeof info;
        constexpr int syn_sent = 2;
        count += getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
                         info.tcpi_state == syn_sent
                     ? 1U
                     : 0U;
    }
    return count;
}

/// A registry whose punches go to such a peer, and the host of the whole thing.
struct Bench : RegistryOwner {
    explicit Bench(Settings from = {}) : settings(std::move(from)) {}

    [[nodiscard]] bool locate(ServerSocket &socket) const override {
        return lives && socket_diag.life(socket.transport, socket.local, socket.cookie) ==
                            SocketDiag::Life::lives;
    }
    [[nodiscard]] bool is_at_work() override { return false; }
    void parked(std::uint64_t) override {}
    void listens_again(std::uint64_t, std::uint64_t) override {}
    void dropped(std::uint64_t cookie) override { all_dropped.push_back(cookie); }
    void give(Gift, std::uint64_t, const std::function<void(Gift)> &) override {}
    void serve_waiting() override {}
    void settings_changed() override { changes++; }

    Scheduler scheduler;
    std::unique_ptr<synergy_page> page = std::make_unique<synergy_page>();
    mutable SocketDiag socket_diag;
    Handoff handoff{scheduler,
                    *page,
                    socket_diag,
                    {.is_ours = [](std::uint64_t) { return true; },
                     .out_of_reach = [](std::uint64_t) {},
                     .in_reach = [](std::uint64_t) {},
                     .activity = {},
                     .ends = [] { return 0U; },
                     .has_one_ended_since = [](unsigned) { return false; },
                     .has_unseen_filter = [](const ServerSocket &) { return false; }}};
    Traffic traffic{*page};
    Settings settings;
    std::vector<std::uint64_t> all_dropped;
    unsigned changes = 0;
    bool lives = true; ///< the server's socket, of which a duplicate tells nothing
    Registry registry{scheduler, settings, "", handoff, traffic, socket_diag, *this};
    DeafPeer deaf_peer;

    [[nodiscard]] Endpoint peer() const { return deaf_peer.address(); }
};

Socket reusable_listener() {
    Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
    socket.set(SOL_SOCKET, SO_REUSEADDR, 1);
    Endpoint any = Endpoint::wildcard(AF_INET, 0);
    REQUIRE(::bind(socket.fd(), any.data(), any.length()) == 0);
    REQUIRE(::listen(socket.fd(), 16) == 0);
    return socket;
}

} // namespace

TEST_CASE("reachable: IPv6 peers from IPv6 sockets") {
    CHECK(reachable(server(v6("2001:db8::1", 80)), v6_peer) == v6_peer);
    CHECK(reachable(server(v6("::", 80)), v6_peer) == v6_peer);
    CHECK(reachable(server(v6("::", 80), true), v6_peer) == v6_peer);
    CHECK(reachable(server(v4("192.0.2.1", 80)), v6_peer).empty());
    CHECK(reachable(server(v4("0.0.0.0", 80)), v6_peer).empty());
    CHECK(reachable(server(v6("::ffff:192.0.2.1", 80), true), v6_peer).empty());
}

TEST_CASE("reachable: IPv4 peers from IPv4 and dual-stack sockets") {
    CHECK(reachable(server(v4("192.0.2.1", 80)), v4_peer) == v4_peer);
    CHECK(reachable(server(v4("0.0.0.0", 80)), v4_peer) == v4_peer);
    CHECK(reachable(server(v6("::", 80), true), v4_peer) == v4_peer.mapped());
    CHECK(reachable(server(v6("::ffff:192.0.2.1", 80), true), v4_peer) == v4_peer.mapped());
    CHECK(reachable(server(v6("::", 80), false), v4_peer).empty());
    CHECK(reachable(server(v6("2001:db8::1", 80), true), v4_peer).empty());
}

TEST_CASE("reachable: nobody from a loopback address") {
    CHECK(reachable(server(v6("::1", 80), true), v6_peer).empty());
    CHECK(reachable(server(v4("127.0.0.1", 80)), v4_peer).empty());
    CHECK(reachable(server(v4("127.5.0.1", 80)), v4_peer).empty());
    CHECK(reachable(server(v6("::ffff:127.0.0.1", 80), true), v4_peer).empty());
}

TEST_CASE("registry: a socket without a peer in reach has no hole") {
    Bench bench;
    Socket listener = reusable_listener();
    auto socket = describe(listener.fd());
    REQUIRE(socket);
    auto before = harness::open_descriptors();
    CHECK(bench.registry.open(*socket, {v6_peer, hops(3)}, Socket()) == ENOENT);
    CHECK(bench.registry.open_all(*socket, Socket()) == ENOENT);
    CHECK(harness::open_descriptors() == before);
}

TEST_CASE("registry: one punching socket a peer, and close() ends it at once") {
    Bench bench;
    Socket listener = reusable_listener();
    auto socket = describe(listener.fd());
    REQUIRE(socket);
    auto before = harness::open_descriptors();
    CHECK(bench.registry.open(*socket, {bench.peer(), hops(3)}, Socket()) == 0);
    CHECK(harness::open_descriptors().size() == before.size() + 1);
    // The same again: nothing new.
    CHECK(bench.registry.open(*socket, {bench.peer(), hops(3)}, Socket()) == 0);
    CHECK(harness::open_descriptors().size() == before.size() + 1);
    // It is said to be closed, and is not: another descriptor is there.
    bench.registry.closed(socket->cookie);
    CHECK(harness::open_descriptors().size() == before.size() + 1);
    bench.registry.closed(socket->cookie + 1);
    CHECK(harness::open_descriptors().size() == before.size() + 1);
    listener.reset();
    CHECK(bench.registry.has(socket->cookie));
    bench.registry.closed(socket->cookie);
    CHECK_FALSE(bench.registry.has(socket->cookie));
    CHECK(bench.registry.is_empty());
    CHECK(bench.all_dropped == std::vector{socket->cookie});
    before.erase(socket->fd);
    CHECK(harness::open_descriptors() == before);
    bench.registry.closed(socket->cookie);
}

TEST_CASE("registry: holes stay as long as any descriptor of the socket's does") {
    Bench bench;
    Socket listener = reusable_listener();
    auto socket = describe(listener.fd());
    REQUIRE(socket);
    auto before = harness::open_descriptors();
    REQUIRE(bench.registry.open(*socket, {bench.peer(), hops(3)}, Socket()) == 0);
    {
        Socket copy(dup(listener.fd()));
        listener.reset();
        bench.registry.closed(socket->cookie);
        CHECK_FALSE(bench.registry.give_way(0));
        CHECK(harness::open_descriptors().size() == before.size() + 1);
    }
    // Gone without a word, as by close_range().
    CHECK(bench.registry.give_way(0));
    CHECK_FALSE(bench.registry.give_way(0));
    before.erase(socket->fd);
    CHECK(harness::open_descriptors() == before);
}

TEST_CASE("registry: a UDP socket is sent from by its duplicate") {
    Bench bench;
    Socket server_socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    Endpoint any = Endpoint::wildcard(AF_INET, 0);
    REQUIRE(::bind(server_socket.fd(), any.data(), any.length()) == 0);
    Socket peer(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    Endpoint at = Endpoint::loopback(AF_INET, 0);
    REQUIRE(::bind(peer.fd(), at.data(), at.length()) == 0);
    REQUIRE(peer.set(IPPROTO_IP, IP_RECVTTL, 1));

    auto socket = describe(server_socket.fd());
    REQUIRE(socket);
    auto before = harness::open_descriptors();
    CHECK(bench.registry.open(*socket, {peer.local(), hops(7)}, Socket(dup(server_socket.fd()))) ==
          0);
    CHECK(harness::open_descriptors().size() == before.size() + 1);

    // On loopback no router counts it down, so it arrives: empty, from the server's own port, with
    // the hop limit that was asked for.
    char data[8], control[64];
    iovec into{.iov_base = data, .iov_len = sizeof data};
    sockaddr_in from{};
    msghdr message{};
    message.msg_name = &from;
    message.msg_namelen = sizeof from;
    message.msg_iov = &into;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    REQUIRE(harness::is_readable(peer.fd(), milliseconds(2000)));
    CHECK(recvmsg(peer.fd(), &message, MSG_DONTWAIT) == 0);
    CHECK(ntohs(from.sin_port) == socket->local.port());
    const cmsghdr *extra = CMSG_FIRSTHDR(&message);
    REQUIRE(extra);
    REQUIRE(extra->cmsg_type == IP_TTL);
    int hop_limit = 0;
    std::memcpy(&hop_limit, CMSG_DATA(extra), sizeof hop_limit);
    CHECK(hop_limit == 7);
    // The server's own datagrams keep theirs.
    CHECK(server_socket.get(IPPROTO_IP, IP_TTL, 0) == peer.get(IPPROTO_IP, IP_TTL, 1));

    // Closed unseen: the duplicate would keep the port, and its share of what others are sent.
    before.erase(socket->fd);
    bench.lives = false;
    server_socket.reset();
    const Time end = Clock::now() + milliseconds(1000);
    while (!bench.registry.is_empty() && Clock::now() < end)
        bench.scheduler.run_once(milliseconds(10));
    CHECK(harness::open_descriptors() == before);
}

TEST_CASE("registry: holes come and go with the config file") {
    harness::Directory directory;
    const std::string file = directory.write("synergy.toml", "");
    const Settings settings = load_settings([&](const char *name) {
        return std::strcmp(name, "SYNERGY_CONFIG") == 0 ? file.c_str() : nullptr;
    });
    Bench bench(settings);
    Registry &registry = bench.registry;
    Socket listener = reusable_listener();
    auto socket = describe(listener.fd());
    REQUIRE(socket);
    registry.follow_settings();
    // Nobody is to come in yet.
    CHECK(registry.open_all(*socket, Socket()) == 0);
    harness::run_until(
        bench.scheduler, [] { return false; }, milliseconds(200));
    CHECK(punching() == 0);
    const auto come_to = [&](std::size_t count) {
        return harness::run_until(
            bench.scheduler, [&] { return punching() == count; }, milliseconds(1000));
    };
    DeafPeer another;
    const std::string peer = "peers = ['" + bench.peer().text() + "']\nhops = 3\n";
    const std::string other = "peers = ['" + another.address().text() + "']\nhops = 3\n";

    directory.write("synergy.toml", peer);
    CHECK(come_to(1));
    directory.write("peers.d/other.toml", other);
    CHECK(come_to(2));
    // The program's own wish outlives the file's.
    CHECK(registry.open(*socket, {bench.peer(), hops(3)}, Socket()) == 0);
    directory.write("synergy.toml", "");
    harness::run_until(
        bench.scheduler, [] { return false; }, milliseconds(300));
    CHECK(punching() == 2);
    // Of one that is no peer any more the socket stays, lest the listener answer at its hole.
    std::filesystem::remove(directory.path("peers.d/other.toml"));
    CHECK(harness::run_until(
        bench.scheduler, [&] { return registry.status().front().holes.size() == 1; },
        milliseconds(1000)));
    CHECK(punching() == 2);
    // One that is a peer again is punched for again.
    directory.write("peers.d/other.toml", other);
    CHECK(harness::run_until(
        bench.scheduler, [&] { return registry.status().front().holes.size() == 2; },
        milliseconds(1000)));
    CHECK(punching() == 2);
    CHECK(bench.changes > 0);
    const std::uint64_t cookie = socket->cookie;
    listener.reset();
    registry.closed(cookie);
    CHECK(punching() == 0);
    // What is said while there is no socket counts for the next.
    const unsigned changes = bench.changes;
    directory.write("synergy.toml", peer);
    CHECK(harness::run_until(
        bench.scheduler, [&] { return bench.changes > changes; }, milliseconds(1000)));
    Socket next = reusable_listener();
    CHECK(registry.open_all(*describe(next.fd()), Socket()) == 0);
    CHECK(punching() == 2);
}

TEST_CASE("registry: a peer that comes later is not punched for either where no bell can come in" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              EXPECT_IN_CHILD(::unshare(CLONE_NEWNET) == 0);
              EXPECT_IN_CHILD(std::system("ip link set lo up && ip link add va type veth peer name "
                                          "vb && ip link set va up && ip link set vb up && "
                                          "ip addr add 192.0.2.1/24 dev va && "
                                          "ip route add default via 192.0.2.2") == 0);
              const harness::Directory directory;
              const std::string file = directory.write("synergy.toml", "");
              Bench bench(load_settings([&](const char *name) {
                  return std::strcmp(name, "SYNERGY_CONFIG") == 0 ? file.c_str() : nullptr;
              }));
              bench.registry.follow_settings();
              const Socket listener = reusable_listener();
              EXPECT_IN_CHILD(bench.registry.open_all(*describe(listener.fd()), Socket()) == 0);
              const auto punches_after = [&](const char *what, const std::string &peer) {
                  const bool is_done = std::system(what) == 0;
                  directory.write("synergy.toml", "peers = ['" + peer + "']\nhops = 3\n");
                  return is_done &&
                         harness::run_until(
                             bench.scheduler, [] { return punching() > 0; }, milliseconds(500));
              };
              EXPECT_IN_CHILD(!punches_after("ip link set lo down", "198.51.100.5:5555"));
              EXPECT_IN_CHILD(punches_after("ip link set lo up", "198.51.100.5:5556"));
              return "";
          }) == "");
}

TEST_CASE("registry: a peer that is named before listen() is punched at listen()") {
    Bench bench;
    Socket listener = reusable_listener();
    auto socket = describe(listener.fd());
    REQUIRE(socket);
    CHECK(bench.registry.open_all(*socket, Socket()) == ENOENT);
    CHECK(bench.registry.expect(socket->cookie, {bench.peer(), hops(3)}) == 0);
    CHECK(bench.registry.expect(socket->cookie, {bench.peer(), hops(3)}) == 0);
    CHECK(bench.registry.open_all(*socket, Socket()) == 0);
    CHECK(punching() == 1);
    // Or it never listens.
    Bench other;
    CHECK(other.registry.expect(socket->cookie, {other.peer(), hops(3)}) == 0);
    other.registry.closed(socket->cookie);
    CHECK(other.registry.open_all(*socket, Socket()) == ENOENT);
    CHECK(punching() == 1);
}
