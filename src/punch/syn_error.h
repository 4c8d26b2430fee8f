// Whose error it is that a SYN of a punch brings back, or that keeps it from leaving.
#pragma once

#include "base/socket.h"
#include "hops/icmp_error.h"
#include "punch/punch.h"

#include <optional>
#include <string>

struct tcp_info;

namespace synergy {

/// What has ended a socket in SYN_SENT with this errno: the latest error on its queue, or what the
/// errno says by itself. None is left on the queue for the next punch of this socket.
IcmpError take_error_of_syn(const Socket &socket, int error);

/// A prohibition that nobody has sent, where the kernel keeps who has; for IPv4 those that somebody
/// sends are another error (ip(7), EACCES and EHOSTUNREACH).
bool is_of_routing_table(const IcmpError &answer, bool is_v4);

/// Whether it is this host's own firewall that refuses (OUTPUT), or its routing table, or whether
/// its router does not answer it. A reset does not say whose it is: that takes a SYN that dies on
/// the first router, and as long as `lateness` lets it take (failure.h).
bool is_by_this_host(const IcmpError &answer, const Hole &hole, Duration lateness);

/// Whether the SYNs that the kernel repeats by its timer leave this host. It counts what it has
/// retransmitted apart from what it was to: where it sends none, a timer tells nothing of the
/// clock, and the user is to know. (It does not even try while a SYN of before still waits within
/// this host, for a router that did not answer, say, and whose route may be another one by now:
/// that is no sign of a firewall.)
class SynDepartures {
  public:
    struct Finding {
        bool has_left = false;
        int error = 0;       ///< the errno that the routing table has for it; 0: another cause
        std::string cause{}; ///< in words; empty: none that is known, or not surely
    };

    /// Another punch begins, and nothing of before counts. `tried`: so many retransmissions of this
    /// socket (tcpi_total_retrans) are the last punch's.
    void begin(unsigned tried);
    /// Nothing, where the kernel has repeated no SYN since it was asked last.
    std::optional<Finding> look(const Socket &socket, const tcp_info &info, const Hole &hole,
                                const Settings &settings);
    /// Whether the kernel has repeated none since it was asked last.
    [[nodiscard]] bool knows_all(const tcp_info &info) const;
    /// Whether the latest one that was looked at has left, or what kept it is told.
    [[nodiscard]] bool is_sound() const { return unsent_ == 0; }

  private:
    static int source_error(const Socket &socket, const Hole &hole, const Settings &settings);

    unsigned looked_at_ = 0; ///< so many retransmissions have been looked at
    unsigned tried_ = 0;     ///< of them, those that the kernel has tried to send
    unsigned unsent_ = 0;    ///< of them, those in a row that have not left this host
    std::string unsent_for_; ///< why
};

} // namespace synergy
