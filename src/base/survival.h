// Calls that may end who makes them.
#pragma once

#include <functional>

namespace synergy {

/// Whether the process would go on after this. The filters of hardened units (systemd's
/// SystemCallFilter=) end who makes a call that they don't know, and the keeper inherits the
/// server's: where there is one, a child tries first. False where none can be had.
bool survives(const std::function<void()> &attempt);

} // namespace synergy
