// What a copy of the keeper's descriptors keeps alive.
#include "base/close_apart.h"
#include "keeper/standby.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>
#include <vector>

using namespace synergy;

namespace {

/// It takes some time to copy or to close them all.
std::vector<Socket> many_descriptors() {
    constexpr rlim_t enough = 4000, spared = 100;
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    std::vector<Socket> many(std::min(enough, limit.rlim_max - spared));
    for (Socket &each : many)
        each = Socket(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    return many;
}

/// Of which nobody has a copy: closed, its other end tells at once.
class Lone {
  public:
    Lone() {
        std::array<int, 2> ends{};
        if (pipe2(ends.data(), O_CLOEXEC) == 0)
            out_ = Socket(ends[0]), in_ = Socket(ends[1]);
    }
    bool ends_at_once() {
        in_.reset();
        pollfd end{.fd = out_.fd(), .events = POLLIN, .revents = 0};
        return poll(&end, 1, 0) == 1 && (end.revents & POLLHUP) != 0;
    }

  private:
    Socket out_, in_;
};

} // namespace

TEST_CASE("standby: what the keeper closes is closed, whenever its copy was made") {
    CHECK(harness::in_child([] {
              const std::vector<Socket> many = many_descriptors();
              Standby standby;
              for (int i = 0; i < 10; i++) {
                  Lone lone;
                  if (standby.leave({}, [] {}))
                      _exit(0);
                  EXPECT_IN_CHILD(lone.ends_at_once());
              }
              return std::string();
          }) == "");
}

TEST_CASE("close_apart: nothing else is kept meanwhile") {
    CHECK(harness::in_child([] {
              std::vector<Socket> many = many_descriptors();
              for (int i = 0; i < 10; i++) {
                  Lone lone;
                  std::vector<Socket> some;
                  some.push_back(std::move(many[static_cast<std::size_t>(i)]));
                  close_apart(std::move(some));
                  EXPECT_IN_CHILD(lone.ends_at_once());
              }
              return std::string();
          }) == "");
}
