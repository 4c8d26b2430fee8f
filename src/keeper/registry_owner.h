// What the registry asks the keeper, and tells it.
#pragma once

#include "keeper/gift.h"
#include "server/server_socket.h"

#include <cstdint>
#include <functional>
#include <unordered_set>
#include <utility>
#include <vector>

namespace synergy {

struct RegistryOwner {
    /// Whether anybody of the server still has the socket. Corrects its number.
    std::function<bool(ServerSocket &)> locate;
    /// Whether any of these connections is there, by its ends here and there.
    std::function<bool(const std::vector<std::pair<Endpoint, Endpoint>> &)> has_connection;
    /// How many control chunks have come in an SCTP association.
    std::function<std::uint64_t(const Endpoint &from, const Endpoint &to)> control_chunks;
    /// Whether anybody listens at the port of this listener, which is gone.
    std::function<bool(const ServerSocket &)> has_listener;
    /// Whether a TCP port has any sockets but those with these cookies.
    std::function<bool(std::uint16_t port, const std::unordered_set<std::uint64_t> &than)>
        has_others;
    /// All listeners that share this one's port with it, itself included, in an order of their own.
    std::function<std::vector<std::uint64_t>(const ServerSocket &)> sharers;
    /// Gives what has come to a listener of ours to the keeper of another one, by its cookie. Where
    /// that does not take it, `refused` gets it back, now or later.
    std::function<void(Gift gift, std::uint64_t to, std::function<void(Gift)> refused)> give;
    /// The socket with this cookie is gone, and its holes wait for the next one on its port.
    std::function<void(std::uint64_t cookie)> parked;
    /// Which has come.
    std::function<void(std::uint64_t before, std::uint64_t now)> listens_again;
    /// The holes of the socket with this cookie have ended.
    std::function<void(std::uint64_t cookie)> dropped;
    /// Whether the server runs, so that it may be about to listen again.
    std::function<bool()> is_at_work;
    /// Has those answered who have asked for something by now.
    std::function<void()> serve_waiting;
    /// Other ports concern us than before.
    std::function<void()> settings_changed;
};

} // namespace synergy
