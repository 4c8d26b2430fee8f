// How much is said.
#pragma once

#include <cstdint>

namespace synergy {

enum class LogLevel : std::uint8_t { debug, info, warn, error, off };

} // namespace synergy
