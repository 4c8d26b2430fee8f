// Whose error it is that an INIT has met. SCTP goes on all the same, and the kernel tells no more
// of it than an errno: not who has sent it.
#pragma once

#include "punch/punch.h"

#include <optional>

namespace synergy::sctp {

/// What is known of an INIT when connect() has returned.
struct SentInit {
    Duration after{};             ///< so long ago it was sent
    bool has_left = true;         ///< this host; false: nothing has meanwhile (hops/departures.h)
    std::optional<Hop> dies_at{}; ///< as far as it is known
};

/// Whether `error`, which is there by now, is a firewall's of this host's own. `lateness`: see
/// punch/failure.h.
bool is_by_this_host(int error, const Hole &hole, const SentInit &init, Duration lateness);

/// Whether INITs leave this host. Of what is dropped SCTP tells nothing, and what is counted may be
/// others' packets: that nothing at all leaves while an INIT is sent is no accident the second time.
class InitDepartures {
  public:
    void sent(bool has_left) { unsent_ = has_left ? 0 : unsent_ + 1; }
    /// An answer has come, to one that was only kept waiting (NFQUEUE).
    void answered() { unsent_ = 0; }
    [[nodiscard]] bool are_none() const { return unsent_ >= surely; }

  private:
    static constexpr unsigned surely = 2;
    unsigned unsent_ = 0;
};

/// What it says if it is somebody else's; nothing where that may be no more than the punch's end.
/// (In IPv4 a prohibition is EHOSTUNREACH as well, icmp_err_convert[].)
std::optional<IcmpError> refusal_of(int error);

} // namespace synergy::sctp
