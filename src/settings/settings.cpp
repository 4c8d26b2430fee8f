#include "settings/settings.h"

#include "settings/settings_file.h"
#include "settings/settings_text.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iterator>
#include <unordered_set>
#include <utility>

namespace synergy {

namespace {

using namespace expected;

constexpr std::size_t shown_max = 200; ///< bytes of a text in a message

/// The peers of one rule.
class PeerList {
  public:
    explicit PeerList(std::vector<Problem> &problems) : problems_(problems) {}

    void add(std::string_view text, const std::string &place) {
        bool is_any = text.empty(); // which is as good as none
        for_each_entry(text, [&](std::string_view entry) {
            is_any = true;
            Peer peer;
            Expected expected = parse_peer(entry, peer);
            if (expected == nullptr && count(peer)) {
                peers_.push_back(peer);
                return;
            }
            // Whoever lists a thousand too many has made one mistake.
            if (expected == nullptr && std::exchange(is_full_, true))
                return;
            problems_.push_back(
                {place, std::string(entry), expected != nullptr ? expected : too_many});
        });
        if (!is_any)
            problems_.push_back({place, std::string(text), some_peers});
    }

    [[nodiscard]] std::vector<Peer> take() { return std::move(peers_); }

  private:
    static constexpr const char *too_many =
        "4096 addresses and ports at most in all; what has no room is left out";

    /// Whether there is room for what this peer adds to the endpoints of those before.
    bool count(const Peer &peer) {
        const auto size = static_cast<std::size_t>(peer.last_port - peer.first_port) + 1;
        if (size > targets_max)
            return false;
        if (!peer.host.empty()) {
            // Whatever its addresses are, targets_for() goes no further.
            if (endpoints_.size() + of_names_ + size > targets_max)
                return false;
            of_names_ += size;
            return true;
        }
        std::vector<Endpoint> added;
        for (std::size_t i = 0; i < size; ++i) {
            const Endpoint endpoint =
                peer.address.with_port(static_cast<std::uint16_t>(peer.first_port + i));
            if (!endpoints_.contains(endpoint))
                added.push_back(endpoint);
        }
        if (endpoints_.size() + of_names_ + added.size() > targets_max)
            return false;
        endpoints_.insert(added.begin(), added.end());
        return true;
    }

    std::vector<Peer> peers_;
    std::unordered_set<Endpoint> endpoints_;
    std::size_t of_names_ = 0;
    bool is_full_ = false;
    std::vector<Problem> &problems_;
};

/// Judges what is written in the environment and the file.
class Loader {
  public:
    /// `follows_file`: see Settings; a file that was followed is, whatever becomes of it.
    Loader(const Environment &environment, ConfigFile file, bool follows_file)
        : environment_(environment), file_(std::move(file)) {
        settings_.follows_file = follows_file;
        settings_.file = file_.path;
        settings_.is_file_blank = file_.is_blank;
        if (file_.path.empty())
            settings_.hidden_file = file_.hidden;
        settings_.problems = std::move(file_.problems);
        sound_ = file_.sound;
    }

    Settings load() {
        read(either("SYNERGY_LOG", file_.log), a_level, parse_log, settings_.log);
        read(either("SYNERGY_LOG_FILE", file_.log_file), a_log_file, parse_log_file,
             settings_.log_file);
        sound_ &= read(either("SYNERGY_REFRESH", file_.refresh), some_seconds, parse_refresh,
                       settings_.refresh);
        read_bounds();
        for (const Written &local : either("SYNERGY_LOCAL", file_.local))
            read_local(local);
        read_rules();
        settings_.is_sound = sound_;
        if (!sound_)
            settings_.rules.clear();
        struct stat status {};
        settings_.follows_file |= !settings_.file.empty() && !variable("SYNERGY_PEERS") &&
                                  ::stat(settings_.file.c_str(), &status) == 0 &&
                                  S_ISREG(status.st_mode);
        file_is_right_ = std::none_of(
            settings_.problems.begin(), settings_.problems.end(), [&](const Problem &problem) {
                return problem.place == unread_file || problem.place.starts_with(settings_.file);
            });
        if (settings_.follows_file)
            add_peer_files();
        return std::move(settings_);
    }

    /// Whether there was nothing wrong with synergy.toml.
    [[nodiscard]] bool file_is_right() const { return file_is_right_; }
    /// Whether it is known what is in peers.d.
    [[nodiscard]] bool directory_is_right() const { return directory_is_right_; }

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

    void read_bounds() {
        HopBounds &bounds = settings_.hop_bounds;
        const std::optional<Written> most = either("SYNERGY_HOPS_MAX", file_.hops_max);
        bool are_right =
            read(either("SYNERGY_HOPS_MIN", file_.hops_min), a_bound, parse_bound, bounds.least);
        are_right &= read(most, a_bound, parse_bound, bounds.most);
        if (are_right && most && bounds.most < bounds.least) {
            refuse(*most, no_empty_interval);
            are_right = false;
        }
        if (!are_right)
            bounds = {};
        sound_ &= are_right;
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
                if (Expected expected = parse_ports(entry, range.first, range.last)) {
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
        settings_.hops = common.hops;

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

    void add_peer_files() {
        int error = 0;
        for (const PeerFileText &file : read_peer_files(settings_.file, error))
            settings_.peer_files.push_back(read_peer_file(file));
        settings_.has_peer_directory = error != ENOENT && error != ENOTDIR;
        directory_is_right_ = error == 0 || !settings_.has_peer_directory;
        if (!directory_is_right_)
            settings_.problems.push_back(
                {"config directory", peer_directory(settings_.file),
                 std::string("a directory that can be read: ") + strerrordesc_np(error)});
    }

    /// Its mistakes are its own.
    [[nodiscard]] PeerFile read_peer_file(const PeerFileText &text) {
        const bool others_are_sound = std::exchange(sound_, true);
        const std::size_t others = settings_.problems.size();
        settings_.problems.insert(settings_.problems.end(), text.problems.begin(),
                                  text.problems.end());
        PeerFile file;
        file.path = text.path;
        file.ports = read_ports(text.section.ports);
        read(text.section.protocol, a_protocol, parse_protocol, file.protocol);
        if (text.section.peers)
            file.peers = read_peers(*text.section.peers);
        if (HopLimit hops; text.section.hops && !variable("SYNERGY_HOPS") &&
                           read(text.section.hops, some_hops, parse_hops, hops))
            file.hops = hops;
        file.is_right = settings_.problems.size() == others;
        if (!file.is_right)
            file.peers.clear();
        sound_ = others_are_sound;
        return file;
    }

    const Environment &environment_;
    ConfigFile file_;
    Settings settings_;
    bool file_is_right_ = true;
    bool directory_is_right_ = true;
    bool sound_ = true; ///< false: what is left of the settings must not be acted upon
};

/// On one line whatever the text holds: it goes to terminals and logs.
std::string printable(std::string_view text) {
    constexpr char digits[] = "0123456789abcdef";
    std::string shown;
    for (std::size_t at = 0; at < std::min(text.size(), shown_max);) {
        const std::size_t length = shown_character(text.substr(at));
        const auto byte = static_cast<unsigned char>(text[at]);
        if (length == 0)
            shown.append({'\\', 'x', digits[byte >> 4U], digits[byte & 0xfU]});
        else
            shown.append(text.substr(at, length));
        at += std::max<std::size_t>(length, 1);
    }
    return text.size() > shown_max ? shown + "..." : shown;
}

/// How many letters are to be put in, left out or changed to make one word the other.
std::size_t distance(std::string_view one, std::string_view other) {
    std::vector<std::size_t> row(other.size() + 1);
    for (std::size_t i = 0; i <= other.size(); i++)
        row[i] = i;
    for (std::size_t i = 0; i < one.size(); i++) {
        std::size_t diagonal = std::exchange(row[0], i + 1);
        for (std::size_t j = 0; j < other.size(); j++) {
            const std::size_t changed = diagonal + (one[i] == other[j] ? 0 : 1);
            diagonal = row[j + 1];
            row[j + 1] = std::min({changed, diagonal + 1, row[j] + 1});
        }
    }
    return row.back();
}

/// `entry`: "NAME=value".
void name_unknown(std::string_view entry, const std::set<std::string, std::less<>> &known,
                  std::vector<Problem> &problems) {
    constexpr std::string_view ours = "SYNERGY_";
    constexpr std::size_t near = 3;
    // (What has no more than that is like anything.)
    constexpr std::size_t shortest = ours.size() + near;
    const std::string_view name = entry.substr(0, entry.find('='));
    if (!name.starts_with(ours) || known.contains(name))
        return;
    std::string_view nearest;
    std::string all;
    for (const std::string &each : known)
        if (each.starts_with(ours)) {
            all.append(all.empty() ? "one of " : ", ").append(each);
            if (nearest.empty() || distance(name, each) < distance(name, nearest))
                nearest = each;
        }
    const std::size_t far = distance(name, nearest);
    const bool is_near = far <= (name.size() > shortest ? near : 1);
    problems.push_back({"environment", std::string(name), is_near ? std::string(nearest) : all});
}

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
    return printable(place) + ": '" + printable(text) + "': expected " + expected;
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

Settings load_settings(const Environment &environment, const char *const *all) {
    // Not `catch (...)`: glibc unwinds a cancelled thread by what only that would catch.
    try {
        std::map<std::string, std::string> variables;
        std::set<std::string, std::less<>> asked;
        const Environment noted = [&](const char *name) {
            asked.insert(name);
            const char *text = environment(name);
            if (text != nullptr)
                variables[name] = text;
            return text;
        };
        const char *named = noted("SYNERGY_CONFIG");
        const bool is_named = named != nullptr && *named != '\0';
        const char *place = is_named ? "SYNERGY_CONFIG" : nullptr;
        Settings settings =
            Loader(noted, read_config_file(config_places(noted), place), false).load();
        // Said relative to the server's directory, which the keeper leaves.
        std::error_code error;
        if (settings.follows_file)
            settings.file = std::filesystem::absolute(settings.file, error);
        if (settings.log_file != "stderr" && settings.log_file != "syslog")
            settings.log_file = std::filesystem::absolute(settings.log_file, error);
        settings.environment = std::move(variables);
        // The variables that there are, are those that were asked for.
        for (; all != nullptr && *all != nullptr; all++)
            name_unknown(*all, asked, settings.problems);
        return settings;
    } catch (const std::exception &) {
        return {}; // out of memory: nothing is punched
    }
}

Settings reload_settings(const Settings &settings) {
    const Environment environment = [&](const char *name) -> const char * {
        const auto found = settings.environment.find(name);
        return found == settings.environment.end() ? nullptr : found->second.c_str();
    };
    Loader loader(environment, read_config_file({settings.file}, unread_file),
                  settings.follows_file);
    Settings now = loader.load();
    if (!loader.directory_is_right())
        now.peer_files = settings.peer_files;
    for (PeerFile &file : now.peer_files) {
        if (file.is_right)
            continue;
        const auto before =
            std::find_if(settings.peer_files.begin(), settings.peer_files.end(),
                         [&](const PeerFile &other) { return other.path == file.path; });
        if (before != settings.peer_files.end())
            file = *before;
    }
    Settings next = settings;
    if (loader.file_is_right()) {
        next.is_sound = now.is_sound;
        next.rules = std::move(now.rules);
        next.hops = now.hops;
    }
    next.peer_files = std::move(now.peer_files);
    next.has_peer_directory = now.has_peer_directory;
    next.problems = std::move(now.problems);
    return next;
}

std::vector<Peer> parse_peers(std::string_view text, const std::string &place,
                              std::vector<Problem> &problems) {
    PeerList peers(problems);
    peers.add(text, place);
    return peers.take();
}

} // namespace synergy
