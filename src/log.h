// What the engine says, and where to. A line is composed without locks and leaves in one write,
// through a descriptor that is opened for that line alone: the server's stderr and files are never
// held open, and a fork in the middle of a line leaves nothing locked in the child.
#pragma once

#include "settings.h"

#include <spdlog/logger.h>

namespace synergy::log {

/// Sets level and destination: a path, "stderr" or "syslog". Before it, warnings go to stderr.
/// Call it in a thread that has the server's descriptors.
void configure(LogLevel level, const std::string &destination);

/// Says that the calling thread no longer shares the server's descriptors.
void this_thread_has_its_own_table();

/// The one logger; never destroyed, since the engine's thread may outlive main().
spdlog::logger &logger();

template <typename... Args> void debug(fmt::format_string<Args...> format, Args &&...args) {
    logger().debug(format, std::forward<Args>(args)...);
}
template <typename... Args> void info(fmt::format_string<Args...> format, Args &&...args) {
    logger().info(format, std::forward<Args>(args)...);
}
template <typename... Args> void warn(fmt::format_string<Args...> format, Args &&...args) {
    logger().warn(format, std::forward<Args>(args)...);
}
template <typename... Args> void error(fmt::format_string<Args...> format, Args &&...args) {
    logger().error(format, std::forward<Args>(args)...);
}

} // namespace synergy::log
