#include "keeper/processes.h"

#include "server/server_descriptors.h"

#include <cerrno>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace synergy {

Processes::~Processes() {
    for (const auto &entry : watched_)
        scheduler_.unwatch(entry.second.fd());
}

void Processes::add(pid_t process) {
    if (process <= 0 || watched_.contains(process))
        return;
    Socket pidfd(static_cast<int>(syscall(SYS_pidfd_open, process, 0)));
    if (!pidfd && errno == ESRCH)
        return; // gone already
    const bool is_watched = pidfd && scheduler_.watch(pidfd.fd(), EPOLLIN, [this, process](auto) {
        const auto found = watched_.find(process);
        scheduler_.unwatch(found->second.fd());
        watched_.erase(found);
        ended_();
    });
    if (is_watched)
        watched_.emplace(process, std::move(pidfd));
    else
        is_any_unwatched_ = true;
}

std::optional<bool> Processes::have(ServerSocket &socket) const {
    bool is_certain = !is_any_unwatched_;
    for (const auto &entry : watched_) {
        const std::optional<int> number = find_descriptor(entry.first, socket.inode, socket.fd);
        if (number && *number >= 0) {
            socket.fd = *number;
            return true;
        }
        is_certain = is_certain && number;
    }
    return is_certain ? std::optional(false) : std::nullopt;
}

} // namespace synergy
