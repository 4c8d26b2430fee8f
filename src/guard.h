// When a punching socket in SYN_SENT may be heard, and when it must be deaf.
//
// Every SYN that the socket sends, its first one and the kernel's retransmissions, has to leave
// with the punch's hop limit, and the ICMP error that it dies with would kill the socket. Between
// them the hop limit must be the ordinary one, or the answer to the peer's SYN would die as well.
#pragma once

#include "scheduler.h"

namespace synergy {

/// Where the kernel's retransmission timer stands (TCP_INFO: tcpi_retransmits, tcpi_rto).
struct SynTimer {
    unsigned retransmits = 0;
    Duration timeout{};
};

class Guard {
  public:
    enum class Phase {
        low, ///< the punch's hop limit, and deaf: a SYN may leave, or its error come back
        open ///< the ordinary hop limit: the peer's SYN is welcome
    };

    /// The thread must have run by this long before the kernel may retransmit. The kernel's timers
    /// run late, never early, and ours by less than this on a busy machine.
    static constexpr Duration lead = std::chrono::milliseconds(40);

    /// `window`: how long after a SYN its error may come; zero where the socket can tell the error
    /// from the peer's SYN and need not be deaf (IPv4).
    explicit Guard(Duration window) : window_(window) {}

    /// A SYN has just left.
    void sent(Time now, Duration timeout);
    /// An ICMP error has killed the socket: the window was too short. It is wider from now on.
    void error_came(Time now);
    /// To be called at next() with what the kernel says.
    void tick(Time now, SynTimer timer);

    [[nodiscard]] Phase phase() const { return phase_; }
    /// When tick() is wanted.
    [[nodiscard]] Time next() const { return next_; }

  private:
    enum class Step { error_due, hearing, awaiting };

    void settle(Time sent_at, Duration timeout);

    Duration window_;
    Phase phase_ = Phase::low;
    Step step_ = Step::error_due;
    Time next_{};
    Time sent_at_{};
    Time retransmission_{};
    unsigned seen_ = 0;
};

} // namespace synergy
