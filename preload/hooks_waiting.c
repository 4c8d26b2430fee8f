/* What a server waits by for its clients: by then it has all that it serves at. */
#include "hooks.h"

_Thread_local int has_looked __attribute__((tls_model("initial-exec")));

/* From here on, what other objects see in libc's place. */
#pragma GCC visibility push(default)

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    if (concerns_us())
        before_polling();
    return libc.epoll_ctl(epoll, operation, fd, event);
}

int poll(struct pollfd *fds, nfds_t count, int timeout) {
    if (concerns_us())
        before_polling();
    return libc.poll(fds, count, timeout);
}

int __poll_chk(struct pollfd *fds, nfds_t count, int timeout, size_t room) {
    if (concerns_us())
        before_polling();
    return libc.__poll_chk(fds, count, timeout, room);
}

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask) {
    if (concerns_us())
        before_polling();
    return libc.ppoll(fds, count, timeout, mask);
}

int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                const sigset_t *mask, size_t room) {
    if (concerns_us())
        before_polling();
    return libc.__ppoll_chk(fds, count, timeout, mask, room);
}

int select(int count, fd_set *reading, fd_set *writing, fd_set *exceptional,
           struct timeval *timeout) {
    if (concerns_us())
        before_polling();
    return libc.select(count, reading, writing, exceptional, timeout);
}

int pselect(int count, fd_set *reading, fd_set *writing, fd_set *exceptional,
            const struct timespec *timeout, const sigset_t *mask) {
    if (concerns_us())
        before_polling();
    return libc.pselect(count, reading, writing, exceptional, timeout, mask);
}

#if defined __TIMESIZE && __TIMESIZE == 32

int __select64(int count, fd_set *reading, fd_set *writing, fd_set *exceptional, void *timeout) {
    if (concerns_us())
        before_polling();
    return libc.__select64(count, reading, writing, exceptional, timeout);
}

int __pselect64(int count, fd_set *reading, fd_set *writing, fd_set *exceptional,
                const void *timeout, const sigset_t *mask) {
    if (concerns_us())
        before_polling();
    return libc.__pselect64(count, reading, writing, exceptional, timeout, mask);
}

int __ppoll64(struct pollfd *fds, nfds_t count, const void *timeout, const sigset_t *mask) {
    if (concerns_us())
        before_polling();
    return libc.__ppoll64(fds, count, timeout, mask);
}

int __ppoll64_chk(struct pollfd *fds, nfds_t count, const void *timeout, const sigset_t *mask,
                  size_t room) {
    if (concerns_us())
        before_polling();
    return libc.__ppoll64_chk(fds, count, timeout, mask, room);
}

#endif

#pragma GCC visibility pop
