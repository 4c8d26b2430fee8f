#include "keeper/parked_listeners.h"

#include "punch/guard.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace synergy {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// A server that closes its listener for each connection listens again at once, or when it is
/// through with that. Who calls meanwhile does not wait for longer.
constexpr Duration time_to_listen_again = seconds(3);
/// Where nothing else keeps the port from others, one that sets SO_REUSEADDR has so long: less than
/// another preloaded server's bind() waits.
constexpr Duration time_to_listen_again_at_once = milliseconds(15);
/// One that has not come to rest since, on a machine that has other things to do as well.
constexpr Duration time_to_come_to_rest = milliseconds(500);
/// Where it has ended and a shell's loop starts the next one, that is there by then; more of it on
/// a machine on which the last one has taken long to start.
constexpr Duration time_to_start_again = milliseconds(250);
constexpr int start_ups_to_start_again = 4;
/// A loop that has paused before the next one, again and again, pauses alike the next time.
constexpr int pauses_to_start_again = 2;
constexpr Duration longest_time_to_start_again = seconds(10);
/// And so long after, when nothing is kept from anybody any more, whether it pauses is still to be
/// learned.
constexpr Duration time_to_be_followed = seconds(3);
/// What takes longer has been running for a while.
constexpr Duration longest_start_up = milliseconds(500);
/// Who waits for the last connection to be over, to listen again, is there by then, also on a busy
/// machine; a server that is kept from running, some time later.
constexpr Duration time_to_follow = milliseconds(30);
constexpr Duration longest_time_to_follow = milliseconds(100);
/// Where somebody wants the port for himself, who may be the server: it has been refused the port
/// for the rest of a connection that is gone by now. Less than a preloaded server's bind() waits.
constexpr Duration time_to_give_way = milliseconds(10);
/// In between, whether the port has become free.
constexpr Duration between_looks = milliseconds(5);
constexpr Duration between_late_looks = milliseconds(20);

/// What a peer has been told already. (The rest is given with the connection.)
std::vector<OptionValue> early_options(const ServerSocket &socket) {
    std::vector<OptionValue> early;
    std::copy_if(socket.chosen.begin(), socket.chosen.end(), std::back_inserter(early),
                 [](const OptionValue &option) { return option.is_early; });
    return early;
}

/// Whether a punching socket made for one listener does for the other.
bool is_same_to_peers(const ServerSocket &one, const ServerSocket &other) {
    return one.transport == other.transport && one.local == other.local &&
           one.owner == other.owner && one.takes_v4 == other.takes_v4 &&
           one.not_to_be_given == nullptr && other.not_to_be_given == nullptr &&
           early_options(one) == early_options(other);
}

} // namespace

ParkedListeners::ParkedListeners(Scheduler &scheduler, Handoff &handoff, SocketDiag &socket_diag,
                                 RegistryOwner &owner)
    : handoff_(handoff), socket_diag_(socket_diag), owner_(owner), looking_(scheduler),
      new_are_kept_for_(time_to_listen_again_at_once) {}

bool ParkedListeners::park(KeptSockets::node_type &listener) {
    KeptSocket &server = listener.mapped();
    server.parked_at = Clock::now();
    server.kept_for = new_are_kept_for_;
    // The last connection may be over by now, and the server about to listen again for that.
    if (!accepted_by(server).empty())
        server.in_use_at = server.parked_at;
    if (!may_park(server, false))
        return false;
    parked_.insert(std::move(listener));
    look_again_in(between_looks);
    return true;
}

void ParkedListeners::look_again_in(Duration delay) {
    const Time due = Clock::now() + delay;
    looking_.set(due, [this, due] {
        owner_.serve_waiting();
        was_late_since(due);
        look(false);
    });
}

/// Meanwhile the keeper was kept from running, and the server may have waited for its answer to
/// listen again: none of that time counts.
void ParkedListeners::was_late_since(Time due) {
    const Time now = Clock::now();
    for (auto &[cookie, server] : parked_)
        for (Time *begin : {&server.parked_at, &server.in_use_at})
            if (*begin < due)
                *begin += now - due;
}

bool ParkedListeners::give_way(std::uint16_t port) {
    const std::size_t before = parked_.size();
    look(true);
    std::vector<std::uint64_t> there;
    for (const auto &[cookie, server] : parked_)
        if (port != 0 && server.socket.local.port() == port)
            there.push_back(cookie);
    for (const std::uint64_t cookie : there)
        forget(cookie);
    return parked_.size() < before;
}

/// The connections that the server has been given lately, by their ends.
ParkedListeners::Connections ParkedListeners::accepted_by(const KeptSocket &server) const {
    Connections connections;
    for (const auto &[peer, punch] : server.punches)
        if (!punch->connected_from().empty() && !handoff_.has_waiting(server.socket.cookie, peer))
            connections.emplace_back(punch->connected_from(), peer);
    return connections;
}

bool ParkedListeners::has_any_of(const Connections &connections) const {
    return std::any_of(connections.begin(), connections.end(), [this](const auto &ends) {
        return socket_diag_.has_connection(ends.first, ends.second);
    });
}

/// Firewalls keep the holes open for two minutes. A peer that calls before somebody listens again
/// would be refused, by a reset that no firewall takes for one, and its hole be closed for that
/// time; so the sockets stay, with the numbers that firewalls know, and so do the connections that
/// have come. They are in the way of who would have the port for himself, as is any connection that
/// the server still has there; where it has none, they stay for a moment only.
bool ParkedListeners::may_park(KeptSocket &server, bool is_for_others) const {
    const ServerSocket &socket = server.socket;
    const Duration parked = Clock::now() - server.parked_at;
    if (!socket.listens || !socket.accepts() || socket.one_to_many)
        return false;
    // (The kernel tells nothing of SCTP's connections: that a server may listen again at once is
    // all that is known.)
    if (socket.transport == Transport::sctp)
        return socket.lets_others_in && !is_for_others && !has_ended_ &&
               parked < time_to_listen_again_at_once;
    const auto is_about_to_listen = [&] {
        return parked < server.kept_for ||
               (parked < time_to_come_to_rest && !has_ended_ && owner_.is_at_work());
    };
    if (socket.lets_others_in && !is_for_others && is_about_to_listen())
        return !socket_diag_.has_listener(socket.local);
    if (parked >=
        (has_ended_ ? std::max(time_to_listen_again, server.kept_for) : Guard::hole_lifetime))
        return false;
    // The server still has a connection there, or the rest of one.
    if (!has_any_of(accepted_by(server))) {
        const Duration unused = Clock::now() - server.in_use_at;
        if (has_ended_ || unused >= longest_time_to_follow ||
            (is_for_others && unused >= time_to_give_way) ||
            (unused >= time_to_follow && !owner_.is_at_work()))
            return false;
    } else {
        server.in_use_at = Clock::now();
    }
    return !socket_diag_.has_listener(socket.local);
}

void ParkedListeners::look(bool is_for_others) {
    std::vector<std::uint64_t> gone;
    Duration youngest = Duration::max();
    for (auto &[cookie, server] : parked_) {
        const Duration parked = Clock::now() - server.parked_at;
        if (server.is_only_remembered) {
            if (is_for_others || parked >= time_to_be_followed)
                gone.push_back(cookie);
            continue;
        }
        if (!may_park(server, is_for_others)) {
            if (is_for_others || !has_ended_ || server.kept_for == Duration::zero())
                gone.push_back(cookie);
            else
                only_remember(cookie, server);
            continue;
        }
        youngest = std::min(youngest, parked);
        // What nobody listens for is not renewed for ever.
        if (parked >= std::max(server.kept_for, time_to_listen_again)) {
            handoff_.withdraw(cookie);
            for (const auto &punch : server.punches)
                static_cast<void>(punch.second->let_end());
        }
    }
    for (const std::uint64_t cookie : gone)
        forget(cookie);
    if (!parked_.empty())
        look_again_in(youngest < time_to_listen_again ? between_looks : between_late_looks);
}

/// The port is everybody's; the next one may still have the keeper.
void ParkedListeners::only_remember(std::uint64_t cookie, KeptSocket &server) {
    handoff_.withdraw(cookie);
    server.punches.clear();
    server.ending.clear();
    server.is_only_remembered = true;
    server.parked_at = Clock::now();
}

/// Who has closed the listener and served who had come, or has left of its own accord, is one that
/// a loop starts again; another user of the port would come later.
void ParkedListeners::server_has_ended(Duration start_up, bool has_left) {
    Duration enough =
        time_to_start_again +
        (start_up < longest_start_up ? start_ups_to_start_again * start_up : Duration::zero());
    if (has_left)
        enough = std::max(
            enough, std::min(pauses_to_start_again * longest_pause_, longest_time_to_start_again));
    if (!std::exchange(has_ended_, true))
        ended_at_ = Clock::now();
    new_are_kept_for_ = has_left ? enough : Duration::zero();
    for (auto &entry : parked_) {
        entry.second.parked_at = Clock::now();
        entry.second.kept_for = enough;
    }
}

void ParkedListeners::keep_only(const std::function<bool(std::uint64_t cookie)> &can_be_found) {
    for (auto &entry : parked_)
        if (!can_be_found(entry.first)) {
            entry.second.parked_at = Time{};
            entry.second.kept_for = Duration::zero();
        }
    look(false);
}

void ParkedListeners::successor_has_come() {
    longest_pause_ = std::max(longest_pause_, Clock::now() - ended_at_);
    has_ended_ = false;
    new_are_kept_for_ = time_to_listen_again_at_once;
    for (auto &entry : parked_) {
        entry.second.parked_at = Clock::now();
        entry.second.kept_for = time_to_listen_again;
    }
}

KeptSockets::node_type ParkedListeners::take_up(const ServerSocket &socket) {
    const auto found = std::find_if(parked_.begin(), parked_.end(), [&](const auto &entry) {
        return entry.second.socket.transport == socket.transport &&
               entry.second.socket.local == socket.local;
    });
    if (found == parked_.end())
        return {};
    if (!is_same_to_peers(found->second.socket, socket)) {
        forget(found->first); // they would be in the way of its own
        return {};
    }
    auto server = parked_.extract(found);
    server.mapped().is_only_remembered = false;
    handoff_.listens_again(server.key(), socket.cookie);
    owner_.listens_again(server.key(), socket.cookie);
    server.key() = socket.cookie;
    server.mapped().asked.clear();
    return server;
}

bool ParkedListeners::is_kept_for(const Endpoint &address, bool takes_v4, uid_t owner) const {
    const auto found = std::find_if(parked_.begin(), parked_.end(), [&](const auto &entry) {
        const ServerSocket &socket = entry.second.socket;
        return socket.local == address && socket.takes_v4 == takes_v4 && socket.owner == owner;
    });
    if (found == parked_.end())
        return false;
    const auto waiting = handoff_.waiting(found->first);
    std::unordered_set<std::uint64_t> own(waiting.begin(), waiting.end());
    for (const auto *punches : {&found->second.punches, &found->second.ending})
        for (const auto &punch : *punches)
            for (const std::uint64_t cookie : punch.second->cookies())
                own.insert(cookie);
    return !socket_diag_.has_others(address.port(), own);
}

bool ParkedListeners::has_at(std::uint16_t port) const {
    return std::any_of(parked_.begin(), parked_.end(), [port](const auto &entry) {
        return entry.second.socket.local.port() == port;
    });
}

void ParkedListeners::forget(std::uint64_t cookie) {
    handoff_.withdraw(cookie);
    parked_.erase(cookie);
    owner_.dropped(cookie);
}

void ParkedListeners::forget_all() {
    while (!parked_.empty())
        forget(parked_.begin()->first);
}

} // namespace synergy
