// What this host keeps out of what comes for it, as far as it can be felt without rights.
#pragma once

#include <cstdint>
#include <optional>

namespace synergy {

/// Counts from the moment on in which it is made, what is of AF_INET6 or of AF_INET. 0: nothing, or
/// the kernel does not tell.
class KeptOut {
  public:
    explicit KeptOut(int family);

    /// How many packets for this host were given to nobody for no other reason that the kernel
    /// counts than its own firewall's (INPUT): so many at the least. 0 where it forwards others'
    /// packets, which are counted with them.
    [[nodiscard]] std::uint64_t by_firewall() const;
    /// How many it has dropped for having come by another interface than what answers them would
    /// leave by (RFC 3704 2.2; IPv4, net.ipv4.conf.*.rp_filter).
    [[nodiscard]] std::uint64_t from_elsewhere() const;

  private:
    struct Count {
        std::optional<std::int64_t> by_firewall;
        std::int64_t from_elsewhere = 0;
    };
    [[nodiscard]] static Count count(int family);

    int family_;
    Count before_;
};

} // namespace synergy
