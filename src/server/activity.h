// Whether a process gets on with its work.
#pragma once

#include "base/scheduler.h"

#include <cstdint>
#include <sys/types.h>

namespace synergy {

enum class Activity : std::uint8_t {
    rests,   ///< all its threads wait for something, or it can't be told
    runs,    ///< or waits for a processor, or a disk
    stopped, ///< by SIGSTOP or a debugger: it does nothing before it is let go
};

Activity activity_of(pid_t process);

/// How long ago the process was started, to a hundredth of a second; zero where that can't be told.
Duration age_of(pid_t process);

} // namespace synergy
