// This process's environment, as the settings ask for it.
#pragma once

#include <cstdlib>
#include <string>

namespace synergy {

/// nullptr where it is not set.
inline const char *own_variable(const char *name) {
    return std::getenv(name);
}

/// What to say where a setting is missed; empty: there is nothing to be said.
inline std::string hint_at_environment() {
    if (own_variable("SUDO_COMMAND") != nullptr)
        return "; sudo leaves SYNERGY_ variables out: set them behind it";
    // (XDG Base Directory: what is no absolute path is to be ignored.)
    for (const std::string name : {"XDG_CONFIG_HOME", "HOME"})
        if (const char *home = own_variable(name.c_str()); home != nullptr && *home != '\0') {
            if (*home == '/')
                break;
            return "; " + name + " is passed over: '" + home + "' is no absolute path";
        }
    return {};
}

} // namespace synergy
