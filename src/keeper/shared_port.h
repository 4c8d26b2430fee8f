// Listeners that share one port (SO_REUSEPORT), each with punches of its own: whose a peer is.
#pragma once

#include "handoff/handoff.h"
#include "keeper/kept_socket.h"
#include "keeper/registry_owner.h"
#include "server/socket_diag.h"

#include <cstdint>
#include <vector>

namespace synergy {

/// Gives what comes to one of them to all in turn, as the kernel does with what comes to the
/// listeners themselves: to those in `servers` itself, to others through `owner`.
class SharedPort {
  public:
    SharedPort(KeptSockets &servers, Handoff &handoff, SocketDiag &socket_diag,
               RegistryOwner &owner)
        : servers_(servers), handoff_(handoff), socket_diag_(socket_diag), owner_(owner) {}

    /// A peer's connection has come to this listener.
    void give(Socket connection, const Endpoint &peer, KeptSocket &server);
    /// What has come to another listener is given to this one. False, and it is left in the gift:
    /// it is not for this one.
    bool take(std::uint64_t cookie, Gift &gift);
    /// The listener is gone: whoever has connected, or calls from here on, is another's.
    void leave(KeptSocket &server);

  private:
    using Cookies = std::vector<std::uint64_t>;
    [[nodiscard]] Cookies sharers_of(KeptSocket &server);
    void offer_in_turn(Gift gift, std::uint64_t from, Cookies to);

    KeptSockets &servers_;
    Handoff &handoff_;
    SocketDiag &socket_diag_;
    RegistryOwner &owner_;
};

} // namespace synergy
