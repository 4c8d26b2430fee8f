#include "server/activity.h"

#include "base/socket.h"

#include <array>
#include <fcntl.h>
#include <filesystem>
#include <string>
#include <string_view>
#include <unistd.h>

namespace synergy {

namespace {

/// proc_pid_stat(5): what follows the name, which is in brackets; 0 where that can't be read.
char state_of(const std::string &task) {
    const Socket file(::open((task + "/stat").c_str(), O_RDONLY | O_CLOEXEC));
    std::array<char, 256> text{};
    const ssize_t size = ::read(file.fd(), text.data(), text.size());
    if (size <= 0)
        return 0;
    const std::string_view line(text.data(), static_cast<std::size_t>(size));
    const std::size_t end = line.rfind(')');
    return end != std::string_view::npos && end + 2 < line.size() ? line[end + 2] : '\0';
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

} // namespace synergy
