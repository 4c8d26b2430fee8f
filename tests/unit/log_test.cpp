#include "base/log.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <sstream>
#include <string_view>
#include <sys/resource.h>
#include <sys/stat.h>
#include <termios.h>
#include <thread>
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
                                 " can't be written: No space left on device; what belongs there "
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

TEST_CASE("log: a line needs no descriptor where none is left") {
    TemporaryFile file;
    auto result = harness::in_child([&]() -> std::string {
        log::configure({.where = file.path});
        while (::open("/dev/null", O_RDONLY) >= 0)
            ;
        EXPECT_IN_CHILD(errno == EMFILE);
        log::error("said");
        log::error("and again");
        return {};
    });
    CHECK(result == "");
    CHECK(lines_in(file.content()) == 2);
}

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

TEST_CASE("log: a full pipe as stderr loses the line and blocks nobody") {
    auto result = harness::in_child([]() -> std::string {
        int ends[2];
        EXPECT_IN_CHILD(pipe2(ends, O_CLOEXEC) == 0);
        int flags = fcntl(ends[1], F_GETFL);
        fcntl(ends[1], F_SETFL, flags | O_NONBLOCK);
        char block[4096] = {};
        while (::write(ends[1], block, sizeof block) > 0)
            ;
        fcntl(ends[1], F_SETFL, flags);
        log::configure({.stderr_path = path_of(ends[1])});
        alarm(10);
        for (int i = 0; i < 100; i++)
            log::error("nobody reads");
        alarm(0);
        EXPECT_IN_CHILD(fcntl(ends[1], F_GETFL) == flags); // it is the server's
        return {};
    });
    CHECK(result == "");
}

// poll() tells of room for one page (pipe(7)), and the line is longer.
TEST_CASE("log: a line longer than a pipe's room blocks nobody either") {
    auto result = harness::in_child([]() -> std::string {
        int ends[2];
        EXPECT_IN_CHILD(pipe2(ends, O_CLOEXEC) == 0);
        EXPECT_IN_CHILD(dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
        log::configure({});
        alarm(3);
        std::string peers(100000, 'x'); // as a setting with a mistake in it may be
        log::error("{}", peers);
        log::error("{}", peers);
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("log: a terminal that nobody reads, or that is stopped, blocks nobody") {
    for (const bool is_stopped : {false, true}) {
        CAPTURE(is_stopped);
        auto result = harness::in_child([is_stopped]() -> std::string {
            const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
            EXPECT_IN_CHILD(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
            const int end = ::open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
            EXPECT_IN_CHILD(dup2(end, STDERR_FILENO) == STDERR_FILENO); // which waits
            log::configure({});
            alarm(10);
            log::error("seen");
            char seen[40] = {};
            EXPECT_IN_CHILD(::read(terminal, seen, sizeof seen) > 0);
            EXPECT_IN_CHILD(std::string_view(seen) == "synergy: error: seen\r\n");
            if (is_stopped)
                EXPECT_IN_CHILD(tcflow(end, TCOOFF) == 0); // as by Ctrl-S
            for (int i = 0; i < 1000; i++)
                log::error("{}", std::string(1500, 'x'));
            return {};
        });
        CHECK(result == "");
    }
}

TEST_CASE(
    "log: a pipe that somebody else keeps full blocks nobody, also where poll() has seen room") {
    constexpr auto rest = std::chrono::milliseconds(20);
    constexpr int moments_of_room = 100;
    auto result = harness::in_child([&]() -> std::string {
        int pipe_ends[2];
        EXPECT_IN_CHILD(pipe2(pipe_ends, O_CLOEXEC) == 0);
        EXPECT_IN_CHILD(dup2(pipe_ends[1], STDERR_FILENO) == STDERR_FILENO); // which waits
        // The other writer has a description of its own.
        const int other = ::open(("/proc/self/fd/" + std::to_string(pipe_ends[1])).c_str(),
                                 O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        std::vector<char> page(4096, 'x');
        const auto fill = [&] {
            while (::write(other, page.data(), page.size()) > 0)
                ;
        };
        fill();
        std::atomic<bool> is_over = false;
        std::thread other_writer([&] {
            for (int moment = 0; moment < moments_of_room; moment++) {
                static_cast<void>(!::read(pipe_ends[0], page.data(), page.size()));
                fill();
                std::this_thread::sleep_for(rest); // for as long as who has to wait would wait
            }
            is_over = true;
        });
        // (Not where it is another process's turn.)
        const auto times_asleep = [] {
            rusage usage{};
            getrusage(RUSAGE_THREAD, &usage);
            return usage.ru_nvcsw;
        };
        std::size_t waits = 0;
        alarm(20);
        while (!is_over) {
            const auto before = std::chrono::steady_clock::now();
            const long asleep = times_asleep();
            log::warn("anything");
            waits +=
                std::chrono::steady_clock::now() - before > rest / 2 && times_asleep() != asleep;
        }
        other_writer.join();
        return waits == 0 ? "" : std::to_string(waits) + " lines waited";
    });
    CHECK(result == "");
}

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

TEST_CASE("log: threads write whole lines") {
    TemporaryFile file;
    auto result = harness::in_child([&]() -> std::string {
        log::configure({.where = file.path});
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; i++)
            threads.emplace_back([] {
                for (int n = 0; n < 100; n++)
                    log::warn("{}", std::string(200, 'x'));
            });
        for (auto &thread : threads)
            thread.join();
        return {};
    });
    CHECK(result == "");
    std::istringstream text(file.content());
    std::size_t count = 0;
    for (std::string line; std::getline(text, line); count++)
        CHECK(line.substr(line.find("warning")) == "warning: " + std::string(200, 'x'));
    CHECK(count == 400);
}
