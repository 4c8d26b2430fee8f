/* Children of every birth, and what they do before they end: HOW/DEED. */
#pragma once

#include "program.h"

#include <sched.h>
#include <spawn.h>
#include <sys/syscall.h>

struct deed {
    const char *what;
    int listener;
};

/* What a child does with its own descriptors, which is nobody else's business. */
static void do_deed(const struct deed *deed) {
    int fd = deed->listener;
    struct sockaddr_in at = {.sin_family = AF_INET};
    if (strcmp(deed->what, "close") == 0) {
        close(fd);
    } else if (strcmp(deed->what, "close-all") == 0) {
        close_range(3, ~0U, 0);
    } else if (strcmp(deed->what, "replace") == 0) {
        dup2(0, fd);
        close(fd);
    } else if (strcmp(deed->what, "shut-away") == 0) {
        /* Another listener and another UDP socket, at the numbers of the parent's. */
        close(fd);
        int tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
        if (bind(tcp, (struct sockaddr *)&at, sizeof at) == 0 && listen(tcp, 5) == 0 &&
            bind(udp, (struct sockaddr *)&at, sizeof at) == 0) {
            close(tcp);
            close(udp);
        }
    } else if (strcmp(deed->what, "accept") == 0) {
        /* Its own client; and numbers that the parent will have for something else. */
        socklen_t length = sizeof at;
        int client = socket(AF_INET, SOCK_STREAM, 0);
        if (getsockname(fd, (struct sockaddr *)&at, &length) == 0 &&
            connect(client, (struct sockaddr *)&at, length) == 0)
            close(accept(fd, NULL, NULL));
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        poll(&ready, 1, 0);
        close(client);
    }
}

static int end_after_deed(void *deed) {
    do_deed((const struct deed *)deed);
    syscall(SYS_exit_group, 0);
    return 0;
}

static int spawned(const struct deed *deed) {
    posix_spawn_file_actions_t actions;
    char name[] = "true", *words[] = {name, NULL}, *none[] = {NULL};
    pid_t child = -1;
    NEED(posix_spawn_file_actions_init(&actions) == 0);
    if (strcmp(deed->what, "replace") == 0)
        NEED(posix_spawn_file_actions_adddup2(&actions, 0, deed->listener) == 0);
    else if (strcmp(deed->what, "close-all") == 0)
        NEED(posix_spawn_file_actions_addclosefrom_np(&actions, 3) == 0);
    else
        NEED(posix_spawn_file_actions_addclose(&actions, deed->listener) == 0);
    NEED(posix_spawn(&child, "/bin/true", &actions, NULL, words, none) == 0);
    posix_spawn_file_actions_destroy(&actions);
    return child;
}

/* Not inlined: a child by vfork() must not find its parent's variables changed. */
__attribute__((noinline)) static int by_vfork(const struct deed *deed) {
    pid_t child = vfork();
    if (child == 0) {
        do_deed(deed);
        _exit(0);
    }
    return child;
}

static void have_child(const char *how, const char *what, int listener) {
    static char stack[1 << 16] __attribute__((aligned(16)));
    struct deed deed = {.what = what, .listener = listener};
    pid_t child = -1;
    if (strcmp(how, "fork") == 0 && (child = fork()) == 0)
        end_after_deed(&deed);
    else if (strcmp(how, "_Fork") == 0 && (child = _Fork()) == 0)
        end_after_deed(&deed);
    else if (strcmp(how, "raw-fork") == 0 &&
             (child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)) == 0)
        end_after_deed(&deed);
    else if (strcmp(how, "vfork") == 0)
        child = by_vfork(&deed);
    else if (strcmp(how, "clone-vm") == 0)
        child =
            clone(end_after_deed, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &deed);
    else if (strcmp(how, "clone-beside") == 0) /* both run */
        child = clone(end_after_deed, stack + sizeof stack, CLONE_VM | SIGCHLD, &deed);
    else if (strcmp(how, "posix_spawn") == 0)
        child = spawned(&deed);
    int status = -1;
    NEED(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}
