#include "base/ownership.h"

#include <sys/stat.h>
#include <unistd.h>

namespace synergy {

namespace {

/// In a user namespace the machine's root is seen as somebody else, who has the root directory.
bool is_trusted(const struct stat &status) {
    struct stat root {};
    return status.st_uid == 0 || (::stat("/", &root) == 0 && status.st_uid == root.st_uid);
}

/// (What is in a sticky directory only its owner may replace.)
bool may_others_write(const struct stat &status) {
    const bool is_sticky = (status.st_mode & S_ISVTX) != 0;
    if (!S_ISREG(status.st_mode) && (!S_ISDIR(status.st_mode) || is_sticky))
        return false;
    return (status.st_mode & S_IWOTH) != 0 ||
           ((status.st_mode & S_IWGRP) != 0 && status.st_gid != 0);
}

} // namespace

bool others_can_change(const std::string &path) {
    if (::geteuid() != 0)
        return false;
    for (std::size_t end = 1; end != std::string::npos;) {
        end = path.find('/', end + 1);
        const std::string part = path.substr(0, end);
        struct stat link {};
        struct stat status {};
        if (::lstat(part.c_str(), &link) != 0)
            return false;
        if (!is_trusted(link))
            return true;
        if (::stat(part.c_str(), &status) != 0)
            return false;
        if (!is_trusted(status) || may_others_write(status))
            return true;
    }
    return false;
}

} // namespace synergy
