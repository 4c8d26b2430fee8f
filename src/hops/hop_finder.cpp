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
    if (!way.hops && !is_busy(way)) {
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

bool HopFinder::is_busy(const Way &way) {
    return way.all_hops || way.one_hop;
}

/// Whatever was going on is over.
void HopFinder::enter(Way &way, Stage stage) {
    way.alarm.cancel();
    way.all_hops.reset();
    way.one_hop.reset();
    way.stage = stage;
}

void HopFinder::wait(Way &way, Stage stage, Duration duration) {
    enter(way, stage);
    way.alarm.set(Clock::now() + duration, [this, &way] { wake(way); });
}

/// The time of a stage is over.
void HopFinder::wake(Way &way) {
    switch (way.stage) {
    case Stage::measuring:
        if (!way.hops)
            choose(way, way.all_hops->path());
        break;
    case Stage::settling:
        measure(way);
        break;
    case Stage::queued:
    case Stage::resting:
        check(way, way.hops ? way.hops->best : next_of_users(way));
        break;
    case Stage::idle:
    case Stage::checking:
    case Stage::asking_why:
        break;
    }
}

void HopFinder::measure(Way &way) {
    wait(way, Stage::measuring, patience);
    way.all_hops = std::make_unique<PathProbe>(
        scheduler_, way.peer, way.source, [this, &way](const Path &path) { measured(way, path); });
}

void HopFinder::measured(Way &way, const Path &path) {
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
    wait(way, Stage::resting, between_checks);
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
    tell(way);
}

/// Not from within: the punches that change may be what has led here.
void HopFinder::tell(Way &way) {
    way.telling.set(Clock::now(), [this, &way] { found_(way.peer); });
}

/// The hop limits of the user's have their turns.
int HopFinder::next_of_users(const Way &way) {
    const auto next = way.asked.upper_bound(way.looked_at);
    return next != way.asked.end() ? *next : *way.asked.begin();
}

/// Looks at one hop only: who answers there, and how fast.
void HopFinder::check(Way &way, int hops) {
    const auto others = [](const auto &entry) { return is_busy(*entry.second); };
    if (std::count_if(ways_.begin(), ways_.end(), others) >= at_a_time) {
        wait(way, Stage::queued, seconds(1));
        return;
    }
    enter(way, Stage::checking);
    way.looked_at = hops;
    way.one_hop = std::make_unique<PathProbe>(
        scheduler_, way.peer, way.source,
        [this, &way, hops](const Path &path) { checked(way, hops, path); }, nullptr, hops);
}

void HopFinder::checked(Way &way, int hops, const Path &path) {
    enter(way, Stage::idle);
    const Hop *now = nullptr;
    for (const Hop &hop : path.hops)
        if (hop.limit == hops && hop.answer != HopAnswer::none)
            now = &hop;
    const bool is_router = now && now->answer == HopAnswer::time_exceeded;
    // Nobody at all is the silence of a router, or of a path that ends before.
    const bool is_no_router = now && !is_router;
    const auto before = way.dying_hops.find(hops);
    const bool is_another =
        is_router && before != way.dying_hops.end() && !before->second.from.same_address(now->from);
    if (is_router)
        way.dying_hops[hops] = *now;
    if (way.hops) {
        if (is_another || is_no_router || is_route_another(way)) {
            log::info("{}: the way there has changed", way.peer.address_text());
            way.is_proved = false;
            way.learned.reset();
            way.ceiling = hop_limit_max;
            wait(way, Stage::settling, between_checks);
        } else {
            wait(way, Stage::resting, between_checks);
        }
    } else if (way.is_wanted) {
        if (find_hops(way.peer, way.source))
            tell(way);
    } else if ((is_no_router || way.refusals.contains(hops)) && !way.looked_into.contains(hops)) {
        look_into(way, hops);
    } else {
        if (is_router) {
            log::once(LogLevel::info, way.peer.address_text() + ": punches with hop limit " +
                                          std::to_string(hops) + " die at " +
                                          now->from.address_text());
            way.path = path;
        }
        if (now == nullptr)
            say_unheard(way, path);
        // Who refuses was named when the whole path was looked into: one hop alone does not tell
        // where he stands.
        if (!is_no_router)
            say_objection(way, hops, path);
        wait(way, Stage::resting, between_round_trips);
    }
}

bool HopFinder::is_route_another(Way &way) {
    const auto route = route_to(way.peer, way.source);
    if (!route || RouteKey::from(way.peer, *route) == way.route)
        return false;
    way.route = RouteKey::from(way.peer, *route);
    return true;
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
    way.looked_into.insert(hops);
    way.asked.insert(hops);
    way.looked_at = hops;
    enter(way, Stage::asking_why);
    way.all_hops = std::make_unique<PathProbe>(scheduler_, way.peer, way.source,
                                               [this, &way, hops](const Path &path) {
                                                   way.path = path;
                                                   say_objection(way, hops, path);
                                                   wait(way, Stage::resting, between_round_trips);
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

void HopFinder::say_unheard(const Way &way, const Path &path) {
    const std::string cause = unheard_cause(path);
    if (cause.empty())
        say_foreign_source(way);
    else
        log::warn_once(way.peer.address_text() + ": " + cause);
}

bool HopFinder::say_foreign_source(const Way &way) {
    const std::string text = foreign_source(way.peer, way.source);
    if (!text.empty())
        log::warn_once(way.peer.address_text() + ": " + text);
    return !text.empty();
}

void HopFinder::say_guess(Way &way, const Path &path) const {
    const HopChoice choice = choose_hop_limit(path, bounds_);
    if (choice.is_found)
        log::over(std::exchange(way.said_guess, {}));
    if (choice.is_found || path.error != 0 || path.on_link || path.is_kept_in ||
        path.peer.is_loopback())
        return;
    if (path.last_answer() == 0 && unheard_cause(path).empty() && say_foreign_source(way))
        return;
    const int hops = within(way, HopRange::only(choice.hops)).best;
    std::string cause = circle_cause(path);
    if (cause.empty())
        cause = "hop limit " + std::to_string(hops) + ": " + choice.reason +
                ". Where nobody gets in, set one that crosses the last firewall of this side";
    way.said_guess = way.peer.address_text() + ": " + cause;
    log::warn_once(way.said_guess);
}

void HopFinder::refused(const Endpoint &peer, const Endpoint &source, int hops,
                        const IcmpError &how) {
    Way &way = way_to(peer, source);
    if (way.peer.is_loopback())
        return;
    if (!way.hops) {
        if (way.looked_into.contains(hops))
            return;
        way.refusals.insert_or_assign(hops, how);
        if (!is_busy(way))
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
    if (!is_busy(way))
        wait(way, way.stage == Stage::settling ? Stage::settling : Stage::resting, between_checks);
    use(way, within(way, *way.hops));
}

void HopFinder::look_at(const Endpoint &peer, const Endpoint &source, int hops) {
    Way &way = way_to(peer, source);
    if (!way.hops && !is_busy(way) && !way.peer.is_loopback() && way.asked.insert(hops).second)
        check(way, hops);
}

std::optional<Hop> HopFinder::find_dying_hop(const Endpoint &peer, const Endpoint &source,
                                             int hops) {
    Way &way = way_to(peer, source);
    auto found = way.dying_hops.find(hops);
    if (found != way.dying_hops.end())
        return found->second;
    // Once; from then on it is asked again from time to time, also where no router answers.
    if (!way.hops && !is_busy(way) && way.asked.insert(hops).second)
        check(way, hops);
    return std::nullopt;
}

void HopFinder::keep_only(const std::function<bool(const Endpoint &peer)> &is_wanted) {
    std::erase_if(ways_, [&](const auto &entry) { return !is_wanted(entry.second->peer); });
}

} // namespace synergy
