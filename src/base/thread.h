// Threads of our own in somebody else's process.
#pragma once

#include <functional>
#include <string>

namespace synergy {

/// Starts a thread that nobody waits for, with all signals blocked: those of the server are for the
/// server's threads (signal(7)). It has the descriptor table of the thread that starts it. `name`
/// is for ps(1), 15 bytes at most. `work` must not throw. 0, or an errno.
int start_thread(const std::string &name, std::function<void()> work);

} // namespace synergy
