#include "server/socket_diag.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <atomic>
#include <net/if.h>
#include <sched.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace synergy;
using Life = SocketDiag::Life;

namespace {

std::uint64_t cookie_of(const Socket &socket) {
    std::uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    REQUIRE(getsockopt(socket.fd(), SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0);
    return cookie;
}

Socket bound_udp(const Endpoint &at, bool shares = false) {
    Socket socket(::socket(at.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (shares)
        socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
    REQUIRE(::bind(socket.fd(), at.data(), at.length()) == 0);
    return socket;
}

Socket sharing_listener(const Endpoint &at) {
    Socket socket(::socket(at.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
    REQUIRE(::bind(socket.fd(), at.data(), at.length()) == 0);
    REQUIRE(::listen(socket.fd(), 4) == 0);
    return socket;
}

const std::initializer_list<Endpoint> addresses = {
    Endpoint::wildcard(AF_INET6, 0), Endpoint::loopback(AF_INET6, 0),
    Endpoint::wildcard(AF_INET, 0), Endpoint::loopback(AF_INET, 0)};

} // namespace

TEST_CASE("socket diag: a listener lives until its last duplicate is closed") {
    SocketDiag diag;
    REQUIRE(diag.works());
    for (const Endpoint &at : addresses) {
        CAPTURE(at.text());
        Socket listener = harness::listening_tcp(at);
        const Endpoint local = listener.local();
        const std::uint64_t cookie = cookie_of(listener);
        CHECK(diag.life(Transport::tcp, local, cookie) == Life::lives);
        CHECK(diag.life(Transport::tcp, local, cookie + 1) == Life::gone);
        Socket same(dup(listener.fd()));
        listener.reset();
        CHECK(diag.life(Transport::tcp, local, cookie) == Life::lives);
        same.reset();
        CHECK(diag.life(Transport::tcp, local, cookie) == Life::gone);
    }
}

TEST_CASE("socket diag: a TCP socket lives from bind() on, as long as it may listen") {
    constexpr std::uint64_t nobodys_cookie = 1ULL << 60; // they are counted
    SocketDiag diag;
    for (const Endpoint &at : addresses) {
        CAPTURE(at.text());
        Socket socket = Socket::open(at.family(), SOCK_STREAM);
        REQUIRE(::bind(socket.fd(), at.data(), at.length()) == 0);
        const Endpoint local = socket.local();
        const std::uint64_t cookie = cookie_of(socket);
        const Life life = diag.life_until_it_listens(local, cookie);
        if (life == Life::unknown) {
            MESSAGE("this kernel (before 6.8) does not tell of sockets that are bound and no more");
            return;
        }
        CHECK(life == Life::lives);
        CHECK(diag.life_until_it_listens(local, nobodys_cookie) == Life::gone);
        REQUIRE(::listen(socket.fd(), 4) == 0);
        CHECK(diag.life_until_it_listens(local, cookie) == Life::lives);
        socket.reset();
        CHECK(harness::wait_until(
            [&] { return diag.life_until_it_listens(local, cookie) == Life::gone; }));
    }
}

TEST_CASE("socket diag: a TCP socket lives also while it begins to listen") {
    const Endpoint at = Endpoint::wildcard(AF_INET6, 0);
    int lost = 0;
    for (int i = 0; i < 300; i++) {
        const Socket socket = Socket::open(at.family(), SOCK_STREAM);
        REQUIRE(::bind(socket.fd(), at.data(), at.length()) == 0);
        std::atomic<bool> listens{false};
        std::thread server([&] {
            std::this_thread::sleep_for(std::chrono::microseconds(i % 30 * 100));
            listens = ::listen(socket.fd(), 4) == 0;
        });
        while (!listens) // (it is asked anew each time: nobody lives on what was so)
            lost +=
                SocketDiag().life_until_it_listens(socket.local(), cookie_of(socket)) == Life::gone;
        server.join();
    }
    CHECK(lost == 0);
}

TEST_CASE("socket diag: a bound UDP socket lives until it is closed, connected or not") {
    SocketDiag diag;
    for (const Endpoint &at : addresses) {
        CAPTURE(at.text());
        Socket socket = bound_udp(at);
        const Endpoint local = socket.local();
        const std::uint64_t cookie = cookie_of(socket);
        CHECK(diag.life(Transport::udp, local, cookie) == Life::lives);
        const Endpoint peer = Endpoint::loopback(at.family(), 9);
        REQUIRE(::connect(socket.fd(), peer.data(), peer.length()) == 0);
        CHECK(diag.life(Transport::udp, socket.local(), cookie) == Life::lives);
        CHECK(diag.life(Transport::udp, local, cookie) == Life::lives);
        socket.reset();
        CHECK(diag.life(Transport::udp, local, cookie) == Life::gone);
    }
}

TEST_CASE("socket diag: each of a group that shares a port is told from the others") {
    SocketDiag diag;
    for (const Endpoint &at : addresses) {
        CAPTURE(at.text());
        std::vector<Socket> listeners, sockets;
        listeners.push_back(sharing_listener(at));
        sockets.push_back(bound_udp(at, true));
        for (int i = 0; i < 3; i++) {
            listeners.push_back(sharing_listener(listeners[0].local()));
            sockets.push_back(bound_udp(sockets[0].local(), true));
        }
        const Endpoint tcp = listeners[0].local(), udp = sockets[0].local();
        for (auto *group : {&listeners, &sockets}) {
            const bool is_tcp = group == &listeners;
            const auto transport = is_tcp ? Transport::tcp : Transport::udp;
            for (Socket &each : *group) {
                const std::uint64_t cookie = cookie_of(each);
                CHECK(diag.life(transport, is_tcp ? tcp : udp, cookie) == Life::lives);
                each.reset();
                CHECK(diag.life(transport, is_tcp ? tcp : udp, cookie) == Life::gone);
            }
        }
    }
}

TEST_CASE("socket diag: a listener that was shut down takes nobody") {
    SocketDiag diag;
    Socket listener = harness::listening_tcp(Endpoint::loopback(AF_INET6, 0));
    const Endpoint local = listener.local();
    REQUIRE(::shutdown(listener.fd(), SHUT_RDWR) == 0);
    CHECK(diag.life(Transport::tcp, local, cookie_of(listener)) == Life::gone);
}

TEST_CASE("socket diag: a listener that is bound to a device lives too") {
    SocketDiag diag;
    Socket listener(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (setsockopt(listener.fd(), SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) != 0) {
        MESSAGE("skipped: SO_BINDTODEVICE needs a privilege or a newer kernel");
        return;
    }
    const Endpoint at = Endpoint::loopback(AF_INET6, 0);
    REQUIRE(::bind(listener.fd(), at.data(), at.length()) == 0);
    REQUIRE(::listen(listener.fd(), 4) == 0);
    CHECK(diag.life(Transport::tcp, listener.local(), cookie_of(listener)) == Life::lives);
}

TEST_CASE("socket diag: who else has a port, of those that have it alone") {
    for (const int family : {AF_INET6, AF_INET}) {
        const Socket listener = harness::listening_tcp(Endpoint::wildcard(family, 0));
        const Socket elsewhere(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const Endpoint any = Endpoint::wildcard(family, 0);
        REQUIRE(::bind(elsewhere.fd(), any.data(), any.length()) == 0);
        SocketDiag diag;
        const std::uint16_t port = listener.local().port();
        CHECK_FALSE(diag.has_others(port, {cookie_of(listener)}));
        CHECK(diag.has_others(port, {}));
    }
}

TEST_CASE("socket diag: who would hear a bell") {
    SocketDiag diag;
    const unsigned loopback = if_nametoindex("lo");
    for (int family : {AF_INET6, AF_INET}) {
        CAPTURE(family);
        Socket wide = harness::listening_tcp(Endpoint::wildcard(family, 0));
        const Endpoint to = Endpoint::loopback(family, wide.local().port());
        const Endpoint from = Endpoint::loopback(family, 9);
        auto found = diag.who_hears(from, to, loopback);
        REQUIRE(found);
        CHECK(found->cookie == cookie_of(wide));
        CHECK(found->user == geteuid());
        // A listener on the very address is nearer.
        Socket narrow(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        narrow.set(SOL_SOCKET, SO_REUSEPORT, 1);
        wide.set(SOL_SOCKET, SO_REUSEPORT, 1);
        REQUIRE(::bind(narrow.fd(), to.data(), to.length()) == 0);
        REQUIRE(::listen(narrow.fd(), 4) == 0);
        found = diag.who_hears(from, to, loopback);
        REQUIRE(found);
        CHECK(found->cookie == cookie_of(narrow));
        narrow.reset();
        wide.reset();
        CHECK(!diag.who_hears(from, to, loopback));
        CHECK(errno == ENOENT);
    }
}

TEST_CASE("socket diag: a bell as IPv4 at a listener for both families") {
    SocketDiag diag;
    Socket both(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int off = 0;
    setsockopt(both.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    const Endpoint any = Endpoint::wildcard(AF_INET6, 0);
    REQUIRE(::bind(both.fd(), any.data(), any.length()) == 0);
    REQUIRE(::listen(both.fd(), 4) == 0);
    const std::uint16_t port = both.local().port();
    const auto found =
        diag.who_hears(Endpoint::loopback(AF_INET, 9).mapped(),
                       Endpoint::loopback(AF_INET, port).mapped(), if_nametoindex("lo"));
    REQUIRE(found);
    CHECK(found->cookie == cookie_of(both));
}
