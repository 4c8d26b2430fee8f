#include "hops/hop_finder.h"

#include "base/log.h"
#include "hops/addresses.h"

#include <algorithm>

namespace synergy {

namespace {

using std::chrono::seconds;

/// A measurement takes no longer where routers answer. What it has seen by then is used.
constexpr Duration patience = seconds(1);

/// How often to look whether the punch still dies where it did; after a change, how long the way
/// has to settle before it is measured.
constexpr Duration between_checks = seconds(20);
/// The same for a hop limit of the user's, where only the round trip counts.
constexpr Duration between_round_trips = seconds(60);

/// Each way takes a few descriptors, which punches need more.
constexpr std::ptrdiff_t at_a_time = 64;

/// Whether what proved right once can still be right: the peer is where it was.
bool fits(const LearnedHops &learned, const Path &path) {
    const Hop *end = path.end();
    return end == nullptr || (learned.hops < end->limit &&
                              (learned.path_length == 0 || learned.path_length == end->limit));
}

} // namespace

/// Of both addresses; the source's is left out where it is the kernel's choice.
std::string HopFinder::key_of(const Endpoint &peer, const Endpoint &source) {
    const bool is_chosen = source.empty() || source.is_wildcard();
    return peer.unmapped().address_text() + " " +
           (is_chosen ? "" : source.unmapped().address_text());
}

HopFinder::Way &HopFinder::way_to(const Endpoint &peer, const Endpoint &source) {
    auto &way = ways_[key_of(peer, source)];
    if (!way) {
        way = std::make_unique<Way>(scheduler_);
        way->peer = peer.unmapped().with_port(0);
        if (!source.is_wildcard())
            way->source = source.unmapped().with_port(0);
    }
    return *way;
}

Endpoint HopFinder::dies_at(const Endpoint &peer, const Endpoint &source, int hops) const {
    const auto way = ways_.find(key_of(peer, source));
    if (way == ways_.end())
        return {};
    const auto hop = way->second->dying_hops.find(hops);
    return hop == way->second->dying_hops.end() ? Endpoint{} : hop->second.from;
}

bool HopFinder::is_refused(const Endpoint &peer, const Endpoint &source, int hops) const {
    const auto way = ways_.find(key_of(peer, source));
    return way != ways_.end() && synergy::is_refused(way->second->path, hops);
}

std::optional<HopRange> HopFinder::find_hops(const Endpoint &peer, const Endpoint &source) {
    Way &way = way_to(peer, source);
    way.is_wanted = true;
    // (While one hop is looked at, the way is measured after that.)
    if (!way.hops && !way.probe) {
        if (auto route = route_to(way.peer, way.source)) {
            way.route = RouteKey::from(way.peer, *route);
            if (auto learned = find_learned_hops(learned_file_, way.route)) {
                way.learned = learned;
                way.hops = within(way, HopRange::only(learned->hops));
                log::info("{}: hop limit {}, which proved right before", way.peer.address_text(),
                          way.hops->best);
            }
        }
        measure(way);
    }
    return way.hops;
}

void HopFinder::measure(Way &way) {
    way.next.cancel();
    way.has_changed = false;
    way.probe = std::make_unique<PathProbe>(
        scheduler_, way.peer, way.source, [this, &way](const Path &path) { measured(way, path); });
    way.patience.set(Clock::now() + patience, [this, &way] {
        if (!way.hops)
            choose(way, way.probe->path());
    });
}

void HopFinder::measured(Way &way, const Path &path) {
    // What calls this is the probe's last act, but not yet over.
    way.patience.set(Clock::now(), [&way] { way.probe.reset(); });
    way.path = path;
    way.dying_hops.clear();
    for (const Hop &hop : path.hops)
        if (hop.answer == HopAnswer::time_exceeded)
            way.dying_hops[hop.limit] = hop;
    const Hop *end = path.end();
    bool is_refuted = way.hops && end != nullptr && way.hops->best >= end->limit;
    if (!way.is_proved || is_refuted)
        choose(way, path);
    if (!way.is_proved && !way.learned)
        say_guess(way, path);
    look_again_at(way, Clock::now() + between_checks);
}

/// At one hop, or, if the way is another one now, at all of them.
void HopFinder::look_again_at(Way &way, Time time) {
    way.next.set(time, [this, &way] {
        if (way.has_changed)
            measure(way);
        else
            check(way, way.hops->best);
    });
}

HopRange HopFinder::within(const Way &way, HopRange hops) const {
    int most = std::min(bounds_.most, way.ceiling);
    int least = std::min(bounds_.least, most);
    return {.best = std::clamp(hops.best, least, most),
            .least = std::clamp(hops.least, least, most),
            .most = std::clamp(hops.most, least, most)};
}

void HopFinder::choose(Way &way, const Path &path) {
    HopChoice choice = choose_hop_limit(path, bounds_);
    way.is_proved = false;
    HopRange hops{.best = choice.hops, .least = choice.hops, .most = choice.most};
    // A firewall may have come since: where it does not do any more, the others have their turns.
    if (way.learned && fits(*way.learned, path)) {
        int learned = way.learned->hops;
        hops = {.best = learned,
                .least = std::min(learned, hops.least),
                .most = std::max(learned, hops.most)};
    } else {
        log::info("{}: hop limit {}: {}", way.peer.address_text(), within(way, hops).best,
                  choice.reason);
    }
    use(way, within(way, hops));
}

void HopFinder::use(Way &way, HopRange hops) {
    if (way.hops == hops)
        return;
    way.hops = hops;
    // Not from within: the punches that change may be what has led here.
    way.telling.set(Clock::now(), [this, &way] { found_(way.peer); });
}

/// Looks at one hop only: who answers there, and how fast.
void HopFinder::check(Way &way, int hops) {
    if (way.probe)
        return;
    const auto is_busy = [](const auto &entry) { return bool(entry.second->probe); };
    if (std::count_if(ways_.begin(), ways_.end(), is_busy) >= at_a_time) {
        way.next.set(Clock::now() + seconds(1), [this, &way, hops] { check(way, hops); });
        return;
    }
    way.probe = std::make_unique<PathProbe>(
        scheduler_, way.peer, way.source,
        [this, &way, hops](const Path &path) { checked(way, hops, path); }, nullptr, hops);
}

void HopFinder::checked(Way &way, int hops, const Path &path) {
    way.patience.set(Clock::now(), [&way] { way.probe.reset(); });
    const Hop *now = nullptr;
    for (const Hop &hop : path.hops)
        if (hop.limit == hops && hop.answer != HopAnswer::none)
            now = &hop;
    auto before = way.dying_hops.find(hops);
    bool has_changed = false;
    if (now && now->answer == HopAnswer::time_exceeded) {
        has_changed =
            before != way.dying_hops.end() && !before->second.from.same_address(now->from);
        way.dying_hops[hops] = *now;
    } else if (now) {
        has_changed = true; // nothing may answer a punch but a router
    }
    if (way.is_wanted && !way.hops) {
        way.next.set(Clock::now(), [this, &way] {
            if (find_hops(way.peer, way.source))
                found_(way.peer);
        });
        return;
    }
    bool is_automatic = way.hops.has_value();
    // Nobody at all is the silence of a router, or of a path that ends before.
    const bool is_no_router = now && now->answer != HopAnswer::time_exceeded;
    if (!is_automatic && (is_no_router || way.refusals.contains(hops)) &&
        !way.looked_into.contains(hops)) {
        way.next.set(Clock::now(), [this, &way, hops] { look_into(way, hops); });
        return;
    }
    if (!is_automatic) {
        if (now && now->answer == HopAnswer::time_exceeded) {
            log::once(LogLevel::info, way.peer.address_text() + ": punches with hop limit " +
                                          std::to_string(hops) + " die at " +
                                          now->from.address_text());
            way.path = path;
        }
        // Who refuses was named when the whole path was looked into: one hop alone does not tell
        // where he stands.
        if (!is_no_router)
            say_objection(way, hops, path);
    }
    if (is_automatic)
        if (auto route = route_to(way.peer, way.source);
            route && !(RouteKey::from(way.peer, *route) == way.route)) {
            way.route = RouteKey::from(way.peer, *route);
            has_changed = true;
        }
    if (is_automatic && has_changed) {
        log::info("{}: the way there has changed", way.peer.address_text());
        way.is_proved = false;
        way.learned.reset();
        way.ceiling = hop_limit_max;
        way.has_changed = true;
        look_again_at(way, Clock::now() + between_checks);
        return;
    }
    way.next.set(Clock::now() + (is_automatic ? between_checks : between_round_trips),
                 [this, &way, hops] { check(way, hops); });
}

void HopFinder::proved(const Endpoint &peer, const Endpoint &source, int hops) {
    Way &way = way_to(peer, source);
    if (!way.hops || way.is_proved)
        return;
    way.is_proved = true;
    use(way, HopRange::only(hops));
    if (learned_file_.empty())
        return;
    int length = way.path.end() != nullptr ? way.path.end()->limit : 0;
    if (int error = store_learned_hops(learned_file_, way.route, hops, length); error != 0)
        log::debug("{}: {}", learned_file_, strerrordesc_np(error));
}

/// Asks the whole path what it is that refuses a hop limit of the user's.
void HopFinder::look_into(Way &way, int hops) {
    if (way.probe)
        return;
    way.looked_into.insert(hops);
    way.probe = std::make_unique<PathProbe>(
        scheduler_, way.peer, way.source, [this, &way, hops](const Path &path) {
            way.patience.set(Clock::now(), [&way] { way.probe.reset(); });
            way.path = path;
            say_objection(way, hops, path);
            way.next.set(Clock::now() + between_round_trips,
                         [this, &way, hops] { check(way, hops); });
        });
}

void HopFinder::say_objection(Way &way, int hops, const Path &path) const {
    std::string objection = hop_limit_objection(path, hops, bounds_);
    if (const auto refusal = way.refusals.extract(hops); objection.empty() && refusal)
        objection =
            refusal_text(hops, refusal.mapped(), way.peer) + ": lower it, or let it be automatic";
    if (!objection.empty())
        log::warn_once(way.peer.address_text() + ": " + objection);
}

void HopFinder::say_guess(const Way &way, const Path &path) const {
    const HopChoice choice = choose_hop_limit(path, bounds_);
    if (choice.is_found || path.error != 0 || path.on_link || path.is_kept_in ||
        path.peer.is_loopback())
        return;
    log::warn_once(way.peer.address_text() + ": hop limit " +
                   std::to_string(within(way, HopRange::only(choice.hops)).best) +
                   " is a guess: " + choice.reason +
                   ". Where nobody gets in, set one that crosses the last firewall of this side");
}

void HopFinder::refused(const Endpoint &peer, const Endpoint &source, int hops,
                        const IcmpError &how) {
    Way &way = way_to(peer, source);
    if (way.peer.is_loopback())
        return;
    if (!how.from.empty() && is_own_address(how.from)) {
        log::warn_once(way.peer.address_text() +
                       (how.answer == HopAnswer::unreachable
                            ? ": can't punch: the next hop does not answer this host (ip neigh)"
                            : ": can't punch: a firewall on this host refuses it (OUTPUT)"));
        return;
    }
    if (!way.hops) {
        if (way.looked_into.contains(hops))
            return;
        way.refusals.insert_or_assign(hops, how);
        if (!way.probe)
            look_into(way, hops);
        return;
    }
    // Who does not know a way on is not too far away.
    const bool is_far = how.answer != HopAnswer::unreachable;
    if (is_far && (hops <= hop_limit_min || hops > way.ceiling))
        return;
    IcmpError named = how;
    if (const Hop *end = way.path.end(); named.from.empty() && end != nullptr && end->limit <= hops)
        named.from = end->from;
    std::string text = refusal_text(hops, named, way.peer);
    if (is_far) {
        way.ceiling = hops - 1;
        way.is_proved = false;
        text +=
            "; from now on they go no further than " + std::to_string(within(way, *way.hops).most);
    }
    log::warn_once(way.peer.address_text() + ": " + text);
    if (!is_far)
        return;
    if (!way.probe)
        look_again_at(way, Clock::now() + between_checks);
    use(way, within(way, *way.hops));
}

void HopFinder::look_at(const Endpoint &peer, const Endpoint &source, int hops) {
    Way &way = way_to(peer, source);
    if (!way.hops && !way.probe && !way.peer.is_loopback() && way.asked.insert(hops).second)
        check(way, hops);
}

std::optional<Hop> HopFinder::find_dying_hop(const Endpoint &peer, const Endpoint &source,
                                             int hops) {
    Way &way = way_to(peer, source);
    auto found = way.dying_hops.find(hops);
    if (found != way.dying_hops.end())
        return found->second;
    // Once; from then on it is asked again from time to time, also where no router answers.
    if (!way.hops && !way.probe && way.asked.insert(hops).second)
        check(way, hops);
    return std::nullopt;
}

void HopFinder::keep_only(const std::function<bool(const Endpoint &peer)> &is_wanted) {
    std::erase_if(ways_, [&](const auto &entry) { return !is_wanted(entry.second->peer); });
}

} // namespace synergy
