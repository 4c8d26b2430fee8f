// What the keeper says, and where to. A line leaves through a descriptor that is opened for that
// line alone: neither files nor terminals are held open.
#pragma once

#include "base/log_level.h"

#include <fmt/core.h>

#include <functional>
#include <string>

#include <sys/types.h>

namespace synergy::log {

/// Where lines go, and from what level on.
struct Destination {
    LogLevel level = LogLevel::warn;
    std::string where = "stderr"; ///< a path, "stderr" or "syslog"
    /// Where "stderr" is: descriptor 2 of this process, or, if this is not -1, what an O_PATH
    /// descriptor stands for: a terminal or a pipe is opened anew for each line, and a socket,
    /// which can't be opened, is the system's log.
    int stderr_path = -1;
    pid_t server = 0; ///< for whom the lines are; 0: this process
    /// Who says a line does not wait for what takes it, but for a moment where it is a warning
    /// (base/log_thread.h).
    bool is_by_thread = false;
};

/// To be called once, by the thread that logs, while there is no other. Before it, warnings go to
/// descriptor 2. A file that can't be written is named at once, and in its place is stderr.
void configure(Destination destination);
/// Where it writes by name: the directory of its file, and what stands for stderr.
[[nodiscard]] std::vector<std::string> places();
/// The lines that follow are for another process.
void serve(pid_t server);
/// `is_lost` says whether nobody reads any more what stderr gets: then it is for the system's log.
void watch_stderr(std::function<bool()> is_lost);
/// Why a file can't be written, as far as that is seen without making it; 0: it can.
[[nodiscard]] int why_unwritable(const std::string &path);
/// Whether lines of this level are wanted.
[[nodiscard]] bool is_on(LogLevel level);

/// One line. (Type-erased, so that formatting is compiled in one place.)
void line(LogLevel level, fmt::string_view format, fmt::format_args arguments);

template <typename... Args> void debug(fmt::format_string<Args...> format, Args &&...args) {
    line(LogLevel::debug, format, fmt::make_format_args(args...));
}
template <typename... Args> void info(fmt::format_string<Args...> format, Args &&...args) {
    line(LogLevel::info, format, fmt::make_format_args(args...));
}
template <typename... Args> void warn(fmt::format_string<Args...> format, Args &&...args) {
    line(LogLevel::warn, format, fmt::make_format_args(args...));
}
/// For what is tried again and again: one line for each cause. The same one is not said again
/// before it was taken back.
void once(LogLevel level, const std::string &text);
inline void warn_once(const std::string &text) {
    once(LogLevel::warn, text);
}
void take_back(const std::string &text);
/// What was said by once() is wrong no more: said to whoever was told of it, if it still stands.
void over(const std::string &text);

template <typename... Args> void error(fmt::format_string<Args...> format, Args &&...args) {
    line(LogLevel::error, format, fmt::make_format_args(args...));
}

} // namespace synergy::log
