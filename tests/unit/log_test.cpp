#include "base/log.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <sstream>
#include <sys/stat.h>
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

} // namespace

TEST_CASE("log: lines are appended to the file, which is not held open") {
    TemporaryFile file;
    std::ofstream(file.path) << "what was there\n";
    auto result = harness::in_child([&]() -> std::string {
        log::configure(LogLevel::info, file.path);
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
            log::configure(level, file.path);
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

TEST_CASE("log: a file that can't be written is no reason to fail, and errno stays") {
    auto result = harness::in_child([]() -> std::string {
        log::configure(LogLevel::debug, "/nonexistent/directory/file");
        errno = 1234;
        log::error("lost");
        EXPECT_IN_CHILD(errno == 1234);
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("log: a line for stderr goes there, whole and with its level") {
    TemporaryFile file;
    auto result = harness::in_child([&]() -> std::string {
        EXPECT_IN_CHILD(make_stderr(file.path, O_WRONLY | O_APPEND));
        log::configure(LogLevel::warn, "stderr");
        auto before = harness::open_descriptors();
        log::error("one");
        EXPECT_IN_CHILD(harness::open_descriptors() == before);
        return {};
    });
    CHECK(result == "");
    CHECK(file.content() == "synergy: error: one\n");
}

TEST_CASE("log: a server that closes its stderr gets nothing into its next file") {
    TemporaryFile first, second;
    auto result = harness::in_child([&]() -> std::string {
        EXPECT_IN_CHILD(make_stderr(first.path, O_WRONLY | O_APPEND));
        log::configure(LogLevel::warn, "stderr");
        ::close(STDERR_FILENO);
        log::error("nobody hears this");
        int data = ::open(second.path.c_str(), O_RDWR | O_CLOEXEC);
        EXPECT_IN_CHILD(data == STDERR_FILENO);
        log::error("nor this");
        // The same from a thread with a table of its own, as the engine's.
        std::thread([] {
            if (unshare(CLONE_FILES) != 0)
                return;
            log::this_thread_has_its_own_table(false);
            log::error("nor this");
        }).join();
        return {};
    });
    CHECK(result == "");
    CHECK(first.content() == "");
    CHECK(second.content() == "");
}

// A file that is open for appending is not a stderr that was opened anew where there was none.
TEST_CASE("log: nor does a server that was started without a stderr") {
    TemporaryFile file;
    auto result = harness::in_child([&]() -> std::string {
        ::close(STDERR_FILENO);
        log::configure(LogLevel::warn, "stderr");
        // A log or a journal of the server's own.
        int data = ::open(file.path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
        EXPECT_IN_CHILD(data == STDERR_FILENO);
        log::error("nobody hears this");
        return {};
    });
    CHECK(result == "");
    CHECK(file.content() == "");
}

TEST_CASE("log: a socket that took the place of stderr gets nothing") {
    auto result = harness::in_child([]() -> std::string {
        int ends[2];
        EXPECT_IN_CHILD(make_stderr("/dev/null", O_WRONLY));
        log::configure(LogLevel::warn, "stderr");
        EXPECT_IN_CHILD(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        EXPECT_IN_CHILD(dup2(ends[0], STDERR_FILENO) == STDERR_FILENO);
        log::error("not for a client");
        EXPECT_IN_CHILD(!harness::is_readable(ends[1], std::chrono::milliseconds(50)));
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("log: a thread with a table of its own writes to the process's stderr") {
    TemporaryFile file;
    auto result = harness::in_child([&]() -> std::string {
        EXPECT_IN_CHILD(make_stderr(file.path, O_WRONLY | O_APPEND));
        log::configure(LogLevel::warn, "stderr");
        std::thread([] {
            if (unshare(CLONE_FILES) != 0)
                return;
            log::this_thread_has_its_own_table(false);
            int other = ::open("/dev/null", O_RDWR | O_CLOEXEC);
            dup2(other, STDERR_FILENO);
            log::error("from the thread");
        }).join();
        return {};
    });
    CHECK(result == "");
    CHECK(file.content() == "synergy: error: from the thread\n");
}

TEST_CASE("log: a full pipe as stderr loses the line and blocks nobody") {
    auto result = harness::in_child([]() -> std::string {
        int ends[2];
        EXPECT_IN_CHILD(pipe2(ends, O_CLOEXEC) == 0);
        EXPECT_IN_CHILD(dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
        log::configure(LogLevel::warn, "stderr");
        int flags = fcntl(STDERR_FILENO, F_GETFL);
        fcntl(STDERR_FILENO, F_SETFL, flags | O_NONBLOCK);
        char block[4096] = {};
        while (::write(STDERR_FILENO, block, sizeof block) > 0)
            ;
        fcntl(STDERR_FILENO, F_SETFL, flags);
        alarm(10);
        for (int i = 0; i < 100; i++)
            log::error("nobody reads");
        alarm(0);
        EXPECT_IN_CHILD(fcntl(STDERR_FILENO, F_GETFL) == flags); // it is the server's too
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
        log::configure(LogLevel::warn, "stderr");
        alarm(3);
        std::string peers(100000, 'x'); // as a setting with a mistake in it may be
        log::error("{}", peers);
        log::error("{}", peers);
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("log: a pipe that nobody reads any more ends nothing, and no signal is left pending") {
    auto result = harness::in_child([]() -> std::string {
        signal(SIGPIPE, SIG_DFL);
        int ends[2];
        EXPECT_IN_CHILD(pipe2(ends, O_CLOEXEC) == 0);
        EXPECT_IN_CHILD(dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
        log::configure(LogLevel::warn, "stderr");
        ::close(ends[0]);
        sigset_t before, after, pending;
        pthread_sigmask(SIG_SETMASK, nullptr, &before);
        log::error("nobody is there");
        pthread_sigmask(SIG_SETMASK, nullptr, &after);
        for (int signal = 1; signal < 32; signal++)
            EXPECT_IN_CHILD(sigismember(&before, signal) == sigismember(&after, signal));
        sigpending(&pending);
        EXPECT_IN_CHILD(sigismember(&pending, SIGPIPE) == 0);
        // One of the server's own, held back by it, stays.
        sigset_t pipe_signal;
        sigemptyset(&pipe_signal);
        sigaddset(&pipe_signal, SIGPIPE);
        pthread_sigmask(SIG_BLOCK, &pipe_signal, nullptr);
        raise(SIGPIPE);
        log::error("nobody is there");
        sigpending(&pending);
        EXPECT_IN_CHILD(sigismember(&pending, SIGPIPE) == 1);
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("log: threads write whole lines") {
    TemporaryFile file;
    auto result = harness::in_child([&]() -> std::string {
        log::configure(LogLevel::warn, file.path);
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
