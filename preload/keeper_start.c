#include "keeper_start.h"

#include "libc_calls.h"
#include "settings_look.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATH_SIZE = 1024, STACK_SIZE = 16384 };

/* The places where the keeper may lie, the first three seen from where this library does: beside
 * it, in the build directory, and where it is installed. */
static char beside[PATH_SIZE], in_build[PATH_SIZE], in_prefix[PATH_SIZE];
static const char *library = "";
static const char *const places[] = {beside, in_build, in_prefix, SYNERGY_KEEPER, NULL};

static void append(char *path, const char *directory, size_t length, const char *name) {
    size_t size = strlen(name) + 1;
    if (length + size > PATH_SIZE)
        return;
    memcpy(path, directory, length);
    memcpy(path + length, name, size);
}

void library_lies_at(const char *path) {
    library = path;
}

void find_keeper(void) {
    /* The kernel follows symbolic links, and knows the path from the root. */
    char path[PATH_SIZE], link[] = "/proc/self/fd/xxxxxxxxxx";
    ssize_t length = -1;
    int fd = (int)kernel(SYS_openat, AT_FDCWD, library, O_PATH | O_CLOEXEC);
    if (fd >= 0) {
        char *digits = link + sizeof link - 1;
        int rest = fd;
        do
            *--digits = (char)('0' + rest % 10);
        while (rest /= 10);
        memmove(link + strlen("/proc/self/fd/"), digits, strlen(digits) + 1);
        length = readlink(link, path, sizeof path - 1);
        kernel(SYS_close, fd);
    }
    path[length > 0 ? length : 0] = 0;
    const char *real = path[0] == '/' ? path : library, *name = strrchr(real, '/');
    size_t directory = name ? (size_t)(name - real) : 0;
    append(beside, real, directory, "/synergy-keeper");
    append(in_build, real, directory, "/../src/synergy-keeper");
    append(in_prefix, real, directory, "/" SYNERGY_KEEPER_FROM_LIBRARY);
}

/* What the two children are told, and what they found. They write into this memory. */
struct start {
    int connection; /* the keeper's end */
    enum cause cause;
    uid_t owner;
    int error; /* of exec */
};

/* The children's stacks: one keeper is started at a time. */
static char outer_stack[STACK_SIZE] __attribute__((aligned(16)));
static char inner_stack[STACK_SIZE] __attribute__((aligned(16)));

static void close_all(unsigned first, unsigned last) {
    enum { MANY = 1 << 16 };
    if (first > last || kernel(SYS_close_range, first, last, 0) == 0)
        return;
    for (unsigned fd = first; fd <= last && fd < MANY; fd++)
        kernel(SYS_close, fd);
}

/* Makes `fd` the number `to`, which is below all others. */
static void move(int fd, int to) {
    if (fd != to) {
        kernel(SYS_dup3, fd, to, 0);
        kernel(SYS_close, fd);
    }
    kernel(SYS_fcntl, to, F_SETFD, 0);
}

static int above_all(int fd) {
    return fd < 0 || fd > SYNERGY_STDERR_FD
               ? fd
               : (int)kernel(SYS_fcntl, fd, F_DUPFD, SYNERGY_STDERR_FD + 1);
}

/* Leaves the descriptors that wire.h names, in this process's own table. */
static void arrange_descriptors(int connection) {
    unsigned first = SYNERGY_STDERR_FD + 1;
    if (connection > SYNERGY_STDERR_FD) {
        close_all(first, (unsigned)connection - 1);
        first = (unsigned)connection + 1;
    }
    close_all(first, ~0U);
    connection = above_all(connection);

    struct stat status;
    int is_file = 0, stderr_path = -1;
    if (fstat(STDERR_FILENO, &status) == 0) {
        is_file = S_ISREG(status.st_mode);
        if (!is_file)
            stderr_path =
                above_all((int)kernel(SYS_openat, AT_FDCWD, "/proc/self/fd/2", O_PATH | O_CLOEXEC));
    }
    close_all(SYNERGY_START_FD, SYNERGY_STDERR_FD);
    close_all(STDIN_FILENO, is_file ? STDOUT_FILENO : STDERR_FILENO);
    int nothing = (int)kernel(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR);
    if (nothing < 0) /* in a root directory of the server's */
        nothing = (int)kernel(SYS_openat, AT_FDCWD, "/", O_PATH);
    if (nothing >= 0) {
        nothing = above_all(nothing);
        for (int fd = 0; fd <= STDERR_FILENO; fd++)
            if (fd != STDERR_FILENO || !is_file)
                kernel(SYS_dup3, nothing, fd, 0);
        kernel(SYS_close, nothing);
    }
    move(connection, SYNERGY_START_FD);
    if (stderr_path >= 0)
        move(stderr_path, SYNERGY_STDERR_FD);
}

/* Who made a listener alone can bind beside it (socket(7), SO_REUSEPORT): that is another user
 * where the server has changed its own in between, or for the moment. And it is to be that user in
 * every way: a program that is executed with real and effective user apart ignores its environment.
 */
static void become(uid_t owner) {
    uid_t real, effective, saved;
    gid_t group = getegid();
    if (getresuid(&real, &effective, &saved) == 0 && real == owner && effective == owner &&
        getgid() == group)
        return;
    prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
    kernel(SYS_setresgid, group, group, group);
    kernel(SYS_setresuid, owner, owner, owner);
}

/* A user's capability does not outlive exec unless it is ambient (capabilities(7)); a server may
 * have it to bind a port below 1024, and the keeper binds beside. */
static void keep_capability(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
    const uint32_t bit = 1U << CAP_NET_BIND_SERVICE;
    /* (Units that give it so may forbid capset(2) by a filter that ends who calls it.) */
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_BIND_SERVICE, 0, 0) == 1)
        return;
    if (geteuid() == 0 || kernel(SYS_capget, &header, sets) != 0 || !(sets[0].permitted & bit))
        return;
    sets[0].inheritable |= bit;
    if (kernel(SYS_capset, &header, sets) == 0)
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0);
}

/* libc's own, by its other name: a sanitizer's clone() takes such a child for a fork, and ends the
 * server at its next thread. */
#pragma weak __clone
/* NOLINTNEXTLINE(bugprone-reserved-identifier): glibc's */
extern int __clone(int (*what)(void *), void *stack, int flags, void *argument, ...);

static int cloned(int (*what)(void *), void *stack, int flags, void *argument) {
    return __clone ? __clone(what, stack, flags, argument) : clone(what, stack, flags, argument);
}

static int run_keeper(void *argument) {
    struct start *start = argument;
    setsid();
    char name[] = "synergy-keeper", asked[] = SYNERGY_KEEPER_ASKED, early[] = SYNERGY_KEEPER_EARLY;
    char *words[] = {name,
                     start->cause == IS_ASKED    ? asked
                     : start->cause == RIGHTS_GO ? early
                                                 : NULL,
                     NULL};
    /* Told when all have failed, since an exec that succeeds ends the writing here. */
    int error = ENOENT;
    for (const char *const *place = places; *place; place++) {
        if (**place)
            execve(*place, words, keeper_environment());
        /* Where it is and can't be run is what to say. */
        if (error == ENOENT || error == ENOTDIR)
            error = errno;
    }
    start->error = error;
    kernel(SYS_exit_group, 127);
    return 0;
}

static int start_child(void *argument) {
    struct start *start = argument;
    arrange_descriptors(start->connection);
    become(start->owner);
    keep_capability();
    /* (vfork(2)'s own flags, as valgrind knows no others.) */
    if (cloned(run_keeper, inner_stack + sizeof inner_stack, CLONE_VM | CLONE_VFORK | SIGCHLD,
               start) < 0)
        start->error = errno;
    kernel(SYS_exit_group, 0);
    return 0;
}

/* After unshare(CLONE_NEWPID) the next child is the first process of a namespace, whose end is the
 * end of all that come after it. */
static int would_begin_a_namespace(void) {
    struct stat own, childrens;
    return stat("/proc/thread-self/ns/pid", &own) == 0 &&
           (stat("/proc/thread-self/ns/pid_for_children", &childrens) != 0 ||
            own.st_ino != childrens.st_ino);
}

int start_keeper(enum cause cause, uid_t owner, const char **why) {
    int ends[2];
    *why = "can't be connected to";
    if (kernel(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return -1;
    struct start start = {.connection = ends[1], .cause = cause, .owner = owner};
    int child = -1;
    *why = "can't be started";
    if (would_begin_a_namespace())
        start.error = EPERM;
    /* No exit signal: only who asks for such children sees it. */
    else if ((child = cloned(start_child, outer_stack + sizeof outer_stack, CLONE_VM | CLONE_VFORK,
                             &start)) < 0)
        start.error = errno;
    else
        kernel(SYS_wait4, child, NULL, __WCLONE, NULL);
    kernel(SYS_close, ends[1]);
    if (start.error == 0)
        return ends[0];
    kernel(SYS_close, ends[0]);
    if (start.error == EAGAIN)
        *why = "can't be started (RLIMIT_NPROC, TasksMax=)";
    else if (start.error == ENOENT || start.error == ENOTDIR)
        *why = "can't be started (not beside libsynergy.so)";
    errno = start.error;
    return -1;
}

struct errand {
    void (*what)(void *argument);
    void *argument;
};

/* prlimit(2) has it so on every system. */
struct limit {
    uint64_t now, most;
};

static int run_errand(void *argument) {
    enum { ROOM = 8 };
    const struct errand *errand = argument;
    struct limit limit;
    if (kernel(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit) == 0) {
        limit.most = limit.most > limit.now ? limit.most : limit.most + ROOM;
        limit.now = limit.most;
        if (kernel(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, NULL) == 0)
            errand->what(errand->argument);
    }
    kernel(SYS_exit_group, 0);
    return 0;
}

void run_beyond_limit(void (*what)(void *argument), void *argument) {
    struct errand errand = {.what = what, .argument = argument};
    int child = cloned(run_errand, outer_stack + sizeof outer_stack,
                       CLONE_VM | CLONE_VFORK | CLONE_FILES, &errand);
    if (child >= 0)
        kernel(SYS_wait4, child, NULL, __WCLONE, NULL);
}
