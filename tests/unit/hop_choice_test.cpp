#include "hops/hop_choice.h"
#include "settings/peer_list.h"

#include <doctest/doctest.h>

#include <map>

using namespace synergy;

namespace {

Endpoint node(int number) {
    std::vector<Problem> problems;
    return parse_peers("[2001:db8::" + std::to_string(number) + "]:1", "", problems).at(0).address;
}

/// Routers 1 to `answering` but those in `silent`, and at the end, if any, what came from `from`.
Path path_of(int answering, HopAnswer end = HopAnswer::none, int from = 0,
             const std::vector<int> &silent = {}) {
    Path path;
    path.peer = node(99);
    for (int limit = 1; limit <= answering; limit++) {
        const bool is_silent = std::count(silent.begin(), silent.end(), limit) != 0;
        Hop &hop = path.hops.emplace_back();
        hop.limit = limit;
        if (!is_silent) {
            hop.answer = HopAnswer::time_exceeded;
            hop.from = node(limit);
        }
    }
    if (end != HopAnswer::none) {
        Hop &hop = path.hops.emplace_back();
        hop.limit = answering + 1;
        hop.answer = end;
        hop.from = node(from);
    }
    return path;
}

HopChoice choose(const Path &path) {
    return choose_hop_limit(path, HopBounds{});
}

bool says(const HopChoice &choice, const std::string &words) {
    CAPTURE(choice.reason);
    const bool found = choice.reason.find(words) != std::string::npos;
    CHECK(found);
    return found;
}

constexpr int peer = 99;

} // namespace

TEST_CASE("a way that goes round in a circle has no middle") {
    Path path = path_of(30);
    CHECK(circle_cause(path).empty());
    for (Hop &hop : path.hops)
        hop.from = node(hop.limit <= 2 ? hop.limit : 2 + hop.limit % 2);
    CHECK(circle_cause(path).ends_with(": by 2001:db8::2, 2001:db8::3"));
    CHECK_FALSE(choose(path).is_found);
    says(choose(path), "in a circle");
    // A firewall that prohibits is seen twice, and so is who is on a way of two links.
    Path twice = path_of(6);
    twice.hops[5].from = twice.hops[4].from = node(4);
    CHECK(circle_cause(twice).empty());
}

TEST_CASE("the middle of a path that is known to its end") {
    for (int length = 2; length <= 30; length++) {
        CAPTURE(length);
        for (const HopAnswer answer : {HopAnswer::refused, HopAnswer::accepted}) {
            const HopChoice choice = choose(path_of(length - 1, answer, peer));
            CHECK(choice.is_found);
            CHECK(choice.hops == (length + 1) / 2);
            // The same room on both sides, to within the one hop that half of an odd number leaves.
            const int local_most = choice.hops - 1;
            const int remote_most = length - choice.hops;
            CHECK(remote_most - local_most <= 1);
            CHECK(remote_most - local_most >= 0);
        }
    }
    says(choose(path_of(4, HopAnswer::refused, peer)), "half of the 5 hops to the peer");
}

TEST_CASE("a neighbour: the choice says that there is no firewall between") {
    const HopChoice answered = choose(path_of(0, HopAnswer::refused, peer));
    CHECK_FALSE(answered.is_found);
    CHECK(answered.hops == 1);
    says(answered, "neighbour");
    Path silent;
    silent.peer = node(peer);
    silent.on_link = true;
    CHECK_FALSE(choose(silent).is_found);
    CHECK(choose(silent).hops == 1);
    says(choose(silent), "no firewall");
}

TEST_CASE("one router: a firewall there can't be opened, one on this host can") {
    const HopChoice choice = choose(path_of(1, HopAnswer::refused, peer));
    CHECK(choice.is_found);
    CHECK(choice.hops == 1);
    says(choice, "only router");
}

TEST_CASE("nothing is known: the guess") {
    for (const Path &path : {path_of(0), path_of(1)}) {
        CHECK_FALSE(choose(path).is_found);
        CHECK(choose(path).hops == 3);
        says(choose(path), "a guess");
    }
    Path unreachable = path_of(0);
    unreachable.error = ENETUNREACH;
    CHECK_FALSE(choose(unreachable).is_found);
}

TEST_CASE("the remote firewall drops probes: the last answer is near it") {
    for (int last = 2; last <= 29; last++) {
        CAPTURE(last);
        const HopChoice choice = choose(path_of(last));
        CHECK(choice.is_found);
        CHECK(choice.hops == (last + 2) / 2);
        CHECK(choice.hops <= last); // dies on something that was seen
    }
    says(choose(path_of(4)), "beyond hop 4 nothing answers");
}

TEST_CASE("silent routers count as routers") {
    const Path path = path_of(10, HopAnswer::refused, peer, {1, 2, 5, 7, 10});
    CHECK(choose(path).hops == 6);
    CHECK(choose(path_of(9, HopAnswer::none, 0, {1, 2, 3, 4, 5, 6})).hops == 5);
}

TEST_CASE("a firewall that names itself") {
    for (int at = 2; at <= 29; at++) {
        CAPTURE(at);
        for (const HopAnswer answer : {HopAnswer::prohibited, HopAnswer::refused}) {
            // Linux: what dies at it was reported by the same address, one hop limit before.
            const HopChoice same = choose(path_of(at, answer, at));
            CHECK(same.is_found);
            CHECK(same.hops == (at + 2) / 2);
            CHECK(same.hops <= at);
            // Filters before it counts: the limit before met another router.
            const HopChoice another = choose(path_of(at - 1, answer, 77));
            if (at > 2) {
                CHECK(another.is_found);
                CHECK(another.hops <= at - 1); // the limit that was refused would be again
            }
        }
    }
    says(choose(path_of(4, HopAnswer::prohibited, 4)), "behind the firewall 2001:db8::4");
}

TEST_CASE("a firewall that names itself right here is more likely ours") {
    for (int at = 0; at <= 1; at++) {
        const HopChoice choice = choose(path_of(at, HopAnswer::prohibited, 1));
        CHECK_FALSE(choice.is_found);
        CHECK(choice.hops == 3);
        says(choice, "lets no probe pass");
    }
}

TEST_CASE("a router that knows no way on ends the path") {
    const HopChoice choice = choose(path_of(6, HopAnswer::unreachable, 6));
    CHECK(choice.is_found);
    CHECK(choice.hops == 4);
    says(choice, "knows no way on");
}

TEST_CASE("firewalls at plausible places lie on the right side") {
    // By routers, how many local firewalls in a row the middle still crosses.
    const std::map<int, int> local{{2, 1}, {3, 1}, {4, 2}, {6, 3}, {12, 6}};
    for (const auto &one : local) {
        const int routers = one.first, depth = one.second;
        CAPTURE(routers);
        // The remote firewall is the last router: silent, speaking, refusing, or open.
        for (const Path &path : {path_of(routers), path_of(routers, HopAnswer::prohibited, routers),
                                 path_of(routers, HopAnswer::refused, peer)}) {
            CHECK(choose(path).hops >= depth + 1);
            CHECK(choose(path).hops <= routers);
        }
    }
}

TEST_CASE("the user's bounds hold what is automatic") {
    const Path path = path_of(11, HopAnswer::refused, peer);
    CHECK(choose_hop_limit(path, {1, 4}).hops == 4);
    says(choose_hop_limit(path, {1, 4}), "held down by hops_max");
    CHECK(choose_hop_limit(path, {8, 254}).hops == 8);
    says(choose_hop_limit(path, {8, 254}), "held up by hops_min");
    CHECK(choose_hop_limit(path, {6, 6}).hops == 6);
    CHECK(choose_hop_limit(path, {6, 6}).reason.find("held") == std::string::npos);
    CHECK(choose_hop_limit(path_of(0), {5, 254}).hops == 5);
}

TEST_CASE("what a path says against a hop limit of the user's") {
    const Path path = path_of(4, HopAnswer::prohibited, 4);
    const auto objection = [&](int hops) { return hop_limit_objection(path, hops, {}); };
    CHECK(objection(1).find("die at the first router") != std::string::npos);
    for (int hops : {2, 3, 4})
        CHECK(objection(hops) == "");
    CHECK(objection(5).find("go too far") != std::string::npos);
    CHECK(objection(5).ends_with("(hop 4). Set 3, or let it be automatic"));
    CHECK(objection(200) != "");
    // One that dies in silence may be right, and who refuses right at this end does so to probes.
    CHECK(hop_limit_objection(path_of(0), 3, {}) == "");
    CHECK(hop_limit_objection(path_of(1, HopAnswer::prohibited, 1), 3, {}) == "");
    Path none = path;
    none.error = ENETUNREACH;
    CHECK(hop_limit_objection(none, 1, {}) == "");
}

TEST_CASE("a hop limit below the middle of the way may be right, and is told of when asked") {
    CHECK(hop_limit_doubt(path_of(11, HopAnswer::refused, peer), 5, {}) != "");
    CHECK(hop_limit_doubt(path_of(11, HopAnswer::refused, peer), 6, {}) == "");
    CHECK(hop_limit_doubt(path_of(4), 2, {}) == "");
    CHECK(hop_limit_doubt(path_of(5), 2, {}) != "");
    CHECK(hop_limit_doubt(path_of(0), 1, {}) == "");
}
