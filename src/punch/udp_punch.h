// UDP: an empty datagram from the server's own socket, with a hop limit for it alone. No other
// socket may be bound to the port, since it would get datagrams that are the server's.
#pragma once

#include "punch/punch.h"

namespace synergy {

class UdpPunch final : public Punch {
  public:
    /// `fd`: a duplicate of the server's socket; its owner outlives the punch.
    UdpPunch(const PunchContext &context, Hole hole, int fd);

    int open() override { return punch(); }

  private:
    void renew();
    int punch();
    [[nodiscard]] int send() const;

    int fd_;
    Timer timer_;
    FailureLog failure_log_;
    unsigned failures_ = 0;
    bool is_heard_ = false;
};

} // namespace synergy
