// UDP: an empty datagram with a low hop limit, from the server's address. It leaves from a socket
// that is bound beside the server's for the moment of one sendmsg(), so that no datagram that the
// server is putting together is touched (MSG_MORE, UDP_CORK), and nobody holds its port. (The error
// that it brings back is the server's all the same: the kernel looks up by port who is to have it.)
// Where there is no room beside, it leaves from the server's own.
#pragma once

#include "punch/punch.h"

namespace synergy {

class UdpPunch final : public Punch {
  public:
    /// `fd`: a duplicate of the server's socket, whose owner outlives the punch; -1: there is room
    /// beside.
    UdpPunch(const PunchContext &context, Hole hole, int fd);

    int open() override { return punch(); }

  private:
    void renew();
    int punch();
    [[nodiscard]] int send();
    [[nodiscard]] int send_from(int fd, const Endpoint &peer) const;

    int fd_;
    Timer timer_;
    unsigned failures_ = 0;
    bool is_heard_ = false;
    bool is_group_told_ = false; ///< see send()
};

} // namespace synergy
