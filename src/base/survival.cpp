#include "base/survival.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace synergy {

bool survives(const std::function<void()> &attempt) {
    constexpr int filtered = 2; // SECCOMP_MODE_FILTER
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != filtered)
        return true;
    const pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); // no core
        attempt();
        _exit(0);
    }
    int status = 0;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status);
}

} // namespace synergy
