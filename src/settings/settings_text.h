// What the texts of settings mean, one by one. Each parser gives the value and nullptr, or else
// says what it expected.
#pragma once

#include "settings/settings.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace synergy {

/// nullptr, or what was expected.
using Expected = const char *;

namespace expected {
constexpr Expected a_peer =
    "a host and a port, as [2001:db8::5]:5555, 198.51.100.5:5555 or laptop.example.net:5555";
constexpr Expected a_port = "a port from 1 to 65535, or a range as 5000-5010";
constexpr Expected some_ports = "at least one port";
constexpr Expected no_port_of_others =
    "ports that no earlier [[listen]] section has: of two that fit, the first counts";
constexpr Expected some_peers = "at least one peer, or nothing";
constexpr Expected some_hops = "a hop limit from 1 to 254, or auto";
constexpr Expected a_bound = "a hop limit from 1 to 254";
constexpr Expected no_empty_interval = "a hop limit from 1 to 254, not below hops_min";
constexpr Expected a_local = "an address without port, as 2001:db8::11 or 198.51.100.11";
constexpr Expected some_seconds = "whole seconds from 1 to 3600";
constexpr Expected a_protocol = "tcp, udp or sctp";
constexpr Expected a_level = "debug, info, warn, error or off";
constexpr Expected a_log_file = "a path, stderr or syslog";
constexpr Expected plain = "plain '-', quotes and spaces: one here only looks like it (as word "
                           "processors and web pages have them)";
} // namespace expected

constexpr std::string_view white_space = " \t\r\n\v\f";

/// What a value is without the white space around it, which is never meant: a line's end as another
/// system writes it (CR), a space that a shell or a unit's file has kept.
std::string_view trimmed(std::string_view text);

/// Whether there are dashes, quotation marks, spaces or full-width letters that are none to a
/// computer, in UTF-8.
bool is_typographic(std::string_view text);

/// "[2001:db8::5]:5555-5560", "198.51.100.5:5555", "laptop.example.net:5555".
Expected parse_peer(std::string_view text, Peer &peer);
/// Nullptr if a peer may have this address.
Expected check_host(const Endpoint &address);
Expected parse_ports(std::string_view text, std::uint16_t &first, std::uint16_t &last);
Expected parse_hops(std::string_view text, HopLimit &hops);
Expected parse_bound(std::string_view text, int &bound);
/// Adds to those that are there.
Expected parse_local(std::string_view text, std::vector<Endpoint> &local);
Expected parse_refresh(std::string_view text, std::chrono::seconds &refresh);
Expected parse_protocol(std::string_view text, std::optional<Transport> &protocol);
Expected parse_log(std::string_view text, LogLevel &level);
Expected parse_log_file(std::string_view text, std::string &path);

/// Calls use(entry) for each entry of a list: comma or white space between.
template <typename Use> void for_each_entry(std::string_view text, Use use) {
    constexpr std::string_view separators = ", \t\r\n\v\f"; // and white_space
    for (;;) {
        const std::size_t begin = text.find_first_not_of(separators);
        if (begin == std::string_view::npos)
            return;
        text.remove_prefix(begin);
        const std::size_t end = std::min(text.find_first_of(separators), text.size());
        use(text.substr(0, end));
        text.remove_prefix(end);
    }
}

} // namespace synergy
