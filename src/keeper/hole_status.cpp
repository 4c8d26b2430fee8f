#include "keeper/hole_status.h"

#include "hops/route.h"

#include <algorithm>

namespace synergy {

namespace {

std::string why_unpunched(const KeptSocket &server, const Target &target, const Handoff &handoff) {
    if (const char *why = handoff.why_out_of_reach(server.socket.cookie))
        return why;
    if (server.obstacle != nullptr)
        return server.obstacle->text;
    if (const char *why = why_unreachable(server.socket, target.peer))
        return why;
    if (std::find(server.on_link.begin(), server.on_link.end(), target) != server.on_link.end())
        return "the peer is on the same link, with no router between";
    return target.hops.is_automatic() ? "the hop limit is being measured" : "";
}

std::vector<HoleStatus> holes_of(const KeptSocket &server, const Settings &settings,
                                 const HopFinder &hop_finder) {
    std::vector<HoleStatus> holes;
    // The ports of a range share the way.
    Endpoint looked_up, source;
    for (const auto &[peer, punch] : server.punches) {
        const Hole &hole = punch->hole();
        const Endpoint from = hole.source(settings);
        const int hop_limit = punch->record().hop_limit;
        if (looked_up.empty() || !looked_up.same_address(peer)) {
            looked_up = peer;
            const auto route = route_to(peer.unmapped(), from);
            source = route ? route->source : Endpoint{};
        }
        holes.push_back({.hole = hole,
                         .record = punch->record(),
                         .source = source,
                         .router = hop_finder.dies_at(peer, from, hop_limit),
                         .is_refused = hop_finder.is_refused(peer, from, hop_limit),
                         .is_in_use = punch->is_in_use()});
    }
    return holes;
}

} // namespace

std::vector<SocketStatus> status_of(const KeptSockets &servers, const Settings &settings,
                                    const HopFinder &hop_finder, const Handoff &handoff) {
    std::vector<SocketStatus> all;
    for (const auto &entry : servers) {
        const KeptSocket &server = entry.second;
        const ServerSocket &socket = server.socket;
        SocketStatus &status = all.emplace_back(SocketStatus{
            .socket = socket, .holes = holes_of(server, settings, hop_finder), .unpunched = {}});
        for (const Target &target : settings.targets_for(socket.transport, socket.local.port())) {
            const Endpoint peer = reachable(socket, target.peer);
            if (peer.empty() || !server.punches.contains(peer))
                status.unpunched.push_back(
                    {.peer = target.peer, .reason = why_unpunched(server, target, handoff)});
        }
    }
    return all;
}

} // namespace synergy
