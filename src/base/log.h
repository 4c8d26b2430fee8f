// What the engine says, and where to. A line is composed without locks and leaves in one write,
// through a descriptor that is opened for that line alone: the server's stderr and files are never
// held open, and a fork in the middle of a line leaves nothing locked in the child.
#pragma once

#include "settings/settings.h"

#include <fmt/core.h>

#include <string>

namespace synergy::log {

/// Sets level and destination: a path, "stderr" or "syslog". Before it, warnings go to stderr.
/// Call it in a thread that has the server's descriptors.
void configure(LogLevel level, const std::string &destination);

/// Says that the calling thread no longer shares the server's descriptors, and whether its own
/// descriptor 2 is the stderr that the server had then.
void this_thread_has_its_own_table(bool has_stderr);

/// One line. (Type-erased, so that formatting and spdlog are compiled in one place.)
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
template <typename... Args> void error(fmt::format_string<Args...> format, Args &&...args) {
    line(LogLevel::error, format, fmt::make_format_args(args...));
}

} // namespace synergy::log
