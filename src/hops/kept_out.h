// What this host's own firewall (INPUT) keeps out, as far as it can be felt without rights.
#pragma once

#include <cstdint>
#include <optional>

namespace synergy {

/// How many packets for this host, of AF_INET6 or AF_INET, have come in since it was started and
/// were given to nobody for no other reason that the kernel counts: so many at the least. Nothing
/// where it forwards others' packets, which are counted with them, or does not tell.
std::optional<std::uint64_t> packets_kept_out(int family);

} // namespace synergy
