// synergy.toml as it is written: texts and where they stand, not yet judged.
#pragma once

#include "settings.h"

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

/// One [[listen]] section.
struct ListenSection {
    std::vector<Written> ports;
    std::optional<Written> protocol;
    std::optional<std::vector<Written>> peers;
    std::optional<Written> hops;
};

struct ConfigFile {
    std::optional<std::vector<Written>> peers;
    std::optional<Written> hops;
    std::vector<ListenSection> listen;
    std::optional<std::vector<Written>> local;
    std::optional<Written> refresh;
    std::optional<Written> log;
    std::optional<Written> log_file;

    std::string path;              ///< empty: there is no file
    bool sound = true;             ///< false: it can't be read, or not be relied upon
    std::vector<Problem> problems; ///< of the file's form; its values are not looked at
};

/// Reads the config file that SYNERGY_CONFIG names, or else the first that is in config_places().
ConfigFile read_config_file(const Environment &environment);

} // namespace synergy
