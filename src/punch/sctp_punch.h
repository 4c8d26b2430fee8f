// SCTP, one-to-one sockets: simultaneous INIT (RFC 9260 5.2.1). A second socket beside the listener
// stays in COOKIE_WAIT with the peer's address; its INIT opens the firewall and dies beyond it, and
// the peer's own INIT is answered with the very tag that the firewall saw. The error that the INIT
// dies with does no harm.
//
// The kernel repeats an INIT by a timer that no call tells of, with the hop limit that the socket
// has then. So it never comes to that: each INIT is a new socket's, which takes the place of the
// one before, and the hop limit is low for as long as connect() takes. (A tracker takes the new
// tag.)
#pragma once

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
    [[nodiscard]] Socket bound_socket() const;
    int punch();
    void close_socket();
    [[nodiscard]] bool has_answered() const;
    void hear(bool is_to_hear) const;
    bool look_for_a_connection();
    bool look_for_a_call();
    [[nodiscard]] int error_told() const;
    [[nodiscard]] bool is_refused_here();
    void tell_of(int error, bool is_sure);
    int send_init(Socket socket, const Endpoint &own, bool is_answer);
    int answer(const Endpoint &own);
    [[nodiscard]] bool has_association() const;
    void wait_for_its_end();
    void happened(std::uint32_t events);
    void established();
    int failed(int error);
    void begin_again();
    void retry_at(Time time);

    bool is_v4_;
    std::shared_ptr<HoleBegin> begin_;
    SctpAssociations associations_;
    Socket socket_;
    Timer timer_;
    Endpoint own_;   ///< an address that its association has here, and the port
    Time punched_{}; ///< its INIT left then, or a little later
    unsigned failures_ = 0;
    int told_last_ = 0;      ///< of the INIT before the last one: an errno
    bool is_answer_ = false; ///< what it has sent last goes all the way
    bool rests_ = false;     ///< an earlier association is still there
};

} // namespace synergy
