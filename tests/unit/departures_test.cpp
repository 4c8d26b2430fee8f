#include "hops/departures.h"

#include "harness.h"
#include "network.h"

#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <sched.h>
#include <sys/utsname.h>

using namespace synergy;

namespace {

bool run(const std::string &command) {
    return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
}

/// An interface that leads nowhere, and whoever is asked for there.
bool make_network() {
    return ::unshare(CLONE_NEWNET) == 0 &&
           run("ip link add one type veth peer name other && ip link set lo up && "
               "ip link set one up && ip link set other up && "
               "ip addr add 192.0.2.1/24 dev one && ip addr add 2001:db8::1/64 dev one nodad && "
               "ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:01 dev one && "
               "ip neigh add 2001:db8::2 lladdr 02:00:00:00:00:01 dev one");
}

bool tells_of_v6() {
    utsname kernel{};
    std::array<int, 2> version{};
    return ::uname(&kernel) == 0 &&
           std::sscanf(kernel.release, "%d.%d", &version[0], &version[1]) == 2 &&
           version >= std::array{6, 7};
}

/// Whether one did that was sent meanwhile, and nothing else. (Neighbours are made known, multicast
/// listeners, too: it may take some.)
bool does_one_leave(const Endpoint &to) {
    constexpr int most = 50;
    const Socket socket = Socket::open(to.family(), SOCK_DGRAM);
    for (int i = 0; i < most; i++) {
        const Departures departures(to.family());
        static_cast<void>(::sendto(socket.fd(), "", 1, 0, to.data(), to.length()));
        if (departures.are_none())
            return false;
    }
    return true;
}

std::string expect_departures(const std::string &family, const Endpoint &to, const Endpoint &own) {
    EXPECT_IN_CHILD(does_one_leave(to));
    for (const char *target : {"DROP", "REJECT"}) {
        const std::string rule = " OUTPUT -o one -p udp -j " + std::string(target);
        EXPECT_IN_CHILD(run(family + " -w -I" + rule));
        EXPECT_IN_CHILD(!does_one_leave(to));
        EXPECT_IN_CHILD(does_one_leave(own)); // others leave
        EXPECT_IN_CHILD(run(family + " -w -D" + rule));
    }
    EXPECT_IN_CHILD(does_one_leave(to));
    return "";
}

} // namespace

TEST_CASE("departures: what this host's firewall drops or refuses does not leave" *
          doctest::skip(geteuid() != 0 || !run("iptables -V") || !run("ip6tables -V"))) {
    CHECK(harness::in_child([]() -> std::string {
              EXPECT_IN_CHILD(make_network());
              return expect_departures("iptables", harness::endpoint("192.0.2.2", 7),
                                       harness::endpoint("192.0.2.1", 7));
          }) == "");
    if (tells_of_v6())
        CHECK(harness::in_child([]() -> std::string {
                  EXPECT_IN_CHILD(make_network());
                  return expect_departures("ip6tables", harness::endpoint("2001:db8::2", 7),
                                           harness::endpoint("2001:db8::1", 7));
              }) == "");
}
