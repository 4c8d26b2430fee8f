#include "hops/hop_finder.h"

#include "base/log.h"

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

void HopFinder::too_high(const Endpoint &peer, const Endpoint &source, int hops) {
    Way &way = way_to(peer, source);
    if (!way.hops || hops <= hop_limit_min || hops > way.ceiling)
        return;
    way.ceiling = hops - 1;
    way.is_proved = false;
    log::info("{}: hop limit {} was too high", way.peer.address_text(), hops);
    if (!way.probe)
        look_again_at(way, Clock::now() + between_checks);
    use(way, within(way, *way.hops));
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
