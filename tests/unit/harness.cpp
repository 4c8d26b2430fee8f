#include "harness.h"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <poll.h>
#include <sys/wait.h>
#include <system_error>
#include <thread>
#include <unistd.h>

namespace harness {

using namespace synergy;
using std::chrono::milliseconds;

std::set<int> open_descriptors() {
    std::set<int> open;
    DIR *directory = opendir("/proc/self/fd");
    while (const dirent *entry = readdir(directory))
        if (int fd = std::atoi(entry->d_name); entry->d_name[0] != '.' && fd != dirfd(directory))
            open.insert(fd);
    closedir(directory);
    return open;
}

Directory::Directory()
    : path_((std::filesystem::temp_directory_path() / "synergy-XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr)
        throw std::system_error(errno, std::generic_category(), path_);
}

Directory::~Directory() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
}

std::string Directory::write(const std::string &name, const std::string &content) const {
    std::string file = path(name);
    std::filesystem::create_directories(std::filesystem::path(file).parent_path());
    std::ofstream(file, std::ios::binary) << content;
    return file;
}

bool run_until(Scheduler &scheduler, const std::function<bool()> &is_done, Duration limit) {
    Time end = Clock::now() + limit;
    while (!is_done()) {
        if (Clock::now() >= end)
            return false;
        scheduler.run_once(milliseconds(10));
    }
    return true;
}

bool wait_until(const std::function<bool()> &is_done, Duration limit) {
    Time end = Clock::now() + limit;
    while (!is_done()) {
        if (Clock::now() >= end)
            return false;
        std::this_thread::sleep_for(milliseconds(5));
    }
    return true;
}

namespace {

[[noreturn]] void give_up(const char *what) {
    throw std::system_error(errno, std::generic_category(), what);
}

} // namespace

Socket bound_tcp(const Endpoint &at) {
    Socket socket(::socket(at.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket || ::bind(socket.fd(), at.data(), at.length()) != 0)
        give_up("bind");
    return socket;
}

Socket listening_tcp(const Endpoint &at, int backlog) {
    Socket socket = bound_tcp(at);
    if (::listen(socket.fd(), backlog) != 0)
        give_up("listen");
    return socket;
}

std::pair<Socket, Socket> tcp_pair() {
    Socket listener = listening_tcp(Endpoint::loopback(AF_INET, 0));
    Socket client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    Endpoint to = listener.local();
    if (::connect(client.fd(), to.data(), to.length()) != 0)
        give_up("connect");
    Socket accepted(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!accepted)
        give_up("accept4");
    return {std::move(accepted), std::move(client)};
}

bool is_readable(int fd, Duration limit) {
    pollfd one{.fd = fd, .events = POLLIN, .revents = 0};
    auto wait = std::chrono::duration_cast<milliseconds>(limit).count();
    return poll(&one, 1, static_cast<int>(wait)) == 1;
}

std::string in_child(const std::function<std::string()> &body) {
    int ends[2];
    if (pipe(ends) != 0)
        give_up("pipe");
    pid_t child = fork();
    if (child < 0)
        give_up("fork");
    if (child == 0) {
        ::close(ends[0]);
        setpgid(0, 0);
        alarm(60);
        std::string result;
        try {
            result = body();
        } catch (const std::exception &error) {
            result = error.what();
        }
        bool written =
            ::write(ends[1], result.data(), result.size()) == static_cast<ssize_t>(result.size());
        _exit(written && result.empty() ? 0 : 1);
    }
    ::close(ends[1]);
    int status = 0;
    waitpid(child, &status, 0);
    // Its own children may have been left, with the pipe, where it gave up.
    kill(-child, SIGKILL);
    std::string text;
    char buffer[512];
    for (ssize_t got; (got = ::read(ends[0], buffer, sizeof buffer)) > 0;)
        text.append(buffer, static_cast<std::size_t>(got));
    ::close(ends[0]);
    if (WIFSIGNALED(status))
        return std::string("child ended by ") + strsignal(WTERMSIG(status));
    return text.empty() && WEXITSTATUS(status) != 0 ? "child failed" : text;
}

bool can_write(const std::string &path) {
    const synergy::Socket file(
        ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    return file && ::write(file.fd(), "x", 1) == 1;
}

} // namespace harness
