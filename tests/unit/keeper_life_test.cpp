// When the keeper begins and ends, and what it leaves behind and takes over then.
#include "keeper_bench.h"

#include <doctest/doctest.h>

#include <array>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace synergy;
using namespace harness;

TEST_CASE("keeper: without peers it says so and ends, unless it is asked for a peer") {
    Kept nobody({});
    CHECK(nobody.started.answer.result == ENOENT);
    CHECK_FALSE(nobody.started.received);
    CHECK(nobody.ends_within(seconds(2)));
    CHECK(nobody.status == 0);
    CHECK(nobody.log() == "");

    Kept asked({}, SYNERGY_KEEPER_ASKED);
    CHECK(asked.started.answer.result == 0);
    REQUIRE(asked.page);
    CHECK(synergy_bit(asked.page->ports[0], 4444) == 0);
    CHECK_FALSE(asked.ends_within(milliseconds(200)));

    Kept mistaken({some_peer, "SYNERGY_HOPS=x"});
    CHECK(mistaken.started.answer.result == ENOENT);
    CHECK(mistaken.log().find("SYNERGY_HOPS: 'x': expected") != std::string::npos);
}

TEST_CASE("keeper: it leaves what it inherited behind") {
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    ::signal(SIGTERM, SIG_IGN);
    const mode_t mask = umask(0777);
    Kept kept({some_peer});
    umask(mask);
    ::signal(SIGTERM, SIG_DFL);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    REQUIRE(kept.page);
    CHECK(getsid(kept.process) == kept.process);
    std::ifstream lines("/proc/" + std::to_string(kept.process) + "/status");
    std::string text{std::istreambuf_iterator<char>(lines), {}};
    CHECK(text.find("Umask:\t0022") != std::string::npos);
    // SIGTERM and its like are waited for, and nothing else is blocked.
    CHECK(text.find("SigBlk:\t0000000000004007") != std::string::npos);
    std::array<char, 64> directory{};
    REQUIRE(::readlink(("/proc/" + std::to_string(kept.process) + "/cwd").c_str(), directory.data(),
                       directory.size()) > 0);
    CHECK(directory.data() == std::string("/"));
    CHECK(::kill(kept.process, SIGTERM) == 0);
    CHECK_FALSE(kept.ends_within(milliseconds(100)));
}

TEST_CASE("keeper: it ends with the server's processes, and lives as long as one of them") {
    CHECK(in_child([]() -> std::string {
              DeafPeer peer;
              int ends[2];
              EXPECT_IN_CHILD(::pipe(ends) == 0);
              Socket listener = any_listener();
              // The server, whose child goes on.
              const pid_t server = ::fork();
              if (server == 0) {
                  Kept kept({peer.variable(), hops});
                  if (kept.open(listener) != 0)
                      ::_exit(1);
                  const pid_t child = ::fork();
                  if (child == 0) {
                      ::pause();
                      ::_exit(0);
                  }
                  synergy_request here = kept.request(SYNERGY_HERE);
                  here.process = child;
                  const Socket socket = connected(kept.page->keeper);
                  if (!send_to(socket, &here, sizeof here, {}))
                      ::_exit(2);
                  const std::array<pid_t, 2> pids{kept.process, child};
                  if (::write(ends[1], pids.data(), sizeof pids) != sizeof pids)
                      ::_exit(3);
                  ::_exit(0);
              }
              int status = -1;
              EXPECT_IN_CHILD(::waitpid(server, &status, 0) == server && status == 0);
              std::array<pid_t, 2> pids{};
              EXPECT_IN_CHILD(::read(ends[0], pids.data(), sizeof pids) == sizeof pids);
              const auto [keeper, child] = pids;
              ::usleep(200000);
              EXPECT_IN_CHILD(::kill(keeper, 0) == 0);
              EXPECT_IN_CHILD(punching_from(listener.local().port()) == 1);
              ::kill(child, SIGKILL);
              EXPECT_IN_CHILD(wait_until(
                  [&] { return punching_from(listener.local().port()) == 0; }, milliseconds(500)));
              // (A zombie where nobody reaps it.)
              EXPECT_IN_CHILD(wait_until(
                  [&, keeper = keeper] {
                      std::ifstream text("/proc/" + std::to_string(keeper) + "/stat");
                      std::string word, name, state;
                      return !(text >> word >> name >> state) || state == "Z";
                  },
                  seconds(1)));
              return "";
          }) == "");
}

TEST_CASE("keeper: one whose starter has ended before it could answer ends too") {
    std::array<int, 2> told{};
    REQUIRE(::pipe2(told.data(), O_CLOEXEC) == 0);
    const pid_t starter = ::fork();
    if (starter == 0) {
        int ends[2];
        ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends);
        const pid_t keeper = ::fork();
        if (keeper == 0) {
            ::usleep(100000);
            ::dup2(ends[1], 100);
            ::dup2(100, SYNERGY_START_FD);
            ::close_range(SYNERGY_START_FD + 1, ~0U, 0);
            std::string peers = "SYNERGY_PEERS=[2001:db8::5]:5555",
                        config = "SYNERGY_CONFIG=/dev/null";
            char *variables[] = {peers.data(), config.data(), nullptr};
            char name[] = "synergy-keeper";
            char *arguments[] = {name, nullptr};
            ::execve(SYNERGY_KEEPER, arguments, variables);
            ::_exit(127);
        }
        ::_exit(::write(told[1], &keeper, sizeof keeper) == sizeof keeper ? 0 : 1);
    }
    REQUIRE(::waitpid(starter, nullptr, 0) == starter);
    pid_t keeper = -1;
    REQUIRE(::read(told[0], &keeper, sizeof keeper) == sizeof keeper);
    const Socket pidfd(static_cast<int>(::syscall(SYS_pidfd_open, keeper, 0)));
    CHECK((!pidfd || is_readable(pidfd.fd(), seconds(5))));
    if (pidfd)
        ::kill(keeper, SIGKILL);
    ::close(told[0]);
    ::close(told[1]);
}

TEST_CASE("keeper: it ends with the last socket, and says so in the page") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    // Not before there was any.
    CHECK_FALSE(kept.ends_within(milliseconds(3300)));
    Socket listener = any_listener(), second = any_listener();
    REQUIRE(kept.open(listener) == 0);
    REQUIRE(kept.open(second) == 0);
    const std::uint64_t cookie = cookie_of(listener.fd()), other = cookie_of(second.fd());
    listener.reset();
    CHECK(kept.closed(cookie) == 0);
    CHECK_FALSE(kept.ends_within(milliseconds(3300)));
    second.reset();
    CHECK(kept.closed(other) == 0);
    // One that listens again finds it there.
    ::usleep(1000000);
    second = any_listener();
    CHECK(kept.open(second) == 0);
    CHECK_FALSE(kept.ends_within(milliseconds(3300)));
    const std::uint64_t last = cookie_of(second.fd());
    second.reset();
    CHECK(kept.closed(last) == 0);
    CHECK(kept.page->over == 0);
    CHECK(kept.ends_within(seconds(5)));
    CHECK(kept.page->over == 1);
    CHECK(WIFEXITED(kept.status));
    CHECK(WEXITSTATUS(kept.status) == 0);
}

TEST_CASE("keeper: nobody takes it over from a server that lives, or without the port") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    const Socket listener = any_listener(), other = any_listener();
    const std::uint16_t port = listener.local().port();
    REQUIRE(kept.open(listener) == 0);
    synergy_address by_port{};
    synergy_port_name(0, port, &by_port);
    synergy_request request = kept.request(SYNERGY_ADOPT);
    request.secret = {};
    CHECK_FALSE(Kept::ask(by_port, request).is_there);
    for (const Socket *shown : {&listener, &other}) {
        const Answered answered = Kept::ask(by_port, request, shown->fd());
        CHECK(answered.answer.result == EBUSY);
        CHECK_FALSE(answered.received);
    }
    CHECK(punching_from(port) == 1);
}

TEST_CASE("keeper: after SIGTERM it sees at once what is closed") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    Socket listener = any_listener();
    const std::uint16_t port = listener.local().port();
    REQUIRE(kept.open(listener) == 0);
    ::kill(kept.process, SIGTERM);
    ::usleep(50000);
    CHECK(punching_from(port) == 1);
    listener.reset();
    CHECK(wait_until([&] { return punching_from(port) == 0; }, milliseconds(300)));
}

TEST_CASE("keeper: one that is killed has its place taken, and one that is replaced has not") {
    DeafPeer peer;
    for (const bool is_replaced : {false, true}) {
        Kept kept({peer.variable(), hops});
        Socket listener = any_listener();
        REQUIRE(kept.open(listener) == 0);
        const auto has_standby = [&] {
            const std::string task = "/proc/" + std::to_string(kept.process) + "/task/";
            std::ifstream children(task + std::to_string(kept.process) + "/children");
            int child = 0;
            return static_cast<bool>(children >> child);
        };
        REQUIRE(wait_until(has_standby, seconds(2)));
        if (is_replaced) // as by a server's call that was first
            __atomic_store_n(&kept.page->over, 1, __ATOMIC_RELEASE);
        REQUIRE(::kill(kept.process, SIGKILL) == 0);
        const auto is_taken_over = [&] {
            return !synergy_is_over(kept.page) && kept.page->keeper.process != kept.process;
        };
        CHECK(wait_until(is_taken_over, milliseconds(500)) == !is_replaced);
        CHECK((kept.result_of(SYNERGY_MEET, listener) == 0) == !is_replaced);
    }
}
