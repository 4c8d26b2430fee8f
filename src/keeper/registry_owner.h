// What the registry asks the keeper, and tells it.
#pragma once

#include "keeper/gift.h"
#include "server/server_socket.h"

#include <cstdint>
#include <functional>

namespace synergy {

class RegistryOwner {
  public:
    virtual ~RegistryOwner() = default;

    /// Whether anybody of the server still has the socket. Sets its `fd` to a number that
    /// it has now.
    [[nodiscard]] virtual bool locate(ServerSocket &socket) const = 0;
    /// Whether the server runs, so that it may be about to listen again.
    [[nodiscard]] virtual bool is_at_work() = 0;
    /// The socket with this cookie is gone, and its holes wait for the next one on its port.
    virtual void parked(std::uint64_t cookie) = 0;
    /// Which has come.
    virtual void listens_again(std::uint64_t before, std::uint64_t now) = 0;
    /// The holes of the socket with this cookie have ended.
    virtual void dropped(std::uint64_t cookie) = 0;
    /// Gives what has come to a listener of ours to the keeper of another one, by its cookie. Where
    /// that does not take it, `refused` gets it back, now or later.
    virtual void give(Gift gift, std::uint64_t to, const std::function<void(Gift)> &refused) = 0;
    /// Has those answered who have asked for something by now.
    virtual void serve_waiting() = 0;
    /// Other ports concern us than before.
    virtual void settings_changed() = 0;
};

} // namespace synergy
