#include "tools/test_command.h"

#include "base/log.h"
#include "hops/addresses.h"
#include "hops/hop_choice.h"
#include "hops/path_probe.h"
#include "hops/route.h"
#include "punch/failure.h"
#include "tools/documents.h"
#include "tools/firewall_test.h"
#include "tools/peer_argument.h"

#include <fmt/format.h>

#include <cstdlib>
#include <iostream>
#include <netdb.h>

namespace synergy {

namespace {

constexpr int exit_nothing_passes = 1;

/// The first of the calling ports, which two sides need not agree on.
constexpr std::uint16_t usual_port = 61680;

/// What this side's packets meet; what comes of it is said.
Path measure(Scheduler &scheduler, const Endpoint &peer, const Endpoint &source) {
    std::optional<Path> path;
    PathProbe probe(scheduler, peer, source, [&](const Path &measured) { path = measured; });
    while (!path)
        scheduler.run_once(std::chrono::seconds(1));
    return *path;
}

std::string describe(const Path &path, int hops, const Endpoint &router) {
    if (path.is_mute)
        return "the address is one of this host's own link, where nobody answers for it (ip neigh)";
    if (path.on_link)
        return "the peer is on the same link: there is no firewall to pass but the two hosts' own";
    if (const std::string unheard = unheard_cause(path); !unheard.empty())
        return fmt::format("from {}: {}: punches go {} hops by guess", path.source.address_text(),
                           unheard, hops);
    if (path.last_answer() == 0)
        return fmt::format(
            "from {}: no router answers; either none does on this way, or a firewall "
            "on this side lets nothing out: punches go {} hops by guess",
            path.source.address_text(), hops);
    if (path.last_answer() == 1)
        return fmt::format("from {}: only the first router answers ({}): if that is this side's "
                           "firewall, it lets nothing out; punches go {} hops by guess",
                           path.source.address_text(), path.hops[0].from.address_text(), hops);
    return fmt::format("from {}: routers answer up to hop {}; punches die at hop {}{}",
                       path.source.address_text(), path.last_answer(), hops,
                       router.empty() ? "" : " (" + router.address_text() + ")");
}

} // namespace

int run_test(const TestOptions &options) {
    const Settings settings = settings_of_environment(options.hops);
    if (!settings.problems.empty())
        return exit_refused;
    const auto ends = path_ends(options.peer, options.from, settings);
    if (!ends)
        return exit_refused;
    const Endpoint peer = ends->peer;
    Endpoint source = ends->source;
    if (const auto route = route_to(peer, {}); peer.is_loopback() || (route && route->is_local))
        return refuse_argument("PEER", options.peer,
                               "the other side's address: this one is this host's own");
    if (ends->has_port_range)
        return refuse_argument("PEER", options.peer,
                               "one port, from which on twelve are used at both ends, or none");
    const std::uint16_t port = peer.port() != 0 ? peer.port() : usual_port;
    if (!FirewallTest::has_room_at(port))
        return refuse_argument("PEER", options.peer,
                               "a port from which on twelve are free: 61699 to 63747 are used "
                               "otherwise, and 65535 is the last");

    // What punches fail of is a finding, and not a line of a log.
    log::configure({.level = LogLevel::error});
    Scheduler scheduler;
    const Path path = measure(scheduler, peer, source);
    if (path.error != 0) {
        std::cerr << "synergy: no packet leaves this host for " << peer.address_text() << ": "
                  << why_not_sent(path.error, *ends, settings) << '\n';
        return exit_refused;
    }
    FirewallTest::Options found{.peer = peer.with_port(0),
                                .source = path.source,
                                .port = port,
                                .hop_limit = settings.hops.is_automatic()
                                                 ? choose_hop_limit(path, settings.hop_bounds).hops
                                                 : settings.hops.number(),
                                .dying_hop = {},
                                .idle = {}};
    for (const Hop &hop : path.hops)
        if (hop.limit == found.hop_limit && hop.answer == HopAnswer::time_exceeded)
            found.dying_hop = hop;
    for (const unsigned time : options.idle)
        found.idle.emplace_back(time);
    std::ostream &progress = options.json ? std::cerr : std::cout;
    progress << describe(path, found.hop_limit,
                         found.dying_hop ? found.dying_hop->from : Endpoint{})
             << std::endl;
    if (!ends->other.empty())
        progress << options.peer << " stands for " << peer.address_text() << " here, and has "
                 << ends->other.address_text()
                 << " as well: the other side must use the same family, by the line below"
                 << std::endl;
    try {
        FirewallTest test(scheduler, found,
                          [&](const std::string &line) { progress << line << std::endl; });
        while (!test.is_over())
            scheduler.run_once(std::chrono::seconds(1));
        const TestReport report = test.report();
        if (options.json)
            std::cout << report_json(report) << std::endl;
        else
            for (const std::string &line : report_picture(report))
                std::cout << line << '\n';
        return report.works() ? 0 : exit_nothing_passes;
    } catch (const std::runtime_error &failure) {
        std::cerr << "synergy: " << failure.what() << '\n';
        return exit_refused;
    }
}

} // namespace synergy
