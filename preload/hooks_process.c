/* What changes the process: its user, root directory and limits, the program that it executes, its
 * children, and the filters that it gives itself. */
#include "hooks.h"
#include "keeper_client.h"
#include "passing_on.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* From here on, what other objects see in libc's place. */
#pragma GCC visibility push(default)

/* The last moment for what was left to this process, too. */
__attribute__((cold, noinline)) static void before_giving_up(void (*get_ready)(void)) {
    ensure_stock_is_taken();
    if (may_begin())
        ASIDE(get_ready());
}

int chroot(const char *path) {
    if (concerns_us())
        before_giving_up(obtain_free_keeper);
    return libc.chroot(path);
}

int setuid(uid_t user) {
    if (concerns_us() && may_begin() && user != geteuid())
        before_giving_up(be_ready_for_another_user);
    return libc.setuid(user);
}

int setreuid(uid_t real, uid_t effective) {
    if (concerns_us() && real != (uid_t)-1)
        before_giving_up(be_ready_for_another_user);
    return libc.setreuid(real, effective);
}

int setresuid(uid_t real, uid_t effective, uid_t saved) {
    if (concerns_us() && saved != (uid_t)-1)
        before_giving_up(be_ready_for_another_user);
    return libc.setresuid(real, effective, saved);
}

/* Whether a keeper could not be started any more, or would have no room. Where the server may still
 * raise it, so may the keeper. */
static int leaves_no_room(__rlimit_resource_t which, const void *limit) {
    enum { DESCRIPTORS_NEEDED = 64, BYTES_NEEDED = 64 << 20 };
    struct rlimit64 next;
    if (readable_bytes(limit, sizeof next) != sizeof next)
        return 0;
    memcpy(&next, limit, sizeof next);
    return which == RLIMIT_NPROC    ? next.rlim_max < DESCRIPTORS_NEEDED
           : which == RLIMIT_NOFILE ? next.rlim_max < DESCRIPTORS_NEEDED
           : which == RLIMIT_AS     ? next.rlim_max < BYTES_NEEDED
                                    : 0;
}

static inline void before_limiting(__rlimit_resource_t which, const void *limit) {
    if (concerns_us() && limit && leaves_no_room(which, limit))
        before_giving_up(obtain_free_keeper);
}

int setrlimit64(__rlimit_resource_t which, const struct rlimit64 *limit) {
    before_limiting(which, limit);
    return libc.setrlimit64(which, limit);
}

int prlimit64(pid_t process, enum __rlimit_resource which, const struct rlimit64 *limit,
              struct rlimit64 *old) {
    if (process == 0 || process == getpid())
        before_limiting(which, limit);
    return libc.prlimit64(process, which, limit, old);
}

#ifdef __LP64__
/* There, these are the same; but headers that make everything 64 bits wide have no declaration of
 * these symbols. */
extern __typeof(setrlimit64) plain_setrlimit __asm__("setrlimit")
    __attribute__((alias("setrlimit64"), nothrow, leaf));
extern __typeof(prlimit64) plain_prlimit __asm__("prlimit")
    __attribute__((alias("prlimit64"), nothrow, leaf));
#endif

/* (A child by vfork() says nothing: most programs are executed that way, and few get a listener.)
 */
static inline void before_executing(char *const words[], char *const environment[]) {
    if (concerns_us())
        ASIDE(program_is_executed(words, environment));
}

/* (What becomes of the descriptors on the way nobody but libc can read from `actions`.) */
static inline void before_spawning(const posix_spawn_file_actions_t *actions, char *const words[],
                                   char *const environment[]) {
    if (!actions)
        before_executing(words, environment);
}

int execve(const char *path, char *const words[], char *const environment[]) {
    before_executing(words, environment);
    return libc.execve(path, words, environment);
}

int execv(const char *path, char *const words[]) {
    before_executing(words, environ);
    return libc.execv(path, words);
}

int execvp(const char *name, char *const words[]) {
    before_executing(words, environ);
    return libc.execvp(name, words);
}

int execvpe(const char *name, char *const words[], char *const environment[]) {
    before_executing(words, environment);
    return libc.execvpe(name, words, environment);
}

int fexecve(int fd, char *const words[], char *const environment[]) {
    before_executing(words, environment);
    return libc.fexecve(fd, words, environment);
}

int posix_spawn(pid_t *child, const char *path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const words[],
                char *const environment[]) {
    before_spawning(actions, words, environment);
    return libc.posix_spawn(child, path, actions, attributes, words, environment);
}

int posix_spawnp(pid_t *child, const char *name, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const words[],
                 char *const environment[]) {
    before_spawning(actions, words, environment);
    return libc.posix_spawnp(child, name, actions, attributes, words, environment);
}

/* A keeper must know of the child before it can find that the parent has ended. */
static pid_t fork_and_tell(void) {
    pid_t child = libc.fork();
    if (child == 0 && may_ask())
        process_has_forked();
    else if (child > 0)
        ASIDE(keepers_hear_of(child));
    return child;
}

pid_t fork(void) {
    if (!concerns_us())
        return libc.fork();
    ensure_stock_is_taken();
    return knows_keepers() ? fork_and_tell() : libc.fork();
}

/* libc's own forks unseen, and its parent ends at once. */
static int daemon_and_tell(int keeps_directory, int keeps_output) {
    pid_t child = fork_and_tell();
    if (child != 0) {
        if (child > 0)
            _exit(0);
        return -1;
    }
    if (setsid() < 0)
        return -1;
    if (!keeps_directory && chdir("/") != 0)
        errno = 0; /* as libc's, which does not look */
    if (keeps_output)
        return 0;
    struct stat status;
    int nothing = open("/dev/null", O_RDWR);
    if (nothing < 0)
        return -1;
    if (fstat(nothing, &status) != 0 || !S_ISCHR(status.st_mode) ||
        status.st_rdev != makedev(1, 3)) {
        close(nothing);
        errno = ENODEV;
        return -1;
    }
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        dup2(nothing, fd);
    if (nothing > STDERR_FILENO)
        close(nothing);
    ASIDE(note_stderr());
    return 0;
}

int daemon(int keeps_directory, int keeps_output) {
    if (!concerns_us())
        return libc.daemon(keeps_directory, keeps_output);
    ensure_stock_is_taken();
    return knows_keepers() ? daemon_and_tell(keeps_directory, keeps_output)
                           : libc.daemon(keeps_directory, keeps_output);
}

/* Whether a filter that is set now is this process's, and not only a child's by vfork(). What is to
 * be done once is done before. Where nothing is set that can't be told: the filter is taken for its
 * own, since it may meet a bell, and is not to be ended for that. */
static int is_filter_own(void) {
    int is_own = 0;
    if (!concerns_us())
        return 1;
    ensure_stock_is_taken();
    ASIDE(is_own = 1);
    return is_own;
}

static void *pointer_in(const void *word) {
    void *pointer;
    memcpy(&pointer, word, sizeof pointer);
    return pointer;
}

/* (`is_own`: not of a child by vfork, which has its parent's memory.) */
static void has_set_filter(int is_own, const void *program) {
    if (is_own)
        filter_is_set(program);
    tell_filter_is_known();
}

#define PRCTL(name)                                                                                \
    int name(int option, ...) {                                                                    \
        unsigned long words[4];                                                                    \
        va_list list;                                                                              \
        va_start(list, option);                                                                    \
        for (int i = 0; i < 4; i++)                                                                \
            words[i] = va_arg(list, unsigned long);                                                \
        va_end(list);                                                                              \
        int sets = option == PR_SET_SECCOMP, is_own = sets && is_filter_own();                     \
        if (!libc.name)                                                                            \
            find_libc_calls();                                                                     \
        int result = libc.name(option, words[0], words[1], words[2], words[3]);                    \
        if (sets && result == 0)                                                                   \
            has_set_filter(is_own,                                                                 \
                           words[0] == SECCOMP_MODE_FILTER ? pointer_in(&words[1]) : NULL);        \
        return result;                                                                             \
    }
PRCTL(prctl)

/* (seccomp(2), which libc has no function for.) */
__attribute__((cold, noinline)) static long set_filter(unsigned long operation, unsigned long flags,
                                                       void *program) {
    int sets = operation == SECCOMP_SET_MODE_FILTER || operation == SECCOMP_SET_MODE_STRICT;
    int is_own = sets && is_filter_own();
    long result = libc.syscall(SYS_seccomp, operation, flags, program);
    /* (A number may be that of a thread to which the filter could not be given.) */
    if (sets && (result == 0 || (result > 0 && (flags & SECCOMP_FILTER_FLAG_NEW_LISTENER))))
        has_set_filter(is_own, operation == SECCOMP_SET_MODE_FILTER ? program : NULL);
    return result;
}

/* Calls by their number, as some runtimes make those that an older libc did not have. */
__attribute__((cold, noinline)) static long call_of_ours(long number, const long words[]) {
    switch (number) {
    case SYS_seccomp:
        return set_filter((unsigned long)words[0], (unsigned long)words[1], pointer_in(&words[2]));
    case SYS_close:
        return close_by_number((int)words[0]);
    case SYS_listen:
        return listen((int)words[0], (int)words[1]);
#ifdef SYS_accept
    case SYS_accept:
        return accept((int)words[0], pointer_in(&words[1]), pointer_in(&words[2]));
#endif
    default: /* SYS_accept4 */
        return accept4((int)words[0], pointer_in(&words[1]), pointer_in(&words[2]), (int)words[3]);
    }
}

static inline int is_of_ours(long number) {
#ifdef SYS_accept
    if (number == SYS_accept)
        return 1;
#endif
    return number == SYS_seccomp || number == SYS_accept4 || number == SYS_listen ||
           number == SYS_close;
}

__attribute__((no_sanitize("address"))) long syscall(long number, ...) {
    WORDS_AFTER(number, words);
    if (!libc.syscall)
        find_libc_calls();
    if (__builtin_expect(is_of_ours(number), 0))
        return call_of_ours(number, words);
    return libc.syscall(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

#if defined __TIMESIZE && __TIMESIZE == 32

PRCTL(__prctl_time64)

#endif

#pragma GCC visibility pop
