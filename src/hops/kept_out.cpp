#include "hops/kept_out.h"

#include "hops/counters.h"

#include <algorithm>
#include <fstream>
#include <sys/socket.h>

namespace synergy {

namespace {

bool forwards_v6() {
    int is_on = 1;
    std::ifstream("/proc/sys/net/ipv6/conf/all/forwarding") >> is_on;
    return is_on != 0;
}

} // namespace

KeptOut::KeptOut(int family) : family_(family), before_(count(family)) {}

std::uint64_t KeptOut::by_firewall() const {
    const auto now = count(family_).by_firewall;
    return now && before_.by_firewall && *now > *before_.by_firewall
               ? static_cast<std::uint64_t>(*now - *before_.by_firewall)
               : 0;
}

std::uint64_t KeptOut::from_elsewhere() const {
    return static_cast<std::uint64_t>(
        std::max<std::int64_t>(count(family_).from_elsewhere - before_.from_elsewhere, 0));
}

KeptOut::Count KeptOut::count(int family) {
    constexpr const char *from_elsewhere = "IPReversePathFilter";
    Counters all = counters(family);
    if (family != AF_INET6)
        add_further(all);
    Count found{.by_firewall = {}, .from_elsewhere = all[from_elsewhere]};
    constexpr int forwarding = 1; // RFC 4293, ipForwarding
    if (!all.contains("InReceives") ||
        (family == AF_INET6 ? forwards_v6() : all["Forwarding"] == forwarding))
        return found;
    // (Those to groups, and broadcasts, may have been given to somebody or not.)
    std::int64_t rest = all["InReceives"] + all["ReasmOKs"];
    for (const char *name : {"InDelivers", "InMcastPkts", "InBcastPkts", "ReasmReqds",
                             "InHdrErrors", "InTooBigErrors", "InAddrErrors", "InNoRoutes",
                             "InUnknownProtos", "InTruncatedPkts", "InDiscards", from_elsewhere})
        rest -= all[name];
    found.by_firewall = rest;
    return found;
}

} // namespace synergy
