// SCTP, one-to-one sockets: simultaneous INIT (RFC 9260 5.2.1). A second socket beside the listener
// stays in COOKIE_WAIT with the peer's address; its INIT opens the firewall and dies beyond it, and
// the peer's own INIT is answered with the very tag that the firewall saw. The error that the INIT
// dies with does no harm.
#pragma once

#include "punch/init_clock.h"
#include "punch/punch.h"
#include "punch/sctp_associations.h"

namespace synergy {

class SctpPunch final : public Punch {
  public:
    SctpPunch(const PunchContext &context, Hole hole);
    ~SctpPunch() override;

    int open() override;
    [[nodiscard]] bool is_in_use() const override { return rests_; }

  private:
    [[nodiscard]] bool try_bind();
    int punch();
    [[nodiscard]] bool take_error() const;
    void await_first_error();
    void await_repetition();
    void look_for_repetition(Time asked);
    void happened(std::uint32_t events);
    void established();
    int failed(int error);
    void begin_again();
    void retry_at(Time time);

    bool is_v4_;
    SctpAssociations associations_;
    Socket socket_;
    InitClock clock_;
    Timer timer_;
    unsigned failures_ = 0;
    bool rests_ = false; ///< an earlier association is still there
};

} // namespace synergy
