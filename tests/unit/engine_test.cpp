// The engine as the shim uses it, with its real thread. Each case is a process of its own, since
// settings are taken once a process. Packets stay on this host: a peer is a port of 127.0.0.1 whose
// listener is full, so that SYNs to it stay without an answer, as they do with a punch that dies on
// its way.
#include "keeper/engine.h"

#include "base/libc_calls.h"
#include "handoff/handoff.h"
#include "harness.h"

#include <doctest/doctest.h>

#include <arpa/inet.h>
#include <atomic>
#include <csignal>
#include <cstring>
#include <fstream>
#include <netinet/in.h>
#include <sstream>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace synergy;
using harness::in_child;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

/// Where SYNs go and nothing comes back. The port can be shared by a client.
struct DeafPeer {
    Socket listener{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    Socket filling{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    Endpoint address;

    DeafPeer() {
        listener.set(SOL_SOCKET, SO_REUSEPORT, 1);
        Endpoint at = Endpoint::loopback(AF_INET, 0);
        ::bind(listener.fd(), at.data(), at.length());
        ::listen(listener.fd(), 0);
        address = listener.local();
        ::connect(filling.fd(), address.data(), address.length());
    }

    /// A client that connects from the peer's very port; empty if it didn't get through.
    [[nodiscard]] Socket connect_to(std::uint16_t port) const {
        Socket client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        client.set(SOL_SOCKET, SO_REUSEPORT, 1);
        Endpoint to = Endpoint::loopback(AF_INET, port);
        if (::bind(client.fd(), address.data(), address.length()) != 0 ||
            ::connect(client.fd(), to.data(), to.length()) != 0)
            return {};
        return client;
    }
};

std::string log_path() {
    return "/tmp/synergy-engine-test-" + std::to_string(getpid());
}

struct Log {
    std::string path = log_path();

    Log() { unlink(path.c_str()); }
    ~Log() { unlink(path.c_str()); }
    [[nodiscard]] std::string content() const {
        std::ostringstream text;
        text << std::ifstream(path).rdbuf();
        return text.str();
    }
    [[nodiscard]] int count(const std::string &what) const {
        std::string text = content();
        int found = 0;
        for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1))
            found++;
        return found;
    }
};

void start_with(const std::vector<Endpoint> &peers, const Log &log,
                LogLevel level = LogLevel::debug) {
    Settings settings;
    Rule rule;
    rule.hops = 3;
    for (const Endpoint &peer : peers)
        rule.peers.push_back({peer.with_port(0), peer.port(), peer.port()});
    settings.rules.push_back(rule);
    settings.log = level;
    settings.log_file = log.path;
    settings.refresh = seconds(1);
    engine::start(settings);
}

Socket tcp_bound_to(const Endpoint &at) {
    return harness::bound_tcp(at);
}

Socket udp_bound_to(const Endpoint &at) {
    Socket socket(::socket(at.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ::bind(socket.fd(), at.data(), at.length());
    return socket;
}

/// A server gets time to go to the background before its peers are punched for.
void settle() {
    std::this_thread::sleep_for(milliseconds(200));
}

const Endpoint any_v4 = Endpoint::wildcard(AF_INET, 0);

int threads_now() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind("Threads:", 0) == 0)
            return std::stoi(line.substr(8));
    return -1;
}

/// accept() as the hook does it: what came out, with the peer's address.
Socket accept_as_hook(const Socket &listener, synergy_accepted &found, Endpoint &peer) {
    for (;;) {
        if (!harness::is_readable(listener.fd(), seconds(10)))
            return {};
        int fd = accept4(listener.fd(), nullptr, nullptr, 0);
        if (fd < 0)
            return {};
        found = engine::accepted(listener.fd(), fd, 0, peer);
        if (found != SYNERGY_NOTHING)
            return Socket(fd);
    }
}

} // namespace

TEST_CASE("engine: sockets that have no peer are not touched, and no thread is started") {
    auto result = in_child([]() -> std::string {
        Log log;
        DeafPeer peer;
        start_with({peer.address}, log);
        int threads = threads_now();
        auto before = harness::open_descriptors();
        Socket loopback = tcp_bound_to(Endpoint::loopback(AF_INET, 0));
        EXPECT_IN_CHILD(engine::listening(loopback.fd()) == SYNERGY_UNTOUCHED);
        EXPECT_IN_CHILD(loopback.get(SOL_SOCKET, SO_REUSEPORT, -1) == 0);
        EXPECT_IN_CHILD(loopback.get(SOL_SOCKET, SO_REUSEADDR, -1) == 0);
        Socket v6 = tcp_bound_to(Endpoint::loopback(AF_INET6, 0));
        EXPECT_IN_CHILD(engine::listening(v6.fd()) == SYNERGY_UNTOUCHED);
        Socket datagrams = udp_bound_to(Endpoint::loopback(AF_INET, 0));
        EXPECT_IN_CHILD(engine::bound(datagrams.fd(), datagrams.local()) == SYNERGY_UNTOUCHED);
        Socket local(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        EXPECT_IN_CHILD(engine::listening(local.fd()) == SYNERGY_UNTOUCHED);
        engine::closing(loopback.fd());
        EXPECT_IN_CHILD(!engine::give_way());
        loopback.reset(), v6.reset(), datagrams.reset(), local.reset();
        EXPECT_IN_CHILD(harness::open_descriptors() == before);
        EXPECT_IN_CHILD(threads_now() == threads);
        EXPECT_IN_CHILD(log.content().empty());
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("engine: a connection of the peer's comes out of the listener, the next one too") {
    auto result = in_child([]() -> std::string {
        Log log;
        DeafPeer peer;
        start_with({peer.address}, log);
        Socket listener = tcp_bound_to(any_v4);
        auto before = harness::open_descriptors();
        EXPECT_IN_CHILD(engine::listening(listener.fd()) == SYNERGY_WATCHED);
        EXPECT_IN_CHILD(::listen(listener.fd(), 16) == 0);
        EXPECT_IN_CHILD(harness::open_descriptors() == before); // none of ours in this table
        for (int round = 0; round < 2; round++) {
            settle();
            Socket client = peer.connect_to(listener.local().port());
            EXPECT_IN_CHILD(client);
            synergy_accepted found = SYNERGY_ORDINARY;
            Endpoint from;
            Socket connection = accept_as_hook(listener, found, from);
            EXPECT_IN_CHILD(connection);
            EXPECT_IN_CHILD(found == SYNERGY_REPLACED);
            EXPECT_IN_CHILD(from == peer.address);
            EXPECT_IN_CHILD(connection.remote() == peer.address);
            EXPECT_IN_CHILD(connection.local().port() == listener.local().port());
            // Nothing of the punch stays with it.
            EXPECT_IN_CHILD(connection.get(IPPROTO_IP, IP_TTL, 0) ==
                            client.get(IPPROTO_IP, IP_TTL, -1));
            EXPECT_IN_CHILD(connection.get(IPPROTO_IP, IP_MINTTL, -1) == 0);
            EXPECT_IN_CHILD(::send(client.fd(), "hello", 5, MSG_NOSIGNAL) == 5);
            char got[5];
            EXPECT_IN_CHILD(::recv(connection.fd(), got, 5, MSG_WAITALL) == 5);
            // Ended by a reset, so that the four-tuple rests nowhere.
            linger at_once{.l_onoff = 1, .l_linger = 0};
            setsockopt(client.fd(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
            client.reset();
            connection.reset();
            // The hole is punched again a second after the connection came.
            EXPECT_IN_CHILD(harness::wait_until(
                [&] { return log.count("punched, hop limit 3") >= 2 + round; }));
        }
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("engine: what a watched listener's close() ends is over before it returns") {
    auto result = in_child([]() -> std::string {
        Log log;
        DeafPeer peer;
        start_with({peer.address}, log);
        Endpoint at;
        {
            Socket listener = tcp_bound_to(any_v4);
            at = listener.local();
            EXPECT_IN_CHILD(engine::listening(listener.fd()) == SYNERGY_WATCHED);
            EXPECT_IN_CHILD(::listen(listener.fd(), 16) == 0);
            engine::closing(listener.fd());
        }
        // Without any reuse option: nothing else may be bound there.
        for (int round = 0; round < 20; round++) {
            Socket next(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
            EXPECT_IN_CHILD(::bind(next.fd(), at.data(), at.length()) == 0);
            EXPECT_IN_CHILD(engine::listening(next.fd()) == SYNERGY_WATCHED);
            EXPECT_IN_CHILD(::listen(next.fd(), 16) == 0);
            engine::closing(next.fd());
        }
        // A UDP socket is in the engine's table, too, until then.
        Socket datagrams = udp_bound_to(any_v4);
        Endpoint udp_at = datagrams.local();
        for (int round = 0; round < 20; round++) {
            EXPECT_IN_CHILD(engine::bound(datagrams.fd(), udp_at) == SYNERGY_WATCHED);
            engine::closing(datagrams.fd());
            datagrams.reset();
            datagrams = Socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
            EXPECT_IN_CHILD(::bind(datagrams.fd(), udp_at.data(), udp_at.length()) == 0);
        }
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("engine: sockets closed behind its back give way when asked") {
    auto result = in_child([]() -> std::string {
        Log log;
        DeafPeer peer;
        start_with({peer.address}, log);
        Socket datagrams = udp_bound_to(any_v4);
        Endpoint at = datagrams.local();
        EXPECT_IN_CHILD(engine::bound(datagrams.fd(), at) == SYNERGY_WATCHED);
        datagrams.reset(); // not through a hook
        Socket next(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        EXPECT_IN_CHILD(::bind(next.fd(), at.data(), at.length()) != 0 && errno == EADDRINUSE);
        EXPECT_IN_CHILD(engine::give_way());
        EXPECT_IN_CHILD(::bind(next.fd(), at.data(), at.length()) == 0);
        EXPECT_IN_CHILD(!engine::give_way());
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("engine: listen() without bind() is punched for once there is a port") {
    auto result = in_child([]() -> std::string {
        Log log;
        DeafPeer peer;
        start_with({peer.address}, log);
        Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        EXPECT_IN_CHILD(::listen(socket.fd(), 4) == 0);
        EXPECT_IN_CHILD(engine::listening(socket.fd()) == SYNERGY_WATCHED);
        EXPECT_IN_CHILD(peer.connect_to(socket.local().port()));
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("engine: a forked child punches by itself, and leaves its parent's holes alone") {
    auto result = in_child([]() -> std::string {
        Log log;
        DeafPeer peer;
        start_with({peer.address}, log);
        Socket listener = tcp_bound_to(any_v4);
        EXPECT_IN_CHILD(engine::listening(listener.fd()) == SYNERGY_WATCHED);
        EXPECT_IN_CHILD(::listen(listener.fd(), 16) == 0);
        auto child = in_child([&]() -> std::string {
            engine::closing(listener.fd()); // the parent's holes stay
            Socket own = tcp_bound_to(any_v4);
            EXPECT_IN_CHILD(engine::listening(own.fd()) == SYNERGY_WATCHED);
            EXPECT_IN_CHILD(::listen(own.fd(), 16) == 0);
            settle();
            Socket client = peer.connect_to(own.local().port());
            EXPECT_IN_CHILD(client);
            synergy_accepted found = SYNERGY_ORDINARY;
            Endpoint from;
            EXPECT_IN_CHILD(accept_as_hook(own, found, from));
            EXPECT_IN_CHILD(found == SYNERGY_REPLACED);
            return {};
        });
        EXPECT_IN_CHILD(child.empty());
        // A connection of the parent's comes out in a child that accepts.
        Socket client = peer.connect_to(listener.local().port());
        EXPECT_IN_CHILD(client);
        child = in_child([&]() -> std::string {
            synergy_accepted found = SYNERGY_ORDINARY;
            Endpoint from;
            Socket connection = accept_as_hook(listener, found, from);
            EXPECT_IN_CHILD(found == SYNERGY_REPLACED);
            EXPECT_IN_CHILD(from == peer.address);
            EXPECT_IN_CHILD(::send(connection.fd(), "x", 1, MSG_NOSIGNAL) == 1);
            return {};
        });
        EXPECT_IN_CHILD(child.empty());
        char byte;
        EXPECT_IN_CHILD(::recv(client.fd(), &byte, 1, 0) == 1);
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("engine: a server that goes to the background after listen() keeps its holes") {
    auto result = in_child([]() -> std::string {
        Log log;
        DeafPeer peer;
        start_with({peer.address}, log);
        int ends[2];
        EXPECT_IN_CHILD(pipe(ends) == 0);
        Socket listener = tcp_bound_to(any_v4);
        std::uint16_t port = listener.local().port();
        // As daemon(3) does: the process that listened ends, its child serves.
        pid_t starter = fork();
        if (starter == 0) {
            bool is_open = engine::listening(listener.fd()) == SYNERGY_WATCHED &&
                           ::listen(listener.fd(), 16) == 0;
            if (!is_open || fork() != 0)
                _exit(is_open ? 0 : 1);
            setsid();
            alarm(20);
            if (engine::waiting(listener.fd()) != SYNERGY_WATCHED)
                _exit(1);
            synergy_accepted found = SYNERGY_ORDINARY;
            Endpoint from;
            Socket connection = accept_as_hook(listener, found, from);
            char answer = connection && found == SYNERGY_REPLACED ? 'r' : 'o';
            _exit(::write(ends[1], &answer, 1) == 1 ? 0 : 1);
        }
        int status = 0;
        waitpid(starter, &status, 0);
        EXPECT_IN_CHILD(status == 0);
        listener.reset();
        ::close(ends[1]);
        settle();
        Socket client = peer.connect_to(port);
        char answer = 0;
        EXPECT_IN_CHILD(::read(ends[0], &answer, 1) == 1);
        EXPECT_IN_CHILD(answer == 'r');
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("engine: the signals of the server are none of its thread's affair") {
    auto result = in_child([]() -> std::string {
        Log log;
        DeafPeer peer;
        start_with({peer.address}, log);
        static std::atomic<pid_t> handled_by{0};
        struct sigaction action {};
        action.sa_handler = [](int) { handled_by = gettid(); };
        sigaction(SIGUSR1, &action, nullptr);
        Socket listener = tcp_bound_to(any_v4);
        EXPECT_IN_CHILD(engine::listening(listener.fd()) == SYNERGY_WATCHED);
        sigset_t mask;
        pthread_sigmask(SIG_SETMASK, nullptr, &mask);
        for (int signal = 1; signal < 32; signal++)
            EXPECT_IN_CHILD(sigismember(&mask, signal) == 0);
        for (int i = 0; i < 50; i++) {
            handled_by = 0;
            kill(getpid(), SIGUSR1);
            EXPECT_IN_CHILD(harness::wait_until([] { return handled_by != 0; }));
            EXPECT_IN_CHILD(handled_by == getpid());
        }
        return {};
    });
    CHECK(result == "");
}

namespace {

std::atomic<int> failing_errno{0};
std::atomic<int> failures{0};
const synergy_libc *real_libc = &libc();

int fail() {
    failures++;
    errno = failing_errno;
    return -1;
}

/// A server with a failing system call under its engine: the call is not felt, the log says it.
std::string survives(const synergy_libc &table, int error, bool is_udp, const std::string &said) {
    static synergy_libc in_use;
    in_use = table;
    failing_errno = error;
    use_libc(&in_use);
    Log log;
    DeafPeer peer;
    start_with({peer.address}, log, LogLevel::warn);
    Socket socket = is_udp ? udp_bound_to(any_v4) : tcp_bound_to(any_v4);
    auto before = harness::open_descriptors();
    errno = 0;
    if (is_udp) {
        engine::bound(socket.fd(), socket.local());
    } else {
        engine::listening(socket.fd());
        EXPECT_IN_CHILD(::listen(socket.fd(), 16) == 0);
    }
    EXPECT_IN_CHILD(harness::open_descriptors() == before);
    // It is tried again, and said once.
    EXPECT_IN_CHILD(harness::wait_until([&] { return failures >= 3 && log.count(said) > 0; }));
    EXPECT_IN_CHILD(log.count(said) == 1);
    // An ordinary client gets through as ever.
    if (!is_udp) {
        Socket client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        Endpoint to = Endpoint::loopback(AF_INET, socket.local().port());
        EXPECT_IN_CHILD(::connect(client.fd(), to.data(), to.length()) == 0);
        synergy_accepted found = SYNERGY_NOTHING;
        Endpoint from;
        EXPECT_IN_CHILD(accept_as_hook(socket, found, from));
        EXPECT_IN_CHILD(found == SYNERGY_ORDINARY);
    }
    return {};
}

} // namespace

TEST_CASE("engine: no descriptor to be had for a punch (EMFILE)") {
    CHECK(in_child([] {
              synergy_libc table = *real_libc;
              table.socket = [](int family, int type, int protocol) {
                  // Only those of the engine's punches; the server's own are not ours to fail.
                  return family == AF_INET && (type & SOCK_NONBLOCK)
                             ? fail()
                             : real_libc->socket(family, type, protocol);
              };
              return survives(table, EMFILE, false, "Too many open files");
          }) == "");
}

TEST_CASE("engine: the port is another's (EADDRINUSE)") {
    CHECK(in_child([] {
              synergy_libc table = *real_libc;
              table.bind = [](int fd, const sockaddr *address, socklen_t length) {
                  return address->sa_family == AF_INET ? fail()
                                                       : real_libc->bind(fd, address, length);
              };
              return survives(table, EADDRINUSE, false, "Address already in use");
          }) == "");
}

TEST_CASE("engine: a connect() that is not permitted (EPERM)") {
    CHECK(in_child([] {
              synergy_libc table = *real_libc;
              table.connect = [](int fd, const sockaddr *address, socklen_t length) {
                  return address->sa_family == AF_INET ? fail()
                                                       : real_libc->connect(fd, address, length);
              };
              return survives(table, EPERM, false, "Operation not permitted");
          }) == "");
}

TEST_CASE("engine: no route (ENETUNREACH)") {
    CHECK(in_child([] {
              synergy_libc table = *real_libc;
              table.connect = [](int fd, const sockaddr *address, socklen_t length) {
                  return address->sa_family == AF_INET ? fail()
                                                       : real_libc->connect(fd, address, length);
              };
              return survives(table, ENETUNREACH, false, "Network is unreachable");
          }) == "");
}

TEST_CASE("engine: a datagram that is not permitted (EPERM)") {
    CHECK(in_child([] {
              synergy_libc table = *real_libc;
              table.sendmsg = [](int fd, const msghdr *message, int flags) -> ssize_t {
                  return message->msg_namelen != 0 ? fail()
                                                   : real_libc->sendmsg(fd, message, flags);
              };
              return survives(table, EPERM, true, "Operation not permitted");
          }) == "");
}

TEST_CASE("engine: no Unix socket for it at all, as in a sandbox (EAFNOSUPPORT)") {
    CHECK(in_child([]() -> std::string {
              static synergy_libc table;
              table = *real_libc;
              table.socket = [](int family, int type, int protocol) {
                  return family == AF_UNIX ? fail() : real_libc->socket(family, type, protocol);
              };
              failing_errno = EAFNOSUPPORT;
              use_libc(&table);
              Log log;
              DeafPeer peer;
              start_with({peer.address}, log, LogLevel::warn);
              Socket listener = tcp_bound_to(any_v4);
              auto before = harness::open_descriptors();
              EXPECT_IN_CHILD(engine::listening(listener.fd()) == SYNERGY_UNTOUCHED);
              EXPECT_IN_CHILD(::listen(listener.fd(), 4) == 0);
              EXPECT_IN_CHILD(harness::open_descriptors() == before);
              EXPECT_IN_CHILD(log.count("nothing is punched") >= 1);
              EXPECT_IN_CHILD(log.count("Address family not supported") >= 1);
              return {};
          }) == "");
}

TEST_CASE("engine: many threads open and close at the same time") {
    auto result = in_child([]() -> std::string {
        Log log;
        DeafPeer peer;
        start_with({peer.address}, log, LogLevel::error);
        auto before = harness::open_descriptors();
        std::atomic<int> watched{0};
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; i++)
            threads.emplace_back([&] {
                for (int n = 0; n < 25; n++) {
                    Socket socket = tcp_bound_to(any_v4);
                    watched += engine::listening(socket.fd()) == SYNERGY_WATCHED;
                    ::listen(socket.fd(), 4);
                    engine::closing(socket.fd());
                }
            });
        for (auto &thread : threads)
            thread.join();
        EXPECT_IN_CHILD(watched == 100);
        EXPECT_IN_CHILD(harness::open_descriptors() == before);
        EXPECT_IN_CHILD(log.content().empty());
        return {};
    });
    CHECK(result == "");
}
