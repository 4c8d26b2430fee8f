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

std::optional<std::uint64_t> packets_kept_out(int family) {
    Counters all;
    if (family == AF_INET6) {
        all = v6_counters();
    } else {
        add_table("/proc/self/net/snmp", "Ip:", all);
        add_table("/proc/self/net/netstat", "IpExt:", all);
        add_table("/proc/self/net/netstat", "TcpExt:", all);
    }
    constexpr int forwarding = 1; // RFC 4293, ipForwarding
    if (!all.contains("InReceives") ||
        (family == AF_INET6 ? forwards_v6() : all["Forwarding"] == forwarding))
        return std::nullopt;
    // (Those to groups, and broadcasts, may have been given to somebody or not.)
    std::int64_t rest = all["InReceives"] + all["ReasmOKs"];
    for (const char *name :
         {"InDelivers", "InMcastPkts", "InBcastPkts", "ReasmReqds", "InHdrErrors", "InTooBigErrors",
          "InAddrErrors", "InNoRoutes", "InUnknownProtos", "InTruncatedPkts", "InDiscards",
          "IPReversePathFilter"})
        rest -= all[name];
    return static_cast<std::uint64_t>(std::max<std::int64_t>(rest, 0));
}

} // namespace synergy
