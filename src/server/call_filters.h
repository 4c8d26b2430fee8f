// Which system call filters a process has (seccomp(2)), as /proc tells everybody.
#pragma once

#include <optional>
#include <string>
#include <sys/types.h>

namespace synergy {

struct CallFilters {
    std::string program; ///< by its name, which another one that is executed has not
    int count = 0;       ///< of the process's first thread
};

/// proc_pid_status(5), Seccomp_filters. Nothing where that can't be read.
std::optional<CallFilters> call_filters_of(pid_t process);

} // namespace synergy
