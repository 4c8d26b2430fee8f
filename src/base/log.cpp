// The libraries are compiled here and nowhere else, and header-only: Debian has no static ones.
#define FMT_HEADER_ONLY
#define SPDLOG_FMT_EXTERNAL 1

#include "base/log.h"

#include "base/log_thread.h"

#include <spdlog/details/log_msg_buffer.h>
#include <spdlog/details/null_mutex.h>
#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <string_view>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>
#include <unordered_set>
#include <utility>

namespace synergy::log {

namespace {

// The log's thread reads what configure() has written before there was one. Never destroyed, since
// it may be in the midst of a line when the process ends.
Destination &destination() {
    static auto *chosen = new Destination;
    return *chosen;
}

std::function<bool()> &is_stderr_lost() {
    static auto *question = new std::function<bool()>;
    return *question;
}

namespace level = spdlog::level;

level::level_enum of_spdlog(LogLevel wanted) {
    switch (wanted) {
    case LogLevel::debug:
        return level::debug;
    case LogLevel::info:
        return level::info;
    case LogLevel::warn:
        return level::warn;
    case LogLevel::error:
        return level::err;
    default:
        return level::off;
    }
}

/// What is to be written, as it was when it was said.
struct Line {
    spdlog::details::log_msg_buffer message; ///< its logger's name is the server's process
    pid_t server;
    bool is_stderr_lost;
    bool may_wait = true; ///< for whoever takes it

    explicit Line(spdlog::details::log_msg said)
        : server(destination().server != 0 ? destination().server : getpid()),
          is_stderr_lost(log::is_stderr_lost() && log::is_stderr_lost()()) {
        const std::string name = std::to_string(server);
        said.logger_name = name;
        message = spdlog::details::log_msg_buffer(said);
    }

    /// To be said in its place, or after it.
    [[nodiscard]] Line with(level::level_enum level, const std::string &text) const {
        spdlog::details::log_msg said = message;
        said.level = level;
        said.payload = text;
        Line other = *this;
        other.message = spdlog::details::log_msg_buffer(said);
        return other;
    }

    /// (spdlog's pattern flags: %n the server's process, %l the level, %v the text.)
    [[nodiscard]] std::string as(const char *pattern, const char *end = "\n") const {
        spdlog::pattern_formatter formatter(pattern, spdlog::pattern_time_type::utc, end);
        spdlog::memory_buf_t text;
        formatter.format(message, text);
        return fmt::to_string(text);
    }
};

bool has_room(int fd, bool may_wait) {
    constexpr int for_ever = -1;
    pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
    if (may_wait)
        log_thread::leave_rights();
    return poll(&room, 1, may_wait ? for_ever : 0) == 1;
}

/// (SIGPIPE and SIGXFSZ are the process's to ignore.) 0, or the errno of what takes no more. A pipe
/// that nobody reads is nobody's loss; what finds no room for now is lost where nobody may wait.
int write_all(int fd, std::string_view text, bool may_wait) {
    while (!text.empty()) {
        if (!may_wait && !has_room(fd, may_wait))
            return 0;
        const ssize_t written = ::write(fd, text.data(), text.size());
        if (written >= 0)
            text.remove_prefix(static_cast<std::size_t>(written));
        else if (errno != EINTR && (errno != EAGAIN || !has_room(fd, may_wait)))
            return errno == EAGAIN || errno == EPIPE ? 0 : errno;
    }
    return 0;
}

int write_and_close(int fd, std::string_view text, bool may_wait) {
    const int error = write_all(fd, text, may_wait);
    ::close(fd);
    return error;
}

int syslog_priority(level::level_enum level) {
    constexpr int facility_daemon = 3 * 8; // RFC 5424 6.2.1
    switch (level) {
    case level::err:
        return facility_daemon + 3;
    case level::warn:
        return facility_daemon + 4;
    case level::info:
        return facility_daemon + 6;
    default:
        return facility_daemon + 7;
    }
}

// Not by syslog(3), which keeps its socket open.
void to_syslog(const Line &line) {
    const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, "/dev/log");
    const std::string text =
        fmt::format("<{}>", syslog_priority(line.message.level)) + line.as("synergy[%n]: %v", "");
    if (::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0)
        static_cast<void>(write_all(fd, text, line.may_wait));
    ::close(fd);
}

/// A daemon's, as most leave it when they go to the background.
bool is_null(const struct stat &status) {
    constexpr unsigned memory = 1; // linux/major.h; null(4)
    constexpr unsigned null = 3;
    return S_ISCHR(status.st_mode) && status.st_rdev == makedev(memory, null);
}

/// The server's own, for a moment: what it has from another user (by su, or by sudo in a pipe)
/// can't be opened anew, nor anything without /proc. -1 where that may not be seen, or is another
/// one by now. (`known`: what it is to be; nullptr: a terminal or a pipe.)
int borrow_stderr(pid_t server, const struct stat *known) {
    // A sandbox's filter may kill who asks for another process's.
    if (prctl(PR_GET_SECCOMP) != 0) {
        errno = EACCES;
        return -1;
    }
    const int process = static_cast<int>(::syscall(SYS_pidfd_open, server, 0));
    const int fd = static_cast<int>(::syscall(SYS_pidfd_getfd, process, STDERR_FILENO, 0));
    const int error = errno;
    ::close(process);
    struct stat status {};
    if (fd >= 0 && fstat(fd, &status) == 0 &&
        (known != nullptr ? status.st_dev == known->st_dev && status.st_ino == known->st_ino
                          : S_ISFIFO(status.st_mode) || isatty(fd) != 0))
        return fd;
    ::close(fd);
    errno = error;
    return -1;
}

/// Opened for one line. -1 and errno: it can't be.
int open_stderr(const Line &line, const struct stat *known) {
    // (The thread's own number.)
    const std::string path = fmt::format("/proc/thread-self/fd/{}", destination().stderr_path);
    constexpr int flags = O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    const int own = known != nullptr ? ::open(path.c_str(), flags) : -1;
    if (known != nullptr && (own >= 0 || (errno != EACCES && errno != ENOENT)))
        return own;
    return borrow_stderr(line.server, known);
}

void to_stderr(const Line &line) {
    const std::string text = line.as("synergy: %l: %v");
    const int path = destination().stderr_path;
    struct stat status {};
    const bool is_known = path >= 0 && fstat(path, &status) == 0;
    if (line.is_stderr_lost || (is_known && is_null(status)))
        return to_syslog(line);
    if (path < 0) {
        log_thread::leave_rights();
        if (write_all(STDERR_FILENO, text, line.may_wait) != 0)
            to_syslog(line);
        return;
    }
    const int fd = open_stderr(line, is_known ? &status : nullptr);
    const bool is_written = fd >= 0 ? write_and_close(fd, text, line.may_wait) == 0
                                    : S_ISFIFO(status.st_mode) && errno == ENXIO;
    if (!is_written)
        to_syslog(line);
}

/// Once.
void say_unwritable(const Line &line, int error) {
    static std::atomic<bool> is_said = false;
    if (is_said.exchange(true))
        return;
    to_stderr(line.with(level::warn,
                        fmt::format("{} can't be written: {}; what belongs there comes here",
                                    destination().where,
                                    error == ENXIO ? "nobody reads it" : strerrordesc_np(error))));
}

void to_file(const Line &line) {
    const int fd = ::open(destination().where.c_str(),
                          O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0640);
    int error = errno;
    if (fd >= 0)
        error = write_and_close(fd, line.as("%Y-%m-%dT%H:%M:%S.%eZ [%n] %l: %v"), line.may_wait);
    if (error == 0)
        return;
    say_unwritable(line, error);
    to_stderr(line);
}

void write_out(const Line &line) {
    const std::string &where = destination().where;
    if (where == "syslog")
        to_syslog(line);
    else if (where == "stderr")
        to_stderr(line);
    else
        to_file(line);
}

/// In its turn, by the log's thread if there is one; else at once, and nobody waits for it.
void do_in_turn(Line line, void (*step)(const Line &)) {
    if (!destination().is_by_thread)
        return step(line);
    const auto work = [line, step](std::size_t lost) {
        step(line);
        if (lost == 0)
            return;
        write_out(line.with(level::warn, fmt::format("{} lines are lost here: what was said before "
                                                     "them took too long to be written",
                                                     lost)));
    };
    if (log_thread::give(work))
        return;
    line.may_wait = false;
    step(line);
}

/// Where spdlog's logger leaves its lines.
class Sink final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
    void sink_it_(const spdlog::details::log_msg &message) override {
        do_in_turn(Line(message), write_out);
    }
    void flush_() override {
        if (destination().is_by_thread)
            log_thread::catch_up();
    }
};

/// Never destroyed, as above.
spdlog::logger &logger() {
    static auto *one = [] {
        auto *made = new spdlog::logger("synergy", std::make_shared<Sink>());
        made->set_level(of_spdlog(destination().level));
        // Who is warned may see what comes of it, and end, with whoever reads this.
        made->flush_on(level::warn);
        return made;
    }();
    return *one;
}

} // namespace

void configure(Destination chosen) {
    destination() = std::move(chosen);
    Destination &now = destination();
    // A terminal or a pipe can be another user's, or have to be borrowed of the server. A file may
    // be on a disk that hangs when it is opened.
    const Capabilities to_open =
        now.where == "stderr" ? capability(CAP_DAC_OVERRIDE) | capability(CAP_SYS_PTRACE) : 0;
    now.is_by_thread = now.is_by_thread && log_thread::prepare({.descriptor = now.stderr_path,
                                                                .written = places(),
                                                                .to_open = to_open});
    logger().set_level(of_spdlog(now.level));
    if (now.level == LogLevel::off || now.where == "syslog" || now.where == "stderr")
        return;
    do_in_turn(Line({"", of_spdlog(now.level), ""}), [](const Line &line) {
        if (const int error = why_unwritable(destination().where); error != 0)
            say_unwritable(line, error);
    });
}

std::vector<std::string> places() {
    const Destination &now = destination();
    // (The thread's own number.)
    std::vector<std::string> named{fmt::format("/proc/thread-self/fd/{}", now.stderr_path)};
    if (now.where.starts_with('/'))
        named.push_back(now.where.substr(0, now.where.find_last_of('/') + 1));
    return named;
}

int why_unwritable(const std::string &path) {
    const auto may = [](const std::string &what, int mode) {
        return faccessat(AT_FDCWD, what.c_str(), mode, AT_EACCESS) == 0;
    };
    struct stat status {};
    if (may(path, W_OK))
        return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode) ? EISDIR : 0;
    if (errno != ENOENT)
        return errno;
    const std::size_t slash = path.find_last_of('/');
    const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    return may(directory, W_OK | X_OK) ? 0 : errno;
}

void serve(pid_t server) {
    destination().server = server;
}

void watch_stderr(std::function<bool()> is_lost) {
    is_stderr_lost() = std::move(is_lost);
}

bool is_on(LogLevel level) {
    return logger().should_log(of_spdlog(level));
}

namespace {

/// What has been said once.
std::unordered_set<std::string> &said() {
    static auto *lines = new std::unordered_set<std::string>;
    return *lines;
}

bool is_first(const std::string &text) {
    constexpr std::size_t most = 10000;
    if (said().size() >= most)
        said().clear();
    return said().insert(text).second;
}

} // namespace

void once(LogLevel level, const std::string &text) {
    if (is_on(level) && is_first(text))
        line(level, "{}", fmt::make_format_args(text));
}

void take_back(const std::string &text) {
    said().erase(text);
}

void over(const std::string &text) {
    if (said().erase(text) == 0)
        return;
    const int saved = errno;
    // Whatever level is wanted: who was told of it is to know.
    const std::string line = "that is over: " + text;
    logger().sinks().front()->log({logger().name(), level::info, line});
    errno = saved;
}

void line(LogLevel level, fmt::string_view format, fmt::format_args arguments) {
    const int saved = errno;
    if (is_on(level))
        logger().log(of_spdlog(level), fmt::vformat(format, arguments));
    errno = saved;
}

} // namespace synergy::log
