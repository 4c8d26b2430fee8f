#include "hops/hop_choice.h"

#include "hops/addresses.h"

#include <algorithm>
#include <map>

namespace synergy {

namespace {

// The rule. The punch must cross the last firewall of this side, and not what filters on the
// other. Neither can be seen from here: a firewall that lets our packets out looks like a router.
//
// - A packet that dies *at* a firewall opens nothing there, as Linux checks the hop limit before
//   the forward filter: the last firewall at hop k wants at least k + 1. Others filter first: such
//   a firewall on the other side answers or drops what was to die at it.
// - Of a peer n hops away, half the way, rounded up, leaves the same room on both sides: the last
//   local firewall may be as many hops from here as the first remote one is from the peer.
//   Whatever is more than that is right only where this side has more depth than the other.
// - Where a firewall of the other side names itself, or silence begins, the peer is at least one
//   hop further. Depth that can't be seen is not assumed: it would move the middle outward, toward
//   the firewall that a reset may come from.
// - What was refused or prohibited at hop limit h would be again: the punch stays below h.
// - Where this side has more depth, punches go further in turns, as far as can be right at all: to
//   the last router that is not next to the peer, where its firewall is.

/// The least that crosses anything and dies on another router.
constexpr int crosses_one = 2;

std::string hops_text(int count) {
    return std::to_string(count) + (count == 1 ? " hop" : " hops");
}

int half(int length) {
    return (length + 1) / 2;
}

HopChoice guess(std::string reason) {
    return {.hops = hop_limit_guess,
            .most = hop_limit_guess + 1,
            .is_found = false,
            .reason = std::move(reason) + ": a guess"};
}

HopChoice no_router_between(std::string reason) {
    return {.hops = hop_limit_min,
            .most = hop_limit_min,
            .is_found = false,
            .reason = std::move(reason)};
}

HopChoice neighbour() {
    return no_router_between("the peer is a neighbour: no router lies between, so there is no "
                             "firewall to punch and nowhere for a packet to die");
}

HopChoice on_link(const Path &path) {
    if (path.is_local)
        return no_router_between("that address is this host's own, and no peer's");
    if (path.is_mute)
        return no_router_between("the address is one of this host's own link, where nobody answers "
                                 "for it (ip neigh)");
    return neighbour();
}

HopChoice middle(int length, const std::string &what) {
    HopChoice choice{
        .hops = half(length), .most = length - 2, .length = length, .is_found = true, .reason = {}};
    choice.reason = "half of the " + hops_text(length) + " to " + what;
    if (choice.hops < crosses_one)
        choice.reason = "dies on the only router to " + what +
                        ", and opens a firewall of this host; if that router is one, nothing does";
    return choice;
}

/// The peer's own answer, or one in its name.
HopChoice reaches_peer(const Hop &end) {
    return end.limit == 1 ? neighbour() : middle(end.limit, "the peer");
}

/// Another one than the peer stopped the probes.
HopChoice is_stopped(const Path &path, const Hop &end) {
    const std::string who = end.from.address_text();
    if (end.limit <= crosses_one)
        return guess(who + ", right at this end, lets no probe pass");
    if (end.answer == HopAnswer::unreachable)
        return middle(end.limit, "where " + who + " knows no way on");
    // A Linux firewall lets die what dies at it, and so was seen one hop earlier. Another one
    // answers where it stands, and the peer is a hop beyond.
    const Hop &before = path.hops[static_cast<std::size_t>(end.limit) - 2];
    const bool was_seen = before.from.same_address(end.from);
    HopChoice choice = middle(was_seen ? end.limit : end.limit + 1,
                              "the peer, at the least, behind the firewall " + who);
    choice.hops = std::min(choice.hops, end.limit - 1);
    choice.most = end.limit - 1;
    return choice;
}

/// The far end is silent.
HopChoice falls_silent(const Path &path) {
    const int last = path.last_answer();
    if (last == 0 && path.is_without_descriptor)
        return guess("no descriptor is left to measure the way with (RLIMIT_NOFILE)");
    for (const std::string &cause : {unheard_cause(path), circle_cause(path)})
        if (!cause.empty())
            return guess(cause);
    if (last == 0)
        return guess("no router answers");
    if (last < crosses_one)
        return guess("only the first router answers");
    HopChoice choice = middle(last + 1, "the peer, at the least: beyond hop " +
                                            std::to_string(last) + " nothing answers");
    choice.most = last;
    return choice;
}

HopChoice choose(const Path &path) {
    if (path.error != 0)
        return guess("there is no path to measure");
    const Hop *end = path.end();
    if (path.on_link)
        return on_link(path);
    if (path.is_without_port)
        return guess(
            "no local port is left to measure the way with (net.ipv4.ip_local_port_range)");
    if (end == nullptr)
        return falls_silent(path);
    return end->from.same_address(path.peer) ? reaches_peer(*end) : is_stopped(path, *end);
}

const char *verb(HopAnswer answer) {
    switch (answer) {
    case HopAnswer::prohibited:
        return "prohibits them";
    case HopAnswer::unreachable:
        return "knows no way on";
    case HopAnswer::accepted:
        return "takes them";
    default:
        return "refuses them";
    }
}

/// At which hop somebody stands: a Linux firewall lets die what dies at it, and is seen one hop
/// before what it refuses.
int stands_at(const Path &path, const Hop &end) {
    for (const Hop &hop : path.hops)
        if (hop.answer != HopAnswer::none && hop.from.same_address(end.from))
            return hop.limit;
    return end.limit;
}

/// Who does not let punches with this hop limit pass; nullptr: nobody.
const Hop *stopper(const Path &path, int hops) {
    const Hop *end = path.error != 0 || path.on_link ? nullptr : path.end();
    // Right at this end it is probes that are not wanted.
    const bool is_about_probes =
        end != nullptr && end->limit <= crosses_one && !end->from.same_address(path.peer);
    return end == nullptr || end->limit > hops || is_about_probes ? nullptr : end;
}

std::string who(const IcmpError &how, const Endpoint &peer) {
    if (!how.from.empty() && !how.from.same_address(peer))
        return how.from.address_text();
    return how.answer == HopAnswer::accepted
               ? "the peer itself, or a proxy that answers for it,"
               : "the peer itself, or a firewall that answers for it,";
}

/// The router at which they die has no more than this side before it.
std::string dies_too_soon(const Path &path, int hops) {
    const auto found = std::find_if(path.hops.begin(), path.hops.end(),
                                    [hops](const Hop &hop) { return hop.limit == hops; });
    const bool is_known = found != path.hops.end() && found->answer == HopAnswer::time_exceeded;
    const std::string router = is_known ? found->from.address_text() : "";
    if (hops == hop_limit_min && !path.on_link)
        return "punches with hop limit 1 die at the first router" +
               (is_known ? ", " + router : std::string()) +
               ", and open no firewall but one on this host: 2 is the least that crosses it";
    if (is_known && is_same_site(found->from, path.source))
        return "punches with hop limit " + std::to_string(hops) + " die at " + router +
               ", which is a router of this side by its address: a firewall on it, or beyond, is "
               "not opened. Set a higher one, or let it be automatic";
    return {};
}

} // namespace

std::string unheard_cause(const Path &path) {
    // (The first router's may come as they went, whatever becomes of the others'.)
    if (path.last_answer() < crosses_one && path.from_elsewhere > 0)
        return "routers' answers don't get in: they come by another interface than the way there "
               "has, and this host drops what does (net.ipv4.conf.*.rp_filter is 1: 2 lets it in)";
    if (path.last_answer() == 0 && path.kept_out > 0)
        return "routers' answers don't get in: a firewall on this host has kept out " +
               std::to_string(path.kept_out) + (path.kept_out == 1 ? " packet" : " packets") +
               " meanwhile (INPUT)";
    return {};
}

std::string circle_cause(const Path &path) {
    if (path.end() != nullptr)
        return {};           // it leads there, by what answers for several
    constexpr int often = 4; // no way that leads anywhere passes a router as often
    std::map<std::string, int> met;
    std::string routers;
    for (const Hop &hop : path.hops) {
        const std::string address = hop.from.address_text();
        if (hop.answer == HopAnswer::time_exceeded && ++met[address] == often)
            routers.append(routers.empty() ? "" : ", ").append(address);
    }
    return routers.empty() ? ""
                           : "the way there goes round in a circle, and no packet arrives "
                             "(traceroute shows it): by " +
                                 routers;
}

std::string refusal_text(int hops, const IcmpError &how, const Endpoint &peer) {
    const std::string punches = "punches with hop limit " + std::to_string(hops);
    if (how.answer == HopAnswer::unreachable)
        return punches + " get no further than " + who(how, peer) + ", which " + verb(how.answer);
    return punches + " go too far: " + who(how, peer) + " " + verb(how.answer);
}

std::string hop_limit_doubt(const Path &path, int hops, const HopBounds &bounds) {
    const HopChoice choice = choose_hop_limit(path, bounds);
    // (Where the way is an odd number of hops long, both in the middle are as good.)
    if (path.on_link || hops >= choice.length / 2)
        return {};
    std::string router;
    for (const Hop &hop : path.hops)
        if (hop.limit == hops && hop.answer == HopAnswer::time_exceeded)
            router = " at " + hop.from.address_text();
    return "punches with hop limit " + std::to_string(hops) + " die" + router +
           ", nearer than the middle of the way: a firewall of this side that stands there, or "
           "beyond, is not opened. " +
           std::to_string(choice.hops) + " is " + choice.reason;
}

bool is_refused(const Path &path, int hops) {
    const Hop *end = stopper(path, hops);
    return end != nullptr &&
           (end->answer == HopAnswer::refused || end->answer == HopAnswer::prohibited);
}

std::string hop_limit_objection(const Path &path, int hops, const HopBounds &bounds) {
    if (path.error != 0 || path.on_link)
        return {};
    const Hop *end = path.end();
    if (end == nullptr || end->limit > hops)
        return dies_too_soon(path, hops);
    end = stopper(path, hops);
    if (end == nullptr)
        return {};
    const IcmpError how{.answer = end->answer, .from = end->from};
    const int at = stands_at(path, *end);
    std::string text = refusal_text(hops, how, path.peer);
    text += " (hop " + std::to_string(at) + ")";
    if (end->answer == HopAnswer::unreachable)
        return text;
    const HopChoice choice = choose_hop_limit(path, bounds);
    return choice.is_found
               ? text + ". Set " + std::to_string(choice.hops) + ", or let it be automatic"
               : text + ". Set a lower one";
}

HopChoice choose_hop_limit(const Path &path, const HopBounds &bounds) {
    HopChoice choice = choose(path);
    const int within = std::clamp(choice.hops, bounds.least, bounds.most);
    if (within != choice.hops) {
        choice.reason +=
            std::string("; held ") + (within < choice.hops ? "down by hops_max" : "up by hops_min");
        choice.hops = within;
    }
    choice.most = std::max(choice.hops, std::min(choice.most, bounds.most));
    return choice;
}

} // namespace synergy
