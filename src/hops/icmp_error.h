// What came back for a packet, as the kernel keeps it for the socket that sent it.
#pragma once

#include "base/socket.h"
#include "hops/path.h"

#include <optional>

namespace synergy {

struct IcmpError {
    HopAnswer answer = HopAnswer::none; ///< none: nothing that says where the packet went
    Endpoint from{};                    ///< who sent it; empty: not known
    int hop_limit = 0; ///< it had that when it came (IPV6_RECVHOPLIMIT); 0: not known
};

/// Takes one error off the socket's queue (ip(7), IP_RECVERR). Of TCP it holds what came in
/// SYN_SENT, where that option is set (IPv4: always).
std::optional<IcmpError> read_icmp_error(const Socket &socket);

/// Whether the kernel keeps who has sent an error of TCP's: or else nothing says whether anybody
/// has.
bool are_senders_kept(bool is_v4);

} // namespace synergy
