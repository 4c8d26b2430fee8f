#include "base/log.h"
#include "base/log_thread.h"
#include "base/socket.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string_view>
#include <sys/resource.h>
#include <sys/stat.h>
#include <system_error>
#include <termios.h>
#include <unistd.h>

using namespace synergy;

namespace {

/// A file of a name of its own, removed in the end.
struct TemporaryFile {
    std::string path = "/tmp/synergy-log-test-XXXXXX";

    TemporaryFile() { ::close(mkstemp(path.data())); }
    ~TemporaryFile() { unlink(path.c_str()); }
    [[nodiscard]] std::string content() const {
        std::ostringstream text;
        text << std::ifstream(path).rdbuf();
        return text.str();
    }
};

std::size_t lines_in(const std::string &text) {
    return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

/// Puts a file in the place of descriptor 2 of this (child) process.
bool make_stderr(const std::string &path, int flags) {
    int fd = ::open(path.c_str(), flags | O_CLOEXEC);
    bool done = fd >= 0 && dup2(fd, STDERR_FILENO) == STDERR_FILENO;
    if (fd > STDERR_FILENO)
        ::close(fd);
    return done;
}

constexpr std::chrono::milliseconds enough(5000);

/// Nobody reads it until it is emptied.
class FullPipe {
  public:
    FullPipe() {
        std::array<int, 2> ends{};
        if (pipe2(ends.data(), O_CLOEXEC) != 0)
            throw std::system_error(errno, std::generic_category(), "pipe");
        out_ = Socket(ends[0]), in_ = Socket(ends[1]);
        const Socket filler(::open(("/proc/self/fd/" + std::to_string(in())).c_str(),
                                   O_WRONLY | O_NONBLOCK | O_CLOEXEC));
        const std::string page(4096, '.');
        for (ssize_t size; (size = ::write(filler.fd(), page.data(), page.size())) > 0;)
            filled_ += static_cast<std::size_t>(size);
    }
    [[nodiscard]] int in() const { return in_.fd(); }
    void empty() const { static_cast<void>(read(filled_)); }
    /// As much as that.
    [[nodiscard]] std::string read(std::size_t size) const {
        std::string text;
        std::array<char, 4096> part{};
        while (text.size() < size) {
            const ssize_t got =
                ::read(out_.fd(), part.data(), std::min(part.size(), size - text.size()));
            if (got <= 0)
                break;
            text.append(part.data(), static_cast<std::size_t>(got));
        }
        return text;
    }

  private:
    Socket out_, in_;
    std::size_t filled_ = 0;
};

[[maybe_unused]] std::set<std::string> threads() {
    std::set<std::string> all;
    for (const auto &entry : std::filesystem::directory_iterator("/proc/self/task"))
        all.insert(entry.path().filename());
    return all;
}

/// What the keeper has of its server's stderr.
int path_of(int fd) {
    return ::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_PATH | O_CLOEXEC);
}

} // namespace

TEST_CASE("log: a line of which a file takes a part is said whole elsewhere") {
    TemporaryFile full;
    TemporaryFile other;
    const std::string before(1000, '.');
    std::ofstream(full.path) << before;
    auto result = harness::in_child([&]() -> std::string {
        signal(SIGXFSZ, SIG_IGN);
        const rlimit limit{.rlim_cur = before.size() + 10, .rlim_max = before.size() + 10};
        setrlimit(RLIMIT_FSIZE, &limit);
        if (!make_stderr(other.path, O_WRONLY | O_APPEND))
            return "no stderr";
        log::configure({.level = LogLevel::info, .where = full.path});
        log::warn("what is to be known");
        return "";
    });
    CHECK(result == "");
    CHECK(other.content() == "synergy: warning: " + full.path +
                                 " can't be written: File too large; what belongs there "
                                 "comes here\nsynergy: warning: what is to be known\n");
}

TEST_CASE("log: lines are appended to the file, which is not held open") {
    TemporaryFile file;
    std::ofstream(file.path) << "what was there\n";
    auto result = harness::in_child([&]() -> std::string {
        log::configure({.level = LogLevel::info, .where = file.path});
        auto before = harness::open_descriptors();
        log::warn("one {}", 1);
        log::info("two");
        log::debug("below the level");
        EXPECT_IN_CHILD(harness::open_descriptors() == before);
        return {};
    });
    CHECK(result == "");
    std::string text = file.content();
    CHECK(lines_in(text) == 3);
    CHECK(text.find("what was there\n") == 0);
    CHECK(text.find("warning: one 1\n") != std::string::npos);
    CHECK(text.find("info: two\n") != std::string::npos);
}

TEST_CASE("log: every level lets through what is at least as grave") {
    const std::vector<std::pair<LogLevel, std::size_t>> levels{{LogLevel::debug, 4},
                                                               {LogLevel::info, 3},
                                                               {LogLevel::warn, 2},
                                                               {LogLevel::error, 1},
                                                               {LogLevel::off, 0}};
    for (auto [level, expected] : levels) {
        TemporaryFile file;
        auto result = harness::in_child([&, level = level]() -> std::string {
            log::configure({.level = level, .where = file.path});
            log::debug("line");
            log::info("line");
            log::warn("line");
            log::error("line");
            return {};
        });
        CHECK(result == "");
        CHECK(lines_in(file.content()) == expected);
    }
}

TEST_CASE("log: what can't be written to the file is for stderr, and errno stays") {
    TemporaryFile file;
    auto result = harness::in_child([&]() -> std::string {
        EXPECT_IN_CHILD(make_stderr(file.path, O_WRONLY | O_APPEND));
        log::configure({.where = "/nonexistent/directory/file"});
        errno = 1234;
        log::error("not lost");
        EXPECT_IN_CHILD(errno == 1234);
        return {};
    });
    CHECK(result == "");
    CHECK(file.content() ==
          "synergy: warning: /nonexistent/directory/file can't be written: No such "
          "file or directory; what belongs there comes here\n"
          "synergy: error: not lost\n");
}

TEST_CASE("log: the same cause is named once, and again when it was over") {
    TemporaryFile file;
    auto result = harness::in_child([&]() -> std::string {
        EXPECT_IN_CHILD(make_stderr(file.path, O_WRONLY | O_APPEND));
        log::configure({});
        log::warn_once("one");
        log::warn_once("one");
        log::warn_once("two");
        log::take_back("one");
        log::warn_once("one");
        log::warn_once("two");
        return {};
    });
    CHECK(result == "");
    CHECK(file.content() ==
          "synergy: warning: one\nsynergy: warning: two\nsynergy: warning: one\n");
}

#ifndef __SANITIZE_THREAD__ // see base/log_thread.cpp
TEST_CASE("log: a line needs no descriptor where none is left") {
    TemporaryFile file;
    auto result = harness::in_child([&]() -> std::string {
        log::configure({.where = file.path, .is_by_thread = true});
        while (::open("/dev/null", O_RDONLY) >= 0)
            ;
        EXPECT_IN_CHILD(errno == EMFILE);
        log::error("said");
        EXPECT_IN_CHILD(log_thread::finish(enough));
        log::error("and again");
        EXPECT_IN_CHILD(log_thread::finish(enough));
        return {};
    });
    CHECK(result == "");
    CHECK(lines_in(file.content()) == 2);
}
#endif

TEST_CASE("log: which files can be written is seen without making them") {
    const harness::Directory directory;
    CHECK(log::why_unwritable(directory.path("new")) == 0);
    CHECK(::access(directory.path("new").c_str(), F_OK) != 0);
    CHECK(log::why_unwritable(directory.write("old", "")) == 0);
    CHECK(log::why_unwritable(directory.path("nowhere/new")) == ENOENT);
    CHECK(log::why_unwritable(directory.path("")) == EISDIR);
}

TEST_CASE("log: a line for stderr goes there, whole and with its level") {
    TemporaryFile file;
    auto result = harness::in_child([&]() -> std::string {
        EXPECT_IN_CHILD(make_stderr(file.path, O_WRONLY | O_APPEND));
        log::configure({});
        auto before = harness::open_descriptors();
        log::error("one");
        EXPECT_IN_CHILD(harness::open_descriptors() == before);
        return {};
    });
    CHECK(result == "");
    CHECK(file.content() == "synergy: error: one\n");
}

TEST_CASE("log: a terminal or pipe is known by what stands for it, and opened for a line") {
    auto result = harness::in_child([]() -> std::string {
        int ends[2];
        EXPECT_IN_CHILD(pipe2(ends, O_CLOEXEC) == 0);
        const int path = path_of(ends[1]);
        ::close(ends[1]);
        log::configure({.stderr_path = path});
        auto before = harness::open_descriptors();
        log::error("one");
        EXPECT_IN_CHILD(harness::open_descriptors() == before);
        char text[64] = {};
        EXPECT_IN_CHILD(::read(ends[0], text, sizeof text) > 0);
        EXPECT_IN_CHILD(text == std::string("synergy: error: one\n"));
        // Nobody holds it: its reader sees the end.
        EXPECT_IN_CHILD(::read(ends[0], text, sizeof text) == 0);
        // Nobody reads it: nobody waits.
        ::close(ends[0]);
        signal(SIGPIPE, SIG_IGN);
        log::error("two");
        // The server has none.
        ::close(path);
        log::error("three");
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("log: a socket as stderr can't be opened, and gets nothing") {
    auto result = harness::in_child([]() -> std::string {
        int ends[2];
        EXPECT_IN_CHILD(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        log::configure({.stderr_path = path_of(ends[0])});
        log::error("for the system's log");
        EXPECT_IN_CHILD(!harness::is_readable(ends[1], std::chrono::milliseconds(50)));
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("log: who says a line does not wait for a pipe that nobody reads, and what is lost is "
          "counted") {
    for (const bool is_opened_anew : {false, true}) {
        CAPTURE(is_opened_anew);
        auto result = harness::in_child([is_opened_anew]() -> std::string {
            const FullPipe pipe;
            EXPECT_IN_CHILD(dup2(pipe.in(), STDERR_FILENO) == STDERR_FILENO); // which waits
            const int flags = fcntl(pipe.in(), F_GETFL);
            log::configure({.level = LogLevel::info,
                            .stderr_path = is_opened_anew ? path_of(pipe.in()) : -1,
                            .is_by_thread = true});
            alarm(10);
            // One is with the thread, and a thousand wait.
            log::info("0");
            EXPECT_IN_CHILD(!log_thread::finish(std::chrono::milliseconds(20)));
            for (int i = 1; i <= 1007; i++)
                log::info("{}", i);
            EXPECT_IN_CHILD(fcntl(pipe.in(), F_GETFL) == flags); // it is the server's
            pipe.empty();
            std::string expected;
            for (int i = 0; i <= 1000; i++)
                expected += "synergy: info: " + std::to_string(i) + "\n";
            expected +=
                "synergy: warning: 7 lines are lost here: what was said before them took too "
                "long to be written\n";
            EXPECT_IN_CHILD(pipe.read(expected.size()) == expected);
            EXPECT_IN_CHILD(log_thread::finish(enough));
            log::info("and so on");
            EXPECT_IN_CHILD(log_thread::finish(enough));
            const std::string last = "synergy: info: and so on\n";
            EXPECT_IN_CHILD(pipe.read(last.size()) == last);
            return {};
        });
        CHECK(result == "");
    }
}

TEST_CASE("log: a line that is longer than a pipe's room stops nobody, and is whole") {
    auto result = harness::in_child([]() -> std::string {
        const FullPipe pipe;
        EXPECT_IN_CHILD(dup2(pipe.in(), STDERR_FILENO) == STDERR_FILENO);
        log::configure({.is_by_thread = true});
        alarm(10);
        const std::string peers(100000, 'x'); // as a setting with a mistake in it may be
        log::error("{}", peers);
        pipe.empty();
        EXPECT_IN_CHILD(pipe.read(peers.size() + 16) == "synergy: error: " + peers);
        return {};
    });
    CHECK(result == "");
}

TEST_CASE(
    "log: who says a line does not wait for a terminal that nobody reads, or that is stopped") {
    for (const bool is_stopped : {false, true}) {
        CAPTURE(is_stopped);
        auto result = harness::in_child([is_stopped]() -> std::string {
            const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
            EXPECT_IN_CHILD(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
            const int end = ::open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
            EXPECT_IN_CHILD(dup2(end, STDERR_FILENO) == STDERR_FILENO); // which waits
            log::configure({.is_by_thread = true});
            alarm(10);
            log::error("seen");
            char seen[40] = {};
            EXPECT_IN_CHILD(::read(terminal, seen, sizeof seen) > 0);
            EXPECT_IN_CHILD(std::string_view(seen) == "synergy: error: seen\r\n");
            if (is_stopped)
                EXPECT_IN_CHILD(tcflow(end, TCOOFF) == 0); // as by Ctrl-S
            for (int i = 0; i < 1000; i++)
                log::error("{}", std::string(1500, 'x'));
            EXPECT_IN_CHILD(!log_thread::finish(std::chrono::milliseconds(20)));
            return {};
        });
        CHECK(result == "");
    }
}

#ifndef __SANITIZE_THREAD__ // see base/log_thread.cpp
TEST_CASE("log: the thread that writes keeps nothing open, and a copy of the process has its own") {
    auto result = harness::in_child([]() -> std::string {
        const FullPipe pipe;
        EXPECT_IN_CHILD(dup2(pipe.in(), STDERR_FILENO) == STDERR_FILENO);
        log::configure({.is_by_thread = true});
        alarm(10);
        std::array<int, 2> other{};
        EXPECT_IN_CHILD(pipe2(other.data(), O_CLOEXEC) == 0);
        log::error("waits");
        ::close(other[1]);
        EXPECT_IN_CHILD(harness::is_readable(other[0], std::chrono::milliseconds(0)));
        const std::string copys = harness::in_child([]() -> std::string {
            TemporaryFile file;
            EXPECT_IN_CHILD(make_stderr(file.path, O_WRONLY | O_APPEND));
            log::error("the copy's");
            EXPECT_IN_CHILD(log_thread::finish(enough));
            EXPECT_IN_CHILD(file.content() == "synergy: error: the copy's\n");
            return {};
        });
        EXPECT_IN_CHILD(copys.empty());
        // With other rights than before: another thread, which goes on where that one stopped.
        log::error("is the next one's");
        const auto before = threads();
        log_thread::replace();
        EXPECT_IN_CHILD(threads().size() == before.size() + 1);
        pipe.empty();
        const std::string both = "synergy: error: waits\nsynergy: error: is the next one's\n";
        EXPECT_IN_CHILD(pipe.read(both.size()).size() == both.size());
        return {};
    });
    CHECK(result == "");
}
#endif

TEST_CASE("log: a line is for a server, and says for which") {
    TemporaryFile file;
    auto result = harness::in_child([&]() -> std::string {
        log::configure({.where = file.path, .server = 4711});
        log::error("one");
        return {};
    });
    CHECK(result == "");
    CHECK(file.content().find("[4711] error: one\n") != std::string::npos);
}
