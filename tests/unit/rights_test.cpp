#include "base/rights.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <fstream>
#include <future>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

using namespace synergy;
using harness::can_write;

namespace {

const auto of_roots = doctest::skip(geteuid() != 0);

/// A line of this thread's, without its name: "0000000000000000".
std::string status_of_thread(const std::string &name) {
    std::ifstream status("/proc/thread-self/status");
    for (std::string line; std::getline(status, line);)
        if (line.starts_with(name + ":"))
            return line.substr(name.size() + 2);
    return "none";
}

/// All that are in any set of this thread's, but for the bounding one.
Capabilities capabilities_of_thread() {
    std::uint64_t all = 0;
    for (const char *set : {"CapInh", "CapPrm", "CapEff", "CapAmb"})
        all |= std::stoull(status_of_thread(set), nullptr, 16);
    return static_cast<Capabilities>(all | all >> 32U);
}

/// What `look` says in a thread that has called leave_rights() with this.
std::string in_a_thread(const std::vector<std::string> &written, Capabilities kept,
                        const std::function<std::string()> &look) {
    return std::async(std::launch::async,
                      [&] {
                          leave_rights(written, kept);
                          return look();
                      })
        .get();
}

/// What a service manager may have set.
void take_ambient_capability(int number) {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets{};
    syscall(SYS_capget, &header, sets.data());
    sets[0].inheritable = capability(number);
    syscall(SYS_capset, &header, sets.data());
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0);
}

/// As root, with a group more, and a capability of each kind.
std::string expect_thread_without_rights(const harness::Directory &directory) {
    const std::string log = directory.write("log", ""), other = directory.write("other", "");
    take_ambient_capability(CAP_NET_RAW);
    EXPECT_IN_CHILD(status_of_thread("CapAmb").find('2') != std::string::npos);
    try_to_leave_rights();
    const std::string found = in_a_thread({log}, 0, [&]() -> std::string {
        EXPECT_IN_CHILD(capabilities_of_thread() == 0);
        EXPECT_IN_CHILD(status_of_thread("NoNewPrivs") == "1");
        EXPECT_IN_CHILD(can_write(log));
        EXPECT_IN_CHILD(!can_write(other));
        EXPECT_IN_CHILD(!can_write(directory.path("new")));
        EXPECT_IN_CHILD(std::ifstream(other).is_open());
        return "";
    });
    EXPECT_IN_CHILD(can_write(other)); // the control: rights are the thread's own
    EXPECT_IN_CHILD(capabilities_of_thread() != 0);
    return found;
}

} // namespace

TEST_CASE("rights: a thread has none left, the process all" * of_roots) {
    const harness::Directory directory;
    CHECK(harness::in_child([&]() -> std::string {
              constexpr gid_t group = 6; // disk's, say
              EXPECT_IN_CHILD(::setgroups(1, &group) == 0);
              const std::string found = expect_thread_without_rights(directory);
              const auto groups = [] { return std::to_string(::getgroups(0, nullptr)); };
              EXPECT_IN_CHILD(in_a_thread({}, 0, groups) == "0");
              EXPECT_IN_CHILD(groups() == "1");
              return found;
          }) == "");
}

TEST_CASE("rights: nor does one of a user namespace's root") {
    const harness::Directory directory;
    CHECK(harness::in_child([&]() -> std::string {
              const uid_t user = geteuid();
              if (::unshare(CLONE_NEWUSER) != 0)
                  return ""; // not here
              std::ofstream("/proc/self/setgroups") << "deny";
              std::ofstream("/proc/self/uid_map") << "0 " << user << " 1";
              EXPECT_IN_CHILD(geteuid() == 0);
              return expect_thread_without_rights(directory);
          }) == "");
}

TEST_CASE("rights: what opening a file takes is kept until it is left as well" * of_roots) {
    const harness::Directory directory;
    const std::string log = directory.write("log", ""), other = directory.write("other", "");
    CHECK(harness::in_child([&]() -> std::string {
              try_to_leave_rights();
              return in_a_thread({log}, capability(CAP_DAC_OVERRIDE), [&]() -> std::string {
                  EXPECT_IN_CHILD(capabilities_of_thread() == capability(CAP_DAC_OVERRIDE));
                  EXPECT_IN_CHILD(can_write(other));
                  leave_rights({log});
                  EXPECT_IN_CHILD(capabilities_of_thread() == 0);
                  EXPECT_IN_CHILD(!can_write(other));
                  EXPECT_IN_CHILD(can_write(log));
                  return "";
              });
          }) == "");
}
