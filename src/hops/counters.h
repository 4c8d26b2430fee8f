// What the kernel counts in the network that this process is in.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace synergy {

/// By the names that it has for them (/proc/net/snmp, /proc/net/snmp6): those of IP by the name
/// alone ("OutRequests"), those of ICMP with it ("IcmpOutDestUnreachs").
using Counters = std::map<std::string, std::int64_t>;

/// Of AF_INET6 or of AF_INET. Empty: they can't be read.
Counters counters(int family);

/// What there is besides of AF_INET (/proc/net/netstat).
void add_further(Counters &all);

} // namespace synergy
