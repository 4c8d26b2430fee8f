#include "keeper/confinement.h"

#include "base/rights.h"
#include "harness.h"

#include <doctest/doctest.h>

#include <csignal>
#include <fcntl.h>
#include <fstream>
#include <future>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <netdb.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace synergy;
using harness::can_write;

namespace {

bool can_punch() {
    return true;
}

/// A hexadecimal line of this process's.
std::uint64_t status(const std::string &name) {
    std::ifstream lines("/proc/self/status");
    for (std::string line; std::getline(lines, line);)
        if (line.starts_with(name + ":"))
            return std::stoull(line.substr(name.size() + 1), nullptr, 16);
    return ~0ULL;
}

} // namespace

TEST_CASE("confinement: what the keeper needs goes on, the rest is refused") {
    harness::Directory directory;
    const std::string log = directory.write("log", ""), other = directory.write("other", "");
    const std::string learned = directory.path("state");
    REQUIRE(::mkdir(learned.c_str(), 0700) == 0);
    std::array<int, 2> pipe{};
    REQUIRE(::pipe2(pipe.data(), O_CLOEXEC) == 0);
    CHECK(harness::in_child([&]() -> std::string {
              // The control: all of it can be done before.
              EXPECT_IN_CHILD(can_write(other));
              EXPECT_IN_CHILD(::kill(getppid(), 0) == 0);
              const auto missing = confine({log, learned, directory.path("absent"),
                                            "/proc/self/fd/" + std::to_string(pipe[1])},
                                           false, can_punch);
              EXPECT_IN_CHILD(missing.empty());
              EXPECT_IN_CHILD(can_write(log));
              EXPECT_IN_CHILD(can_write(learned + "/hops.new"));
              EXPECT_IN_CHILD(
                  ::rename((learned + "/hops.new").c_str(), (learned + "/hops").c_str()) == 0);
              EXPECT_IN_CHILD(can_write("/proc/self/fd/" + std::to_string(pipe[1])));
              EXPECT_IN_CHILD(!can_write(other));
              EXPECT_IN_CHILD(!can_write(directory.path("new")));
              EXPECT_IN_CHILD(std::ifstream(other).is_open());
              EXPECT_IN_CHILD(::execl("/bin/true", "true", nullptr) == -1 && errno == EPERM);
              EXPECT_IN_CHILD(::kill(getppid(), 0) == -1 && errno == EPERM);
              EXPECT_IN_CHILD(::ptrace(PTRACE_TRACEME, 0, 0, 0) == -1 && errno == EPERM);
              EXPECT_IN_CHILD(::setuid(0) == -1);
              // A copy of itself, and no other process.
              const pid_t copy = ::fork();
              if (copy == 0)
                  ::_exit(0);
              EXPECT_IN_CHILD(copy > 0);
              EXPECT_IN_CHILD(::syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0) == -1);
              EXPECT_IN_CHILD(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == -1);
              std::thread([] {}).join();
              // Punching goes on, on a low port too where it did before.
              const bool was_root = geteuid() == 0;
              Socket low(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
              const Endpoint at = Endpoint::loopback(AF_INET6, 997);
              EXPECT_IN_CHILD(low);
              const bool is_bound = ::bind(low.fd(), at.data(), at.length()) == 0;
              EXPECT_IN_CHILD(is_bound || !was_root || errno == EADDRINUSE);
              addrinfo *found = nullptr;
              EXPECT_IN_CHILD(::getaddrinfo("localhost", nullptr, nullptr, &found) == 0);
              return "";
          }) == "");
    ::close(pipe[0]);
    ::close(pipe[1]);
}

TEST_CASE(
    "confinement: a keeper that becomes another user does so with its group, and without root's" *
    doctest::skip(geteuid() != 0)) {
    constexpr uid_t user = 65534;
    constexpr gid_t group = 65533, disk = 6;
    // (PR_SET_SECUREBITS: what a server may have set.)
    for (const unsigned bits :
         {0U, 1U << SECURE_KEEP_CAPS_LOCKED, 1U << SECURE_NO_SETUID_FIXUP, 1U << SECURE_NOROOT}) {
        CAPTURE(bits);
        CHECK(harness::in_child([&]() -> std::string {
                  EXPECT_IN_CHILD(::setgroups(1, &disk) == 0);
                  EXPECT_IN_CHILD(::prctl(PR_SET_SECUREBITS, bits, 0, 0, 0) == 0);
                  // A thread that may not become anybody is no reason to end.
                  try_to_leave_rights();
                  std::promise<void> has_left, is_over;
                  std::thread other([&, over = is_over.get_future()] {
                      leave_rights();
                      has_left.set_value();
                      over.wait();
                  });
                  has_left.get_future().wait();
                  const bool is_done = become_user(user, group);
                  is_over.set_value();
                  other.join();
                  EXPECT_IN_CHILD(is_done);
                  uid_t users[3];
                  gid_t groups[3];
                  EXPECT_IN_CHILD(::getresuid(&users[0], &users[1], &users[2]) == 0);
                  EXPECT_IN_CHILD(::getresgid(&groups[0], &groups[1], &groups[2]) == 0);
                  EXPECT_IN_CHILD(users[0] == user && users[1] == user && users[2] == user);
                  EXPECT_IN_CHILD(groups[0] == group && groups[1] == group && groups[2] == group);
                  EXPECT_IN_CHILD(::getgroups(0, nullptr) == 0);
                  // (The C library's would be for a sanitizer's thread as well.)
                  EXPECT_IN_CHILD(::syscall(SYS_setuid, 0) == -1);
                  EXPECT_IN_CHILD((status("CapPrm") & ~(1UL << CAP_NET_BIND_SERVICE)) == 0);
                  EXPECT_IN_CHILD(status("CapInh") == 0 && status("CapAmb") == 0);
                  return "";
              }) == "");
    }
}

TEST_CASE("confinement: of root's groups the first is left" * doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              constexpr gid_t disk = 6;
              EXPECT_IN_CHILD(::setgroups(1, &disk) == 0);
              EXPECT_IN_CHILD(confine({}, false, can_punch).empty());
              EXPECT_IN_CHILD(::getgroups(0, nullptr) == 0);
              return "";
          }) == "");
}

TEST_CASE("confinement: where it has to, the keeper still looks into processes, and does no more" *
          doctest::skip(geteuid() != 0)) {
    harness::Directory directory;
    const pid_t other = ::fork();
    if (other == 0) {
        ::pause();
        ::_exit(0);
    }
    const std::string descriptor = "/proc/" + std::to_string(other) + "/fd/0";
    const auto can_look = [&] {
        char target[64];
        return ::readlink(descriptor.c_str(), target, sizeof target) > 0;
    };
    for (bool looks : {true, false}) {
        CAPTURE(looks);
        CHECK(harness::in_child([&]() -> std::string {
                  EXPECT_IN_CHILD(can_look());
                  EXPECT_IN_CHILD(confine({}, looks, can_punch).empty());
                  EXPECT_IN_CHILD(can_look() == looks);
                  EXPECT_IN_CHILD(::ptrace(PTRACE_ATTACH, other, 0, 0) == -1 && errno == EPERM);
                  EXPECT_IN_CHILD(::kill(other, SIGKILL) == -1);
                  return "";
              }) == "");
    }
    ::kill(other, SIGKILL);
    ::waitpid(other, nullptr, 0);
}
