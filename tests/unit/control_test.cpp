#include "keeper/control.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cstddef>
#include <cstring>
#include <fcntl.h>
#include <mutex>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

using namespace synergy;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

const Secret secret{1, 2, 3, 4};

/// An engine's end in a thread of its own.
class Served {
  public:
    explicit Served(ControlServer::Handler handler)
        : server_(scheduler_, secret,
                  [this, handler = std::move(handler)](const Request &request, Socket passed,
                                                       Socket &hand_over) {
                      served_++;
                      return handler(request, std::move(passed), hand_over);
                  }),
          thread_([this] {
              while (!stop_)
                  scheduler_.run_once(milliseconds(5));
          }) {}
    ~Served() {
        stop_ = true;
        thread_.join();
    }
    [[nodiscard]] EngineAddress address() const { return server_.address(); }
    [[nodiscard]] int served() const { return served_; }

  private:
    std::atomic<bool> stop_{false};
    std::atomic<int> served_{0};
    Scheduler scheduler_;
    ControlServer server_;
    std::thread thread_;
};

Request fetch_of(std::uint16_t doorbell) {
    Request request;
    request.secret = secret;
    request.kind = Kind::fetch;
    request.doorbell = Endpoint::loopback(AF_INET, doorbell);
    return request;
}

Answer no_answer(const Request &, Socket, Socket &) {
    return {};
}

Socket connected_to(const EngineAddress &engine) {
    Socket socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path + 1, engine.name.data(), engine.name.size());
    auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + engine.name.size());
    REQUIRE(::connect(socket.fd(), reinterpret_cast<sockaddr *>(&name), length) == 0);
    return socket;
}

} // namespace

TEST_CASE("control: a request arrives whole, and so does its answer") {
    Request seen;
    std::mutex lock;
    Served engine([&](const Request &request, Socket passed, Socket &) -> Answer {
        std::lock_guard guard(lock);
        seen = request;
        return {.result = passed ? 1 : 42, .peer = Endpoint::loopback(AF_INET6, 5555)};
    });
    CHECK(engine.address().process == getpid());
    Request request = fetch_of(4321);
    request.fd = 17;
    request.socket.inode = 0x123456789abcdefULL;
    request.socket.local = Endpoint::loopback(AF_INET, 80);
    request.target = {Endpoint::loopback(AF_INET6, 99), 7};
    auto answer = ask(engine.address(), request, -1, nullptr);
    REQUIRE(answer);
    CHECK(answer->result == 42);
    CHECK(answer->peer == Endpoint::loopback(AF_INET6, 5555));
    std::lock_guard guard(lock);
    CHECK(seen.kind == Kind::fetch);
    CHECK(seen.doorbell.port() == 4321);
    CHECK(seen.fd == 17);
    CHECK(seen.socket.inode == request.socket.inode);
    CHECK(seen.socket.local == request.socket.local);
    CHECK(seen.target == request.target);
}

TEST_CASE("control: a descriptor goes there, and another comes back") {
    Served engine([](const Request &, Socket passed, Socket &hand_over) -> Answer {
        // Proof that it is the caller's own: a byte written into it.
        if (!passed || ::write(passed.fd(), "x", 1) != 1)
            return {.result = EBADF, .peer = {}};
        hand_over = Socket(dup(passed.fd()));
        return {};
    });
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    Socket here(ends[0]), there(ends[1]);
    Socket received;
    auto answer = ask(engine.address(), fetch_of(1), there.fd(), &received);
    REQUIRE(answer);
    CHECK(answer->result == 0);
    REQUIRE(received);
    CHECK((fcntl(received.fd(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(::write(received.fd(), "y", 1) == 1);
    char got[3]{};
    CHECK(::read(here.fd(), got, 1) == 1);
    CHECK(::read(here.fd(), got + 1, 1) == 1);
    CHECK(std::string(got) == "xy");
}

TEST_CASE("control: a wrong secret gets no answer and does nothing") {
    Served engine(no_answer);
    Request request = fetch_of(1);
    request.secret[15] ^= 1;
    CHECK_FALSE(ask(engine.address(), request, -1, nullptr));
    CHECK(engine.served() == 0);
    CHECK(ask(engine.address(), fetch_of(1), -1, nullptr));
    CHECK(engine.served() == 1);
}

TEST_CASE("control: what is no request gets no answer, and others are served all the same") {
    Served engine(no_answer);
    for (std::size_t size : {std::size_t{1}, sizeof(Request) - 1}) {
        Socket caller = connected_to(engine.address());
        std::vector<char> bytes(size, '\0');
        std::memcpy(bytes.data(), secret.data(), std::min(size, secret.size()));
        REQUIRE(::send(caller.fd(), bytes.data(), size, MSG_NOSIGNAL) ==
                static_cast<ssize_t>(size));
        REQUIRE(harness::is_readable(caller.fd(), seconds(5)));
        char byte;
        // 0, or ECONNRESET where something was left unread
        CHECK(::recv(caller.fd(), &byte, 1, MSG_DONTWAIT) <= 0);
    }
    Socket idle = connected_to(engine.address());
    { Socket hung_up = connected_to(engine.address()); }
    CHECK(ask(engine.address(), fetch_of(1), -1, nullptr));
}

TEST_CASE("control: a name that belongs to another process is not told the secret") {
    // Somebody listens, under a name that the address calls another process's.
    Scheduler unused;
    Socket impostor(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    REQUIRE(::bind(impostor.fd(), reinterpret_cast<sockaddr *>(&name), sizeof(sa_family_t)) == 0);
    REQUIRE(::listen(impostor.fd(), 8) == 0);
    socklen_t length = sizeof name;
    REQUIRE(getsockname(impostor.fd(), reinterpret_cast<sockaddr *>(&name), &length) == 0);
    EngineAddress address;
    std::memcpy(address.name.data(), name.sun_path + 1, address.name.size());
    address.process = getppid();
    CHECK_FALSE(ask(address, fetch_of(1), -1, nullptr));
    Socket victim(::accept(impostor.fd(), nullptr, nullptr));
    REQUIRE(victim);
    char bytes[sizeof(Request)];
    CHECK(::recv(victim.fd(), bytes, sizeof bytes, MSG_DONTWAIT) == 0); // closed, nothing said
}

TEST_CASE(
    "control: an engine that does not exist is told at once, a silent one after two seconds") {
    EngineAddress nobody;
    nobody.process = getpid();
    nobody.name = {'z', 'z', 'z', 'z', 'z'};
    Time before = Clock::now();
    CHECK_FALSE(ask(nobody, fetch_of(1), -1, nullptr));
    CHECK(Clock::now() - before < seconds(1));

    Scheduler never_run;
    ControlServer silent(never_run, secret, no_answer);
    before = Clock::now();
    CHECK_FALSE(ask(silent.address(), fetch_of(1), -1, nullptr));
    CHECK(Clock::now() - before >= milliseconds(1900));
    CHECK(Clock::now() - before < seconds(8));
}

TEST_CASE("control: no descriptor stays behind, whatever was asked and passed") {
    auto before = harness::open_descriptors();
    {
        Served engine([](const Request &request, Socket passed, Socket &hand_over) -> Answer {
            if (request.doorbell.port() % 2 == 0)
                hand_over = std::move(passed);
            return {};
        });
        Socket something(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        auto during = harness::open_descriptors();
        for (std::uint16_t i = 0; i < 50; i++) {
            Socket received;
            Request request = fetch_of(i);
            if (i % 5 == 0)
                request.secret = {};
            ask(engine.address(), request, i % 3 == 0 ? -1 : something.fd(),
                i % 7 == 0 ? nullptr : &received);
        }
        // The thread closes its end a moment after the caller has the answer.
        CHECK(
            harness::wait_until([&] { return harness::open_descriptors() == during; }, seconds(2)));
    }
    CHECK(harness::open_descriptors() == before);
}

// CMSG_SPACE(sizeof(int)) has room for two, and the second is nobody's.
TEST_CASE("control: a caller that passes more than one descriptor leaves none of them behind") {
    Served engine(no_answer);
    Socket something(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    auto before = harness::open_descriptors();
    for (int round = 0; round < 5; round++) {
        Socket caller = connected_to(engine.address());
        Request request = fetch_of(1); // a stranger would not even know the secret
        request.secret = {};
        int fds[2] = {something.fd(), something.fd()};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof fds)]{};
        iovec data{.iov_base = &request, .iov_len = sizeof request};
        msghdr message{};
        message.msg_iov = &data;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        cmsghdr *extra = CMSG_FIRSTHDR(&message);
        extra->cmsg_level = SOL_SOCKET;
        extra->cmsg_type = SCM_RIGHTS;
        extra->cmsg_len = CMSG_LEN(sizeof fds);
        std::memcpy(CMSG_DATA(extra), fds, sizeof fds);
        REQUIRE(sendmsg(caller.fd(), &message, 0) > 0);
        harness::is_readable(caller.fd(), seconds(2));
    }
    CHECK(harness::wait_until([&] { return harness::open_descriptors() == before; }, seconds(1)));
}
