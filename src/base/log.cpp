// The library is compiled here and nowhere else, and header-only: Debian has no static one.
#define FMT_HEADER_ONLY

#include "base/log.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <string_view>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace synergy::log {

namespace {

// Written by configure() before there are other threads; never destroyed, since threads that
// resolve names may log until the process has ended.
Destination &destination() {
    static auto *chosen = new Destination;
    return *chosen;
}

pid_t server() {
    return destination().server != 0 ? destination().server : getpid();
}

/// A line must not wait for whoever reads it. (SIGPIPE and SIGXFSZ are the process's to ignore.)
void write_line(int fd, std::string_view line) {
    pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
    if (poll(&room, 1, 0) != 1 || room.revents != POLLOUT)
        return;
    // poll() tells of a pipe's room for this much, and no write of as much is torn (pipe(7)).
    static_cast<void>(!::write(fd, line.data(), std::min<std::size_t>(line.size(), PIPE_BUF)));
}

void write_and_close(int fd, std::string_view line) {
    write_line(fd, line);
    ::close(fd);
}

std::string timestamp() {
    using namespace std::chrono;
    auto now = floor<milliseconds>(system_clock::now());
    auto day = floor<days>(now);
    year_month_day date(day);
    hh_mm_ss time(now - day);
    return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", static_cast<int>(date.year()),
                       static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                       time.hours().count(), time.minutes().count(), time.seconds().count(),
                       time.subseconds().count());
}

const char *name(LogLevel level) {
    switch (level) {
    case LogLevel::error:
        return "error";
    case LogLevel::warn:
        return "warning";
    case LogLevel::info:
        return "info";
    default:
        return "debug";
    }
}

int syslog_priority(LogLevel level) {
    constexpr int facility_daemon = 3 * 8; // RFC 5424 6.2.1
    switch (level) {
    case LogLevel::error:
        return facility_daemon + 3;
    case LogLevel::warn:
        return facility_daemon + 4;
    case LogLevel::info:
        return facility_daemon + 6;
    default:
        return facility_daemon + 7;
    }
}

// Not by syslog(3), which keeps its socket open and waits.
void to_syslog(LogLevel level, std::string_view text) {
    int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, "/dev/log");
    std::string line = fmt::format("<{}>synergy[{}]: {}", syslog_priority(level), server(), text);
    if (::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0)
        ::send(fd, line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    ::close(fd);
}

void to_stderr(LogLevel level, std::string_view text) {
    const std::string line = fmt::format("synergy: {}: {}\n", name(level), text);
    const int path = destination().stderr_path;
    if (path < 0)
        return write_line(STDERR_FILENO, line);
    struct stat status {};
    if (fstat(path, &status) != 0)
        return; // the server has none
    const int fd = ::open(fmt::format("/proc/self/fd/{}", path).c_str(),
                          O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0)
        return write_and_close(fd, line);
    // A fifo that nobody reads is nobody's loss.
    if (!S_ISFIFO(status.st_mode))
        to_syslog(level, text);
}

void to_file(const std::string &path, LogLevel level, std::string_view text) {
    const int fd = ::open(path.c_str(),
                          O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0640);
    if (fd < 0)
        return to_stderr(level, text);
    write_and_close(fd, fmt::format("{} [{}] {}: {}\n", timestamp(), server(), name(level), text));
}

} // namespace

void configure(Destination chosen) {
    destination() = std::move(chosen);
}

void line(LogLevel level, fmt::string_view format, fmt::format_args arguments) {
    if (level < destination().level)
        return;
    const int saved = errno;
    const std::string text = fmt::vformat(format, arguments);
    const std::string &where = destination().where;
    if (where == "syslog")
        to_syslog(level, text);
    else if (where == "stderr")
        to_stderr(level, text);
    else
        to_file(where, level, text);
    errno = saved;
}

} // namespace synergy::log
