#include "server/server_descriptors.h"

#include "base/libc_calls.h"

#include <charconv>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace synergy {

std::uint64_t socket_inode(int fd) {
    struct stat status {};
    return fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

ServerDescriptors::ServerDescriptors()
    : process_(::open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {}

ServerDescriptors::~ServerDescriptors() {
    if (process_ >= 0)
        libc().close(process_);
}

bool ServerDescriptors::is(int fd, const std::string &link) const {
    char target[64];
    std::string path = "fd/" + std::to_string(fd);
    ssize_t length = readlinkat(process_, path.c_str(), target, sizeof target);
    return length >= 0 && link == std::string_view(target, static_cast<std::size_t>(length));
}

/// /proc shows the descriptors of the first thread, and none once that has ended before the others.
bool ServerDescriptors::first_thread_has_ended() const {
    int fd = ::openat(process_, "stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return true;
    char text[512];
    ssize_t length = ::read(fd, text, sizeof text);
    libc().close(fd);
    // proc(5): "pid (name) state", and the name may hold anything.
    std::string_view view(text, length > 0 ? static_cast<std::size_t>(length) : 0);
    std::size_t end = view.rfind(')');
    return end != std::string_view::npos && end + 2 < view.size() && view[end + 2] == 'Z';
}

int ServerDescriptors::find(std::uint64_t inode, int likely, int except) const {
    std::string link = "socket:[" + std::to_string(inode) + "]";
    if (likely != except && is(likely, link))
        return likely;
    if (first_thread_has_ended())
        return likely; // can't tell: nothing says that it is gone
    int fds = ::openat(process_, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fds >= 0 ? fdopendir(fds) : nullptr;
    if (!directory) {
        if (fds >= 0)
            libc().close(fds);
        return likely;
    }
    int found = -1;
    while (const dirent *entry = readdir(directory)) {
        int fd = -1;
        const char *end = entry->d_name + std::strlen(entry->d_name);
        if (std::from_chars(entry->d_name, end, fd).ec == std::errc{} && fd != except &&
            is(fd, link)) {
            found = fd;
            break;
        }
    }
    closedir(directory);
    return found;
}

} // namespace synergy
