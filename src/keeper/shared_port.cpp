#include "keeper/shared_port.h"

#include "server/tcp_keys.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace synergy {

namespace {

/// Whether the server lets others have a share of the port, and these can have what it has. (Its
/// keys it has told its own keeper alone.)
bool is_to_be_shared(const ServerSocket &socket) {
    return socket.is_shared && socket.transport == Transport::tcp &&
           std::none_of(socket.chosen.begin(), socket.chosen.end(), is_key);
}

} // namespace

void SharedPort::give(Socket connection, const Endpoint &peer, KeptSocket &server) {
    const ServerSocket &socket = server.socket;
    offer_in_turn(Gift(std::move(connection), peer, hash_of_beginning(socket.chosen)),
                  socket.cookie, sharers_of(server));
}

/// Who would have the next connection, and who else, in turn. The first one is its own: it is there
/// the soonest.
SharedPort::Cookies SharedPort::sharers_of(KeptSocket &server) {
    if (!is_to_be_shared(server.socket))
        return {server.socket.cookie};
    Cookies all = socket_diag_.listeners_at(server.socket.local, server.socket.owner);
    if (all.empty())
        return {server.socket.cookie};
    const auto own = std::find(all.begin(), all.end(), server.socket.cookie);
    const std::size_t first = own == all.end() ? 0 : static_cast<std::size_t>(own - all.begin());
    const std::size_t next = (first + server.turn++) % all.size();
    std::rotate(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(next), all.end());
    return all;
}

/// To the first of them that takes it, or else to where it comes from.
void SharedPort::offer_in_turn(Gift gift, std::uint64_t from, Cookies to) {
    while (!to.empty() && to.front() != from) {
        const std::uint64_t next = to.front();
        to.erase(to.begin());
        if (!servers_.contains(next)) {
            owner_.give(std::move(gift), next, [this, from, others = std::move(to)](Gift refused) {
                offer_in_turn(std::move(refused), from, others);
            });
            return;
        }
        if (take(next, gift))
            return;
    }
    const auto own = servers_.find(from);
    if (own != servers_.end() && !gift.standing)
        handoff_.offer(std::move(gift.socket), gift.peer, own->second.socket);
    else
        gift.socket.reset_when_closed();
}

bool SharedPort::take(std::uint64_t cookie, Gift &gift) {
    const auto found = servers_.find(cookie);
    if (found == servers_.end())
        return false;
    KeptSocket &server = found->second;
    if (!is_to_be_shared(server.socket) || !server.socket.listens ||
        handoff_.is_out_of_reach(cookie) ||
        hash_of_beginning(server.socket.chosen) != gift.beginning ||
        gift.socket.local().port() != server.socket.local.port())
        return false;
    if (gift.standing) {
        const auto punch = server.punches.find(gift.peer);
        if (punch == server.punches.end() || !punch->second->may_take_over())
            return false;
        punch->second->take_over({.socket = std::move(gift.socket), .standing = *gift.standing});
        return true;
    }
    if (gift.socket.remote() != gift.peer)
        return false;
    server.is_reached = true;
    handoff_.offer(std::move(gift.socket), gift.peer, server.socket);
    return true;
}

void SharedPort::leave(KeptSocket &server) {
    const std::uint64_t own = server.socket.cookie;
    Cookies heirs = sharers_of(server);
    std::erase(heirs, own);
    if (heirs.empty())
        return;
    const std::uint64_t beginning = hash_of_beginning(server.socket.chosen);
    for (auto &[connection, peer] : handoff_.take_back(own)) {
        offer_in_turn(Gift(std::move(connection), peer, beginning), own, heirs);
        std::rotate(heirs.begin(), heirs.begin() + 1, heirs.end());
    }
    for (auto &[peer, punch] : server.punches)
        if (auto given = punch->give_away())
            offer_in_turn(Gift(std::move(given->socket), peer, beginning, given->standing), own,
                          heirs);
}

} // namespace synergy
