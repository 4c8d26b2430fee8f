// Whether what this host sends leaves it, as far as the kernel counts that: some transports tell
// nothing of a packet that a firewall of this host's own (OUTPUT) has dropped.
#pragma once

#include <cstdint>
#include <optional>

namespace synergy {

/// Of the packets that are sent from the moment on in which it is made: all that are of AF_INET6 or
/// of AF_INET, whoever sends them.
class Departures {
  public:
    explicit Departures(int family);

    /// None has passed this host's own firewall but what that answers itself (REJECT). False where
    /// one has, or the kernel does not tell (IPv6 before Linux 6.7).
    [[nodiscard]] bool are_none() const;

  private:
    /// (ICMP's are the answers, each of which is sent, too.)
    [[nodiscard]] static std::optional<std::int64_t> count(int family);

    int family_;
    std::optional<std::int64_t> before_;
};

} // namespace synergy
