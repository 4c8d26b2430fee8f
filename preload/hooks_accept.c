/* accept() and accept4(): in the place of a bell comes the punched connection. */
#include "doorbell.h"
#include "hooks.h"
#include "keeper_client.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

__attribute__((noinline)) static socklen_t length_if_readable(const socklen_t *length) {
    int error = errno;
    socklen_t room = readable_bytes(length, sizeof *length) == sizeof *length ? *length : 0;
    errno = error;
    return room;
}

static inline int is_ringing(int keeper) {
    return __builtin_expect(__atomic_load_n(&keeper_page(keeper)->ringing, __ATOMIC_ACQUIRE) != 0,
                            0) != 0;
}

__attribute__((cold, noinline)) static int is_any_ringing(void) {
    for (int i = 0; i < KEEPERS && keeper_page(i); i++)
        if (is_ringing(i))
            return 1;
    return 0;
}

__attribute__((cold, noinline)) static int is_stirring_indeed(void) {
    return !knows_keepers() || is_any_ringing();
}

static inline int is_anything_stirring(void) {
    return __builtin_expect(*__atomic_load_n(&stirring, __ATOMIC_ACQUIRE) != 0, 0) &&
           is_stirring_indeed();
}

__attribute__((cold, noinline)) static int is_anybody_waiting(int listener) {
    int is_waiting = 0;
    ASIDE(is_waiting = is_readable(listener));
    return is_waiting;
}

/* A call of accept() or accept4(), as it was made: what is needed to make it again. */
struct accepting {
    int listener;
    int flags; /* accept4()'s */
    socklen_t *length;
    socklen_t room; /* *length before the call, which says something else afterwards */
};

enum which { ACCEPT, ACCEPT4 };

static inline int call_accept(enum which which, const struct accepting *call,
                              struct sockaddr *address) {
    return which == ACCEPT4 ? libc.accept4(call->listener, address, call->length, call->flags)
                            : libc.accept(call->listener, address, call->length);
}

/* No bell is to ring where a filter forbids to ask for what it stands for. */
static void say_that_it_is_deaf(int listener) {
    struct descriptor descriptor = descriptor_of(listener);
    if (is_ours(descriptor.mark))
        __atomic_store_n(&keeper_page((int)descriptor.keeper)->is_deaf, 1, __ATOMIC_RELEASE);
}

static enum accepted turn_away(int listener, int fd) {
    int error = errno;
    say_that_it_is_deaf(listener);
    enum accepted accepted = may_tell() ? turn_bell_away(listener, fd, EPERM) : ORDINARY;
    errno = error;
    return accepted;
}

/* Whether the kernel would end a call of accept() for this signal. */
static int ends_call(int signal) {
    /* As the kernel has it, which is not libc's. */
    struct {
        void (*handler)(int);
        unsigned long flags, rest[8];
    } action = {0};
    return may_look_at_handlers() &&
           kernel(SYS_rt_sigaction, signal, NULL, &action, sizeof(struct signals)) == 0 &&
           action.handler != SIG_DFL && action.handler != SIG_IGN && !(action.flags & SA_RESTART);
}

/* Whether a signal that ends the call has come since all of them are blocked. */
static int is_call_ended(const struct signals *blocked_before) {
    enum { BITS = 8 * sizeof *blocked_before->words };
    struct signals pending = {{0}};
    kernel(SYS_rt_sigpending, &pending, sizeof pending);
    for (int signal = 1; signal < NSIG; signal++) {
        int word = (signal - 1) / BITS, bit = (signal - 1) % BITS;
        if ((pending.words[word] & ~blocked_before->words[word]) >> bit & 1 && ends_call(signal))
            return 1;
    }
    return 0;
}

static enum accepted answer_aside(const struct accepting *call, struct sockaddr *address, int *fd,
                                  int *is_ended) {
    const struct caller_address caller = {address, call->length, call->room};
    struct aside aside = aside_begin();
    enum accepted accepted = answer_bell(call->listener, fd, call->flags, &caller);
    *is_ended = accepted == NO_ONE && is_call_ended(&aside.blocked);
    aside_end(&aside);
    return accepted;
}

/* Whether what was accepted is to be given to the caller; if not, all is as before the call, but
 * for a signal that has come meanwhile and ends one that blocks. */
__attribute__((cold, noinline)) static int
answer(const struct accepting *call, struct sockaddr *address, int *fd, int *is_ended) {
    enum accepted accepted =
        may_ask() ? answer_aside(call, address, fd, is_ended) : turn_away(call->listener, *fd);
    if (accepted == NO_ONE && address && call->length)
        *call->length = call->room;
    return accepted != NO_ONE;
}

/* accept() has found no descriptor free. */
__attribute__((cold, noinline)) static void tell_if_starved(int listener) {
    struct descriptor descriptor = descriptor_of(listener);
    if (descriptor.mark == SYNERGY_LISTENER && is_ringing((int)descriptor.keeper))
        tell_starved((int)descriptor.keeper);
}

/* Whether somebody comes within the patience, of which less is left then; if not, errno says what
 * the caller is told. Most bells that were not answered ring again at once. (No call that waits for
 * a socket and a time goes on after a handler that was set with SA_RESTART, as accept() does. So
 * signals wait, for a moment at a time, and are looked at before they are let in.) */
__attribute__((cold, noinline)) static int comes_soon(int listener, int *patience_ms) {
    enum { MOMENT_MS = 10 };
    struct pollfd waiting = {.fd = listener, .events = POLLIN};
    int count = 0;
    for (; count == 0 && *patience_ms > 0; *patience_ms -= MOMENT_MS) {
        struct timespec moment = {.tv_nsec = MOMENT_MS * 1000000L};
        struct aside aside = aside_begin();
        count = (int)kernel(SYS_ppoll, &waiting, 1, &moment, NULL, 0);
        int is_ended = count == 0 && is_call_ended(&aside.blocked);
        aside_end(&aside);
        if (is_ended) {
            errno = EINTR;
            return 0;
        }
    }
    errno = ECONNABORTED;
    return count > 0;
}

/* What accept() has got: the caller is given that, or a punched connection in its place; where
 * nobody was there, accept() is called again. If somebody was waiting before, a caller that has
 * called poll() or its like may know it: a listener that blocks would keep it until somebody else
 * comes, so after a while, two seconds in all, it is told, as of a connection that has gone. Not at
 * once, and no other caller: many servers end at any error. */
__attribute__((cold, noinline)) static int for_caller(enum which which,
                                                      const struct accepting *call,
                                                      struct sockaddr *address, int got,
                                                      int was_anybody_waiting) {
    int patience_ms = 1700, is_ended = 0;
    if (got < 0 && (errno == EMFILE || errno == ENFILE))
        tell_if_starved(call->listener);
    while (got >= 0) {
        if (is_concerned())
            note_connection(got, noted_at(descriptor_word(call->listener)));
        if (!(call->room >= LEAST_ROOM ? is_from_bell_port(address)
                                       : may_tell() && asks_where_from(got)) ||
            answer(call, address, &got, &is_ended))
            break;
        if (is_ended && is_blocking(call->listener)) {
            errno = EINTR;
            return -1;
        }
        if (has_looked && was_anybody_waiting && !is_anybody_waiting(call->listener) &&
            is_blocking(call->listener) && !comes_soon(call->listener, &patience_ms))
            return -1;
        got = call_accept(which, call, address);
    }
    return got;
}

/* Where a caller that does not ask is told where the connection comes from. */
struct unasked {
    union synergy_endpoint from;
    socklen_t length;
};

static inline struct sockaddr *room_of_ours(struct unasked *unasked, struct accepting *call) {
    unasked->from.any.sa_family = AF_UNSPEC;
    unasked->from.v4.sin_port = 0;
    unasked->length = call->room = sizeof unasked->from;
    call->length = &unasked->length;
    return &unasked->from.any;
}

/* A call that did not want the address has failed with ours. Sockets of a family without any
 * (AF_ALG) have none to give: who asks for it is told that the connection is gone. */
__attribute__((cold, noinline)) static int accept_nameless(enum which which,
                                                           const struct accepting *failed) {
    struct accepting call = {.listener = failed->listener, .flags = failed->flags};
    struct unasked name = {.length = sizeof name.from};
    int error = errno;
    int is_nameless = error == ECONNABORTED && may_tell() &&
                      getsockname(call.listener, &name.from.any, &name.length) != 0 &&
                      errno == EOPNOTSUPP;
    errno = error;
    return is_nameless ? call_accept(which, &call, NULL) : -1;
}

/* A listener that is met, or whose keeper is replaced, which is not to wait until accept() has
 * blocked; a bell that rings already; a caller's variable that the kernel is to be asked for. */
__attribute__((cold, noinline)) static int
accept_apart(enum which which, int fd, struct sockaddr *address, socklen_t *length, int flags) {
    struct unasked unasked;
    struct accepting call = {.listener = fd, .flags = flags, .length = length};
    if (concerns_us() && mark_of(fd) != SYNERGY_UNTOUCHED) {
        ensure_stock_is_taken();
        word_after_all(fd, ACCEPTS);
    }
    if (__atomic_load_n(&left_out_port, __ATOMIC_RELAXED))
        say_left_out();
    if (!may_ask())
        say_that_it_is_deaf(fd);
    int is_asked = address != NULL;
    if (!is_asked)
        address = room_of_ours(&unasked, &call);
    else if (length)
        call.room = length_if_readable(length);
    int was_anybody_waiting = is_any_ringing() && is_anybody_waiting(fd);
    int got = call_accept(which, &call, address);
    if (got < 0 && !is_asked)
        got = accept_nameless(which, &call);
    return for_caller(which, &call, address, got, was_anybody_waiting);
}

/* What may be a bell, or nothing. */
__attribute__((cold, noinline)) static int accepted_unasked(enum which which,
                                                            const struct accepting *call,
                                                            struct sockaddr *address, int got) {
    return got < 0 ? accept_nameless(which, call) : for_caller(which, call, address, got, 0);
}

__attribute__((noinline)) static int accept_unasked(enum which which, int fd, int flags,
                                                    uint64_t noted) {
    struct unasked unasked;
    struct accepting call = {.listener = fd, .flags = flags};
    struct sockaddr *address = room_of_ours(&unasked, &call);
    int got = call_accept(which, &call, address);
    if (got >= 0 && noted)
        note_connection(got, noted);
    return __builtin_expect(got >= 0 && !is_from_bell_port(address), 1)
               ? got
               : accepted_unasked(which, &call, address, got);
}

/* Whether the listener needs nothing before the call: it is not ours, or its keeper is there, and
 * no bell rings yet. */
static inline int is_quiet(struct descriptor listener) {
    if (listener.mark != SYNERGY_UNTOUCHED && (listener.mark != SYNERGY_LISTENER || !may_ask() ||
                                               synergy_is_over(keeper_page((int)listener.keeper))))
        return 0;
    return !is_anything_stirring();
}

/* A quiet call has got what may be a bell.
 * NOLINTBEGIN(readability-non-const-parameter): libc writes to *length in the end */
__attribute__((cold, noinline)) static int accepted_bell(enum which which, int fd,
                                                         struct sockaddr *address,
                                                         socklen_t *length, int flags,
                                                         socklen_t room, int got) {
    struct accepting call = {fd, flags, length, room};
    return for_caller(which, &call, address, got, 0);
}
/* NOLINTEND(readability-non-const-parameter) */

/* A call that needs nothing before it. What comes out is looked at, also where nothing is set: who
 * waits at a listener may have got it from a server that has a keeper. `noted`: its entry then; 0
 * where nothing is set. */
__attribute__((always_inline)) static inline int accept_quietly(enum which which, int fd,
                                                                struct sockaddr *address,
                                                                socklen_t *length, int flags,
                                                                uint64_t noted) {
    if (__builtin_expect(!address, 0))
        return accept_unasked(which, fd, flags, noted);
    /* How much room the caller has is to be known before the call that changes it. It is mostly a
     * variable of the caller's. */
    if (__builtin_expect(!is_variable_of_caller(length, sizeof *length) || *length < LEAST_ROOM, 0))
        return accept_apart(which, fd, address, length, flags);
    /* (Not in registers, each of which would have to be saved and restored in every call.) */
    volatile struct accepting call;
    volatile uint64_t entry = noted;
    call.listener = fd;
    if (which == ACCEPT4)
        call.flags = flags;
    call.length = length;
    call.room = *length;
    int got = which == ACCEPT ? libc.accept(fd, address, length)
                              : libc.accept4(fd, address, length, flags);
    if (__builtin_expect(got < 0, 0))
        return got;
    if (!__builtin_constant_p(noted))
        note_connection(got, entry);
    else if (noted)
        note_connection(got, noted);
    if (__builtin_expect(!is_from_bell_port(address), 1))
        return got;
    return accepted_bell(which, call.listener, address, call.length,
                         which == ACCEPT4 ? call.flags : 0, call.room, got);
}

/* The less common ones: with nothing set, and at a listener of ours. */
__attribute__((noinline)) static int accept_unset(int fd, struct sockaddr *address,
                                                  socklen_t *length) {
    return accept_quietly(ACCEPT, fd, address, length, 0, 0);
}

__attribute__((noinline)) static int accept4_unset(int fd, struct sockaddr *address,
                                                   socklen_t *length, int flags) {
    return accept_quietly(ACCEPT4, fd, address, length, flags, 0);
}

__attribute__((noinline)) static int accept_ours(int fd, struct sockaddr *address,
                                                 socklen_t *length) {
    uint64_t word = descriptor_word(fd);
    return is_quiet(unpacked_descriptor(word))
               ? accept_quietly(ACCEPT, fd, address, length, 0, noted_at(word))
               : accept_apart(ACCEPT, fd, address, length, 0);
}

__attribute__((noinline)) static int accept4_ours(int fd, struct sockaddr *address,
                                                  socklen_t *length, int flags) {
    uint64_t word = descriptor_word(fd);
    return is_quiet(unpacked_descriptor(word))
               ? accept_quietly(ACCEPT4, fd, address, length, flags, noted_at(word))
               : accept_apart(ACCEPT4, fd, address, length, flags);
}

static inline int is_untouched_and_quiet(int fd) {
    return descriptor_word(fd) == SYNERGY_UNTOUCHED &&
           *__atomic_load_n(&stirring, __ATOMIC_ACQUIRE) == 0;
}

/* From here on, what other objects see in libc's place. */
#pragma GCC visibility push(default)

int accept(int fd, struct sockaddr *address, socklen_t *length) {
    if (__builtin_expect(is_untouched_and_quiet(fd), 1))
        return accept_quietly(ACCEPT, fd, address, length, 0, SYNERGY_UNTOUCHED);
    return concerns_us() ? accept_ours(fd, address, length) : accept_unset(fd, address, length);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    if (__builtin_expect(is_untouched_and_quiet(fd), 1))
        return accept_quietly(ACCEPT4, fd, address, length, flags, SYNERGY_UNTOUCHED);
    return concerns_us() ? accept4_ours(fd, address, length, flags)
                         : accept4_unset(fd, address, length, flags);
}

#pragma GCC visibility pop
