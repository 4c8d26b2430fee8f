#include "keeper/registry.h"

#include "base/log.h"
#include "hops/route.h"
#include "punch/sctp_many_punch.h"
#include "punch/sctp_punch.h"
#include "punch/tcp_punch.h"
#include "punch/udp_punch.h"

#include <algorithm>
#include <functional>
#include <sys/resource.h>
#include <unistd.h>
#include <unordered_set>

namespace synergy {

namespace {

/// A server that goes to the background does so right after listen(), and ends the process that
/// listened. Had that one punched, the firewall would hold on to its sequence number, of which
/// nobody knows any more, as soon as the peer calls: what is not punched can't be spoilt.
constexpr Duration settling_time = std::chrono::milliseconds(100);

/// How many connections can be taken in after a server has given root up, besides one from each
/// peer.
constexpr std::size_t spare_sockets = 64;
/// The same while there is no peer, but may come to be some.
constexpr std::size_t spares_for_nobody = 16;

} // namespace

Endpoint reachable(const ServerSocket &socket, const Endpoint &peer) {
    const Endpoint &local = socket.local;
    if (local.is_loopback())
        return {};
    bool is_v6_socket = local.family() == AF_INET6;
    if (peer.family() == AF_INET6)
        return is_v6_socket && !local.is_v4_mapped() ? peer : Endpoint{};
    if (!is_v6_socket)
        return peer;
    bool has_v4 = socket.takes_v4 && (local.is_wildcard() || local.is_v4_mapped());
    return has_v4 ? peer.mapped() : Endpoint{};
}

bool has_declared(const Settings &settings, const ServerSocket &socket) {
    const std::vector<Target> targets = settings.targets_for(socket.transport, socket.local.port());
    return std::any_of(targets.begin(), targets.end(), [&](const Target &target) {
        return !reachable(socket, target.peer).empty();
    });
}

Registry::Registry(Scheduler &scheduler, const Settings &initial, Handoff &handoff,
                   const EngineAddress &self)
    : scheduler_(scheduler), handoff_(handoff), looking_(scheduler),
      settings_(scheduler, initial, [this] { settings_changed(); }),
      hop_finder_(scheduler, settings_.now().hop_bounds, initial.learned_file,
                  [this](const Endpoint &peer) { hops_found(peer); }),
      context_{
          .scheduler = scheduler,
          .timers = timers_,
          .settings = settings_.now(),
          .is_alive = [this](const ServerSocket &socket) { return is_alive(socket); },
          .deliver =
              [this](Socket connection, const Endpoint &peer, const ServerSocket &server) {
                  handoff_.offer(std::move(connection), peer, server);
              },
          .spare = [this](const ServerSocket &socket, bool is_v4) { return spare(socket, is_v4); },
          .round_trip =
              [this](const Hole &hole, int hop_limit) {
                  return hop_finder_.round_trip(hole.peer, source_toward(hole), hop_limit);
              },
          .proved =
              [this](const Hole &hole, int hop_limit) {
                  hop_finder_.proved(hole.peer, source_toward(hole), hop_limit);
              },
          .too_high =
              [this](const Hole &hole, int hop_limit) {
                  hop_finder_.too_high(hole.peer, source_toward(hole), hop_limit);
              }},
      succession_(scheduler, self, [this](std::uint64_t inode) { keep(inode); }) {}

Registry::Server &Registry::server_for(const ServerSocket &socket, Socket duplicate) {
    Server &server = servers_.try_emplace(socket.inode, scheduler_).first->second;
    server.socket = socket;
    if (!server.duplicate)
        server.duplicate = std::move(duplicate);
    return server;
}

int Registry::open(const ServerSocket &socket, const Target &target, Socket duplicate) {
    if (reachable(socket, target.peer).empty())
        return ENOENT;
    return open_asked(server_for(socket, std::move(duplicate)), target);
}

/// A program may ask for the same peer as often as it likes.
int Registry::open_asked(Server &server, const Target &target) {
    if (std::find(server.asked.begin(), server.asked.end(), target) == server.asked.end())
        server.asked.push_back(target);
    return open_hole(server, target);
}

/// Takes from the settings whom the socket is to punch for now.
void Registry::declare(Server &server) {
    const ServerSocket &socket = server.socket;
    server.declared = context_.settings.targets_for(socket.transport, socket.local.port());
    if (server.declared.size() == targets_max && !std::exchange(server.is_full, true))
        log::warn("{} {}: {} peers and ports, which is the most that there can be: further ones "
                  "are left out",
                  name(socket.transport), socket.local.text(), targets_max);
    const std::vector<Target> known = std::exchange(server.on_link, {});
    // The ports of a range share the way.
    Endpoint looked_up;
    std::optional<Route> route;
    std::erase_if(server.declared, [&](const Target &target) {
        Hole hole{.transport = socket.transport,
                  .server = socket,
                  .peer = reachable(socket, target.peer),
                  .hops = {}};
        if (hole.peer.empty())
            return true;
        if (looked_up.empty() || !looked_up.same_address(hole.peer)) {
            looked_up = hole.peer;
            route =
                hole.peer.is_loopback() ? std::nullopt : route_to(hole.peer, source_toward(hole));
        }
        if (!route || !route->on_link)
            return false;
        if (std::find(known.begin(), known.end(), target) == known.end())
            log::info("{}: not punched: the peer is on the same link, with no firewall between",
                      hole.text());
        server.on_link.push_back(target);
        return true;
    });
    bind_spares(server);
}

/// What is new opens, and what is no longer there ends.
void Registry::settings_changed() {
    for (auto &entry : servers_) {
        Server &server = entry.second;
        declare(server);
        std::unordered_set<Endpoint> wanted;
        for (const auto *targets : {&server.declared, &server.asked})
            for (const Target &target : *targets)
                wanted.insert(reachable(server.socket, target.peer));
        std::erase_if(server.punches, [&](const auto &punch) {
            if (wanted.contains(punch.first))
                return false;
            log::info("{} {} <- {}: ends: it is no peer any more", name(server.socket.transport),
                      server.socket.local.text(), punch.first.text());
            return true;
        });
        if (server.is_kept)
            for (const Target &target : server.declared)
                open_hole(server, target, false);
    }
    forget_ways();
}

int Registry::open_all(const ServerSocket &socket, Socket duplicate) {
    const bool may_gain = context_.settings.may_gain(socket.transport, socket.local.port());
    std::vector<Target> expected;
    if (auto found = expected_.find(socket.inode); found != expected_.end()) {
        expected = std::move(found->second.targets);
        expected_.erase(found);
    }
    const bool is_declared = has_declared(context_.settings, socket);
    if (!is_declared && !may_gain && expected.empty())
        return ENOENT;
    if (socket.accepts() && socket.owner != geteuid()) {
        // SO_REUSEPORT (socket(7)) is for sockets of one user. A worker's main process punches.
        if ((is_declared || !expected.empty()) && !is_kept(socket.inode))
            log::error("{} {}: nothing is punched: user {} made this listener, and no other user "
                       "(this process is user {}) can bind beside it",
                       name(socket.transport), socket.local.text(), socket.owner, geteuid());
        return ENOENT;
    }
    bool is_new = !servers_.contains(socket.inode);
    Server &server = server_for(socket, std::move(duplicate));
    declare(server);
    if (is_new && server.declared.empty() && expected.empty() && !may_gain) {
        servers_.erase(socket.inode);
        return ENOENT;
    }
    if (is_new && socket.accepts())
        server.settles = Clock::now() + settling_time;
    for (const Target &target : expected)
        open_asked(server, target);
    if (server.declared.empty() && !may_gain)
        return 0;
    if (server.punches.empty() && !std::exchange(is_looking_, true))
        look_for_closed();
    if (succession_.claim(socket.inode))
        keep(socket.inode);
    else
        log::debug("{} {}: another process punches", name(socket.transport), socket.local.text());
    return 0;
}

/// A server that listens as root may serve as another user, and nobody else can bind beside root's
/// sockets, nor to a port below 1024.
void Registry::bind_spares(Server &server) const {
    const ServerSocket &socket = server.socket;
    if (socket.transport != Transport::tcp || geteuid() != 0)
        return;
    const bool may_gain = context_.settings.may_gain(socket.transport, socket.local.port());
    std::size_t room = spares_room();
    for (bool is_v4 : {false, true}) {
        if (reachable(socket, Endpoint::wildcard(is_v4 ? AF_INET : AF_INET6, 0)).empty())
            continue;
        auto wants = [&](const Target &target) {
            return (target.peer.unmapped().family() == AF_INET) == is_v4;
        };
        auto peers = std::count_if(server.declared.begin(), server.declared.end(), wants);
        if (peers == 0 && !may_gain)
            continue;
        auto &spares = server.spares[is_v4 ? 1 : 0];
        auto wanted =
            peers == 0 ? spares_for_nobody : spare_sockets + static_cast<std::size_t>(peers);
        for (; spares.size() < wanted && room > 0; room--) {
            Socket spare = bound_beside(socket, context_.settings, is_v4);
            if (!spare)
                return;
            spares.push_back(std::move(spare));
        }
    }
}

/// How many more there may be: a part of the descriptors that the engine's thread can have, with
/// which it has to do other things too.
std::size_t Registry::spares_room() const {
    constexpr rlim_t share = 4;
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    std::size_t taken = 0;
    for (const auto &entry : servers_)
        for (const auto &spares : entry.second.spares)
            taken += spares.size();
    return limit.rlim_cur / share > taken ? limit.rlim_cur / share - taken : 0;
}

Socket Registry::spare(const ServerSocket &socket, bool is_v4) {
    auto &spares = servers_.at(socket.inode).spares[is_v4 ? 1 : 0];
    if (spares.empty())
        return {};
    Socket taken = std::move(spares.back());
    spares.pop_back();
    return taken;
}

/// The turn of this process has come.
void Registry::keep(std::uint64_t inode) {
    Server &server = servers_.at(inode);
    if (Clock::now() < server.settles) {
        server.settling.set(server.settles, [this, inode] { keep(inode); });
        return;
    }
    if (!is_alive(server.socket))
        return;
    server.is_kept = true;
    // It may have waited for its turn, while others kept up with changes.
    if (settings_.follow())
        return settings_changed();
    for (const Target &target : server.declared)
        open_hole(server, target);
}

/// Where the hop limit is automatic, and has come to be known or is another one now.
void Registry::hops_found(const Endpoint &peer) {
    for (auto &entry : servers_) {
        Server &server = entry.second;
        auto open_each = [&](const std::vector<Target> &targets) {
            for (const Target &target : targets)
                if (target.hops == 0 && target.peer.same_address(peer))
                    open_hole(server, target);
        };
        open_each(server.asked);
        if (server.is_kept)
            open_each(server.declared);
    }
}

/// Where punches leave from; a wildcard or nothing where that is the kernel's choice.
Endpoint Registry::source_toward(const Hole &hole) const {
    return hole.server.local.is_wildcard()
               ? context_.settings.local_for(hole.peer.unmapped().family())
               : hole.server.local;
}

/// `is_to_punch`: also where the hole is there already.
int Registry::open_hole(Server &server, const Target &target, bool is_to_punch) {
    const ServerSocket &socket = server.socket;
    Hole hole{.transport = socket.transport,
              .server = socket,
              .peer = reachable(socket, target.peer),
              .hops = HopRange::only(target.hops)};
    if (hole.peer.empty())
        return 0;
    if (target.hops == 0) {
        auto hops = hop_finder_.hops_toward(hole.peer, source_toward(hole));
        if (!hops)
            return 0; // hops_found() will be called
        hole.hops = *hops;
    }
    Endpoint peer = hole.peer;
    auto present = server.punches.find(peer);
    if (present != server.punches.end() && present->second->takes(hole.hops))
        return is_to_punch ? present->second->open() : 0;
    if (hole.hops.least == hole.hops.most)
        log::info("{}: opens, hop limit {}", hole.text(), hole.hops.best);
    else
        log::info("{}: opens, hop limit {} ({} to {})", hole.text(), hole.hops.best,
                  hole.hops.least, hole.hops.most);
    std::unique_ptr<Punch> punch;
    switch (socket.transport) {
    case Transport::tcp:
        punch = std::make_unique<TcpPunch>(context_, std::move(hole));
        break;
    case Transport::udp:
        punch = std::make_unique<UdpPunch>(context_, std::move(hole), server.duplicate.fd());
        break;
    case Transport::sctp:
        if (socket.one_to_many)
            punch =
                std::make_unique<SctpManyPunch>(context_, std::move(hole), server.duplicate.fd());
        else
            punch = std::make_unique<SctpPunch>(context_, std::move(hole));
        break;
    }
    Punch &opened = *punch;
    server.punches[peer] = std::move(punch);
    return opened.open();
}

void Registry::expect(const ServerSocket &socket, const Target &target) {
    Expected &expected = expected_[socket.inode];
    expected.fd = socket.fd;
    expected.targets.push_back(target);
}

bool Registry::is_alive(const ServerSocket &socket) {
    if (!descriptors_.readable())
        return true;
    auto found = servers_.find(socket.inode);
    if (found == servers_.end())
        return false;
    int now = descriptors_.find(socket.inode, found->second.socket.fd);
    if (now >= 0) {
        found->second.socket.fd = now;
        return true;
    }
    log::debug("{} {} is closed", name(socket.transport), socket.local.text());
    // Not here: the punch that asks is one of those that go.
    scheduler_.at(Clock::now(), [this, inode = socket.inode] { drop(inode); });
    return false;
}

void Registry::drop(std::uint64_t inode) {
    handoff_.withdraw(inode);
    succession_.release(inode);
    servers_.erase(inode);
    forget_ways();
    const auto is_kept = [](const auto &entry) { return entry.second.is_kept; };
    if (std::none_of(servers_.begin(), servers_.end(), is_kept))
        settings_.rest();
}

/// Toward whom no hole is left, nothing is to be measured either.
void Registry::forget_ways() {
    std::unordered_set<Endpoint> wanted;
    for (const auto &entry : servers_)
        for (const auto *targets : {&entry.second.declared, &entry.second.asked})
            for (const Target &target : *targets)
                wanted.insert(target.peer.with_port(0));
    hop_finder_.keep_only([&](const Endpoint &peer) { return wanted.contains(peer); });
}

void Registry::close(int fd) {
    std::erase_if(expected_, [fd](const auto &entry) { return entry.second.fd == fd; });
    for (auto &[inode, server] : servers_) {
        if (server.socket.fd != fd)
            continue;
        int other = descriptors_.readable() ? descriptors_.find(inode, -1, fd) : -1;
        if (other >= 0)
            server.socket.fd = other;
        else
            drop(inode);
        return;
    }
}

/// Where there is nothing to punch for, no punch finds out that the server's socket is gone.
void Registry::look_for_closed() {
    looking_.set(Clock::now() + context_.settings.refresh, [this] {
        give_way();
        is_looking_ = !servers_.empty();
        if (is_looking_)
            look_for_closed();
    });
}

bool Registry::give_way() {
    if (!descriptors_.readable())
        return false;
    std::vector<std::uint64_t> gone;
    for (const auto &[inode, server] : servers_)
        if (descriptors_.find(inode, server.socket.fd) < 0)
            gone.push_back(inode);
    for (std::uint64_t inode : gone)
        drop(inode);
    return !gone.empty();
}

} // namespace synergy
