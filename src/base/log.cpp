// The library is compiled here and nowhere else, and header-only: Debian has no static one.
#define FMT_HEADER_ONLY

#include "base/log.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <fcntl.h>
#include <mutex>
#include <poll.h>
#include <string_view>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>
#include <unordered_set>
#include <utility>

namespace synergy::log {

namespace {

// Written by configure() before there are other threads, but for `server`; never destroyed, since
// threads that resolve names may log until the process has ended.
Destination &destination() {
    static auto *chosen = new Destination;
    return *chosen;
}

std::function<bool()> &is_stderr_lost() {
    static auto *question = new std::function<bool()>;
    return *question;
}

pid_t server() {
    const pid_t chosen = __atomic_load_n(&destination().server, __ATOMIC_RELAXED);
    return chosen != 0 ? chosen : getpid();
}

/// What has been said once. Threads that resolve names log as well.
struct Said {
    std::mutex mutex;
    std::unordered_set<std::string> lines;
};

Said &said() {
    static auto *all = new Said;
    return *all;
}

bool is_first(const std::string &text) {
    constexpr std::size_t most = 10000;
    const std::lock_guard lock(said().mutex);
    if (said().lines.size() >= most)
        said().lines.clear();
    return said().lines.insert(text).second;
}

/// Where no descriptor is left is what a line may have to say: one is held for it.
class Spare {
  public:
    /// `open` gives a descriptor, or -1 and errno.
    template <typename Open> int lend(Open open) {
        int fd = open();
        if (fd < 0 && (errno == EMFILE || errno == ENFILE) && held_ >= 0) {
            ::close(std::exchange(held_, -1));
            fd = open();
        }
        return fd;
    }
    void hold() {
        if (held_ < 0)
            held_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    }

    void forget() { held_ = -1; }

  private:
    int held_ = -1;
};

Spare spare;

/// A terminal may be the server's, which waits where a line is longer than its room: poll() tells
/// of a buffer's length at the least (TTYB_ALIGN_MASK, drivers/tty/tty_buffer.c). What finds none
/// is lost. 0 or an errno.
int write_to_terminal(int fd, std::string_view line) {
    constexpr std::size_t piece = 240;
    pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
    while (!line.empty() && poll(&room, 1, 0) == 1 && room.revents == POLLOUT) {
        // A line's end becomes two, for which there must be room left by what goes before (OPOST).
        const std::size_t end = std::min(line.find('\n'), line.size());
        const std::size_t size = end == 0 ? 1 : std::min(end, piece);
        const ssize_t written = ::write(fd, line.data(), size);
        if (written < 0)
            return errno == EAGAIN ? 0 : errno;
        line.remove_prefix(static_cast<std::size_t>(written));
    }
    return 0;
}

/// A line must not wait for whoever reads it. (SIGPIPE and SIGXFSZ are the process's to ignore.)
/// 0, or the errno of a file that takes nothing more. (One with room for a part takes that, and
/// says nothing.)
int write_line(int fd, std::string_view line) {
    pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
    if (poll(&room, 1, 0) != 1 || room.revents != POLLOUT)
        return 0;
    // poll() tells of a pipe's room for this much, and no write of as much is torn (pipe(7)).
    const std::size_t size = std::min<std::size_t>(line.size(), PIPE_BUF);
    struct stat status {};
    if (fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode)) {
        // Another writer may have taken it since, and the pipe may be the server's, which waits.
        const iovec all{.iov_base = const_cast<char *>(line.data()), .iov_len = size};
        const ssize_t written = pwritev2(fd, &all, 1, -1, RWF_NOWAIT);
        if (written >= 0 || errno == EAGAIN)
            return 0;
        if (errno != EOPNOTSUPP && errno != ENOSYS) // an older kernel's pipes
            return errno;
    }
    if (S_ISCHR(status.st_mode) && isatty(fd) != 0)
        return write_to_terminal(fd, line.substr(0, size));
    const ssize_t written = ::write(fd, line.data(), size);
    if (written < 0)
        return errno;
    return static_cast<std::size_t>(written) == size ? 0 : ENOSPC;
}

int write_and_close(int fd, std::string_view line) {
    const int error = write_line(fd, line);
    ::close(fd);
    spare.hold();
    return error;
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
    const int fd =
        spare.lend([] { return ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); });
    if (fd < 0)
        return;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, "/dev/log");
    std::string line = fmt::format("<{}>synergy[{}]: {}", syslog_priority(level), server(), text);
    if (::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0)
        ::send(fd, line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    ::close(fd);
    spare.hold();
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
int borrow_stderr(const struct stat *known) {
    // A sandbox's filter may kill who asks for another process's.
    if (prctl(PR_GET_SECCOMP) != 0) {
        errno = EACCES;
        return -1;
    }
    const int process = static_cast<int>(::syscall(SYS_pidfd_open, server(), 0));
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

void to_stderr(LogLevel level, std::string_view text) {
    const std::string line = fmt::format("synergy: {}: {}\n", name(level), text);
    const int path = destination().stderr_path;
    if (is_stderr_lost() && is_stderr_lost()())
        return to_syslog(level, text);
    if (path < 0) {
        if (write_line(STDERR_FILENO, line) != 0)
            to_syslog(level, text);
        return;
    }
    struct stat status {};
    const bool is_known = fstat(path, &status) == 0;
    if (is_known && is_null(status))
        return to_syslog(level, text);
    const int fd = spare.lend([path, is_known, &status] {
        const int own = is_known ? ::open(fmt::format("/proc/self/fd/{}", path).c_str(),
                                          O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
                                 : -1;
        if (is_known && (own >= 0 || (errno != EACCES && errno != ENOENT)))
            return own;
        return borrow_stderr(is_known ? &status : nullptr);
    });
    // A fifo that nobody reads is nobody's loss.
    const bool is_written =
        fd >= 0 ? write_and_close(fd, line) == 0 : S_ISFIFO(status.st_mode) && errno == ENXIO;
    if (!is_written)
        to_syslog(level, text);
}

int open_file(const std::string &path) {
    return spare.lend([&path] {
        return ::open(path.c_str(),
                      O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0640);
    });
}

void say_unwritable(const std::string &path, int error) {
    if (is_first(path))
        to_stderr(LogLevel::warn,
                  fmt::format("{} can't be written: {}; what belongs there comes here", path,
                              error == ENXIO ? "nobody reads it" : strerrordesc_np(error)));
}

void to_file(const std::string &path, LogLevel level, std::string_view text) {
    const int fd = open_file(path);
    int error = errno;
    if (fd >= 0)
        error = write_and_close(
            fd, fmt::format("{} [{}] {}: {}\n", timestamp(), server(), name(level), text));
    if (error == 0)
        return;
    say_unwritable(path, error);
    to_stderr(level, text);
}

} // namespace

void configure(Destination chosen) {
    destination() = std::move(chosen);
    spare.hold();
    const std::string &where = destination().where;
    if (destination().level == LogLevel::off || where == "syslog" || where == "stderr")
        return;
    if (const int error = why_unwritable(where); error != 0)
        say_unwritable(where, error);
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
    __atomic_store_n(&destination().server, server, __ATOMIC_RELAXED);
}

void watch_stderr(std::function<bool()> is_lost) {
    is_stderr_lost() = std::move(is_lost);
}

void hold_no_descriptor() {
    spare.forget();
    spare.hold();
}

bool is_on(LogLevel level) {
    return level >= destination().level;
}

void once(LogLevel level, const std::string &text) {
    if (is_on(level) && is_first(text))
        line(level, "{}", fmt::make_format_args(text));
}

namespace {

bool was_said(const std::string &text) {
    const std::lock_guard lock(said().mutex);
    return said().lines.erase(text) > 0;
}

void write(LogLevel level, const std::string &text) {
    const int saved = errno;
    const std::string &where = destination().where;
    if (where == "syslog")
        to_syslog(level, text);
    else if (where == "stderr")
        to_stderr(level, text);
    else
        to_file(where, level, text);
    errno = saved;
}

} // namespace

void take_back(const std::string &text) {
    static_cast<void>(was_said(text));
}

void over(const std::string &text) {
    if (was_said(text))
        write(LogLevel::info, "that is over: " + text);
}

void line(LogLevel level, fmt::string_view format, fmt::format_args arguments) {
    if (level >= destination().level)
        write(level, fmt::vformat(format, arguments));
}

} // namespace synergy::log
