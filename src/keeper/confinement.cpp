#include "keeper/confinement.h"

#include "base/socket.h"
#include "base/survival.h"

#include <array>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace synergy {

namespace {

std::string why(const char *what) {
    return std::string(what) + ": " + strerrordesc_np(errno);
}

using Capabilities = std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3>;

__user_cap_header_struct capability_header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};

/// The capabilities below 32 of these alone are in force.
bool exert(Capabilities sets, std::uint32_t mask) {
    for (auto &set : sets)
        set.effective = set.permitted & (&set == sets.data() ? mask : 0);
    return syscall(SYS_capset, &capability_header, sets.data()) == 0;
}

/// capabilities(7): all but these leave every set.
bool keep_capabilities(bool looks_into_processes, bool may_change_user,
                       const std::function<bool()> &can_punch) {
    Capabilities sets{};
    if (syscall(SYS_capget, &capability_header, sets.data()) != 0)
        return false;
    std::uint32_t kept = 1U << CAP_NET_BIND_SERVICE |
                         (looks_into_processes ? 1U << CAP_SYS_PTRACE : 0) |
                         (may_change_user ? 1U << CAP_SETUID : 0);
    constexpr std::uint32_t raw = 1U << CAP_NET_RAW, admin = 1U << CAP_NET_ADMIN;
    for (const std::uint32_t more : {0U, raw, admin, raw | admin})
        if (exert(sets, kept | more) && can_punch()) {
            kept |= more;
            break;
        }
    for (auto &set : sets) {
        set.permitted &= &set == sets.data() ? kept : 0;
        set.effective = set.permitted;
        set.inheritable = 0;
    }
    return syscall(SYS_capset, &capability_header, sets.data()) == 0;
}

/// Landlock (landlock(7)): from now on files are written nowhere but there. 0 where the kernel has
/// none.
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

/// What the C library, the resolver and its plug-ins, the log and the punches call. Anything else
/// fails with EPERM, and is no reason to end the process: what the resolver's plug-ins do more is
/// theirs.
constexpr std::array system_calls{
    // files, to be read; what may be written Landlock says
    "access", "close", "close_range", "faccessat", "faccessat2", "fcntl", "fstat", "fstatfs",
    "fsync", "ftruncate", "getcwd", "getdents64", "inotify_add_watch", "inotify_init1",
    "inotify_rm_watch", "lseek", "lstat", "mkdir", "mkdirat", "newfstatat", "open", "openat",
    "pread64", "read", "readlink", "readlinkat", "readv", "rename", "renameat", "renameat2", "stat",
    "statfs", "statx", "uname", "unlink", "unlinkat", "write", "writev", "umask", "dup", "dup2",
    "dup3",
    // sockets
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen",
    "recvfrom", "recvmmsg", "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown",
    "socket", "socketpair",
    // waiting
    "clock_getres", "clock_gettime", "clock_nanosleep", "epoll_create1", "epoll_ctl", "epoll_pwait",
    "epoll_pwait2", "epoll_wait", "eventfd2", "gettimeofday", "nanosleep", "pipe2", "poll", "ppoll",
    "pselect6", "select", "signalfd4", "time", "timerfd_create", "timerfd_settime", "times",
    // memory and threads
    "brk", "exit", "exit_group", "futex", "get_robust_list", "getrandom", "madvise", "membarrier",
    "memfd_create", "mmap", "mprotect", "mremap", "munmap", "restart_syscall", "rseq",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_yield", "set_robust_list",
    "set_tid_address", "sigaltstack", "prlimit64", "getrlimit", "sched_getaffinity",
    "sched_getparam", "sched_getscheduler",
    // who one is; others' end is waited for by pidfd_open(2), and nothing sent to them
    "getegid", "geteuid", "getgid", "getpid", "getppid", "gettid", "getuid", "pidfd_open",
    "getresuid", "getresgid", "getgroups", "sysinfo", "arch_prctl",
    // become_user(), which takes a capability
    "setresuid", "capget", "capset"};

/// seccomp(2), for all threads.
bool keep_system_calls() {
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (filter == nullptr)
        return false;
    int result = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    // One that this architecture has not got is not missed.
    for (const char *name : system_calls)
        if (const int number = seccomp_syscall_resolve_name(name);
            result == 0 && number != __NR_SCMP_ERROR && number >= 0)
            result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
    const auto allow_with = [&](int number, const scmp_arg_cmp &argument) {
        if (result == 0)
            result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 1, argument);
    };
    // Threads, and processes by fork(3) alone (keeper/standby.h): none in other namespaces, and no
    // program. (Where clone3(2) is not there, the C library takes clone(2), whose flags a filter
    // can see.)
    allow_with(SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    allow_with(SCMP_SYS(clone),
               SCMP_A0(SCMP_CMP_EQ, CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID | SIGCHLD));
    if (result == 0)
        result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    // A descriptor table of a thread's own (base/close_apart.h).
    allow_with(SCMP_SYS(unshare), SCMP_A0(SCMP_CMP_EQ, CLONE_FILES));
    // abort(3) signals itself.
    allow_with(SCMP_SYS(tgkill), SCMP_A0(SCMP_CMP_EQ, static_cast<scmp_datum_t>(getpid())));
    allow_with(SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
    allow_with(SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_KEEPCAPS));
    // Questions alone: TIOCSTI would type into the terminal that the log goes to.
    for (const unsigned long request :
         {static_cast<unsigned long>(FIONREAD), static_cast<unsigned long>(TCGETS),
          static_cast<unsigned long>(SIOCGIFNAME), static_cast<unsigned long>(SIOCGIFINDEX),
          static_cast<unsigned long>(SIOCGIFFLAGS)})
        allow_with(SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, request));
    if (result == 0)
        result = seccomp_load(filter);
    seccomp_release(filter);
    errno = -result;
    return result == 0;
}

} // namespace

bool become_user(uid_t user) {
    if (user != geteuid() &&
        (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0 || setresuid(user, user, user) != 0))
        return false;
    Capabilities sets{};
    if (syscall(SYS_capget, &capability_header, sets.data()) != 0)
        return false;
    for (auto &set : sets)
        set.permitted &= &set != sets.data() ? 0
                         : user == 0         ? ~(1U << CAP_SETUID)
                                             : 1U << CAP_NET_BIND_SERVICE;
    return exert(sets, ~0U);
}

std::vector<std::string> confine(const std::vector<std::string> &written, bool looks_into_processes,
                                 const std::function<bool()> &can_punch, bool may_change_user) {
    std::vector<std::string> missing;
    // Whether it was done, tried where that may be the end.
    const auto take = [&](const char *what, const auto &step) {
        bool is_done = survives([&] { static_cast<void>(step()); });
        if (is_done)
            is_done = step();
        else
            errno = EPERM;
        if (!is_done)
            missing.push_back(why(what));
    };
    take("capabilities",
         [&] { return keep_capabilities(looks_into_processes, may_change_user, can_punch); });
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        missing.push_back(why("no_new_privs"));
    if (!looks_into_processes)
        take("Landlock", [&] { return write_only(written); });
    take("seccomp", [] { return keep_system_calls(); });
    return missing;
}

} // namespace synergy
