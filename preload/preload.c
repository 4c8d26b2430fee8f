/*
 * The hooks. Each is a thin shell: it asks the engine, calls libc, and returns what libc returned.
 * Nothing here runs before the first call, allocates, or takes a lock.
 */
#include "calls.h"
#include "loader.h"

#include <errno.h>
#include <linux/close_range.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

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

/* What is known of the server's descriptors, by number, so that a call on an ordinary one costs
 * one load. Written by whichever thread calls bind(), listen(), accept(), close() or recvfrom() on
 * that number; a number that changes hands unseen (dup2(), close_range()) keeps a stale mark, which
 * costs a question to the kernel or leaves a socket to its next bind(), never more. */
enum { MARKED_DESCRIPTORS = 1 << 16 };
static _Atomic(unsigned char) marks[MARKED_DESCRIPTORS];

static enum synergy_mark mark_of(int fd) {
    if (fd < 0)
        return SYNERGY_UNTOUCHED;
    if (fd >= MARKED_DESCRIPTORS)
        return SYNERGY_UNKNOWN;
    return (enum synergy_mark)atomic_load_explicit(&marks[fd], memory_order_relaxed);
}

static void set_mark(int fd, enum synergy_mark mark) {
    if (fd >= 0 && fd < MARKED_DESCRIPTORS)
        atomic_store_explicit(&marks[fd], (unsigned char)mark, memory_order_relaxed);
}

void synergy_watch(int fd) {
    set_mark(fd, SYNERGY_WATCHED);
}

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

/* accept() and accept4(), which differ in nothing else than `flags` (accept(2)); -1: accept(). */
static int accept_any(int fd, struct sockaddr *address, socklen_t *length, int flags) {
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
        ASK(found = engine->accepted(got, flags < 0 ? 0 : flags, &peer, &peer_length));
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
    if (engine && mark == SYNERGY_UNKNOWN) {
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
    int had_watched = 0;
    for (unsigned int fd = first; fd <= last && fd < MARKED_DESCRIPTORS; fd++) {
        had_watched |= mark_of((int)fd) == SYNERGY_WATCHED;
        set_mark((int)fd, SYNERGY_UNKNOWN);
    }
    if (had_watched)
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
        .sendmsg = sendmsg,
    };
    return &libc;
}
