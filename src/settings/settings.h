// What a user may set, from the environment and from synergy.toml, as one plain value.
#pragma once

#include "base/endpoint.h"
#include "base/hop_limit.h"
#include "base/log_level.h"

#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace synergy {

/// A setting that can't be used: where it stands, what stands there and what was expected.
struct Problem {
    std::string place;    ///< "SYNERGY_PEERS", or "/etc/synergy/synergy.toml:3:9"
    std::string text;     ///< the offending text itself
    std::string expected; ///< "a port from 1 to 65535"

    bool operator==(const Problem &) const = default;
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
    HopLimit hops;

    bool operator==(const Rule &) const = default;
    /// Whether it is for all of these ports, of this transport, or (empty) of every one.
    [[nodiscard]] bool has_all(const PortRange &range, std::optional<Transport> of) const;
};

/// What an automatic hop limit is held to.
struct HopBounds {
    int least = hop_limit_min;
    int most = hop_limit_max;

    bool operator==(const HopBounds &) const = default;
};

/// One hole that a socket should have.
struct Target {
    Endpoint peer;
    HopLimit hops;

    bool operator==(const Target &) const = default;
};

/// A file of the directory peers.d beside the config file: peers in addition to those of the rules.
struct PeerFile {
    std::string path;
    std::vector<PortRange> ports;      ///< empty: those that there are rules for
    std::optional<Transport> protocol; ///< empty: every transport
    std::vector<Peer> peers;           ///< none if there is anything wrong with the file
    std::optional<HopLimit> hops;      ///< empty: the rule's, or else the common one
    bool is_right = true;

    bool operator==(const PeerFile &) const = default;
};

/// A file of peers.d of which nothing counts.
struct PassedOver {
    std::string path;
    std::string why;
    bool is_mistake = false; ///< rather than meant so, as far as it shows

    bool operator==(const PassedOver &) const = default;
    /// In a sentence.
    [[nodiscard]] std::string line() const { return path + " is passed over: " + why; }
};

/// The most holes that a socket may have by its settings.
constexpr std::size_t targets_max = 4096;

struct Settings {
    /// False: there is a mistake that leaves nothing to be relied upon, and there are no targets.
    bool is_sound = true;
    /// The first that matches a socket is the one that counts. Empty if not sound.
    std::vector<Rule> rules;
    HopLimit hops; ///< where no rule says it
    std::vector<PeerFile> peer_files;
    std::vector<PassedOver> passed_over; ///< beside these
    std::vector<Endpoint> local; ///< source addresses for wildcard sockets, at most one a family
    HopBounds hop_bounds;
    /// In the field a hole that nobody has answered may last for 30 s only (pf, large clouds):
    /// after one renewal that is lost the next one still comes in time.
    std::chrono::seconds refresh{13};
    LogLevel log = LogLevel::warn;
    std::string log_file = "stderr"; ///< a path, "stderr" or "syslog"
    std::string file;                ///< the config file that was read; empty: none
    /// Where one would be looked for if this user might; empty where one was read all the same.
    std::string hidden_file;
    /// Whether peers may come and go with the config file, which is one that can change, and no
    /// variable says who they are.
    bool follows_file = false;
    bool has_peer_directory = false; ///< peers.d is there
    bool is_file_blank = false;      ///< nothing but comments, as an example has it
    std::vector<Problem> problems;
    /// The addresses (port 0) of peers that are host names, as far as they are known.
    std::map<std::string, std::vector<Endpoint>> addresses;
    /// The variables that they were read from.
    std::map<std::string, std::string> environment;

    bool operator==(const Settings &) const = default;

    /// Every hole that a socket of this transport and local port should have, without repetition,
    /// and no more than `most`.
    [[nodiscard]] std::vector<Target> targets_for(Transport transport, std::uint16_t port,
                                                  std::size_t most = targets_max) const;
    /// Whether there may be more of them later: host names, and changes of the file.
    [[nodiscard]] bool may_gain(Transport transport, std::uint16_t port) const;
    /// The local ports of which sockets of this transport have a peer, or may come to have one; in
    /// ascending order.
    [[nodiscard]] std::vector<PortRange> concerned_ports(Transport transport) const;
    /// Whether there are peers for sockets of every port, also of those that the kernel chooses.
    [[nodiscard]] bool has_peers_on_any_port(Transport transport) const;
    [[nodiscard]] bool has_peers() const;
    /// Those of the peers that are host names.
    [[nodiscard]] std::set<std::string> hosts() const;
    /// The address that a wildcard socket of this family (AF_INET, AF_INET6) sends from; empty: the
    /// kernel's choice.
    [[nodiscard]] Endpoint local_for(int family) const;

  private:
    [[nodiscard]] bool has_peers_on(Transport transport, std::uint16_t port) const;
    [[nodiscard]] const Rule *rule_for(Transport transport, std::uint16_t port) const;
};

} // namespace synergy
