#include "aside.h"

#include "filters.h"
#include "libc_calls.h"
#include "settings_look.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct aside aside_begin(void) {
    struct aside aside = {.error = errno};
    struct signals all;
    memset(&all, 0xff, sizeof all);
    kernel(SYS_rt_sigprocmask, SIG_SETMASK, &all, &aside.blocked, sizeof all);
    return aside;
}

void aside_end(const struct aside *aside) {
    kernel(SYS_rt_sigprocmask, SIG_SETMASK, &aside->blocked, NULL, sizeof aside->blocked);
    errno = aside->error;
}

static int is_ready(int fd, short for_what) {
    struct pollfd ready = {.fd = fd, .events = for_what};
    struct timespec now = {0};
    return kernel(SYS_ppoll, &ready, 1, &now, NULL, 0) == 1 && (ready.revents & for_what);
}

/* Terminals, pipes, files, and what the journal gives: no connection of a client's, which inetd
 * puts there. */
static int may_write_to(int fd) {
    struct stat status;
    if (fstat(fd, &status) != 0)
        return 0;
    if (S_ISSOCK(status.st_mode)) {
        int domain = 0;
        socklen_t length = sizeof domain;
        if (libc.getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_UNIX)
            return 0;
    }
    return is_ready(fd, POLLOUT);
}

int is_readable(int fd) {
    return is_ready(fd, POLLIN);
}

void say(const char *const pieces[]) {
    char line[512];
    size_t length = 0;
    for (; *pieces; pieces++) {
        size_t size = strnlen(*pieces, sizeof line - 1 - length);
        memcpy(line + length, *pieces, size);
        length += size;
    }
    line[length++] = '\n';
    if (settings_want_silence() || !may_write_to(STDERR_FILENO))
        return;
    struct signals broken_pipe = {{0}}, pending = {{0}};
    broken_pipe.words[(SIGPIPE - 1) / 8 / sizeof(unsigned long)] = 1UL << (SIGPIPE - 1);
    kernel(SYS_rt_sigpending, &pending, sizeof pending);
    errno = 0;
    if (kernel(SYS_write, STDERR_FILENO, line, length) < 0 && errno == EPIPE &&
        !(pending.words[0] & broken_pipe.words[0])) {
        /* The signal is blocked now, and would end the server afterwards. */
        struct timespec now = {0};
        kernel(SYS_rt_sigtimedwait, &broken_pipe, NULL, &now, sizeof broken_pipe);
    }
}

/* The aligned word that this is in, which no page's end divides. */
static int is_word_readable(uintptr_t at) {
    /* A call that changes nothing, since there is no such way to change the mask: the set is read
     * before that is found. */
    enum { NO_WAY = -1 };
    const uintptr_t set = at - at % sizeof(struct signals);
    /* (No set at all would be good, too.) */
    return set != 0 &&
           (kernel(SYS_rt_sigprocmask, NO_WAY, set, NULL, sizeof(struct signals)) == 0 ||
            errno != EFAULT);
}

size_t readable_bytes(const void *address, size_t size) {
    const uintptr_t first = (uintptr_t)address, last = first + size - 1;
    if (!may_probe())
        return 0;
    size_t in_page = LEAST_PAGE - first % LEAST_PAGE;
    if (!is_word_readable(first))
        return 0;
    return size <= in_page || is_word_readable(last) ? size : in_page;
}

void wait_a_millisecond(void) {
    static const struct { long seconds, nanos; } millisecond = {.nanos = 1000000};
    kernel(SYS_nanosleep, &millisecond, NULL);
}

uint32_t seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint32_t)now.tv_sec;
}

/* (strerror() allocates, and a libc may not have this one.) */
#pragma weak strerrordesc_np

const char *error_text(int error) {
    const char *text = strerrordesc_np ? strerrordesc_np(error) : NULL;
    return text ? text : "unknown error";
}
