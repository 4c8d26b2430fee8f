#include "hops/kept_out.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <sys/socket.h>

namespace synergy {

namespace {

using Counters = std::map<std::string, std::int64_t>;

/// "Ip6InReceives    146", a line each.
Counters v6_counters() {
    std::ifstream file("/proc/self/net/snmp6");
    Counters all;
    std::string name;
    for (std::int64_t count = 0; file >> name >> count;)
        if (name.starts_with("Ip6"))
            all[name.substr(3)] = count;
    return all;
}

/// "Ip: Forwarding DefaultTTL ..." and below it "Ip: 2 64 ...".
void add_table(const char *path, const std::string &table, Counters &all) {
    std::ifstream file(path);
    std::string names;
    std::string counts;
    while (std::getline(file, names) && std::getline(file, counts)) {
        std::istringstream of_names(names);
        std::istringstream of_counts(counts);
        std::string name;
        std::string prefix;
        of_names >> prefix;
        of_counts >> name;
        for (std::int64_t count = 0; prefix == table && of_names >> name && of_counts >> count;)
            all[name] = count;
    }
}

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
    Counters all;
    if (family == AF_INET6) {
        all = v6_counters();
    } else {
        add_table("/proc/self/net/snmp", "Ip:", all);
        add_table("/proc/self/net/netstat", "IpExt:", all);
        add_table("/proc/self/net/netstat", "TcpExt:", all);
    }
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
