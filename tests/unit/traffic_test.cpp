#include "server/traffic.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <memory>

using namespace synergy;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

constexpr auto received = Traffic::Way::received;
constexpr auto sent = Traffic::Way::sent;

Endpoint peer(std::uint16_t port) {
    return Endpoint::loopback(AF_INET6, port);
}

} // namespace

TEST_CASE("traffic: none at first") {
    auto traffic = std::make_unique<Traffic>();
    CHECK_FALSE(traffic->last(received, 3, peer(5555)));
}

TEST_CASE("traffic: a peer, at a descriptor, in whole seconds") {
    auto traffic = std::make_unique<Traffic>();
    Time now{seconds(1000) + milliseconds(700)};
    traffic->note(received, 3, peer(5555), now);
    REQUIRE(traffic->last(received, 3, peer(5555)));
    CHECK(*traffic->last(received, 3, peer(5555)) == Time(seconds(1000)));
    CHECK_FALSE(traffic->last(received, 4, peer(5555)));
    CHECK_FALSE(traffic->last(received, 3, peer(5556)));
}

TEST_CASE("traffic: what was sent is told from what was received") {
    auto traffic = std::make_unique<Traffic>();
    traffic->note(received, 3, peer(5555), Time(seconds(1000)));
    CHECK_FALSE(traffic->last(sent, 3, peer(5555)));
    traffic->note(sent, 3, peer(5555), Time(seconds(1003)));
    CHECK(traffic->last(sent, 3, peer(5555)) == Time(seconds(1003)));
    CHECK(traffic->last(received, 3, peer(5555)) == Time(seconds(1000)));
}

TEST_CASE("traffic: the last time counts") {
    auto traffic = std::make_unique<Traffic>();
    traffic->note(received, 3, peer(5555), Time(seconds(1000)));
    traffic->note(received, 3, peer(5555), Time(seconds(1007)));
    CHECK(traffic->last(received, 3, peer(5555)) == Time(seconds(1007)));
}

TEST_CASE("traffic: of a few peers nearly all are remembered, and none is made up") {
    auto traffic = std::make_unique<Traffic>();
    constexpr std::uint16_t count = 100;
    for (std::uint16_t i = 0; i < count; i++)
        traffic->note(received, 3, peer(static_cast<std::uint16_t>(5000 + i)),
                      Time(seconds(1000 + i)));
    int known = 0;
    for (std::uint16_t i = 0; i < count; i++)
        if (auto last = traffic->last(received, 3, peer(static_cast<std::uint16_t>(5000 + i)))) {
            known++;
            CHECK(*last == Time(seconds(1000 + i)));
        }
    CHECK(known >= 80); // 1024 places: about five collisions are to be expected
    for (std::uint16_t port = 20000; port < 30000; port++)
        CHECK_FALSE(traffic->last(received, 3, peer(port)));
}
