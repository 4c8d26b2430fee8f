#include "keeper/advice.h"

#include "base/log.h"
#include "hops/addresses.h"
#include "hops/route.h"
#include "punch/failure.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

namespace synergy {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// A server may open what it is for after what it is not for.
constexpr Duration before_saying_nobody = milliseconds(500);
/// Each is looked for once more then, and that takes as long as there are sockets on this host.
constexpr std::size_t most_of_nobody = 8;
constexpr Duration before_loopback_advice = seconds(3);
/// Who was to come would have by then.
constexpr Duration silence_time = seconds(60);

/// "3", "2 to 4"
std::string text_of(const HopRange &hops) {
    std::string text = std::to_string(hops.least);
    if (hops.most != hops.least)
        text += " to " + std::to_string(hops.most);
    return text;
}

int family_of(const Endpoint &peer) {
    return peer.unmapped().family();
}

} // namespace

void Advice::opens(const Hole &hole) {
    // What is said of a peer on the loopback interface is no such hole: see look_at_loopback().
    if (hole.peer.is_loopback() || !log::is_on(LogLevel::info))
        return;
    std::string more;
    if (hole.hops.least != hole.hops.most)
        more = " (" + text_of(hole.hops) + ")";
    if (const auto route = route_to(hole.peer, hole.source(settings_));
        route && !route->source.empty())
        more += ", from " + route->source.address_text();
    if (const Endpoint router =
            hop_finder_.dies_at(hole.peer, hole.source(settings_), hole.hops.best);
        !router.empty())
        more += ", dies at " + router.address_text();
    log::info("{}: opens, hop limit {}{}", hole.text(), hole.hops.best, more);
}

void Advice::opens(KeptSocket &server, const Hole &hole) {
    opens(hole);
    if (hole.peer.is_loopback())
        server.loopback.set(Clock::now() + before_loopback_advice,
                            [&server] { look_at_loopback(server); });
    if (server.punches.empty() && !server.is_reached)
        // Not here: listen() waits for the first punch.
        server.silence.set(Clock::now(), [this, &server, family = family_of(hole.peer)] {
            begin_silence(server, family);
        });
}

void Advice::own_host(const Hole &hole) {
    log::warn_once(hole.way_text() +
                   ": that address is this host's own, and no peer's. Peers are at the "
                   "other side; from here the port can be reached as it is");
}

bool Advice::look_at_ways(const KeptSocket &server) {
    std::unordered_set<Endpoint> seen;
    bool is_any = false;
    for (const auto *targets : {&server.declared, &server.asked})
        for (const Target &target : *targets) {
            const Hole hole{
                .server = server.socket, .peer = reachable(server.socket, target.peer), .hops = {}};
            if (hole.peer.empty() || hole.peer.is_loopback() ||
                !seen.insert(hole.peer.with_port(0)).second)
                continue;
            const Endpoint source = hole.source(settings_);
            if (!target.hops.is_automatic())
                hop_finder_.look_at(hole.peer, source, target.hops.number());
            const auto route = route_to(hole.peer, source);
            if (!route || route->on_link)
                continue;
            is_any |= object_to_address(hole, route->source);
            if (source.empty() || source.is_wildcard())
                say_other_addresses(hole, route->source);
        }
    return is_any;
}

bool Advice::object_to_address(const Hole &hole, const Endpoint &own) {
    // (What is no address of this host at all is named when it can't be sent from.)
    const std::string objection =
        local_setting_cause(settings_, hole.peer.unmapped().family()).empty()
            ? private_objection(own, hole.peer)
            : "";
    std::string line = objection.empty() ? "" : hole.way_text() + ": " + objection;
    std::string &said = objections_[hole.way_text()];
    if (said != line)
        log::over(said);
    said = std::move(line);
    if (!said.empty())
        log::warn_once(said);
    return !said.empty();
}

/// Somebody may try a server out from the port of its own host that is set: not so if he doesn't.
void Advice::look_at_loopback(const KeptSocket &server) {
    for (const auto &[peer, punch] : server.punches)
        if (peer.is_loopback() && !server.is_reached)
            own_host(punch->hole());
}

/// A peer that calls another address than punches leave from meets no hole.
void Advice::say_other_addresses(const Hole &hole, const Endpoint &own) {
    std::string others;
    for (const Endpoint &other : other_addresses(own, hole.peer))
        others.append(others.empty() ? "" : ", ").append(other.address_text());
    if (!others.empty())
        log::warn_once(hole.way_text() + ": punches leave from " + own.address_text() +
                       ", and only who calls that gets in; this host has " + others +
                       " as well. SYNERGY_LOCAL chooses");
}

void Advice::begin_silence(KeptSocket &server, int family) const {
    if (log::is_on(LogLevel::info))
        server.silence.set(
            Clock::now() + silence_time,
            [this, &server, kept_out = KeptOut(family)] { say_silence(server, kept_out); });
}

/// What keeps SCTP in shows by nothing but this: routers that say of a datagram that it died there
/// say so of no INIT.
std::string Advice::sctp_kept_in(const KeptSocket &server) const {
    const auto &[peer, first] = *server.punches.begin();
    const Hole &hole = first->hole();
    const Endpoint router = hop_finder_.dies_at(peer, hole.source(settings_), hole.hops.best);
    if (server.socket.transport != Transport::sctp || router.empty() ||
        std::any_of(server.punches.begin(), server.punches.end(),
                    [](const auto &entry) { return entry.second->record().is_answered; }))
        return {};
    return ", nor one of this side the SCTP that leaves (" + router.address_text() +
           " has said of UDP that it died there, and of no INIT)";
}

void Advice::say_silence(const KeptSocket &server, const KeptOut &kept_out) const {
    if (server.is_reached || server.punches.empty())
        return;
    // Each hole has the same to be compared.
    const Endpoint &peer = server.punches.begin()->first;
    const Hole &hole = server.punches.begin()->second->hole();
    const auto route = route_to(peer, hole.source(settings_));
    const std::string own = route && !route->source.empty()
                                ? route->source.with_port(server.socket.local.port()).text()
                                : server.socket.local.text();
    // What others send that is dropped counts as well.
    const std::uint64_t count = kept_out.by_firewall();
    log::info(
        "{}: nobody has come in for {} s. To be compared with the other side: the peer calls "
        "{}, from {}{}; neither side has a NAT; the hop limit ({}) crosses the last firewall "
        "here and meets none there; no firewall on this host drops what comes in{}{}; and those on "
        "the way take simultaneous open. `synergy test` at both ends tells which",
        server.socket.text(), silence_time / seconds(1), own, peer.unmapped().text(),
        server.punches.size() > 1 ? " or another one that is set" : "", text_of(hole.hops),
        count > 0 ? " (one has kept out " + std::to_string(count) + " packets meanwhile)" : "",
        sctp_kept_in(server));
}

void Advice::nobody(const ServerSocket &socket) {
    const std::string reason = why_nobody(settings_, socket);
    if (reason.empty())
        return;
    // (What a program opens many of, one after the other, is not what it is for.)
    if (why_nobody_.size() == most_of_nobody)
        why_nobody_.erase(why_nobody_.begin());
    why_nobody_.emplace_back(socket, socket.not_punched(reason));
    nobody_.set(Clock::now() + before_saying_nobody, [this] {
        for (const auto &[of, line] : std::exchange(why_nobody_, {}))
            if (!has_peers_ &&
                socket_diag_.life(of.transport, of.local, of.sought()) != SocketDiag::Life::gone)
                log::warn_once(line);
    });
}

} // namespace synergy
