#include "keeper/processes.h"

#include "base/last_descriptors.h"
#include "server/server_descriptors.h"

#include <algorithm>
#include <cerrno>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace synergy {

Processes::~Processes() {
    for (const auto &entry : watched_)
        scheduler_.unwatch(entry.second.pidfd.fd());
}

void Processes::add(pid_t process, pid_t parent) {
    if (process <= 0 || watched_.contains(process))
        return;
    Socket pidfd(static_cast<int>(syscall(SYS_pidfd_open, process, 0)));
    if (!pidfd && errno == ESRCH)
        return; // gone already
    if (pidfd && is_one_of_the_last(pidfd, spared_by_all))
        pidfd.reset();
    const bool is_watched = pidfd && scheduler_.watch(pidfd.fd(), EPOLLIN, [this, process](auto) {
        const auto found = watched_.find(process);
        scheduler_.unwatch(found->second.pidfd.fd());
        watched_.erase(found);
        last_ended_ = process;
        ends_++;
        ended_();
    });
    if (!is_watched) {
        is_any_unwatched_ = true;
        return;
    }
    if (const auto before = watched_.find(parent); before != watched_.end()) {
        const Process &known = before->second;
        watched_.emplace(
            process, Process{std::move(pidfd), known.closed, known.filters, known.filters_seen});
        return;
    }
    // (Seen first: what is set in between counts as one that was there.)
    const std::uint32_t seen = filters_seen();
    watched_.emplace(process, Process{std::move(pidfd), {}, call_filters_of(process), seen});
}

void Processes::take_over(const Processes &killed) {
    for (const pid_t process : killed.all()) {
        add(process);
        if (const auto found = watched_.find(process); found != watched_.end()) {
            found->second.filters = killed.watched_.at(process).filters;
            found->second.filters_seen = killed.watched_.at(process).filters_seen;
        }
    }
}

bool Processes::has_ended(const Process &process) {
    pollfd end{.fd = process.pidfd.fd(), .events = POLLIN, .revents = 0};
    return ::poll(&end, 1, 0) == 1;
}

bool Processes::has_one_ended_since(unsigned ends) const {
    return ends != ends_ || std::any_of(watched_.begin(), watched_.end(),
                                        [](const auto &entry) { return has_ended(entry.second); });
}

void Processes::look() {
    std::erase_if(watched_, [this](const auto &entry) {
        if (!has_ended(entry.second))
            return false;
        scheduler_.unwatch(entry.second.pidfd.fd());
        last_ended_ = entry.first;
        ends_++;
        return true;
    });
}

std::vector<pid_t> Processes::all() const {
    std::vector<pid_t> all;
    for (const auto &entry : watched_)
        all.push_back(entry.first);
    std::sort(all.begin(), all.end());
    return all;
}

void Processes::closed(pid_t process, std::uint64_t cookie) {
    if (const auto found = watched_.find(process); found != watched_.end())
        found->second.closed.insert(cookie);
}

bool Processes::locate(ServerSocket &socket) const {
    bool may_have = is_any_unwatched_;
    for (const auto &entry : watched_) {
        const std::optional<int> number = find_descriptor(entry.first, socket.inode, socket.fd);
        if (number && *number >= 0) {
            socket.fd = *number;
            return true;
        }
        may_have |= !number && !entry.second.closed.contains(socket.cookie);
    }
    return may_have;
}

/// (/proc shows of one that has ended as little as of one that waits; but what follows from its end
/// is for who is told of it next.)
Activity Processes::activity() const {
    Activity most = has_one_ended_since(ends_) ? Activity::runs : Activity::rests;
    for (const auto &entry : watched_)
        most = std::max(most, activity_of(entry.first));
    return most;
}

bool Processes::has_unseen_filter(pid_t process, const Process &known) const {
    const auto now = known.filters ? call_filters_of(process) : std::nullopt;
    return now && now->program == known.filters->program &&
           now->count - known.filters->count >
               static_cast<int>(filters_seen() - known.filters_seen);
}

bool Processes::has_unseen_filter(const ServerSocket &listener) {
    constexpr std::size_t most = 8;
    const std::size_t count = std::min(watched_.size(), most);
    if (next_looked_at_ >= watched_.size())
        next_looked_at_ = 0;
    auto each = std::next(watched_.begin(), static_cast<std::ptrdiff_t>(next_looked_at_));
    next_looked_at_ += count;
    for (std::size_t i = 0; i < count; i++) {
        const auto &[process, known] = *each;
        if (has_unseen_filter(process, known) &&
            find_descriptor(process, listener.inode, listener.fd).value_or(0) >= 0)
            return true;
        if (++each == watched_.end())
            each = watched_.begin();
    }
    return false;
}

} // namespace synergy
