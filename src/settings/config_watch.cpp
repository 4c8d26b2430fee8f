#include "settings/config_watch.h"

#include "settings/settings_file.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace synergy {

namespace {

/// Whoever saves a file does so in steps: writes another, moves the old one away, and so on.
constexpr Duration saving_time = std::chrono::milliseconds(100);
/// How often to look for the directory while it is gone.
constexpr Duration missing_time = std::chrono::seconds(1);

std::string directory_of(const std::string &file) {
    return file.substr(0, file.find_last_of('/') + 1);
}

bool is_link(const std::string &path) {
    struct stat status {};
    return lstat(path.c_str(), &status) == 0 && (S_ISLNK(status.st_mode) || status.st_nlink > 1);
}

} // namespace

ConfigWatch::ConfigWatch(Scheduler &scheduler, std::string config_file,
                         std::function<void()> changed)
    : scheduler_(scheduler), config_file_(std::move(config_file)), changed_(std::move(changed)),
      due_(scheduler) {}

ConfigWatch::~ConfigWatch() {
    if (events_)
        scheduler_.unwatch(events_.fd());
}

int ConfigWatch::begin() {
    events_ = Socket(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (!events_)
        return errno;
    if (!scheduler_.watch(events_.fd(), EPOLLIN, [this](std::uint32_t) { take_events(); }))
        return errno;
    return watch_all();
}

/// Directories, since a file that is replaced is another one; the file too, which may be a link to
/// elsewhere. Watching the same again is nothing (inotify(7)); what is not there, its directory
/// will tell of. 0, or the errno for the directory of all.
int ConfigWatch::watch_all() const {
    constexpr std::uint32_t in_directory = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO |
                                           IN_MOVED_FROM | IN_DELETE | IN_ATTRIB | IN_DELETE_SELF |
                                           IN_MOVE_SELF | IN_ONLYDIR;
    int watch = inotify_add_watch(events_.fd(), directory_of(config_file_).c_str(), in_directory);
    const int error = watch < 0 ? errno : 0;
    inotify_add_watch(events_.fd(), peer_directory(config_file_).c_str(), in_directory);
    inotify_add_watch(events_.fd(), config_file_.c_str(), IN_CLOSE_WRITE | IN_ATTRIB);
    return error;
}

/// A new file is not looked at before it has been written to; a link is complete at once.
bool ConfigWatch::is_complete(const inotify_event &event) const {
    if ((event.mask & IN_CREATE) == 0 || (event.mask & IN_ISDIR) != 0)
        return true;
    const std::string name = event.len > 0 ? event.name : "";
    return is_link(directory_of(config_file_) + name) ||
           is_link(peer_directory(config_file_) + "/" + name);
}

void ConfigWatch::take_events() {
    alignas(inotify_event) std::array<char, 4096> buffer{};
    bool is_any_complete = false;
    for (;;) {
        const ssize_t size = ::read(events_.fd(), buffer.data(), buffer.size());
        if (size <= 0)
            break;
        for (std::size_t at = 0; at < static_cast<std::size_t>(size);) {
            const auto *event = reinterpret_cast<const inotify_event *>(buffer.data() + at);
            is_any_complete |= is_complete(*event);
            at += sizeof *event + event->len;
        }
    }
    if (is_any_complete && !std::exchange(is_due_, true))
        look_at(Clock::now() + saving_time);
}

void ConfigWatch::look_at(Time time) {
    due_.set(time, [this] {
        // A directory that is replaced may be missing for a while.
        if (watch_all() != 0)
            return look_at(Clock::now() + missing_time);
        is_due_ = false;
        changed_();
    });
}

} // namespace synergy
