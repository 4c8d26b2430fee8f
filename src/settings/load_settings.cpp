#include "settings/load_settings.h"

#include "settings/peer_list.h"
#include "settings/settings_file.h"
#include "settings/settings_text.h"
#include "settings/unknown_variable.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iterator>
#include <utility>

namespace synergy {

namespace {

using namespace expected;

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
            for (const ListenSection &section : file_.listen) {
                Rule rule = read_section(section, common);
                if (name_ports_of_others(section, rule.protocol))
                    settings_.rules.push_back(std::move(rule));
            }
        }
    }

    /// Those that an earlier section has, which counts there. False: this one has no others.
    bool name_ports_of_others(const ListenSection &section, std::optional<Transport> protocol) {
        bool has_own = false;
        for (const Written &written : section.ports)
            for_each_entry(written.text, [&](std::string_view entry) {
                PortRange range;
                if (parse_ports(entry, range.first, range.last) != nullptr)
                    return;
                const bool is_anothers =
                    std::any_of(settings_.rules.begin(), settings_.rules.end(),
                                [&](const Rule &rule) { return rule.has_all(range, protocol); });
                has_own |= !is_anothers;
                if (is_anothers)
                    refuse({written.place, std::string(entry)}, no_port_of_others);
            });
        return has_own;
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
        std::vector<PassedOver> others = files_beside_peers(settings_.file);
        std::move(others.begin(), others.end(), std::back_inserter(settings_.passed_over));
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
        else if (file.peers.empty())
            settings_.passed_over.push_back(
                {.path = file.path,
                 .why = text.section.peers ? "its `peers` are none" : "it has no `peers`",
                 .is_mistake = !text.section.peers});
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

} // namespace

Settings load_settings(const Environment &environment, const char *const *all) {
    // Not `catch (...)`: glibc unwinds a cancelled thread by what only that would catch.
    try {
        std::map<std::string, std::string> variables;
        std::set<std::string, std::less<>> asked;
        const Environment noted = [&](const char *name) -> const char * {
            asked.insert(name);
            const char *text = environment(name);
            if (text == nullptr)
                return text;
            const bool is_ours = std::string_view(name).starts_with("SYNERGY_");
            return variables.try_emplace(name, is_ours ? trimmed(text) : text)
                .first->second.c_str();
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
            if (std::optional<Problem> problem = unknown_variable(*all, asked))
                settings.problems.push_back(*std::move(problem));
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
    next.passed_over = std::move(now.passed_over);
    next.has_peer_directory = now.has_peer_directory;
    next.problems = std::move(now.problems);
    return next;
}

} // namespace synergy
