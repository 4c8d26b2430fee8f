#include "hops/departures.h"

#include "hops/counters.h"

#include <sys/socket.h>

namespace synergy {

Departures::Departures(int family) : family_(family), before_(count(family)) {}

bool Departures::are_none() const {
    return before_ && count(family_) == before_;
}

std::optional<std::int64_t> Departures::count(int family) {
    const Counters all = counters(family);
    // Behind the firewall; before Linux 6.7 in IPv4 by the other name, which is of what comes
    // before it by now, and in IPv6 has always been.
    auto sent = all.find("OutTransmits");
    if (sent == all.end() && family == AF_INET)
        sent = all.find("OutRequests");
    const auto answers = all.find("IcmpOutDestUnreachs");
    if (sent == all.end() || answers == all.end())
        return std::nullopt;
    return sent->second - answers->second;
}

} // namespace synergy
