#include "hops/counters.h"

#include <fstream>
#include <sstream>
#include <sys/socket.h>

namespace synergy {

namespace {

/// "Ip6InReceives    146", a line each.
void add_v6(Counters &all) {
    std::ifstream file("/proc/self/net/snmp6");
    std::string name;
    for (std::int64_t count = 0; file >> name >> count;)
        if (name.starts_with("Ip6"))
            all[name.substr(3)] = count;
        else if (name.starts_with("Icmp6"))
            all["Icmp" + name.substr(5)] = count;
}

/// "Ip: Forwarding DefaultTTL ..." and below it "Ip: 2 64 ...".
void add_table(const char *path, const std::string &table, const std::string &prefix,
               Counters &all) {
    std::ifstream file(path);
    std::string names;
    std::string counts;
    while (std::getline(file, names) && std::getline(file, counts)) {
        std::istringstream of_names(names);
        std::istringstream of_counts(counts);
        std::string name;
        of_names >> name;
        if (name != table)
            continue;
        of_counts >> name;
        for (std::int64_t count = 0; of_names >> name && of_counts >> count;)
            all[prefix + name] = count;
    }
}

} // namespace

Counters counters(int family) {
    Counters all;
    if (family == AF_INET6) {
        add_v6(all);
        return all;
    }
    add_table("/proc/self/net/snmp", "Ip:", "", all);
    add_table("/proc/self/net/snmp", "Icmp:", "Icmp", all);
    return all;
}

void add_further(Counters &all) {
    add_table("/proc/self/net/netstat", "IpExt:", "", all);
    add_table("/proc/self/net/netstat", "TcpExt:", "", all);
}

} // namespace synergy
