// TCP: guarded simultaneous open (RFC 9293 3.5; RFC 5382 REQ-2 and RFC 6092 REC-31 have firewalls
// let it through). A second socket beside the listener stays in SYN_SENT with the peer's address;
// its SYN opens the firewall and dies beyond it, and the peer's own SYN completes the connection.
#pragma once

#include "punch/guard.h"
#include "punch/punch.h"

namespace synergy {

class TcpPunch final : public Punch {
  public:
    TcpPunch(const PunchContext &context, Hole hole);
    ~TcpPunch() override;

    int open() override;
    [[nodiscard]] bool is_in_use() const override { return rests_ > 0 || was_connected_; }

  private:
    int bind_socket();
    void close_socket();
    int punch();
    void happened();
    void tick();
    [[nodiscard]] bool leaves_from_elsewhere() const;
    [[nodiscard]] bool has_missed_peer() const;
    bool open_in_time();
    void answer_peer(bool was_heard);
    void failed(int error);
    void established();
    void retry_at(Time time);
    void follow_dying_hop();
    void hear_from(int least_hop_limit);
    void follow_guard(Guard::Phase before);
    void set_user_timeout(Duration timeout);
    void schedule();

    bool is_v4_;
    int deaf_hop_limit_; ///< of what is heard at least while an error is to come
    bool is_round_trip_known_ = false;
    Socket socket_;
    Guard guard_;
    Timer timer_;
    Time busy_until_{};          ///< how long a half-open connection may take
    bool was_connected_ = false; ///< since the last punch
    std::uint32_t missed_ = 0;   ///< packets, of which nothing more is to be made
    unsigned failures_ = 0;
    unsigned rests_ = 0; ///< attempts for which the four-tuple was not free
};

} // namespace synergy
