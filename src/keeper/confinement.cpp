#include "keeper/confinement.h"

#include "base/rights.h"
#include "base/survival.h"

#include <array>
#include <csignal>
#include <cstring>
#include <linux/capability.h>
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

/// All capabilities but these go.
bool keep_what_punching_takes(bool looks_into_processes, bool may_change_user,
                              const std::function<bool()> &can_punch) {
    Capabilities kept = capability(CAP_NET_BIND_SERVICE) |
                        (looks_into_processes ? capability(CAP_SYS_PTRACE) : 0) |
                        (may_change_user ? capability(CAP_SETUID) | capability(CAP_SETGID) : 0);
    constexpr Capabilities raw = capability(CAP_NET_RAW), admin = capability(CAP_NET_ADMIN);
    for (const Capabilities more : {Capabilities{0}, raw, admin, raw | admin})
        if (exert_capabilities(kept | more) && can_punch()) {
            kept |= more;
            break;
        }
    return keep_capabilities(kept);
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
    // become_user(), which takes capabilities; what threads give up of what they have
    "setgroups", "setresgid", "setresuid", "capget", "capset", "landlock_create_ruleset",
    "landlock_add_rule", "landlock_restrict_self"};

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
    for (const int option : {PR_SET_NAME, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS})
        allow_with(SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, static_cast<scmp_datum_t>(option)));
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

bool become_user(uid_t user, gid_t group) {
    if (user == geteuid())
        return keep_capabilities(~(capability(CAP_SETUID) | capability(CAP_SETGID)));
    // (Where that is locked (SECBIT_KEEP_CAPS_LOCKED), all capabilities are lost with root.)
    prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
    return change_user(user, group) && keep_capabilities(capability(CAP_NET_BIND_SERVICE));
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
    if (geteuid() == 0)
        take("groups", leave_groups);
    take("capabilities", [&] {
        return keep_what_punching_takes(looks_into_processes, may_change_user, can_punch);
    });
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        missing.push_back(why("no_new_privs"));
    if (!looks_into_processes)
        take("Landlock", [&] { return write_only(written); });
    take("seccomp", [] { return keep_system_calls(); });
    return missing;
}

} // namespace synergy
