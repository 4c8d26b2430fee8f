#include "heard.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <memory>

using namespace synergy;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

Endpoint peer(std::uint16_t port) {
    return Endpoint::loopback(AF_INET6, port);
}

} // namespace

TEST_CASE("heard: nobody at first") {
    auto heard = std::make_unique<Heard>();
    CHECK_FALSE(heard->last(3, peer(5555)));
}

TEST_CASE("heard: a peer, at a descriptor, in whole seconds") {
    auto heard = std::make_unique<Heard>();
    Time now{seconds(1000) + milliseconds(700)};
    heard->note(3, peer(5555), now);
    REQUIRE(heard->last(3, peer(5555)));
    CHECK(*heard->last(3, peer(5555)) == Time(seconds(1000)));
    CHECK_FALSE(heard->last(4, peer(5555)));
    CHECK_FALSE(heard->last(3, peer(5556)));
}

TEST_CASE("heard: the last time counts") {
    auto heard = std::make_unique<Heard>();
    heard->note(3, peer(5555), Time(seconds(1000)));
    heard->note(3, peer(5555), Time(seconds(1007)));
    CHECK(heard->last(3, peer(5555)) == Time(seconds(1007)));
}

TEST_CASE("heard: of a few peers nearly all are remembered, and none is made up") {
    auto heard = std::make_unique<Heard>();
    constexpr std::uint16_t count = 100;
    for (std::uint16_t i = 0; i < count; i++)
        heard->note(3, peer(static_cast<std::uint16_t>(5000 + i)), Time(seconds(1000 + i)));
    int known = 0;
    for (std::uint16_t i = 0; i < count; i++)
        if (auto last = heard->last(3, peer(static_cast<std::uint16_t>(5000 + i)))) {
            known++;
            CHECK(*last == Time(seconds(1000 + i)));
        }
    CHECK(known >= 80); // 1024 places: about five collisions are to be expected
    for (std::uint16_t port = 20000; port < 30000; port++)
        CHECK_FALSE(heard->last(3, peer(port)));
}
