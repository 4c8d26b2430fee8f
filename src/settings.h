// What a user may set, from the environment and from synergy.toml, as one plain value.
#pragma once

#include "endpoint.h"

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace synergy {

/// Used for `auto` until the path says better: the last local firewall is rarely further than two
/// hops away, the first remote one rarely nearer than four.
constexpr int hop_limit_guess = 3;
constexpr int hop_limit_min = 1;
/// 255 would be no limit at all: it is the most that the field can hold (RFC 8200 3).
constexpr int hop_limit_max = 254;

/// A setting that can't be used: where it stands, what stands there and what was expected.
struct Problem {
    std::string place;    ///< "SYNERGY_PEERS", or "/etc/synergy/synergy.toml:3:9"
    std::string text;     ///< the offending text itself
    std::string expected; ///< "a port from 1 to 65535"

    /// One line for a log or a terminal.
    [[nodiscard]] std::string line() const;
};

struct PortRange {
    std::uint16_t first = 0;
    std::uint16_t last = 0;

    bool operator==(const PortRange &) const = default;
};

/// Toward whom the sockets of some local ports are to punch, and how far.
struct Rule {
    std::vector<PortRange> ports;      ///< empty: every port
    std::optional<Transport> protocol; ///< empty: every transport
    std::vector<Peer> peers;
    int hops = 0; ///< hop limit; 0: automatic
};

/// One hole that a socket should have.
struct Target {
    Endpoint peer;
    int hops = 0; ///< hop limit; 0: automatic

    bool operator==(const Target &) const = default;
};

enum class LogLevel : std::uint8_t { debug, info, warn, error, off };

struct Settings {
    /// The first that matches a socket is the one that counts. Empty where no rule has a peer.
    std::vector<Rule> rules;
    std::vector<Endpoint> local; ///< source addresses for wildcard sockets, at most one a family
    std::chrono::seconds refresh{20};
    LogLevel log = LogLevel::warn;
    std::string log_file = "stderr"; ///< a path, "stderr" or "syslog"
    std::string file;                ///< the config file that was read; empty: none
    std::vector<Problem> problems;

    /// Every hole that a socket of this transport and local port should have, without repetition.
    [[nodiscard]] std::vector<Target> targets_for(Transport transport, std::uint16_t port) const;
    /// Whether there is any peer for sockets of this local port.
    [[nodiscard]] bool applies_to(std::uint16_t port) const;
    /// The address that a wildcard socket of this family (AF_INET, AF_INET6) sends from; empty: the
    /// kernel's choice.
    [[nodiscard]] Endpoint local_for(int family) const;
};

/// Looks a variable of the environment up: nullptr where it is not set.
using Environment = std::function<const char *(const char *)>;

/// Reads the environment and the config file that it names or that stands in the default places.
/// Never throws for what it reads: what can't be used is in `problems`, and nothing is punched for
/// it (a peer that is wrong is left out; with a wrong hop limit, port, address or interval there
/// are no rules at all).
Settings load_settings(const Environment &environment);

/// Where a config file is looked for, the first that exists wins: the one that SYNERGY_CONFIG
/// names, or else the user's and the system's.
std::vector<std::string> config_places(const Environment &environment);

/// "[2001:db8::5]:5555-5560, 198.51.100.5:5555": comma or white space between. What is wrong is
/// added to `problems` under `place`.
std::vector<Peer> parse_peers(std::string_view text, const std::string &place,
                              std::vector<Problem> &problems);

} // namespace synergy
