#include "base/rights.h"

#include "base/socket.h"
#include "base/survival.h"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace synergy {

namespace {

using Sets = std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3>;

bool get_capabilities(Sets &sets) {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    return syscall(SYS_capget, &header, sets.data()) == 0;
}

bool set_capabilities(const Sets &sets) {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    return syscall(SYS_capset, &header, sets.data()) == 0;
}

bool &is_refused() {
    static bool answer = true; // until it has been tried
    return answer;
}

} // namespace

bool exert_capabilities(Capabilities wanted) {
    Sets sets{};
    if (!get_capabilities(sets))
        return false;
    for (auto &set : sets)
        set.effective = set.permitted & (&set == sets.data() ? wanted : 0);
    return set_capabilities(sets);
}

bool keep_capabilities(Capabilities kept) {
    Sets sets{};
    if (!get_capabilities(sets))
        return false;
    for (auto &set : sets) {
        set.permitted &= &set == sets.data() ? kept : 0;
        set.effective = set.permitted;
        set.inheritable = 0;
    }
    return set_capabilities(sets);
}

bool write_only(const std::vector<std::string> &written) {
    const long version =
        syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 1)
        return true;
    std::uint64_t rights =
        LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
        LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR |
        LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
        LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM;
    constexpr std::uint64_t of_files = LANDLOCK_ACCESS_FS_WRITE_FILE;
    constexpr std::uint64_t of_directories = of_files | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                                             LANDLOCK_ACCESS_FS_MAKE_REG |
                                             LANDLOCK_ACCESS_FS_MAKE_DIR;
    const landlock_ruleset_attr attributes{.handled_access_fs = rights};
    const Socket rules(
        static_cast<int>(syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0)));
    if (!rules)
        return false;
    for (const std::string &path : written) {
        const Socket place(::open(path.c_str(), O_PATH | O_CLOEXEC));
        if (!place)
            continue;
        landlock_path_beneath_attr rule{.allowed_access = of_directories, .parent_fd = place.fd()};
        const auto add = [&] {
            return syscall(SYS_landlock_add_rule, rules.fd(), LANDLOCK_RULE_PATH_BENEATH, &rule,
                           0) == 0;
        };
        if (!add() && errno == EINVAL) { // no directory
            rule.allowed_access = of_files;
            if (!add() && errno != EBADFD) // a pipe, which Landlock does not know of
                return false;
        }
    }
    return syscall(SYS_landlock_restrict_self, rules.fd(), 0) == 0;
}

// The system calls themselves: the C library's are for all threads, wait for one that hangs, and
// end the process where one may not.

bool leave_groups() {
    return getgroups(0, nullptr) == 0 || syscall(SYS_setgroups, 0, nullptr) == 0;
}

bool change_user(uid_t user, gid_t group) {
    leave_groups();
    syscall(SYS_setresgid, group, group, group);
    return syscall(SYS_setresuid, user, user, user) == 0;
}

void try_to_leave_rights() {
    Sets sets{};
    const bool has_any =
        geteuid() == 0 || (get_capabilities(sets) && (sets[0].permitted | sets[1].permitted) != 0);
    is_refused() = !has_any; // lest the trial itself do nothing
    is_refused() = !has_any || !survives([] { leave_rights(); });
}

void leave_rights(const std::vector<std::string> &written, Capabilities kept) {
    if (is_refused())
        return;
    const bool is_root = geteuid() == 0;
    if (is_root)
        leave_groups();
    keep_capabilities(kept);
    if (is_root && kept == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
        write_only(written);
}

} // namespace synergy
