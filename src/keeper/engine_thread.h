// The engine's thread: one a process, started with the first hole.
#pragma once

#include "keeper/control.h"

namespace synergy {

/// Sends a request to this process's engine, starting its thread if there is none yet (or none
/// since a fork). 0, or an errno.
int request_of_engine(const Settings &settings, const Request &request, int pass);

/// The same if there is a thread; ESRCH if not.
int request_of_running_engine(const Request &request);

} // namespace synergy
