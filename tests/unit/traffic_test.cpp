#include "server/traffic.h"

#include <doctest/doctest.h>

#include <memory>

using namespace synergy;
using std::chrono::seconds;

namespace {

/// A page, and what the shim writes there.
struct Shared {
    std::unique_ptr<synergy_page> page = std::make_unique<synergy_page>();
    Traffic traffic{*page};

    void note(synergy_way way, std::uint64_t cookie, const Endpoint &peer, std::uint32_t second) {
        const synergy_endpoint wire = wire_endpoint(peer);
        const synergy_place place = synergy_place_of(way, cookie, &wire);
        page->traffic[place.number] = synergy_traffic(place.mark, second);
    }
};

Endpoint peer(std::uint16_t port) {
    return Endpoint::loopback(AF_INET6, port);
}

} // namespace

TEST_CASE("traffic: none at first") {
    const Shared shared;
    CHECK_FALSE(shared.traffic.last(SYNERGY_RECEIVED, 3, peer(5555)));
}

TEST_CASE("traffic: a peer, at a socket, in whole seconds") {
    Shared shared;
    shared.note(SYNERGY_RECEIVED, 3, peer(5555), 1000);
    CHECK(shared.traffic.last(SYNERGY_RECEIVED, 3, peer(5555)) == Time(seconds(1000)));
    CHECK_FALSE(shared.traffic.last(SYNERGY_RECEIVED, 4, peer(5555)));
    CHECK_FALSE(shared.traffic.last(SYNERGY_RECEIVED, 3, peer(5556)));
}

TEST_CASE("traffic: what was sent is told from what was received") {
    Shared shared;
    shared.note(SYNERGY_RECEIVED, 3, peer(5555), 1000);
    CHECK_FALSE(shared.traffic.last(SYNERGY_SENT, 3, peer(5555)));
    shared.note(SYNERGY_SENT, 3, peer(5555), 1003);
    CHECK(shared.traffic.last(SYNERGY_SENT, 3, peer(5555)) == Time(seconds(1003)));
    CHECK(shared.traffic.last(SYNERGY_RECEIVED, 3, peer(5555)) == Time(seconds(1000)));
}

TEST_CASE("traffic: an IPv4 peer is the same to IPv4 and to dual-stack sockets") {
    Shared shared;
    const Endpoint v4 = Endpoint::loopback(AF_INET, 5555);
    shared.note(SYNERGY_RECEIVED, 3, v4, 1000);
    CHECK(shared.traffic.last(SYNERGY_RECEIVED, 3, v4.mapped()) == Time(seconds(1000)));
}

TEST_CASE("traffic: of a few peers nearly all are remembered, and none is made up") {
    Shared shared;
    constexpr std::uint16_t count = 100;
    for (std::uint16_t i = 0; i < count; i++)
        shared.note(SYNERGY_RECEIVED, 3, peer(static_cast<std::uint16_t>(5000 + i)), 1000U + i);
    int known = 0;
    for (std::uint16_t i = 0; i < count; i++)
        if (auto last = shared.traffic.last(SYNERGY_RECEIVED, 3,
                                            peer(static_cast<std::uint16_t>(5000 + i)))) {
            known++;
            CHECK(*last == Time(seconds(1000 + i)));
        }
    CHECK(known >= 80); // 1024 places: about five collisions are to be expected
    for (std::uint16_t port = 20000; port < 30000; port++)
        CHECK_FALSE(shared.traffic.last(SYNERGY_RECEIVED, 3, peer(port)));
}
