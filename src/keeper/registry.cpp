#include "keeper/registry.h"

#include "base/log.h"
#include "hops/addresses.h"
#include "hops/route.h"
#include "punch/beside.h"
#include "punch/guard.h"
#include "punch/sctp_many_punch.h"
#include "punch/sctp_punch.h"
#include "punch/tcp_punch.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <unistd.h>
#include <unordered_set>
#include <utility>

namespace synergy {

namespace {

/// Holes of a listener's that end: more are just closed.
constexpr std::size_t ending_max = 256;

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration between_looks_at_duplicates = milliseconds(250);
/// One takes less than a microsecond (a few where several share the port).
constexpr Duration between_looks = seconds(1);
constexpr Duration between_looks_for_each = milliseconds(10);

/// After the first punches, which nothing is to hold up.
constexpr Duration before_advice = milliseconds(100);

/// Whether two local addresses have an address in common; a wildcard of IPv6 may take IPv4 as well.
bool overlap(const Endpoint &one, bool one_takes_v4, const Endpoint &other, bool other_takes_v4) {
    const auto has_v4 = [](const Endpoint &local, bool takes_v4) {
        return local.unmapped().family() == AF_INET || (local.is_wildcard() && takes_v4);
    };
    const auto has_v6 = [](const Endpoint &local) { return local.unmapped().family() == AF_INET6; };
    if (!one.is_wildcard() && !other.is_wildcard())
        return one.unmapped().same_address(other.unmapped());
    return (has_v4(one, one_takes_v4) && has_v4(other, other_takes_v4)) ||
           (has_v6(one) && has_v6(other));
}

} // namespace

Registry::Registry(Scheduler &scheduler, const Settings &initial, const std::string &learned_file,
                   Handoff &handoff, const Traffic &traffic, SocketDiag &socket_diag,
                   RegistryOwner &owner)
    : scheduler_(scheduler), handoff_(handoff), socket_diag_(socket_diag), owner_(owner),
      looking_(scheduler), settings_(scheduler, initial, [this] { settings_changed(); }),
      hop_finder_(scheduler, settings_.now().hop_bounds, learned_file,
                  [this](const Endpoint &peer) { hops_found(peer); }),
      advice_(scheduler, hop_finder_, settings_.now(), socket_diag), context_{{.scheduler =
                                                                                   scheduler,
                                                                               .timers = timers_,
                                                                               .settings =
                                                                                   settings_.now(),
                                                                               .traffic = traffic},
                                                                              *this},
      parked_(scheduler, handoff, socket_diag, owner),
      shared_port_(servers_, handoff, socket_diag, owner) {}

/// First of all, each hole's punch: whoever calls before that meets the listener. So no hop limit
/// is measured again, and nothing is asked that was answered.
void Registry::take_over(const Registry &killed,
                         const std::function<bool(const ServerSocket &)> &claim) {
    expected_ = killed.expected_;
    unshared_ = killed.unshared_;
    std::vector<KeptSocket *> taken_over;
    for (const auto &[cookie, before] : killed.servers_) {
        if (!before.socket.is_ready() || !claim(before.socket))
            continue;
        KeptSocket &server = server_for(before.socket, {});
        taken_over.push_back(&server);
        for (const auto &[peer, punch] : before.punches) {
            Hole hole{.server = server.socket, .peer = peer, .hops = punch->hole().hops};
            (server.punches[peer] = make_punch(server, std::move(hole)))->open();
        }
        server.asked = before.asked;
        server.is_reached = before.is_reached;
    }
    settings_.follow_names();
    for (KeptSocket *server : taken_over) {
        declare(*server);
        for (const auto *targets : {&server->declared, &server->asked})
            for (const Target &target : *targets)
                open_hole(*server, target, false);
    }
}

const ServerSocket *Registry::find(std::uint64_t cookie) const {
    const auto found = servers_.find(cookie);
    return found == servers_.end() ? nullptr : &found->second.socket;
}

void Registry::follow_settings() {
    if (settings_.follow_file())
        settings_changed();
}

bool Registry::holds_duplicates() const {
    return std::any_of(servers_.begin(), servers_.end(),
                       [](const auto &entry) { return bool(entry.second.duplicate); });
}

bool Registry::has_datagrams() const {
    return std::any_of(servers_.begin(), servers_.end(),
                       [](const auto &entry) { return !entry.second.socket.accepts(); });
}

bool Registry::can_give_options() const {
    return std::all_of(servers_.begin(), servers_.end(), [](const auto &entry) {
        const ServerSocket &socket = entry.second.socket;
        if (socket.chosen.empty() || socket.not_to_be_given != nullptr)
            return true;
        const Socket fresh =
            Socket::open(socket.local.family(), SOCK_STREAM, protocol_of(socket.transport));
        return give_options(socket.chosen, fresh.fd(), When::ever) == nullptr;
    });
}

KeptSocket &Registry::server_for(const ServerSocket &socket, Socket duplicate) {
    if (servers_.empty())
        look_from_time_to_time();
    if (!has(socket.cookie))
        servers_.insert(parked_.take_up(socket));
    KeptSocket &server = servers_.try_emplace(socket.cookie, scheduler_).first->second;
    // That there is room beside it is known from the first look: since then the port is shared, by
    // us.
    const bool had_room = server.socket.has_room_beside;
    // And what the server has set, before we did.
    const bool let_others_in = server.socket.lets_others_in;
    const bool was_prepared = server.socket.is_prepared;
    // What has left without them is of no use to a listener that has other options now.
    if (!begin_alike(server.socket.chosen, socket.chosen)) {
        server.punches.clear();
        server.ending.clear();
    }
    server.socket = socket;
    server.socket.has_room_beside |= had_room;
    server.socket.lets_others_in |= let_others_in;
    server.socket.is_prepared |= was_prepared;
    server.aside.group_anew(server.socket);
    if (!socket.is_shared)
        unshared_.insert(socket.cookie);
    else if (socket.is_prepared) // its port is not shared by us yet
        unshared_.erase(socket.cookie);
    server.socket.is_shared = !unshared_.contains(socket.cookie);
    if (!server.duplicate && duplicate) {
        server.duplicate = std::move(duplicate);
        look_from_time_to_time();
    }
    return server;
}

int Registry::open(const ServerSocket &socket, const Target &target, Socket duplicate,
                   const Obstacle *obstacle) {
    if (reachable(socket, target.peer).empty())
        return ENOENT;
    KeptSocket &server = server_for(socket, std::move(duplicate));
    find_obstacle(server, obstacle);
    return open_asked(server, target);
}

/// Asked before the first of its holes opens. One that has holes is found out by ringing.
bool Registry::can_be_rung_at(KeptSocket &server) {
    if (server.socket.accepts() && server.punches.empty())
        find_obstacle(server, handoff_.obstacle(server.socket));
    return server.obstacle == nullptr;
}

/// What may pass is looked at again.
void Registry::find_obstacle(KeptSocket &server, const Obstacle *obstacle) {
    constexpr Duration between_tries = seconds(1);
    const ServerSocket &socket = server.socket;
    const Obstacle *before = std::exchange(server.obstacle, obstacle);
    if (before != nullptr && before != obstacle)
        log::over(socket.not_punched(before->text));
    if (obstacle == nullptr)
        return;
    if (socket.is_ready())
        log::once(LogLevel::error, socket.not_punched(obstacle->text));
    server.trying.set(Clock::now() + between_tries, [this, &server] {
        if (!has(server.socket.cookie))
            return;
        find_obstacle(server, handoff_.obstacle(server.socket));
        if (server.obstacle == nullptr)
            open_holes(server);
    });
}

void Registry::advise(KeptSocket &server) {
    if (has(server.socket.cookie) && advice_.look_at_ways(server))
        server.advising.set(Clock::now() + context_.settings.refresh,
                            [this, &server] { advise(server); });
}

void Registry::open_holes(KeptSocket &server) {
    for (const auto *targets : {&server.declared, &server.asked})
        for (const Target &target : *targets)
            open_hole(server, target);
}

void Registry::open_holes(std::uint64_t cookie) {
    if (const auto found = servers_.find(cookie); found != servers_.end())
        open_holes(found->second);
}

/// A program may ask for the same peer as often as it likes.
int Registry::open_asked(KeptSocket &server, const Target &target) {
    if (std::find(server.asked.begin(), server.asked.end(), target) == server.asked.end())
        server.asked.push_back(target);
    return open_hole(server, target);
}

/// Takes from the settings whom the socket is to punch for now.
void Registry::declare(KeptSocket &server) {
    const ServerSocket &socket = server.socket;
    server.declared = context_.settings.targets_for(socket.transport, socket.local.port(),
                                                    targets_max + 1); // of them to be left out
    const bool are_too_many = server.declared.size() > targets_max;
    if (are_too_many)
        server.declared.pop_back();
    if (are_too_many && !std::exchange(server.is_full, true))
        log::warn("{}: {} peers and ports, which is the most that there can be: further ones "
                  "are left out",
                  socket.text(), targets_max);
    server.on_link.clear();
    std::erase_if(server.declared, [&](const Target &target) {
        const Hole hole{.server = socket, .peer = reachable(socket, target.peer), .hops = {}};
        if (hole.peer.empty())
            return true;
        const auto route = route_of(hole);
        if (!route || !route->on_link || hole.peer.is_loopback())
            return false;
        if (route->is_local)
            Advice::own_host(hole);
        else
            log::once(LogLevel::info,
                      hole.way_text() +
                          ": not punched: the peer is on the same link, with no router between");
        server.on_link.push_back(target);
        advice_.has_peers();
        return true;
    });
}

/// What is new opens, and what is no longer there ends.
void Registry::settings_changed() {
    owner_.settings_changed();
    parked_.forget_all();
    for (auto &entry : servers_) {
        KeptSocket &server = entry.second;
        declare(server);
        std::unordered_set<Endpoint> wanted;
        for (const auto *targets : {&server.declared, &server.asked})
            for (const Target &target : *targets)
                wanted.insert(reachable(server.socket, target.peer));
        for (auto punch = server.punches.begin(); punch != server.punches.end();) {
            const auto one = punch++;
            if (wanted.contains(one->first))
                continue;
            log::info("{} <- {}: ends: it is no peer any more", server.socket.text(),
                      one->first.text());
            end_hole(server, server.punches.extract(one));
        }
        if (!server.declared.empty() && can_be_rung_at(server))
            for (const Target &target : server.declared)
                open_hole(server, target, false);
        if (wanted.empty() && server.on_link.empty())
            advice_.nobody(server.socket);
    }
    forget_ways();
}

/// Firewalls may hold it for two minutes yet: whoever calls meanwhile is not to meet the listener,
/// whose answer would close it for that long, lest he be kept out when he is a peer again.
void Registry::end_hole(KeptSocket &server, KeptSocket::Punches::node_type punch) {
    forget_ended(server);
    if (server.ending.size() < ending_max && punch.mapped()->let_end())
        server.ending.insert(std::move(punch));
}

void Registry::forget_ended(KeptSocket &server) {
    std::erase_if(server.ending, [](const auto &punch) { return !punch.second->let_end(); });
}

/// Who is no peer any more is refused.
void Registry::deliver(Socket connection, const Endpoint &peer, const ServerSocket &socket) {
    const auto server = servers_.find(socket.cookie);
    if (server == servers_.end())
        handoff_.offer(std::move(connection), peer, socket);
    else if (server->second.ending.contains(peer))
        connection.reset_when_closed();
    else
        shared_port_.give(std::move(connection), peer, server->second);
}

bool Registry::may_have_peers(const ServerSocket &socket) const {
    const Settings &settings = context_.settings;
    return has_declared(settings, socket) || expected_.has(socket.cookie) ||
           settings.may_gain(socket.transport, socket.local.port());
}

int Registry::open_all(const ServerSocket &socket, Socket duplicate, const Obstacle *obstacle) {
    const bool may_gain = context_.settings.may_gain(socket.transport, socket.local.port());
    const std::vector<Target> expected = expected_.of(socket.cookie);
    // (A listen() that fails may be tried again.)
    if (socket.is_ready())
        expected_.forget(socket.cookie);
    const bool is_declared = has_declared(context_.settings, socket);
    if (!is_declared && socket.is_ready())
        advice_.nobody(socket);
    if (!is_declared && !may_gain && expected.empty() && !has(socket.cookie))
        return ENOENT;
    std::string reason = why_not_beside(socket, geteuid());
    // (Where there are punches already, one could.)
    if (reason.empty() && !has(socket.cookie))
        reason = why_not_beside_nobody(socket, context_.settings);
    if (!reason.empty()) {
        if (socket.is_ready() && (is_declared || !expected.empty()))
            log::once(LogLevel::error, socket.not_punched(reason));
        return ENOENT;
    }
    const bool is_new = !has(socket.cookie);
    KeptSocket &server = server_for(socket, std::move(duplicate));
    declare(server);
    if (is_new && server.declared.empty() && expected.empty() && !may_gain) {
        handoff_.withdraw(socket.cookie);
        servers_.erase(socket.cookie);
        return ENOENT;
    }
    find_obstacle(server, obstacle);
    for (const Target &target : expected)
        open_asked(server, target);
    settings_.follow_names();
    for (const Target &target : server.declared)
        open_hole(server, target);
    for (const Target &target : server.asked)
        open_hole(server, target, false);
    return 0;
}

/// Where the hop limit is automatic, and has come to be known or is another one now.
void Registry::hops_found(const Endpoint &peer) {
    for (auto &entry : servers_) {
        KeptSocket &server = entry.second;
        for (const auto *targets : {&server.asked, &server.declared})
            for (const Target &target : *targets)
                if (target.hops.is_automatic() && target.peer.same_address(peer))
                    open_hole(server, target);
    }
}

/// `is_to_punch`: also where the hole is there already.
int Registry::open_hole(KeptSocket &server, const Target &target, bool is_to_punch) {
    const ServerSocket &socket = server.socket;
    if (server.obstacle != nullptr || handoff_.why_out_of_reach(socket.cookie) != nullptr)
        return ENOENT;
    Hole hole{.server = socket, .peer = reachable(socket, target.peer), .hops = {}};
    if (hole.peer.empty() || (socket.accepts() && !handoff_.check_imitable(socket)))
        return ENOENT;
    advice_.has_peers();
    if (target.hops.is_automatic()) {
        auto hops = hop_finder_.find_hops(hole.peer, hole.source(context_.settings));
        if (!hops)
            return 0; // hops_found() will be called
        hole.hops = *hops;
    } else {
        hole.hops = HopRange::only(target.hops.number());
    }
    Endpoint peer = hole.peer;
    bool is_back = false;
    if (auto ending = server.ending.extract(peer); !ending.empty()) {
        is_back = true;
        advice_.opens(hole);
        server.punches.insert(std::move(ending));
    }
    auto present = server.punches.find(peer);
    if (present != server.punches.end() && present->second->adopt(hole.hops))
        return is_to_punch || is_back ? present->second->open() : 0;
    advice_.opens(server, hole);
    server.advising.set(Clock::now() + before_advice, [this, &server] {
        handoff_.feel(server.socket);
        advise(server);
    });
    Punch &opened = *(server.punches[peer] = make_punch(server, std::move(hole)));
    return opened.open();
}

std::unique_ptr<Punch> Registry::make_punch(KeptSocket &server, Hole hole) const {
    const int fd = server.duplicate.fd();
    switch (server.socket.transport) {
    case Transport::tcp:
        return std::make_unique<TcpPunch>(context_, std::move(hole));
    case Transport::udp:
        return std::make_unique<UdpPunch>(context_, std::move(hole), fd, server.aside);
    case Transport::sctp:
        if (server.socket.one_to_many)
            return std::make_unique<SctpManyPunch>(context_, std::move(hole), fd);
        return std::make_unique<SctpPunch>(context_, std::move(hole));
    }
    return nullptr;
}

std::optional<Hop> Registry::find_dying_hop(const Hole &hole, int hop_limit) {
    return hop_finder_.find_dying_hop(hole.peer, hole.source(context_.settings), hop_limit);
}

std::uint64_t Registry::control_chunks(const Endpoint &from, const Endpoint &to) {
    return socket_diag_.control_chunks(from, to).value_or(0);
}

std::optional<Route> Registry::route_of(const Hole &hole) {
    return route_.to(hole.peer, hole.source(context_.settings));
}

void Registry::proved(const Hole &hole, int hop_limit) {
    if (const auto found = servers_.find(hole.server.cookie); found != servers_.end())
        found->second.is_reached = true;
    hop_finder_.proved(hole.peer, hole.source(context_.settings), hop_limit);
}

void Registry::refused(const Hole &hole, int hop_limit, const IcmpError &how) {
    hop_finder_.refused(hole.peer, hole.source(context_.settings), hop_limit, how);
}

bool Registry::check_alive(const ServerSocket &socket) {
    auto found = servers_.find(socket.cookie);
    if (found == servers_.end())
        return parked_.has(socket.cookie);
    if (handoff_.is_there_as_described(found->second.socket))
        return true;
    if (owner_.locate(found->second.socket))
        return !found->second.socket.accepts() || handoff_.is_out_of_reach(socket.cookie) ||
               handoff_.check_imitable(found->second.socket);
    log::debug("{} is closed", socket.text());
    // Not here: the punch that asks is one of those that go.
    scheduler_.at(Clock::now(), [this, cookie = socket.cookie] { drop(cookie); });
    return false;
}

void Registry::drop(std::uint64_t cookie, bool may_listen_again) {
    auto server = servers_.extract(cookie);
    if (server.empty())
        return;
    shared_port_.leave(server.mapped());
    const bool is_parked = may_listen_again && parked_.park(server);
    if (!is_parked)
        handoff_.withdraw(cookie);
    server = {};
    forget_ways();
    if (servers_.empty()) {
        looking_.cancel();
        settings_.forget_names();
    }
    if (is_parked)
        owner_.parked(cookie);
    else
        owner_.dropped(cookie);
}

void Registry::forget(std::uint64_t cookie) {
    drop(cookie, false);
}

/// Toward whom no hole is left, nothing is to be measured either.
void Registry::forget_ways() {
    std::unordered_set<Endpoint> wanted;
    for (const KeptSockets *servers : {&std::as_const(servers_), &parked_.all()})
        for (const auto &entry : *servers)
            for (const auto *targets : {&entry.second.declared, &entry.second.asked})
                for (const Target &target : *targets)
                    wanted.insert(target.peer.with_port(0));
    hop_finder_.keep_only([&](const Endpoint &peer) { return wanted.contains(peer); });
}

void Registry::add_later_options(std::uint64_t cookie, int fd) {
    if (const auto found = servers_.find(cookie); found != servers_.end())
        synergy::add_later_options(found->second.socket, fd);
}

void Registry::has_listened(std::uint64_t cookie) {
    if (const auto found = servers_.find(cookie); found != servers_.end())
        found->second.socket.listens = true;
}

void Registry::shut_down(std::uint64_t cookie) {
    if (const auto found = servers_.find(cookie); found != servers_.end())
        found->second.socket.is_shut_down = true;
}

void Registry::closed(std::uint64_t cookie) {
    expected_.forget(cookie);
    const auto found = servers_.find(cookie);
    if (found == servers_.end())
        return;
    if (!found->second.socket.is_ready())
        forget(cookie);
    else if (!owner_.locate(found->second.socket))
        drop(cookie);
}

/// What is kept for a socket that no hook saw go (a system call of the server's own) has its port;
/// a duplicate as well its share of the datagrams that come for those who share that.
void Registry::look_from_time_to_time() {
    const Duration pause = holds_duplicates() ? between_looks_at_duplicates
                                              : between_looks + static_cast<int>(servers_.size()) *
                                                                    between_looks_for_each;
    looking_.set(Clock::now() + pause, [this] {
        look_from_time_to_time();
        look_for_closed();
        for (auto &entry : servers_)
            forget_ended(entry.second);
    });
}

const ServerSocket *Registry::in_the_way(Transport transport, const Endpoint &address,
                                         bool takes_v4) {
    const auto found = std::find_if(servers_.begin(), servers_.end(), [&](auto &entry) {
        ServerSocket &socket = entry.second.socket;
        return !socket.is_shared && socket.transport == transport &&
               socket.local.port() == address.port() &&
               overlap(socket.local, socket.takes_v4, address, takes_v4) && owner_.locate(socket);
    });
    return found == servers_.end() ? nullptr : &found->second.socket;
}

void Registry::end_holes(std::uint64_t cookie) {
    if (const auto found = servers_.find(cookie); found != servers_.end())
        std::erase_if(found->second.punches,
                      [](const auto &punch) { return !punch.second->let_end(); });
}

bool Registry::make_way(const Endpoint &local, const Endpoint &peer) {
    bool is_any = false;
    for (auto &entry : servers_) {
        KeptSocket &server = entry.second;
        if (server.socket.transport != Transport::tcp || server.socket.local.port() != local.port())
            continue;
        for (auto *punches : {&server.punches, &server.ending})
            for (const Endpoint &name : {peer.unmapped(), peer.mapped()})
                if (const auto punch = punches->find(name); punch != punches->end())
                    is_any |= punch->second->make_way();
    }
    return is_any;
}

void Registry::handed_over(std::uint64_t cookie, const Endpoint &peer) {
    const auto found = servers_.find(cookie);
    if (found == servers_.end())
        return;
    // A listener of IPv4 alone, and one of both, have different names for the same peer.
    for (const Endpoint &name : {peer.unmapped(), peer.mapped()})
        if (const auto punch = found->second.punches.find(name);
            punch != found->second.punches.end()) {
            punch->second->handed_over();
            return;
        }
}

std::vector<std::uint64_t> Registry::closed_ones() {
    std::vector<std::uint64_t> gone;
    for (auto &entry : servers_)
        if (!owner_.locate(entry.second.socket))
            gone.push_back(entry.first);
    return gone;
}

void Registry::wait_for_successor(Duration start_up, bool has_left,
                                  const std::function<bool(std::uint64_t cookie)> &can_be_found) {
    parked_.server_has_ended(start_up, has_left);
    look_for_closed();
    parked_.keep_only(can_be_found);
}

void Registry::look_for_closed() {
    for (const std::uint64_t cookie : closed_ones())
        drop(cookie);
}

void Registry::let_errors_come(std::uint16_t port) {
    for (auto &entry : servers_)
        if (entry.second.socket.local.port() == port)
            entry.second.aside.end();
}

bool Registry::give_way(std::uint16_t port) {
    const std::vector<std::uint64_t> gone = closed_ones();
    for (const std::uint64_t cookie : gone)
        forget(cookie);
    const bool has_parked_given_way = parked_.give_way(port);
    return !gone.empty() || has_parked_given_way;
}

} // namespace synergy
