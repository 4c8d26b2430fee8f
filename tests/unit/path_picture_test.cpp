#include "settings/peer_list.h"
#include "tools/path_picture.h"

#include <doctest/doctest.h>

#include <algorithm>

using namespace synergy;

namespace {

Endpoint address(const std::string &text) {
    std::vector<Problem> problems;
    return parse_peers("[" + text + "]:1", "", problems).at(0).address;
}

/// Three hops, the second silent, then the peer.
Path path() {
    Path path;
    path.peer = address("2001:db8::5");
    path.source = address("2001:db8::11");
    for (int limit = 1; limit <= 4; limit++) {
        Hop &hop = path.hops.emplace_back();
        hop.limit = limit;
        if (limit == 2)
            continue;
        hop.answer = HopAnswer::time_exceeded;
        hop.from = address("2001:db8::a" + std::to_string(limit));
        hop.round_trip = std::chrono::milliseconds(10 * limit);
    }
    path.hops[3].answer = HopAnswer::refused;
    path.hops[3].from = path.peer;
    return path;
}

std::string drawn(const Path &path, const HopChoice *choice, const Names &names,
                  const Style &style) {
    std::string all;
    for (const std::string &line : path_picture(path, choice, names, style))
        all += line + "\n";
    return all;
}

} // namespace

TEST_CASE("the picture of a path, and where the punch dies") {
    const HopChoice choice{.hops = 2, .is_found = true, .reason = "the reason"};
    CHECK(drawn(path(), &choice, {{"2001:db8::a1", "r1.example"}}, {}) ==
          R"(to 2001:db8::5 from 2001:db8::11
  1  2001:db8::a1 r1.example    10.0 ms  #####
  2  silent
     x --- the punch dies here; beyond lies what it must not reach
  3  2001:db8::a3               30.0 ms  ###############
  4  2001:db8::5                40.0 ms  ####################  refused the probe

hop limit 2: the reason
)");
}

TEST_CASE("the picture while the path is measured, on a narrow terminal") {
    const std::string name(300, 'n');
    const Style style{.color = true, .unicode = true, .columns = 70};
    for (const std::string &line : path_picture(path(), nullptr, {{"2001:db8::a1", name}}, style)) {
        CAPTURE(line);
        std::size_t width = 0;
        bool in_escape = false;
        for (const char c : line) {
            in_escape = in_escape || c == '\x1b';
            // A character counts by its first byte.
            width += !in_escape && (static_cast<unsigned char>(c) & 0xc0U) != 0x80U ? 1 : 0;
            in_escape = in_escape && c != 'm';
        }
        CHECK(width <= 70);
    }
    CHECK(drawn(path(), nullptr, {}, style).find("dies") == std::string::npos);
}

TEST_CASE("the picture where little is known") {
    const HopChoice guess{.hops = 3, .is_found = false, .reason = "a guess"};
    Path silent;
    silent.peer = address("2001:db8::5");
    CHECK(drawn(silent, &guess, {}, {}) == R"(to 2001:db8::5
  3  unknown
     x --- the punch dies here; beyond lies what it must not reach

hop limit 3 (a guess)
)");
    silent.on_link = true;
    const HopChoice neighbour{.hops = 1, .is_found = false, .reason = "a neighbour"};
    CHECK(drawn(silent, &neighbour, {}, {}) == "to 2001:db8::5\n\nhop limit 1 (a neighbour)\n");
}

TEST_CASE("path picture: what is drawn over is no wider than the terminal, in UTF-8 as well") {
    Path far = path();
    far.hops[3].answer = HopAnswer::none;
    for (const bool unicode : {false, true})
        for (const std::string &line :
             path_picture(far, nullptr, {}, {.color = false, .unicode = unicode, .columns = 40})) {
            const auto begins = [](char byte) {
                return (static_cast<unsigned char>(byte) & 0xc0) != 0x80;
            };
            CHECK(std::count_if(line.begin(), line.end(), begins) <= 40);
        }
}
