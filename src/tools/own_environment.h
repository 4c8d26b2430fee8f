// This process's environment, as the settings ask for it.
#pragma once

#include <cstdlib>

namespace synergy {

/// nullptr where it is not set.
inline const char *own_variable(const char *name) {
    return std::getenv(name);
}

} // namespace synergy
