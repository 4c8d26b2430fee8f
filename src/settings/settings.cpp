#include "settings/settings.h"

#include "base/printable.h"

#include <algorithm>
#include <iterator>
#include <unordered_set>

namespace synergy {

namespace {

bool covers(const std::vector<PortRange> &ports, std::uint16_t port) {
    const auto holds = [port](const PortRange &range) {
        return range.first <= port && port <= range.last;
    };
    return ports.empty() || std::any_of(ports.begin(), ports.end(), holds);
}

/// `rule`: the one for that socket, or nullptr.
bool matches(const PeerFile &file, const Rule *rule, Transport transport, std::uint16_t port) {
    return (!file.protocol || *file.protocol == transport) &&
           (file.ports.empty() ? rule != nullptr : covers(file.ports, port));
}

bool has_host(const std::vector<Peer> &peers) {
    return std::any_of(peers.begin(), peers.end(),
                       [](const Peer &peer) { return !peer.host.empty(); });
}

} // namespace

std::string Problem::line() const {
    constexpr std::size_t shown = 200; // bytes
    return printable(place, shown) + ": '" + printable(text, shown) + "': expected " + expected;
}

bool Rule::has_all(const PortRange &range, std::optional<Transport> of) const {
    const auto holds = [&](const PortRange &each) {
        return each.first <= range.first && range.last <= each.last;
    };
    return (!protocol || protocol == of) &&
           (ports.empty() || std::any_of(ports.begin(), ports.end(), holds));
}

std::vector<Target> Settings::targets_for(Transport transport, std::uint16_t port,
                                          std::size_t most) const {
    std::vector<Target> targets;
    std::unordered_set<Endpoint> seen;
    const auto add_ports = [&](const Peer &peer, const Endpoint &address, HopLimit limit) {
        for (unsigned p = peer.first_port; p <= peer.last_port; ++p) {
            const Endpoint endpoint = address.with_port(static_cast<std::uint16_t>(p));
            if (targets.size() < most && seen.insert(endpoint).second)
                targets.push_back({endpoint, limit});
        }
    };
    const auto add = [&](const std::vector<Peer> &peers, HopLimit limit) {
        for (const Peer &peer : peers) {
            if (peer.host.empty())
                add_ports(peer, peer.address, limit);
            else if (auto known = addresses.find(peer.host); known != addresses.end())
                for (const Endpoint &address : known->second)
                    add_ports(peer, address, limit);
        }
    };
    if (!is_sound)
        return targets;
    const Rule *rule = rule_for(transport, port);
    if (rule != nullptr)
        add(rule->peers, rule->hops);
    for (const PeerFile &added : peer_files)
        if (matches(added, rule, transport, port))
            add(added.peers, added.hops.value_or(rule != nullptr ? rule->hops : hops));
    return targets;
}

bool Settings::may_gain(Transport transport, std::uint16_t port) const {
    const Rule *rule = rule_for(transport, port);
    // A file of peers.d may name any port.
    return (follows_file && (rule != nullptr || has_peer_directory || !is_sound)) ||
           (rule != nullptr && has_host(rule->peers));
}

std::vector<PortRange> Settings::concerned_ports(Transport transport) const {
    // Between these, all ports have the same rules.
    std::set<unsigned> begins{1};
    const auto add = [&](const std::vector<PortRange> &ports) {
        for (const PortRange &range : ports) {
            begins.insert(range.first);
            begins.insert(range.last + 1U);
        }
    };
    for (const Rule &rule : rules)
        add(rule.ports);
    for (const PeerFile &added : peer_files)
        add(added.ports);
    begins.erase(0);
    begins.insert(65536);
    std::vector<PortRange> concerned;
    for (auto begin = begins.begin(); std::next(begin) != begins.end(); ++begin) {
        const auto first = static_cast<std::uint16_t>(*begin);
        const auto last = static_cast<std::uint16_t>(*std::next(begin) - 1);
        if (!has_peers_on(transport, first) && !may_gain(transport, first))
            continue;
        if (!concerned.empty() && concerned.back().last + 1 == first)
            concerned.back().last = last;
        else
            concerned.push_back({first, last});
    }
    return concerned;
}

bool Settings::has_peers_on_any_port(Transport transport) const {
    const auto is_for_all = [&](const Rule &rule) {
        return rule.ports.empty() && (!rule.protocol || *rule.protocol == transport) &&
               !rule.peers.empty();
    };
    return is_sound && std::any_of(rules.begin(), rules.end(), is_for_all);
}

bool Settings::has_peers_on(Transport transport, std::uint16_t port) const {
    if (!is_sound)
        return false;
    const Rule *rule = rule_for(transport, port);
    return (rule != nullptr && !rule->peers.empty()) ||
           std::any_of(peer_files.begin(), peer_files.end(), [&](const PeerFile &added) {
               return !added.peers.empty() && matches(added, rule, transport, port);
           });
}

bool Settings::has_peers() const {
    const auto has = [](const auto &each) { return !each.peers.empty(); };
    return std::any_of(rules.begin(), rules.end(), has) ||
           std::any_of(peer_files.begin(), peer_files.end(), has);
}

std::set<std::string> Settings::hosts() const {
    std::set<std::string> hosts;
    const auto add = [&](const std::vector<Peer> &peers) {
        for (const Peer &peer : peers)
            if (!peer.host.empty())
                hosts.insert(peer.host);
    };
    for (const Rule &rule : rules)
        add(rule.peers);
    for (const PeerFile &added : peer_files)
        add(added.peers);
    return hosts;
}

const Rule *Settings::rule_for(Transport transport, std::uint16_t port) const {
    const auto found = std::find_if(rules.begin(), rules.end(), [&](const Rule &rule) {
        return (!rule.protocol || *rule.protocol == transport) && covers(rule.ports, port);
    });
    return found == rules.end() ? nullptr : &*found;
}

Endpoint Settings::local_for(int family) const {
    for (const Endpoint &address : local)
        if (address.family() == family)
            return address;
    return {};
}

} // namespace synergy
