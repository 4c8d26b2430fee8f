#include "server/server_descriptors.h"

#include <charconv>
#include <cstring>
#include <dirent.h>
#include <memory>
#include <string>
#include <string_view>
#include <unistd.h>

namespace synergy {

std::optional<int> find_descriptor(pid_t process, std::uint64_t inode, int likely) {
    const std::string directory = "/proc/" + std::to_string(process) + "/fd/";
    const std::string link = "socket:[" + std::to_string(inode) + "]";
    bool is_readable = false;
    const auto is = [&](const char *number) {
        char target[64];
        const ssize_t length = readlink((directory + number).c_str(), target, sizeof target);
        is_readable = length >= 0;
        return is_readable && link == std::string_view(target, static_cast<std::size_t>(length));
    };
    if (likely >= 0 && is(std::to_string(likely).c_str()))
        return likely;
    const std::unique_ptr<DIR, int (*)(DIR *)> fds(opendir(directory.c_str()), closedir);
    if (!fds)
        return std::nullopt;
    bool is_any_readable = false;
    while (const dirent *entry = readdir(fds.get())) {
        int fd = -1;
        const char *end = entry->d_name + std::strlen(entry->d_name);
        if (std::from_chars(entry->d_name, end, fd).ec != std::errc{})
            continue;
        if (is(entry->d_name))
            return fd;
        is_any_readable |= is_readable;
    }
    // /proc shows the descriptors of the first thread, and none once that has ended before the
    // others. Of a process with more rights than we have it shows no more than their numbers.
    if (!is_any_readable)
        return std::nullopt;
    return -1;
}

} // namespace synergy
