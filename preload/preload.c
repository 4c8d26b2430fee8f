/*
 * The hooks. Each is a thin shell: it asks the engine, calls libc, and returns what libc returned.
 * Nothing here runs before the first call, allocates, or takes a lock.
 */
#include "calls.h"
#include "loader.h"
#include "marks.h"

#include <errno.h>
#include <linux/close_range.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <unistd.h>

/* libc's functions, each looked up at its first call: hooks may be called from other libraries'
 * constructors, before any of ours could run. */
#define DECLARE_REAL(result, name, parameters)                                                     \
    static result(*real_##name(void)) parameters {                                                 \
        static _Atomic(void *) found;                                                              \
        void *function = atomic_load_explicit(&found, memory_order_relaxed);                       \
        if (!function) {                                                                           \
            function = synergy_next(#name);                                                        \
            atomic_store_explicit(&found, function, memory_order_relaxed);                         \
        }                                                                                          \
        return (result(*) parameters)function;                                                     \
    }
SYNERGY_CALLS(DECLARE_REAL)

/* The engine's work must be invisible: errno stays, and a thread is not cancelled inside it. */
#define ASK(statement)                                                                             \
    do {                                                                                           \
        int saved_errno = errno, saved_cancel;                                                     \
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &saved_cancel);                             \
        statement;                                                                                 \
        pthread_setcancelstate(saved_cancel, NULL);                                                \
        errno = saved_errno;                                                                       \
    } while (0)

int listen(int fd, int backlog) {
    int result = real_listen()(fd, backlog);
    const struct synergy_engine *engine = synergy_engine_load();
    if (engine && result == 0 && mark_of(fd) != SYNERGY_UNTOUCHED) {
        enum synergy_mark mark = SYNERGY_UNKNOWN;
        ASK(mark = engine->listening(fd));
        set_mark(fd, mark);
    }
    return result;
}

int bind(int fd, const struct sockaddr *address, socklen_t length) {
    int result = real_bind()(fd, address, length);
    const struct synergy_engine *engine = synergy_engine_load();
    if (!engine)
        return result;
    if (result != 0 && errno == EADDRINUSE) {
        int gone = 0;
        ASK(gone = engine->give_way());
        if (gone)
            result = real_bind()(fd, address, length);
    }
    if (result == 0) {
        enum synergy_mark mark = SYNERGY_UNKNOWN;
        ASK(mark = engine->bound(fd, address, length));
        set_mark(fd, mark);
    }
    return result;
}

static int option(int fd, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0 ? value : 0;
}

/* Whether it is a server's: one that listens, or a datagram socket of the internet that is open to
 * all. */
static int is_servers(int fd) {
    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISSOCK(status.st_mode))
        return 0;
    if (option(fd, SO_ACCEPTCONN))
        return 1;
    int domain = option(fd, SO_DOMAIN);
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    return (domain == AF_INET || domain == AF_INET6) && option(fd, SO_TYPE) == SOCK_DGRAM &&
           getpeername(fd, (struct sockaddr *)&peer, &length) != 0;
}

/* Once a process: what another program has left to this one, as systemd, inetd and nginx do, among
 * the descriptors where such are put. */
static void take_stock(void) {
    enum { LOOKED_AT = 64 };
    static _Atomic(int) is_taken;
    if (atomic_load_explicit(&is_taken, memory_order_relaxed) || synergy_thread_is_ours() ||
        !synergy_has_settings() || atomic_exchange_explicit(&is_taken, 1, memory_order_relaxed))
        return;
    int saved = errno;
    for (int fd = 0; fd < LOOKED_AT; fd++)
        if (mark_of(fd) == SYNERGY_UNKNOWN && is_servers(fd))
            set_mark(fd, SYNERGY_INHERITED);
    errno = saved;
}

/* The server waits on a descriptor; it may have it from the process that forked this one, or from
 * who started it. */
static void before_waiting(int fd) {
    if (mark_of(fd) != SYNERGY_INHERITED || synergy_thread_is_ours())
        return;
    const struct synergy_engine *engine = synergy_engine_load();
    enum synergy_mark mark = SYNERGY_UNKNOWN;
    if (engine)
        ASK(mark = engine->waiting(fd));
    set_mark(fd, mark);
}

/* accept() and accept4(), which differ in nothing else than `flags` (accept(2)); -1: accept(). */
static int accept_any(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    take_stock();
    before_waiting(fd);
    const struct synergy_engine *engine = synergy_engine_loaded();
    for (;;) {
        socklen_t room = engine && address && length ? *length : 0;
        int got = flags < 0 ? real_accept()(fd, address, length)
                            : real_accept4()(fd, address, length, flags);
        if (!engine || got < 0)
            return got;
        struct sockaddr_storage peer;
        socklen_t peer_length = sizeof peer;
        enum synergy_accepted found = SYNERGY_ORDINARY;
        ASK(found = engine->accepted(fd, got, flags < 0 ? 0 : flags, &peer, &peer_length));
        if (found == SYNERGY_NOTHING) {
            if (address && length)
                *length = room;
            continue;
        }
        if (found == SYNERGY_REPLACED && address && length) {
            memcpy(address, &peer, room < peer_length ? room : peer_length);
            *length = peer_length;
        }
        set_mark(got, SYNERGY_UNTOUCHED);
        return got;
    }
}

int accept(int fd, struct sockaddr *address, socklen_t *length) {
    return accept_any(fd, address, length, -1);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    return flags < 0 ? real_accept4()(fd, address, length, flags)
                     : accept_any(fd, address, length, flags);
}

static const struct synergy_engine *before_receiving(int fd) {
    enum synergy_mark mark = mark_of(fd);
    if (mark == SYNERGY_UNTOUCHED)
        return NULL;
    const struct synergy_engine *engine = synergy_engine_load();
    if (engine && mark != SYNERGY_WATCHED) {
        ASK(mark = engine->receiving(fd));
        set_mark(fd, mark);
    }
    return mark == SYNERGY_WATCHED ? engine : NULL;
}

ssize_t recvfrom(int fd, void *buffer, size_t size, int flags, struct sockaddr *address,
                 socklen_t *length) {
    const struct synergy_engine *engine = before_receiving(fd);
    ssize_t result = real_recvfrom()(fd, buffer, size, flags, address, length);
    if (engine && result >= 0 && address && length)
        ASK(engine->received(fd, address, *length));
    return result;
}

ssize_t __recvfrom_chk(int fd, void *buffer, size_t size, size_t room, int flags,
                       struct sockaddr *address, socklen_t *length) {
    const struct synergy_engine *engine = before_receiving(fd);
    ssize_t result = real___recvfrom_chk()(fd, buffer, size, room, flags, address, length);
    if (engine && result >= 0 && address && length)
        ASK(engine->received(fd, address, *length));
    return result;
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    const struct synergy_engine *engine = before_receiving(fd);
    ssize_t result = real_recvmsg()(fd, message, flags);
    if (engine && result >= 0 && message->msg_name)
        ASK(engine->received(fd, message->msg_name, message->msg_namelen));
    return result;
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
             struct timespec *timeout) {
    const struct synergy_engine *engine = before_receiving(fd);
    int result = real_recvmmsg()(fd, messages, count, flags, timeout);
    for (int i = 0; engine && i < result; i++)
        if (messages[i].msg_hdr.msg_name)
            ASK(engine->received(fd, messages[i].msg_hdr.msg_name,
                                 messages[i].msg_hdr.msg_namelen));
    return result;
}

/* The engine, if it has to be told that a datagram has left. */
static const struct synergy_engine *after_sending(int fd) {
    return mark_of(fd) == SYNERGY_WATCHED ? synergy_engine_loaded() : NULL;
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *address,
               socklen_t length) {
    ssize_t result = real_sendto()(fd, data, size, flags, address, length);
    const struct synergy_engine *engine = after_sending(fd);
    if (engine && result >= 0 && address)
        ASK(engine->sent(fd, address, length));
    return result;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    ssize_t result = real_sendmsg()(fd, message, flags);
    const struct synergy_engine *engine = after_sending(fd);
    if (engine && result >= 0 && message->msg_name)
        ASK(engine->sent(fd, message->msg_name, message->msg_namelen));
    return result;
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags) {
    int result = real_sendmmsg()(fd, messages, count, flags);
    const struct synergy_engine *engine = after_sending(fd);
    for (int i = 0; engine && i < result; i++)
        if (messages[i].msg_hdr.msg_name)
            ASK(engine->sent(fd, messages[i].msg_hdr.msg_name, messages[i].msg_hdr.msg_namelen));
    return result;
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    take_stock();
    if (operation == EPOLL_CTL_ADD)
        before_waiting(fd);
    return real_epoll_ctl()(epoll, operation, fd, event);
}

static void before_polling(const struct pollfd *fds, nfds_t count) {
    take_stock();
    if (last_inherited() >= 0)
        for (nfds_t i = 0; i < count; i++)
            before_waiting(fds[i].fd);
}

int poll(struct pollfd *fds, nfds_t count, int timeout) {
    before_polling(fds, count);
    return real_poll()(fds, count, timeout);
}

int __poll_chk(struct pollfd *fds, nfds_t count, int timeout, size_t room) {
    before_polling(fds, count);
    return real___poll_chk()(fds, count, timeout, room);
}

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask) {
    before_polling(fds, count);
    return real_ppoll()(fds, count, timeout, mask);
}

int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                const sigset_t *mask, size_t room) {
    before_polling(fds, count);
    return real___ppoll_chk()(fds, count, timeout, mask, room);
}

static void before_selecting(int count, const fd_set *reading) {
    take_stock();
    if (reading && last_inherited() >= 0)
        for (int fd = 0; fd < count; fd++)
            if (FD_ISSET(fd, reading))
                before_waiting(fd);
}

int select(int count, fd_set *reading, fd_set *writing, fd_set *exceptional,
           struct timeval *timeout) {
    before_selecting(count, reading);
    return real_select()(count, reading, writing, exceptional, timeout);
}

int pselect(int count, fd_set *reading, fd_set *writing, fd_set *exceptional,
            const struct timespec *timeout, const sigset_t *mask) {
    before_selecting(count, reading);
    return real_pselect()(count, reading, writing, exceptional, timeout, mask);
}

/* This process is what a server goes on as, or forks its workers from: it must be able to punch
 * even if it never waits for a connection itself. */
static void take_over_inherited(void) {
    int last = last_inherited();
    for (int fd = 0; fd <= last; fd++)
        if (mark_of(fd) == SYNERGY_INHERITED)
            before_waiting(fd);
}

pid_t fork(void) {
    int saved = errno;
    take_stock();
    take_over_inherited();
    errno = saved;
    return real_fork()();
}

pid_t setsid(void) {
    pid_t result = real_setsid()();
    if (result >= 0)
        take_over_inherited();
    return result;
}

int daemon(int keeps_directory, int keeps_output) {
    int result = real_daemon()(keeps_directory, keeps_output);
    if (result == 0)
        take_over_inherited();
    return result;
}

/* A number is about to stand for something else, or for nothing. */
static void before_closing(int fd) {
    const struct synergy_engine *engine = synergy_engine_loaded();
    if (!engine)
        return;
    int is_ours = 1;
    if (mark_of(fd) == SYNERGY_WATCHED)
        ASK(is_ours = engine->closing(fd));
    if (is_ours)
        set_mark(fd, SYNERGY_UNKNOWN);
}

/* Numbers that now stand for nothing: the engine sees for itself which of its sockets are gone. */
static void after_closing(unsigned int first, unsigned int last) {
    const struct synergy_engine *engine = synergy_engine_loaded();
    if (!engine)
        return;
    if (forget_marks(first, last))
        ASK(engine->give_way());
}

static void after_replacing(int fd) {
    after_closing((unsigned int)fd, (unsigned int)fd);
}

int close(int fd) {
    before_closing(fd);
    return real_close()(fd);
}

int dup2(int fd, int number) {
    int result = real_dup2()(fd, number);
    if (result >= 0 && fd != number)
        after_replacing(number);
    return result;
}

int dup3(int fd, int number, int flags) {
    int result = real_dup3()(fd, number, flags);
    if (result >= 0)
        after_replacing(number);
    return result;
}

int close_range(unsigned int first, unsigned int last, int flags) {
    int result = real_close_range()(first, last, flags);
    if (result == 0 && !(flags & CLOSE_RANGE_CLOEXEC))
        after_closing(first, last);
    return result;
}

void closefrom(int first) {
    real_closefrom()(first);
    after_closing(first < 0 ? 0 : (unsigned int)first, ~0U);
}

const struct synergy_libc *synergy_libc(void) {
    static struct synergy_libc libc;
    libc = (struct synergy_libc){
        .bind = real_bind(),
        .listen = real_listen(),
        .accept4 = real_accept4(),
        .close = real_close(),
        .recvmsg = real_recvmsg(),
        .socket = socket,
        .connect = connect,
        .setsockopt = setsockopt,
        .sendmsg = real_sendmsg(),
        .pass_this_thread = synergy_pass_this_thread,
    };
    return &libc;
}
