#include "tools/port_in_use.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

namespace synergy {

namespace {

/// Of the first socket at the port, whatever its address; empty where none is seen.
std::string holder_of(Transport transport, std::uint16_t port) {
    constexpr const char *is_listening = "0A"; // include/net/tcp_states.h, TCP_LISTEN
    constexpr int hexadecimal = 16;
    for (const char *version : {"6", ""}) {
        std::ifstream table("/proc/self/net/" + std::string(name(transport)) + version);
        std::string line;
        std::getline(table, line);
        while (std::getline(table, line)) {
            std::istringstream fields(line);
            std::string number, local, remote, state, queues, timer, retransmits, user;
            fields >> number >> local >> remote >> state >> queues >> timer >> retransmits >> user;
            const std::string text = local.substr(local.rfind(':') + 1);
            if (std::strtoul(text.c_str(), nullptr, hexadecimal) != port)
                continue;
            const bool listens = transport == Transport::tcp && state == is_listening;
            return (listens ? "a listener of user " : "a socket of user ") + user;
        }
    }
    return {};
}

} // namespace

std::string why_not_bound(int error, Transport transport, const Endpoint &at) {
    const std::string port = std::string(name(transport)) + " port " + std::to_string(at.port());
    if (error != EADDRINUSE)
        return "this host has no socket at " + port + " of " + at.address_text() + ": " +
               strerrordesc_np(error);
    const std::string holder = holder_of(transport, at.port());
    return port + " is in use on this host" + (holder.empty() ? "" : ", by " + holder) +
           " (ss -tuap)";
}

} // namespace synergy
