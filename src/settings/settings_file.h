// synergy.toml as it is written: texts and where they stand, not yet judged.
#pragma once

#include "base/environment.h"
#include "settings/settings.h"

#include <optional>
#include <string>
#include <vector>

namespace synergy {

/// What a user wrote for a setting, and where: the environment and the file say it alike.
struct Written {
    std::string place; ///< "SYNERGY_HOPS" or "/etc/synergy/synergy.toml:3:8"
    std::string text;
    bool plain = true; ///< a string or whole number; anything else fits no setting
};

/// One [[listen]] section, or a file of peers.d.
struct ListenSection {
    std::vector<Written> ports;
    std::optional<Written> protocol;
    std::optional<std::vector<Written>> peers;
    std::optional<Written> hops;
};

struct ConfigFile {
    std::optional<std::vector<Written>> peers;
    std::optional<Written> hops;
    std::optional<Written> hops_min;
    std::optional<Written> hops_max;
    std::vector<ListenSection> listen;
    std::optional<std::vector<Written>> local;
    std::optional<Written> refresh;
    std::optional<Written> log;
    std::optional<Written> log_file;

    std::string path;              ///< empty: there is no file
    bool is_blank = false;         ///< nothing but comments
    bool sound = true;             ///< false: it can't be read, or not be relied upon
    std::vector<Problem> problems; ///< of the file's form; its values are not looked at
    std::string hidden;            ///< where this user may not look whether there is one
};

/// The place of a problem with a file that nobody named.
constexpr const char *unread_file = "config file";

/// Where a config file is looked for, the first that exists wins: the one that SYNERGY_CONFIG
/// names, or else the user's and the system's.
std::vector<std::string> config_places(const Environment &environment);

/// Reads the first of the files that is there. `named_by` is who said that there is one, and the
/// place of the problem if there isn't; nullptr: nobody.
ConfigFile read_config_file(const std::vector<std::string> &places, const char *named_by);

/// Where files that add peers are: "peers.d" beside the config file.
std::string peer_directory(const std::string &config_file);

/// One of them, as it is written. It is taken whole or not at all.
struct PeerFileText {
    std::string path;
    ListenSection section;
    std::vector<Problem> problems;
};

/// All that end in ".toml" and begin with no dot, in the order of their names. `error`: why the
/// directory can't be read, as errno says it; ENOENT where there is none.
std::vector<PeerFileText> read_peer_files(const std::string &config_file, int &error);

/// The other files there, but those whose names begin with a dot, in the order of their names.
std::vector<PassedOver> files_beside_peers(const std::string &config_file);

} // namespace synergy
