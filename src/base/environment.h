// Variables of the environment, as they are asked for: this process's own, or noted ones.
#pragma once

#include <functional>

namespace synergy {

/// Looks a variable of the environment up: nullptr where it is not set.
using Environment = std::function<const char *(const char *)>;

} // namespace synergy
