// Both libraries are compiled here and nowhere else, and header-only: Debian has no static ones.
#define FMT_HEADER_ONLY
#define SPDLOG_FMT_EXTERNAL 1

#include "base/log.h"

#include "base/libc_calls.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/sink.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace synergy::log {

namespace {

// Which file stood behind the server's stderr when the log was configured, if any. Written by
// configure(), before the engine's thread starts.
struct stat first_stderr {};
bool had_stderr = false;

// The thread that has a descriptor table of its own; 0: none. Written by that thread.
std::atomic<pid_t> own_table_thread{0};
bool has_own_stderr = false; ///< that thread's alone

/// How the server has its descriptor 2 open (open(2)); -1: it can't be told. Through /proc, since
/// a descriptor that this thread opened has flags of its own.
int server_flags() {
    int fd = ::open("/proc/self/fdinfo/2", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    char text[256];
    ssize_t length = ::read(fd, text, sizeof text - 1);
    libc().close(fd);
    text[std::max<ssize_t>(length, 0)] = '\0';
    const char *flags = std::strstr(text, "flags:"); // proc(5): octal
    return flags ? static_cast<int>(std::strtol(flags + std::strlen("flags:"), nullptr, 8)) : -1;
}

/// A server that closes its stderr may get a database or a client as its next descriptor 2.
bool is_still_stderr(int fd) {
    struct stat now {};
    if (!had_stderr || fstat(fd, &now) != 0)
        return false;
    if ((now.st_dev == first_stderr.st_dev && now.st_ino == first_stderr.st_ino) ||
        S_ISCHR(now.st_mode))
        return true;
    int flags = S_ISREG(now.st_mode) ? server_flags() : -1;
    return flags >= 0 && (flags & O_APPEND);
}

/// Whether the thread's own descriptor 2 is still the file that the server's is.
bool is_servers_stderr_too() {
    struct stat servers {
    }, own{};
    return stat("/proc/self/fd/2", &servers) == 0 && fstat(STDERR_FILENO, &own) == 0 &&
           servers.st_dev == own.st_dev && servers.st_ino == own.st_ino;
}

/// The server's descriptor 2 for the moment of one line. The engine's thread has a table of its
/// own, where 2 is something else: there it is opened a second time through /proc (which names the
/// table of the process's first thread). Sockets can't be, nor files of another user's. (Fetching
/// it by pidfd_getfd(2) is no way out: system call filters end the process for that.)
int borrow_stderr() {
    if (gettid() != own_table_thread.load() || (has_own_stderr && is_servers_stderr_too()))
        return fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    return ::open("/proc/self/fd/2", O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

int open_stderr() {
    int fd = borrow_stderr();
    if (fd >= 0 && !is_still_stderr(fd)) {
        libc().close(fd);
        return -1;
    }
    return fd;
}

/// A line must not end the server (SIGPIPE), nor wait for whoever reads its stderr.
void write_line(int fd, std::string_view line) {
    pollfd room{fd, POLLOUT, 0};
    if (poll(&room, 1, 0) != 1)
        return;
    // SIGPIPE: nobody reads; SIGXFSZ: the file is as large as RLIMIT_FSIZE allows.
    sigset_t fatal, before, pending;
    sigemptyset(&fatal);
    sigaddset(&fatal, SIGPIPE);
    sigaddset(&fatal, SIGXFSZ);
    sigpending(&pending);
    bool was_pending = sigismember(&pending, SIGPIPE) == 1 || sigismember(&pending, SIGXFSZ) == 1;
    pthread_sigmask(SIG_BLOCK, &fatal, &before);
    // poll() tells of a pipe's room for this much, and no write of as much is torn (pipe(7)).
    ssize_t written = ::write(fd, line.data(), std::min<std::size_t>(line.size(), PIPE_BUF));
    if (written < 0 && (errno == EPIPE || errno == EFBIG) && !was_pending) {
        timespec at_once{};
        sigtimedwait(&fatal, nullptr, &at_once);
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

std::string timestamp() {
    // Not localtime_r() or gmtime_r(): both take a lock of libc's, which a fork may leave locked.
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

const char *level_name(spdlog::level::level_enum level) {
    switch (level) {
    case spdlog::level::err:
        return "error";
    case spdlog::level::warn:
        return "warning";
    case spdlog::level::info:
        return "info";
    default:
        return "debug";
    }
}

int syslog_priority(spdlog::level::level_enum level) {
    constexpr int facility_daemon = 3 * 8; // RFC 5424 6.2.1
    switch (level) {
    case spdlog::level::err:
        return facility_daemon + 3;
    case spdlog::level::warn:
        return facility_daemon + 4;
    case spdlog::level::info:
        return facility_daemon + 6;
    default:
        return facility_daemon + 7;
    }
}

/// Sends each line where the settings say. Stateless once made, so any thread may use it.
class LineSink final : public spdlog::sinks::sink {
  public:
    explicit LineSink(std::string destination) : destination_(std::move(destination)) {}

    void log(const spdlog::details::log_msg &message) override {
        int saved = errno;
        std::string_view text(message.payload.data(), message.payload.size());
        if (destination_ == "syslog")
            to_syslog(message.level, text);
        else if (destination_ == "stderr")
            to_stderr(message.level, text);
        else
            to(::open(destination_.c_str(),
                      O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0640),
               fmt::format("{} [{}] {}: {}\n", timestamp(), getpid(), level_name(message.level),
                           text));
        errno = saved;
    }
    void flush() override {}
    void set_pattern(const std::string &) override {}
    void set_formatter(std::unique_ptr<spdlog::formatter>) override {}

  private:
    static void to(int fd, const std::string &line) {
        if (fd < 0)
            return;
        write_line(fd, line);
        libc().close(fd);
    }

    static void to_stderr(spdlog::level::level_enum level, std::string_view text) {
        int fd = open_stderr();
        if (fd >= 0)
            to(fd, fmt::format("synergy: {}: {}\n", level_name(level), text));
        else if (gettid() == own_table_thread.load())
            to_syslog(level, text); // as for units, whose stderr is a socket of the journal's
    }

    // syslog(3) would open and keep a socket in the server's table and share its identity string.
    static void to_syslog(spdlog::level::level_enum level, std::string_view text) {
        int fd = libc().socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            return;
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strcpy(address.sun_path, "/dev/log");
        std::string line =
            fmt::format("<{}>synergy[{}]: {}", syslog_priority(level), getpid(), text);
        if (libc().connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0)
            send(fd, line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        libc().close(fd);
    }

    std::string destination_;
};

spdlog::level::level_enum spdlog_level(LogLevel level) {
    switch (level) {
    case LogLevel::debug:
        return spdlog::level::debug;
    case LogLevel::info:
        return spdlog::level::info;
    case LogLevel::warn:
        return spdlog::level::warn;
    case LogLevel::error:
        return spdlog::level::err;
    case LogLevel::off:
        return spdlog::level::off;
    }
    return spdlog::level::warn;
}

spdlog::logger *make(LogLevel level, const std::string &destination) {
    // Not through spdlog's registry: that is a static object, gone at exit while the thread runs.
    auto *made = new spdlog::logger("synergy", std::make_shared<LineSink>(destination));
    // spdlog's own handler takes a lock and writes to stderr.
    made->set_error_handler([](const std::string &) {});
    made->set_level(spdlog_level(level));
    return made;
}

// Replaced by configure() before the engine's thread starts; read everywhere. Never freed.
spdlog::logger *current = nullptr;

} // namespace

void configure(LogLevel level, const std::string &destination) {
    had_stderr = fstat(STDERR_FILENO, &first_stderr) == 0;
    current = make(level, destination);
}

void this_thread_has_its_own_table(bool has_stderr) {
    has_own_stderr = has_stderr;
    own_table_thread = gettid();
}

void line(LogLevel level, fmt::string_view format, fmt::format_args arguments) {
    // Never destroyed, since the engine's thread may outlive main().
    static spdlog::logger *fallback = make(LogLevel::warn, "stderr");
    spdlog::logger *logger = current ? current : fallback;
    auto spdlogs = spdlog_level(level);
    if (logger->should_log(spdlogs))
        logger->log(spdlogs, fmt::vformat(format, arguments));
}

} // namespace synergy::log
