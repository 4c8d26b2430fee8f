#include "settings/host_names.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <algorithm>

using namespace synergy;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

// An address is a name too for getaddrinfo(3), and needs no name server.
const std::string v4_name = "192.0.2.1";
const std::string v6_name = "2001:db8::5";
/// Nor does what can't be a name.
const std::string no_name = "no name";

std::string text(const HostNames::Addresses &addresses) {
    std::string all;
    for (const auto &[host, known] : addresses) {
        all += host + ":";
        for (const Endpoint &address : known)
            all += " " + address.address_text();
        all += "\n";
    }
    return all;
}

struct Bench {
    Scheduler scheduler;
    int changes = 0;
    HostNames names{scheduler, [this] { changes++; }};

    /// Until so many names have addresses, and everybody was told.
    bool run_until_known(long count) {
        bool is_known = harness::run_until(scheduler, [&] {
            return std::count_if(names.addresses().begin(), names.addresses().end(),
                                 [](const auto &entry) { return !entry.second.empty(); }) >= count;
        });
        run_for(milliseconds(100));
        return is_known;
    }
    void run_for(Duration time) {
        harness::run_until(
            scheduler, [] { return false; }, time);
    }
};

} // namespace

TEST_CASE("host names: those that resolve come to have addresses, and it is told of once") {
    Bench bench;
    bench.names.follow({v4_name, v6_name, no_name}, seconds(20));
    CHECK(bench.names.addresses().empty());
    CHECK(bench.run_until_known(2));
    CHECK(bench.changes >= 1);
    CHECK(bench.changes <= 2);
    CHECK(text(bench.names.addresses()) ==
          "192.0.2.1: 192.0.2.1\n2001:db8::5: 2001:db8::5\nno name:\n");
}

TEST_CASE("host names: no address that no peer can have") {
    Bench bench;
    bench.names.follow({"0.0.0.0", "127.0.0.1", "::", "::1", "ff02::1", "::ffff:192.0.2.7"},
                       seconds(20));
    CHECK(bench.run_until_known(1));
    bench.run_for(milliseconds(200));
    CHECK(text(bench.names.addresses()) ==
          "0.0.0.0:\n127.0.0.1:\n::\x3a\n::1:\n::ffff:192.0.2.7: 192.0.2.7\nff02::1:\n");
}

TEST_CASE("host names: asked for again, without a word where nothing has changed") {
    Bench bench;
    const auto before = harness::open_descriptors();
    bench.names.follow({v4_name}, milliseconds(10));
    bench.run_for(milliseconds(500));
    CHECK(bench.changes == 1);
    CHECK(harness::open_descriptors() == before);
}

TEST_CASE("host names: those that nobody asks for any more are forgotten") {
    Bench bench;
    bench.names.follow({v4_name, v6_name}, milliseconds(10));
    CHECK(bench.run_until_known(2));
    const int changes = bench.changes;
    bench.names.follow({v6_name}, milliseconds(10));
    CHECK(text(bench.names.addresses()) == "2001:db8::5: 2001:db8::5\n");
    bench.run_for(milliseconds(100));
    CHECK(bench.changes == changes);
    bench.names.follow({v4_name, v6_name}, milliseconds(10));
    CHECK(bench.run_until_known(2));
    CHECK(bench.changes == changes + 1);
}

TEST_CASE("host names: many at once, and gone while they are still asked for") {
    const auto before = harness::open_descriptors();
    for (int i = 0; i < 20; i++) {
        Bench bench;
        std::set<std::string> hosts;
        for (int host = 0; host < 50; host++)
            hosts.insert("192.0.2." + std::to_string(host));
        bench.names.follow(hosts, seconds(20));
        bench.scheduler.run_once(milliseconds(i % 4));
    }
    // (A thread of the test before may have held one a moment longer.)
    CHECK(harness::wait_until([&] { return harness::open_descriptors().size() <= before.size(); }));
    Bench bench;
    std::set<std::string> hosts;
    for (int host = 0; host < 200; host++)
        hosts.insert("192.0.2." + std::to_string(host));
    bench.names.follow(hosts, seconds(20));
    CHECK(bench.run_until_known(200));
    CHECK(bench.changes < 50);
}
