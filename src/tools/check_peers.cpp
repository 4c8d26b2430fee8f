#include "tools/check_peers.h"

#include "hops/addresses.h"
#include "hops/hop_choice.h"
#include "hops/path_probe.h"
#include "hops/route.h"
#include "punch/failure.h"
#include "punch/syn_socket.h"
#include "settings/host_names.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <linux/tcp.h>
#include <poll.h>

namespace synergy {

namespace {

struct Way {
    Endpoint peer;          ///< port 0
    std::uint16_t port = 0; ///< one of them
    HopLimit hops;
    std::string name;  ///< as the user wrote it
    std::string ports; ///< "5555, 5557-5560"
    std::unique_ptr<PathProbe> probe{};
    std::optional<Path> path{};
    Endpoint source{};
    Socket syn{}; ///< SYN_SENT, with a hop limit that opens nothing
    Time begun{};
};

constexpr std::size_t ports_shown = 100; ///< bytes

/// Each address with each hop limit once, whatever the ports and the rules.
std::vector<Way> ways_of(const Settings &settings, Findings &findings) {
    std::vector<Way> ways;
    const auto add = [&](const Peer &peer, HopLimit hops) {
        std::vector<Endpoint> addresses{peer.address};
        if (!peer.host.empty()) {
            ResolvedHost found = resolve_host(peer.host);
            if (found.error != 0)
                findings.wrong(peer.host + " " + found.what_is_wrong());
            addresses = std::move(found.addresses);
        }
        std::string ports = std::to_string(peer.first_port);
        if (peer.last_port != peer.first_port)
            ports += "-" + std::to_string(peer.last_port);
        for (const Endpoint &address : addresses) {
            const auto way = std::find_if(ways.begin(), ways.end(), [&](const Way &each) {
                return each.peer == address && each.hops == hops && each.name == peer.host;
            });
            if (way == ways.end())
                ways.push_back({.peer = address,
                                .port = peer.first_port,
                                .hops = hops,
                                .name = peer.host,
                                .ports = ports});
            else if (("," + way->ports + ",").find("," + ports + ",") != std::string::npos)
                continue; // named twice
            else if (way->ports.size() < ports_shown)
                way->ports.append(",").append(ports);
            else if (!way->ports.ends_with("..."))
                way->ports.append(",...");
        }
    };
    for (const Rule &rule : settings.rules)
        for (const Peer &peer : rule.peers)
            add(peer, rule.hops);
    for (const PeerFile &file : settings.peer_files)
        for (const Peer &peer : file.peers)
            add(peer, file.hops.value_or(settings.hops));
    return ways;
}

std::string text_of(const Way &way) {
    const std::string address = way.peer.address_text();
    const std::string text =
        (way.peer.family() == AF_INET6 ? "[" + address + "]" : address) + ":" + way.ports;
    return way.name.empty() ? text : way.name + " (" + text + ")";
}

/// The server's, where it is known; or 0.
std::uint16_t only_port(const Settings &settings) {
    const std::vector<PortRange> ports = settings.concerned_ports(Transport::tcp);
    return ports.size() == 1 && ports[0].first == ports[0].last ? ports[0].first : 0;
}

/// What can be said without sending anything. False: there is nothing to be measured.
bool check_addresses(Way &way, const Settings &settings, Findings &findings) {
    const Endpoint chosen = settings.local_for(way.peer.family());
    const std::string who = text_of(way) + ": ";
    if (const std::string cause = local_setting_cause(settings, way.peer.family());
        !cause.empty()) {
        findings.wrong(who + "can't punch: " + cause);
        return false;
    }
    const std::optional<Route> route = route_to(way.peer, chosen);
    const Endpoint to = way.peer.with_port(way.port);
    const Endpoint from = (chosen.empty() ? Endpoint::wildcard(to.family(), 0) : chosen)
                              .with_port(only_port(settings));
    // (An address of the link's own needs no interface for that.)
    if (!route || !route->on_link)
        if (const int error = route_error(from, to, Transport::tcp); error != 0) {
            findings.wrong(
                who + "can't punch: " + local_cause(error, from, to, settings, Transport::tcp));
            return false;
        }
    if (way.peer.is_loopback() || (route && route->is_local)) {
        findings.wrong(who +
                       "that address is this host's own, and no peer's. Peers are at the other "
                       "side; from here the port can be reached as it is");
        return false;
    }
    if (!route)
        return true;
    if (route->on_link)
        return true; // whether anybody is there
    way.source = route->source;
    if (const std::string cause = link_objection(route->source, way.peer); !cause.empty()) {
        findings.wrong(who + "can't punch: " + cause);
        return false;
    }
    if (const std::string doubt = private_objection(route->source, way.peer); !doubt.empty())
        findings.wrong(who + doubt);
    if (!chosen.empty())
        return true;
    std::string others;
    for (const Endpoint &other : other_addresses(route->source, way.peer))
        others.append(others.empty() ? "" : ", ").append(other.address_text());
    if (!others.empty())
        findings.wrong(who + "punches leave from " + route->source.address_text() +
                       ", and only who calls that gets in; this host has " + others +
                       " as well. SYNERGY_LOCAL chooses");
    return true;
}

/// By a SYN that dies on the first router: whether TCP leaves this host.
void begin_syn(Way &way, const Settings &settings) {
    if (way.source.empty() || settings.concerned_ports(Transport::tcp).empty())
        return;
    way.begun = Clock::now();
    way.syn = begin_to_first_router(way.source, way.peer.with_port(way.port), Transport::tcp);
}

/// What keeps TCP in; empty: nothing, as far as it shows. Where nothing has come back, the kernel
/// tells of its repetitions, after 1 and 3 s, whether they left: one may meet a queue that is full.
std::string syn_objection(const Way &way, const Settings &settings) {
    constexpr unsigned surely = 2;
    constexpr Duration longest = std::chrono::seconds(4);
    constexpr int between_looks_ms = 50;
    while (way.syn && Clock::now() < way.begun + longest) {
        pollfd came{.fd = way.syn.fd(), .events = POLLOUT, .revents = 0};
        ::poll(&came, 1, between_looks_ms);
        const int error = way.syn.get(SOL_SOCKET, SO_ERROR, 0);
        const tcp_info info = info_of(way.syn);
        if (error == ECONNREFUSED || error == EACCES)
            return "a firewall on this host refuses the SYN (OUTPUT)";
        if (error != 0 || info.tcpi_state != state_syn_sent)
            return {}; // a router has had it
        if (info.tcpi_retransmits > 0 && has_left(info))
            return {};
        if (info.tcpi_retransmits >= surely)
            return silent_cause(way.source, way.peer.with_port(way.port), settings, true);
    }
    return {};
}

void check_hops(const Way &way, const Settings &settings, Findings &findings) {
    const Path &path = *way.path;
    const std::string who = text_of(way) + ": ";
    if (path.is_mute) {
        findings.wrong(who +
                       "the address is one of this host's own link, where nobody answers for it "
                       "(ip neigh): is that host on, and this host's network as small as it "
                       "has it (ip address)?");
        return;
    }
    if (path.on_link) {
        findings.right(who + "not punched: the peer is on the same link, with no router between");
        return;
    }
    if (const std::string circle = circle_cause(path); !circle.empty()) {
        findings.wrong(who + circle);
        return;
    }
    const HopChoice choice = choose_hop_limit(path, settings.hop_bounds);
    const int hops = way.hops.is_automatic() ? choice.hops : way.hops.number();
    if (path.last_answer() == 0)
        if (const std::string mute = mute_gateway_cause(way.source, way.peer); !mute.empty()) {
            findings.wrong(who + "can't punch: " + mute);
            return;
        }
    const std::string unheard = unheard_cause(path);
    if (path.last_answer() == 0 && !path.is_kept_in && !path.is_without_port && unheard.empty())
        if (const std::string foreign = foreign_source(way.peer, way.source); !foreign.empty()) {
            findings.wrong(who + foreign);
            return;
        }
    if (path.is_kept_in)
        findings.wrong(who +
                       "a firewall on this host lets no UDP out, so the path can't be measured "
                       "(OUTPUT)");
    if (const std::string kept_in = syn_objection(way, settings); !kept_in.empty()) {
        findings.wrong(who + "can't punch: " + kept_in);
        return;
    }
    if (way.hops.is_automatic() && !choice.is_found && !path.is_kept_in) {
        findings.wrong(who + "hop limit " + std::to_string(hops) + ": " + choice.reason +
                       ". Where nobody gets in, set one that crosses the last firewall of this "
                       "side");
        return;
    }
    if (!unheard.empty()) {
        findings.wrong(who + unheard);
        return;
    }
    if (!way.hops.is_automatic()) {
        std::string objection = hop_limit_objection(path, hops, settings.hop_bounds);
        if (objection.empty())
            objection = hop_limit_doubt(path, hops, settings.hop_bounds);
        if (!objection.empty()) {
            findings.wrong(who + objection);
            return;
        }
    }
    std::string text = who + "punched";
    if (!way.source.empty())
        text += " from " + way.source.address_text();
    text += ", hop limit " + std::to_string(hops);
    for (const Hop &hop : path.hops)
        if (hop.limit == hops && hop.answer == HopAnswer::time_exceeded)
            text += ", dies at " + hop.from.address_text();
    findings.right(text);
}

} // namespace

void check_peers(const Settings &settings, Findings &findings) {
    constexpr std::size_t at_a_time = 16;
    std::vector<Way> ways = ways_of(settings, findings);
    std::erase_if(ways, [&](Way &way) { return !check_addresses(way, settings, findings); });
    Scheduler scheduler;
    for (std::size_t begin = 0; begin < ways.size(); begin += at_a_time) {
        const std::size_t end = std::min(ways.size(), begin + at_a_time);
        std::size_t open = end - begin;
        for (std::size_t i = begin; i < end; i++)
            ways[i].probe = std::make_unique<PathProbe>(scheduler, ways[i].peer,
                                                        settings.local_for(ways[i].peer.family()),
                                                        [&open, &way = ways[i]](const Path &path) {
                                                            way.path = path;
                                                            open--;
                                                        });
        for (std::size_t i = begin; i < end; i++)
            begin_syn(ways[i], settings);
        while (open > 0)
            scheduler.run_once(std::chrono::seconds(1));
        for (std::size_t i = begin; i < end; i++)
            check_hops(ways[i], settings, findings);
    }
}

} // namespace synergy
