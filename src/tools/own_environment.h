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
inline std::string sudo_hint() {
    return own_variable("SUDO_COMMAND") != nullptr
               ? "; sudo leaves SYNERGY_ variables out: set them behind it"
               : "";
}

} // namespace synergy
