// Listeners that the server has closed, and whose holes wait for the next one on their port.
#pragma once

#include "handoff/handoff.h"
#include "keeper/kept_socket.h"
#include "keeper/registry_owner.h"
#include "server/socket_diag.h"

namespace synergy {

class ParkedListeners {
  public:
    ParkedListeners(Scheduler &scheduler, Handoff &handoff, SocketDiag &socket_diag,
                    RegistryOwner &owner);

    /// True, and it is taken, where it is one that may wait: it was closed just now.
    bool park(KeptSockets::node_type &listener);
    /// What was made for the one listener is the other's: the holes know it by its place here.
    /// Empty where nothing waits for it.
    [[nodiscard]] KeptSockets::node_type take_up(const ServerSocket &socket);

    [[nodiscard]] const KeptSockets &all() const { return parked_; }
    [[nodiscard]] bool has(std::uint64_t cookie) const { return parked_.contains(cookie); }
    [[nodiscard]] bool has_at(std::uint16_t port) const;
    /// Whether nothing keeps the address from a listener of this user's but what waits for it.
    [[nodiscard]] bool is_kept_for(const Endpoint &address, bool takes_v4, uid_t owner) const;

    /// Those go that are in the way of who wants the port for himself; and all that are at `port`
    /// (0: no port), which another keeper punches for from here on. True if there were any.
    bool give_way(std::uint16_t port);
    void forget_all();

    /// The server has no process any more. What is kept for the next one is so for a while: longer,
    /// the longer it takes the server to start. `has_left`: it was not killed.
    void server_has_ended(Duration start_up, bool has_left);
    /// The others will be waited for in vain.
    void keep_only(const std::function<bool(std::uint64_t cookie)> &can_be_found);
    /// Who has bound the port, and is about to listen.
    void successor_has_come();

  private:
    using Connections = std::vector<std::pair<Endpoint, Endpoint>>; ///< here, and the peer's

    [[nodiscard]] bool may_park(KeptSocket &server, bool is_for_others) const;
    [[nodiscard]] Connections accepted_by(const KeptSocket &server) const;
    [[nodiscard]] bool has_any_of(const Connections &connections) const;
    /// `is_for_others`: somebody wants the port for himself.
    void look(bool is_for_others);
    void look_again_in(Duration delay);
    void was_late_since(Time due);
    void only_remember(std::uint64_t cookie, KeptSocket &server);
    void forget(std::uint64_t cookie);

    Handoff &handoff_;
    SocketDiag &socket_diag_;
    RegistryOwner &owner_;
    KeptSockets parked_; ///< by the cookie that they had
    Timer looking_;
    bool has_ended_ = false;    ///< the server has
    Time ended_at_{};           ///< when
    Duration longest_pause_{};  ///< between the end of a server and its successor
    Duration new_are_kept_for_; ///< of those that are parked from now on: see KeptSocket
};

} // namespace synergy
