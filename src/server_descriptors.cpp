#include "server_descriptors.h"

#include "libc_calls.h"

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
    : directory_(::open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {}

ServerDescriptors::~ServerDescriptors() {
    if (directory_ >= 0)
        libc().close(directory_);
}

bool ServerDescriptors::is(int fd, const std::string &link) const {
    char target[64];
    ssize_t length = readlinkat(directory_, std::to_string(fd).c_str(), target, sizeof target);
    return length >= 0 && link == std::string_view(target, static_cast<std::size_t>(length));
}

int ServerDescriptors::find(std::uint64_t inode, int likely, int except) const {
    std::string link = "socket:[" + std::to_string(inode) + "]";
    if (likely != except && is(likely, link))
        return likely;
    // A second opening: two readers of one directory stream would share its position.
    int again = ::openat(directory_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = again >= 0 ? fdopendir(again) : nullptr;
    if (!directory) {
        if (again >= 0)
            libc().close(again);
        return likely; // can't tell: nothing says that it is gone
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
