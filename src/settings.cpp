#include "settings.h"

#include "settings_file.h"

#include <arpa/inet.h>
#include <net/if.h>

#include <algorithm>
#include <charconv>
#include <exception>
#include <unordered_set>

namespace synergy {

namespace {

constexpr std::size_t endpoints_max = 4096; ///< for one rule: each is a hole to be kept
constexpr int refresh_max = 3600;           ///< seconds
constexpr std::size_t shown_max = 200;      ///< bytes of a text in a message

constexpr std::string_view separators = ", \t\r\n\v\f";

constexpr const char *a_peer = "an address and a port, as [2001:db8::5]:5555 or 198.51.100.5:5555";
constexpr const char *no_names =
    "an address: host names are not resolved yet, write [2001:db8::5]:5555 or 198.51.100.5:5555";
constexpr const char *a_v6 = "an IPv6 address between the brackets";
constexpr const char *a_v4 = "an IPv4 address as 198.51.100.5";
constexpr const char *brackets = "an IPv6 address in brackets, as [2001:db8::5]:5555";
constexpr const char *a_bracket = "']' after the IPv6 address";
constexpr const char *one_host = "the address of one host, neither wildcard nor multicast";
constexpr const char *a_scope = "after '%' a network interface of this host";
constexpr const char *no_scope = "no '%' but after a link-local address (fe80::)";
constexpr const char *a_port = "a port from 1 to 65535, or a range as 5000-5010";
constexpr const char *ascending = "a range whose first port is not above its last";
constexpr const char *some_ports = "at least one port";
constexpr const char *some_hops = "a hop limit from 1 to 254, or auto";
constexpr const char *a_local = "an address without port, as 2001:db8::11 or 198.51.100.11";
constexpr const char *one_a_family = "one IPv6 and one IPv4 address at most";
constexpr const char *some_seconds = "whole seconds from 1 to 3600";
constexpr const char *a_protocol = "tcp, udp or sctp";
constexpr const char *a_level = "debug, info, warn, error or off";
constexpr const char *a_log_file = "a path, stderr or syslog";

/// What a parser makes of a text: nullptr, or what was expected.
using Expected = const char *;

/// Calls use(entry) for each entry of a list.
template <typename Use> void for_each_entry(std::string_view text, Use use) {
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

/// A decimal number, and nothing else, within the bounds.
template <typename Number>
bool parse_number(std::string_view text, Number least, Number most, Number &number) {
    Number value = 0;
    const char *end = text.data() + text.size();
    const auto [stopped, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || stopped != end || value < least || value > most)
        return false;
    number = value;
    return true;
}

Expected parse_port_range(std::string_view text, std::uint16_t &first, std::uint16_t &last) {
    constexpr std::uint16_t most = 65535;
    const std::size_t dash = text.find('-');
    if (!parse_number<std::uint16_t>(text.substr(0, dash), 1, most, first))
        return a_port;
    last = first;
    if (dash != std::string_view::npos &&
        !parse_number<std::uint16_t>(text.substr(dash + 1), 1, most, last))
        return a_port;
    return first <= last ? nullptr : ascending;
}

/// inet_pton() for a text that need not end in a NUL, and may hold one.
bool parse_bytes(int family, std::string_view text, void *address) {
    return text.find('\0') == std::string_view::npos &&
           inet_pton(family, std::string(text).c_str(), address) == 1;
}

Expected parse_v4(std::string_view text, Endpoint &address) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    if (!parse_bytes(AF_INET, text, &in.sin_addr))
        return a_v4;
    address = Endpoint::from(reinterpret_cast<const sockaddr *>(&in), sizeof(in));
    return nullptr;
}

/// Without brackets, with or without a scope.
Expected parse_v6(std::string_view text, Endpoint &address) {
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    const std::size_t percent = text.find('%');
    if (!parse_bytes(AF_INET6, text.substr(0, percent), &in6.sin6_addr))
        return a_v6;
    if (percent != std::string_view::npos) {
        if (!IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr))
            return no_scope;
        const std::string scope(text.substr(percent + 1));
        if (scope.find('\0') != std::string::npos)
            return a_scope;
        in6.sin6_scope_id = if_nametoindex(scope.c_str());
        if (in6.sin6_scope_id == 0 &&
            !parse_number<std::uint32_t>(scope, 1, UINT32_MAX, in6.sin6_scope_id))
            return a_scope;
    }
    // Firewalls and sockets know a v4-mapped address as the IPv4 address that it is.
    address = Endpoint::from(reinterpret_cast<const sockaddr *>(&in6), sizeof(in6)).unmapped();
    return nullptr;
}

Expected check_host(const Endpoint &address) {
    return address.is_wildcard() || address.is_multicast() ? one_host : nullptr;
}

bool may_be_name(std::string_view text) {
    const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
    const auto part_of_name = [&](char c) {
        // A byte above 127 is part of an internationalized name.
        return letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' ||
               static_cast<unsigned char>(c) > 127;
    };
    return std::any_of(text.begin(), text.end(), letter) &&
           std::all_of(text.begin(), text.end(), part_of_name);
}

Expected parse_peer(std::string_view text, Peer &peer) {
    std::string_view ports;
    Expected expected = nullptr;
    if (text.starts_with('[')) {
        const std::size_t close = text.find(']');
        if (close == std::string_view::npos)
            return a_bracket;
        expected = parse_v6(text.substr(1, close - 1), peer.address);
        ports = text.substr(close + 1);
    } else {
        const std::size_t colon = std::min(text.find(':'), text.size());
        const std::string_view host = text.substr(0, colon);
        ports = text.substr(colon);
        expected = parse_v4(host, peer.address);
        if (expected != nullptr && ports.find(':', 1) != std::string_view::npos)
            return brackets;
        if (expected != nullptr && may_be_name(host))
            return no_names;
    }
    if (expected != nullptr)
        return expected;
    if (!ports.starts_with(':'))
        return a_peer;
    if ((expected = check_host(peer.address)) != nullptr)
        return expected;
    return parse_port_range(ports.substr(1), peer.first_port, peer.last_port);
}

Expected parse_hops(std::string_view text, int &hops) {
    if (text == "auto") {
        hops = 0;
        return nullptr;
    }
    return parse_number(text, hop_limit_min, hop_limit_max, hops) ? nullptr : some_hops;
}

Expected parse_local(std::string_view text, std::vector<Endpoint> &local) {
    if (text.starts_with('[') && text.ends_with(']'))
        text = text.substr(1, text.size() - 2);
    Endpoint address;
    const bool v6 = text.find(':') != std::string_view::npos;
    if (Expected expected = v6 ? parse_v6(text, address) : parse_v4(text, address))
        return expected == a_scope || expected == no_scope ? expected : a_local;
    if (Expected expected = check_host(address))
        return expected;
    for (const Endpoint &other : local)
        if (other.family() == address.family())
            return one_a_family;
    local.push_back(address);
    return nullptr;
}

Expected parse_refresh(std::string_view text, std::chrono::seconds &refresh) {
    int seconds = 0;
    if (!parse_number(text, 1, refresh_max, seconds))
        return some_seconds;
    refresh = std::chrono::seconds(seconds);
    return nullptr;
}

Expected parse_protocol(std::string_view text, std::optional<Transport> &protocol) {
    for (const Transport transport : {Transport::tcp, Transport::udp, Transport::sctp}) {
        if (text == name(transport)) {
            protocol = transport;
            return nullptr;
        }
    }
    return a_protocol;
}

Expected parse_log(std::string_view text, LogLevel &level) {
    struct Level {
        std::string_view name;
        LogLevel level;
    };
    constexpr Level levels[] = {{"debug", LogLevel::debug},
                                {"info", LogLevel::info},
                                {"warn", LogLevel::warn},
                                {"error", LogLevel::error},
                                {"off", LogLevel::off}};
    for (const Level &each : levels) {
        if (text == each.name) {
            level = each.level;
            return nullptr;
        }
    }
    return a_level;
}

Expected parse_log_file(std::string_view text, std::string &path) {
    if (text.empty() || text.find('\0') != std::string_view::npos)
        return a_log_file;
    path = text;
    return nullptr;
}

/// The peers of one rule.
class PeerList {
  public:
    explicit PeerList(std::vector<Problem> &problems) : problems_(problems) {}

    void add(std::string_view text, const std::string &place) {
        for_each_entry(text, [&](std::string_view entry) {
            Peer peer;
            Expected expected = parse_peer(entry, peer);
            if (expected == nullptr && !count(peer))
                expected = too_many;
            if (expected == nullptr)
                peers_.push_back(peer);
            else
                problems_.push_back({place, std::string(entry), expected});
        });
    }

    [[nodiscard]] std::vector<Peer> take() { return std::move(peers_); }

  private:
    static constexpr const char *too_many = "4096 addresses and ports at most in all";

    /// Whether there is room for what this peer adds to the endpoints of those before.
    bool count(const Peer &peer) {
        const auto size = static_cast<std::size_t>(peer.last_port - peer.first_port) + 1;
        if (size > endpoints_max)
            return false;
        std::vector<Endpoint> added;
        for (std::size_t i = 0; i < size; ++i) {
            const Endpoint endpoint =
                peer.address.with_port(static_cast<std::uint16_t>(peer.first_port + i));
            if (!endpoints_.contains(endpoint))
                added.push_back(endpoint);
        }
        if (endpoints_.size() + added.size() > endpoints_max)
            return false;
        endpoints_.insert(added.begin(), added.end());
        return true;
    }

    std::vector<Peer> peers_;
    std::unordered_set<Endpoint> endpoints_;
    std::vector<Problem> &problems_;
};

/// Judges what is written in the environment and the file.
class Loader {
  public:
    explicit Loader(const Environment &environment)
        : environment_(environment), file_(read_config_file(environment)) {
        settings_.file = file_.path;
        settings_.problems = std::move(file_.problems);
        sound_ = file_.sound;
    }

    Settings load() {
        read(either("SYNERGY_LOG", file_.log), a_level, parse_log, settings_.log);
        read(either("SYNERGY_LOG_FILE", file_.log_file), a_log_file, parse_log_file,
             settings_.log_file);
        sound_ &= read(either("SYNERGY_REFRESH", file_.refresh), some_seconds, parse_refresh,
                       settings_.refresh);
        for (const Written &local : either("SYNERGY_LOCAL", file_.local))
            read_local(local);
        read_rules();

        const auto has_peers = [](const Rule &rule) { return !rule.peers.empty(); };
        if (!sound_ || std::none_of(settings_.rules.begin(), settings_.rules.end(), has_peers))
            settings_.rules.clear();
        return std::move(settings_);
    }

  private:
    using List = std::vector<Written>;

    [[nodiscard]] std::optional<Written> variable(const char *name) const {
        const char *text = environment_(name);
        if (text == nullptr || *text == '\0')
            return std::nullopt;
        return Written{name, text};
    }

    [[nodiscard]] std::optional<Written> either(const char *name,
                                                const std::optional<Written> &in_file) const {
        std::optional<Written> in_environment = variable(name);
        return in_environment ? in_environment : in_file;
    }

    [[nodiscard]] List either(const char *name, const std::optional<List> &in_file) const {
        if (std::optional<Written> in_environment = variable(name))
            return {*in_environment};
        return in_file.value_or(List());
    }

    void refuse(const Written &written, Expected expected) {
        settings_.problems.push_back({written.place, written.text, expected});
    }

    /// Whether the setting is either not there or right.
    template <typename Parse, typename Value>
    bool read(const std::optional<Written> &written, Expected what, Parse parse, Value &value) {
        if (!written)
            return true;
        const Expected expected = written->plain ? parse(written->text, value) : what;
        if (expected != nullptr)
            refuse(*written, expected);
        return expected == nullptr;
    }

    void read_local(const Written &written) {
        if (!written.plain) {
            refuse(written, a_local);
            sound_ = false;
            return;
        }
        for_each_entry(written.text, [&](std::string_view entry) {
            if (Expected expected = parse_local(entry, settings_.local)) {
                refuse({written.place, std::string(entry)}, expected);
                sound_ = false;
            }
        });
    }

    [[nodiscard]] std::vector<PortRange> read_ports(const List &list) {
        std::vector<PortRange> ports;
        for (const Written &written : list) {
            if (!written.plain) {
                refuse(written, a_port);
                sound_ = false;
                continue;
            }
            bool any = false;
            for_each_entry(written.text, [&](std::string_view entry) {
                PortRange range;
                any = true;
                if (Expected expected = parse_port_range(entry, range.first, range.last)) {
                    refuse({written.place, std::string(entry)}, expected);
                    sound_ = false;
                } else {
                    ports.push_back(range);
                }
            });
            if (!any) {
                refuse(written, some_ports);
                sound_ = false;
            }
        }
        return ports;
    }

    [[nodiscard]] std::vector<Peer> read_peers(const List &list) {
        PeerList peers(settings_.problems);
        for (const Written &written : list) {
            if (written.plain)
                peers.add(written.text, written.place);
            else
                refuse(written, a_peer);
        }
        return peers.take();
    }

    void read_rules() {
        Rule common;
        common.peers = read_peers(either("SYNERGY_PEERS", file_.peers));
        sound_ &= read(either("SYNERGY_HOPS", file_.hops), some_hops, parse_hops, common.hops);

        if (const std::optional<Written> ports = variable("SYNERGY_PORTS")) {
            common.ports = read_ports({*ports});
            settings_.rules.push_back(std::move(common));
        } else if (file_.listen.empty()) {
            settings_.rules.push_back(std::move(common));
        } else {
            for (const ListenSection &section : file_.listen)
                settings_.rules.push_back(read_section(section, common));
        }
    }

    [[nodiscard]] Rule read_section(const ListenSection &section, const Rule &common) {
        Rule rule = common;
        rule.ports = read_ports(section.ports);
        sound_ &= read(section.protocol, a_protocol, parse_protocol, rule.protocol);
        if (section.peers && !variable("SYNERGY_PEERS"))
            rule.peers = read_peers(*section.peers);
        if (!variable("SYNERGY_HOPS"))
            sound_ &= read(section.hops, some_hops, parse_hops, rule.hops);
        return rule;
    }

    const Environment &environment_;
    ConfigFile file_;
    Settings settings_;
    bool sound_ = true; ///< false: what is left of the settings must not be acted upon
};

/// On one line whatever the text holds: it goes to terminals and logs.
std::string printable(std::string_view text) {
    constexpr char digits[] = "0123456789abcdef";
    std::string shown;
    for (const char c : text.substr(0, shown_max)) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte == 0x7f)
            shown.append({'\\', 'x', digits[byte >> 4U], digits[byte & 0xfU]});
        else
            shown.push_back(c);
    }
    return text.size() > shown_max ? shown + "..." : shown;
}

bool covers(const std::vector<PortRange> &ports, std::uint16_t port) {
    const auto holds = [port](const PortRange &range) {
        return range.first <= port && port <= range.last;
    };
    return ports.empty() || std::any_of(ports.begin(), ports.end(), holds);
}

bool matches(const Rule &rule, Transport transport, std::uint16_t port) {
    return (!rule.protocol || *rule.protocol == transport) && covers(rule.ports, port);
}

} // namespace

std::string Problem::line() const {
    return printable(place) + ": '" + printable(text) + "': expected " + expected;
}

std::vector<Target> Settings::targets_for(Transport transport, std::uint16_t port) const {
    std::vector<Target> targets;
    for (const Rule &rule : rules) {
        if (!matches(rule, transport, port))
            continue;
        std::unordered_set<Endpoint> seen;
        for (const Peer &peer : rule.peers) {
            for (unsigned p = peer.first_port; p <= peer.last_port; ++p) {
                const Endpoint endpoint = peer.address.with_port(static_cast<std::uint16_t>(p));
                if (seen.insert(endpoint).second)
                    targets.push_back({endpoint, rule.hops});
            }
        }
        break;
    }
    return targets;
}

bool Settings::applies_to(std::uint16_t port) const {
    return std::any_of(rules.begin(), rules.end(), [&](const Rule &rule) {
        return !rule.peers.empty() && covers(rule.ports, port);
    });
}

Endpoint Settings::local_for(int family) const {
    for (const Endpoint &address : local)
        if (address.family() == family)
            return address;
    return {};
}

Settings load_settings(const Environment &environment) {
    // Not `catch (...)`: glibc unwinds a cancelled thread by what only that would catch.
    try {
        return Loader(environment).load();
    } catch (const std::exception &) {
        return {}; // out of memory: nothing is punched
    }
}

std::vector<Peer> parse_peers(std::string_view text, const std::string &place,
                              std::vector<Problem> &problems) {
    PeerList peers(problems);
    peers.add(text, place);
    return peers.take();
}

} // namespace synergy
