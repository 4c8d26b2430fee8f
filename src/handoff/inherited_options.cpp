#include "handoff/inherited_options.h"

#include <sys/socket.h> // before linux/sctp.h

#include <array>
#include <cstdint>
#include <cstring>
#include <linux/in6.h> // IPV6_ADDR_PREFERENCES
#include <linux/sctp.h>
#include <linux/tcp.h>
#include <netinet/in.h>

namespace synergy {

namespace {

struct Option {
    int level;
    int name;
};

// Buffer sizes and the maximum segment are not here: they are set before the SYN, and reading them
// back would pin what the kernel adapts by itself. SCTP_PEER_ADDR_PARAMS is not: the punch's
// heartbeats keep firewalls open.
constexpr std::array options{
    Option{SOL_SOCKET, SO_KEEPALIVE},
    Option{SOL_SOCKET, SO_OOBINLINE},
    Option{SOL_SOCKET, SO_LINGER},
    Option{SOL_SOCKET, SO_RCVLOWAT},
    Option{SOL_SOCKET, SO_RCVTIMEO},
    Option{SOL_SOCKET, SO_SNDTIMEO},
    Option{SOL_SOCKET, SO_MARK},
    Option{SOL_SOCKET, SO_TIMESTAMP},
    Option{SOL_SOCKET, SO_BUSY_POLL},
    Option{IPPROTO_TCP, TCP_NODELAY},
    Option{IPPROTO_TCP, TCP_CORK},
    Option{IPPROTO_TCP, TCP_KEEPIDLE},
    Option{IPPROTO_TCP, TCP_KEEPINTVL},
    Option{IPPROTO_TCP, TCP_KEEPCNT},
    Option{IPPROTO_TCP, TCP_USER_TIMEOUT},
    Option{IPPROTO_TCP, TCP_LINGER2},
    Option{IPPROTO_TCP, TCP_NOTSENT_LOWAT},
    Option{IPPROTO_TCP, TCP_CONGESTION},
    Option{IPPROTO_SCTP, SCTP_RTOINFO},
    Option{IPPROTO_SCTP, SCTP_NODELAY},
    Option{IPPROTO_SCTP, SCTP_EVENTS},
    Option{IPPROTO_SCTP, SCTP_DISABLE_FRAGMENTS},
    Option{IPPROTO_SCTP, SCTP_DEFAULT_SEND_PARAM},
    Option{IPPROTO_IP, IP_TOS},
    Option{IPPROTO_IP, IP_TTL},
    Option{IPPROTO_IP, IP_MINTTL},
    Option{IPPROTO_IP, IP_MTU_DISCOVER},
    Option{IPPROTO_IP, IP_RECVERR},
    Option{IPPROTO_IPV6, IPV6_TCLASS},
    Option{IPPROTO_IPV6, IPV6_UNICAST_HOPS},
    Option{IPPROTO_IPV6, IPV6_MINHOPCOUNT},
    Option{IPPROTO_IPV6, IPV6_MTU_DISCOVER},
    Option{IPPROTO_IPV6, IPV6_RECVERR},
    Option{IPPROTO_IPV6, IPV6_ADDR_PREFERENCES},
    Option{SOL_SOCKET, SO_PRIORITY}, // last: IP_TOS sets it too (ip(7))
};

} // namespace

void copy_inherited_options(int from, int to) {
    for (const Option &option : options) {
        std::array<char, 32> wanted{};
        std::array<char, 32> present{};
        auto wanted_length = static_cast<socklen_t>(wanted.size());
        auto present_length = static_cast<socklen_t>(present.size());
        if (getsockopt(from, option.level, option.name, wanted.data(), &wanted_length) == 0 &&
            getsockopt(to, option.level, option.name, present.data(), &present_length) == 0 &&
            wanted != present)
            ::setsockopt(to, option.level, option.name, wanted.data(), wanted_length);
    }
}

} // namespace synergy
