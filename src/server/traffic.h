// What passes between the server's datagram sockets and their peers, as the server's threads note
// it in the page that they share with the keeper.
#pragma once

#include "base/endpoint.h"
#include "base/scheduler.h"
#include "wire.h"

#include <optional>

namespace synergy {

class Traffic {
  public:
    explicit Traffic(synergy_page &page) : page_(page) {}

    /// When the server's socket with this cookie last received a datagram from `peer`, or sent it
    /// one; whole seconds.
    [[nodiscard]] std::optional<Time> last(synergy_way way, std::uint64_t cookie,
                                           const Endpoint &peer) const;

    /// A datagram has been sent that brings an error back, to the server's socket as well.
    void punched() const;

  private:
    synergy_page &page_;
};

/// The same address for the shim.
synergy_endpoint wire_endpoint(const Endpoint &endpoint);

} // namespace synergy
