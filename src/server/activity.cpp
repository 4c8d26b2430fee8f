#include "server/activity.h"

#include "base/socket.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <fcntl.h>
#include <filesystem>
#include <sstream>
#include <string>
#include <string_view>
#include <unistd.h>

namespace synergy {

namespace {

/// proc_pid_stat(5): what follows the name, which is in brackets; empty where that can't be read.
std::string fields_of(const std::string &task) {
    const Socket file(::open((task + "/stat").c_str(), O_RDONLY | O_CLOEXEC));
    std::array<char, 512> text{};
    const ssize_t size = ::read(file.fd(), text.data(), text.size());
    if (size <= 0)
        return {};
    const std::string_view line(text.data(), static_cast<std::size_t>(size));
    const std::size_t end = line.rfind(')');
    return end != std::string_view::npos && end + 2 < line.size()
               ? std::string(line.substr(end + 2))
               : std::string();
}

char state_of(const std::string &task) {
    const std::string fields = fields_of(task);
    return fields.empty() ? '\0' : fields.front();
}

} // namespace

Activity activity_of(pid_t process) {
    Activity activity = Activity::rests;
    std::error_code none;
    const std::string tasks = "/proc/" + std::to_string(process) + "/task";
    // (The process may end meanwhile.)
    for (std::filesystem::directory_iterator task(tasks, none), end; !none && task != end;
         task.increment(none)) {
        const char state = state_of(task->path());
        if (state == 'T' || state == 't')
            return Activity::stopped;
        if (state == 'R' || state == 'D')
            activity = Activity::runs;
    }
    return activity;
}

Duration age_of(pid_t process) {
    constexpr int before_start = 19; // "starttime" is the 22nd field, the state the third
    std::istringstream fields(fields_of("/proc/" + std::to_string(process)));
    std::string skipped;
    for (int i = 0; i < before_start; i++)
        fields >> skipped;
    long long ticks = 0;
    timespec now{};
    if (!(fields >> ticks) || clock_gettime(CLOCK_BOOTTIME, &now) != 0)
        return Duration::zero();
    const auto since_boot =
        std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
    const auto started = std::chrono::nanoseconds(ticks * (1000000000LL / sysconf(_SC_CLK_TCK)));
    return std::max<Duration>(since_boot - started, Duration::zero());
}

} // namespace synergy
