#include "keeper/standby.h"

#include "base/close_apart.h"
#include "base/log.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace synergy {

namespace {

// What `ps` shows.
constexpr const char *name_on_duty = "synergy-keeper";
constexpr const char *name_on_standby = "synergy-standby";

/// A process's end, or a pipe's.
bool is_over(const Socket &what, int patience_ms) {
    pollfd end{.fd = what.fd(), .events = POLLIN, .revents = 0};
    return poll(&end, 1, patience_ms) == 1;
}

} // namespace

Standby::~Standby() {
    constexpr int patience_ms = 100;
    dismiss();
    // Its parent's end would make it the first process's to bury.
    if (copy_)
        is_over(copy_, patience_ms);
}

bool Standby::dismiss() {
    if (!dismissal_)
        return false;
    static_cast<void>(::write(dismissal_.fd(), "", 1));
    dismissal_.reset();
    return true;
}

bool Standby::leave(std::vector<int> kept, const std::function<void()> &begun) {
    std::array<int, 2> ends{}, held{};
    const Socket original(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
    if (!original || pipe2(ends.data(), O_CLOEXEC) != 0)
        return false;
    const Socket dismissed(ends[0]);
    Socket dismissal(ends[1]);
    if (pipe2(held.data(), O_CLOEXEC) != 0)
        return false;
    const Socket has_closed(held[0]);
    Socket holds(held[1]);
    // Buried by the kernel.
    signal(SIGCHLD, SIG_IGN);
    const pid_t copy = fork();
    if (copy == 0) {
        begun();
        return sleep(original, dismissed, std::move(kept));
    }
    if (copy < 0) {
        log::debug("nobody takes this keeper's place if it is killed: fork: {}",
                   strerrordesc_np(errno));
        return false;
    }
    // What is closed here as long as the copy has it too goes on: an association that was begun, of
    // which there can be no other one, or a connection.
    constexpr int longest_ms = 200;
    holds.reset();
    is_over(has_closed, longest_ms);
    dismiss();
    copy_ = Socket(static_cast<int>(syscall(SYS_pidfd_open, copy, 0)));
    dismissal_ = std::move(dismissal);
    return false;
}

bool Standby::sleep(const Socket &original, const Socket &dismissal, std::vector<int> kept) {
    prctl(PR_SET_NAME, name_on_standby);
    kept.insert(kept.end(), {original.fd(), dismissal.fd()});
    close_all_but(std::move(kept));
    // Killed, the original writes nothing, and the pipe ends shortly before it does.
    char nothing;
    ssize_t length;
    do
        length = ::read(dismissal.fd(), &nothing, 1);
    while (length < 0 && errno == EINTR);
    if (length != 0)
        _exit(0);
    // (A line of its log may keep it from its end for as long as a file system likes, but none of
    // its sockets.)
    constexpr int longest_ms = 1000;
    is_over(original, longest_ms);
    prctl(PR_SET_NAME, name_on_duty);
    return true;
}

} // namespace synergy
