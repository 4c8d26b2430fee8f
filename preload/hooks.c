/*
 * The hooks. Each calls libc with the caller's own arguments, which are the kernel's to judge, and
 * returns what libc returned. Where nothing is set that costs a load, and for a descriptor that is
 * not ours another one.
 */
#include "aside.h"
#include "descriptors.h"
#include "doorbell.h"
#include "filters.h"
#include "keeper_client.h"
#include "keeper_start.h"
#include "libc_calls.h"
#include "process.h"
#include "server_sockets.h"
#include "settings_look.h"
#include "traffic.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/seccomp.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void begin(char **environment) {
    int error = errno;
    find_libc_calls();
    Dl_info place;
    /* Any address within this library tells where it lies. */
    if (dladdr(&concern, &place) != 0 && place.dli_fname)
        library_lies_at(place.dli_fname);
    look_for_settings(environment);
    errno = error;
}

/* Runs before all other constructors (-z initfirst), libc's own included. */
__attribute__((constructor)) static void construct(int count, char **words, char **environment) {
    (void)count, (void)words;
    /* glibc gives a constructor the environment, and may have no `environ` yet; musl has it, and
     * gives nothing. */
    if (concern == NOT_LOOKED)
        begin(environ ? environ : environment);
}

/* A hook may be called before any constructor: by what resolves symbols, or another library that
 * comes first. */
__attribute__((cold, noinline)) static int begin_early(void) {
    begin(environ);
    return is_concerned();
}

static inline int concerns_us(void) {
    int known = __atomic_load_n(&concern, __ATOMIC_ACQUIRE);
    if (__builtin_expect(known == NOTHING, 1))
        return 0;
    return known == SOMETHING || begin_early();
}

/* Statements of our own within a call of the server's; not in a child by vfork(), nor where a
 * filter forbids them. */
#define ASIDE(statements)                                                                          \
    do {                                                                                           \
        if (!may_ask())                                                                            \
            break;                                                                                 \
        struct aside aside = aside_begin();                                                        \
        if (process_is_own()) {                                                                    \
            statements;                                                                            \
        }                                                                                          \
        aside_end(&aside);                                                                         \
    } while (0)

static int is_stock_taken;

/* (A child by vfork() takes none, and must leave that to its parent.) */
__attribute__((cold, noinline)) static void take_stock_once(void) {
    if (may_begin())
        ASIDE(if (!__atomic_exchange_n(&is_stock_taken, 1, __ATOMIC_RELAXED)) take_stock());
}

/* Once a process: what was left to it is met. At the first bind() or listen() too, since a server
 * may forbid itself system calls after that. */
static inline void before_waiting(void) {
    if (__builtin_expect(!__atomic_load_n(&is_stock_taken, __ATOMIC_RELAXED), 0))
        take_stock_once();
}

__attribute__((cold, noinline)) static void say_left_out(void) {
    ASIDE(say_left_out_port());
}

/* When a server waits for its clients it has opened what it is for. */
static inline void before_sleeping(void) {
    before_waiting();
    if (__builtin_expect(__atomic_load_n(&left_out_port, __ATOMIC_RELAXED), 0))
        say_left_out();
}

/* Netfilter's number, of both families: linux/netfilter_ipv4.h. */
enum { SO_ORIGINAL_DST = 80 };

/* From here on, what other objects see in libc's place. */
#pragma GCC visibility push(default)

int listen(int fd, int backlog) {
    if (!concerns_us())
        return libc.listen(fd, backlog);
    struct preparation preparation = {.keeper = NO_KEEPER};
    if (mark_of(fd) != SYNERGY_UNTOUCHED)
        ASIDE(preparation = socket_will_listen(fd));
    int result = libc.listen(fd, backlog);
    if (result != 0)
        ASIDE(socket_does_not_listen(fd, &preparation));
    else if (mark_of(fd) != SYNERGY_UNTOUCHED)
        ASIDE(socket_listens(fd));
    else if (result == 0)
        ASIDE(left_out_listens(fd));
    before_waiting();
    return result;
}

int bind(int fd, const struct sockaddr *address, socklen_t length) {
    if (!concerns_us())
        return libc.bind(fd, address, length);
    int is_in_use = 0;
    ASIDE(is_in_use = is_taken(fd, address, length));
    if (is_in_use) {
        errno = EADDRINUSE;
        return -1;
    }
    int result = libc.bind(fd, address, length);
    if (result != 0 && errno == EADDRINUSE && may_ask()) {
        struct aside aside = aside_begin();
        result = bind_again(fd, address, length);
        aside.error = result == 0 ? aside.error : errno;
        aside_end(&aside);
    }
    if (result == 0)
        ASIDE(socket_is_bound(fd, address, length));
    before_waiting();
    return result;
}

__attribute__((cold, noinline)) static void meet(int fd, enum encounter encounter) {
    ASIDE(socket_is_met(fd, encounter));
}

__attribute__((cold, noinline)) static void replace(int keeper) {
    ASIDE(replace_keeper(keeper));
}

/* What is known of the descriptor now: it has just been met, or its keeper replaced, which is not
 * to wait until a call has blocked. */
__attribute__((cold, noinline)) static uint64_t word_after_all(int fd, enum encounter encounter) {
    struct descriptor descriptor = descriptor_of(fd);
    if (!may_ask())
        return descriptor_word(fd);
    if (descriptor.mark == SYNERGY_UNKNOWN)
        meet(fd, encounter);
    descriptor = descriptor_of(fd);
    if (is_ours(descriptor.mark) && synergy_is_over(keeper_page((int)descriptor.keeper)))
        replace((int)descriptor.keeper);
    return descriptor_word(fd);
}

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

__attribute__((cold, noinline)) static int is_another_ringing(void) {
    for (int i = 1; i < KEEPERS && keeper_page(i); i++)
        if (is_ringing(i))
            return 1;
    return 0;
}

/* To be called where any keeper is known. */
static inline int is_any_ringing(void) {
    return is_ringing(0) || (__builtin_expect(keeper_page(1) != NULL, 0) && is_another_ringing());
}

__attribute__((cold, noinline)) static int is_anybody_waiting(int listener) {
    int is_waiting = 0;
    ASIDE(is_waiting = is_readable(listener));
    return is_waiting;
}

__attribute__((cold, noinline)) static int is_blocking(int listener) {
    int flags = 0;
    ASIDE(flags = (int)syscall(SYS_fcntl, listener, F_GETFL));
    return flags >= 0 && !(flags & O_NONBLOCK);
}

/* A call of accept() or accept4(), and what is to be known before it lest it can't be undone. */
struct accepting {
    int listener;
    const int *flags; /* accept4()'s; NULL: it is accept() */
    struct caller_address caller;
    /* The caller may have asked poll() first, and not expect to wait here. */
    int was_anybody_waiting;
};

/* Whether what was accepted is to be given to the caller; if not, all is as before the call. */
__attribute__((cold, noinline)) static int answer(const struct accepting *accepting, int *fd) {
    const struct caller_address *caller = &accepting->caller;
    if (!may_ask()) {
        struct descriptor listener = descriptor_of(accepting->listener);
        if (is_ours(listener.mark))
            __atomic_store_n(&keeper_page((int)listener.keeper)->is_deaf, 1, __ATOMIC_RELEASE);
        return 1;
    }
    struct aside aside = aside_begin();
    enum accepted accepted =
        answer_bell(accepting->listener, fd, accepting->flags ? *accepting->flags : 0, caller);
    aside_end(&aside);
    if (accepted == NO_ONE && caller->address && caller->length)
        *caller->length = caller->room;
    return accepted != NO_ONE;
}

__attribute__((cold, noinline)) static void is_starved(int listener) {
    struct descriptor descriptor = descriptor_of(listener);
    if (descriptor.mark == SYNERGY_LISTENER && is_ringing((int)descriptor.keeper))
        say_starved((int)descriptor.keeper);
}

static int call_accept(const struct accepting *accepting) {
    const struct caller_address *caller = &accepting->caller;
    return accepting->flags ? libc.accept4(accepting->listener, caller->address, caller->length,
                                           *accepting->flags)
                            : libc.accept(accepting->listener, caller->address, caller->length);
}

/* What accept() has got: the caller is given that, or a punched connection in its place; where
 * nobody was there, accept() is called again. A listener that blocks would keep a caller who knew
 * of somebody until somebody else comes: that one is told, as of a connection that has gone. */
static int for_caller(const struct accepting *accepting, int got) {
    if (got < 0 && (errno == EMFILE || errno == ENFILE))
        is_starved(accepting->listener);
    while (got >= 0) {
        if (is_concerned())
            note_connection(got);
        if (!may_be_bell(got, &accepting->caller) || answer(accepting, &got))
            break;
        if (accepting->was_anybody_waiting && !is_anybody_waiting(accepting->listener) &&
            is_blocking(accepting->listener)) {
            errno = ECONNABORTED;
            return -1;
        }
        got = call_accept(accepting);
    }
    return got;
}

__attribute__((cold, noinline)) static int
accepted_bell(int got, int fd, struct caller_address caller, const int *flags) {
    struct accepting accepting = {.listener = fd, .flags = flags, .caller = caller};
    return for_caller(&accepting, got);
}

__attribute__((cold, noinline)) static int accepted_bell4(int got, int fd,
                                                          struct caller_address caller, int flags) {
    return accepted_bell(got, fd, caller, &flags);
}

/* A listener that is met, or whose keeper is replaced, which is not to wait until accept() has
 * blocked; a bell that rings already; a caller's variable that the kernel is to be asked for. */
__attribute__((cold, noinline)) static int accept_apart(int fd, struct sockaddr *address,
                                                        socklen_t *length, const int *flags) {
    struct accepting accepting = {
        .listener = fd,
        .flags = flags,
        .caller = {.address = address, .length = length},
    };
    if (is_concerned() && mark_of(fd) != SYNERGY_UNTOUCHED) {
        before_waiting();
        word_after_all(fd, ACCEPTS);
    }
    struct descriptor descriptor = descriptor_of(fd);
    if (!may_ask() && is_ours(descriptor.mark))
        __atomic_store_n(&keeper_page((int)descriptor.keeper)->is_deaf, 1, __ATOMIC_RELEASE);
    accepting.caller.room = address && length ? length_if_readable(length) : 0;
    accepting.was_anybody_waiting = knows_keepers() && is_any_ringing() && is_anybody_waiting(fd);
    return for_caller(&accepting, call_accept(&accepting));
}

__attribute__((cold, noinline)) static int accept4_apart(int fd, struct sockaddr *address,
                                                         socklen_t *length, int flags) {
    return accept_apart(fd, address, length, &flags);
}

/* Where no keeper is known. */
static inline int is_left_to_libc(int listener) {
    if (mark_of(listener) != SYNERGY_UNTOUCHED)
        return 0;
    if (__builtin_expect(__atomic_load_n(&left_out_port, __ATOMIC_RELAXED), 0))
        say_left_out();
    return 1;
}

/* Whether nothing is to be done before the call: the listener is known, its keeper is there, and no
 * bell rings yet. */
static inline int is_quiet(int fd) {
    if (!knows_keepers())
        return is_left_to_libc(fd);
    struct descriptor descriptor = descriptor_of(fd);
    if (descriptor.mark != SYNERGY_UNTOUCHED &&
        (descriptor.mark != SYNERGY_LISTENER ||
         !__atomic_load_n(&is_stock_taken, __ATOMIC_RELAXED) ||
         synergy_is_over(keeper_page((int)descriptor.keeper))))
        return 0;
    return may_ask() && !is_any_ringing();
}

/* Also where nothing is set, what comes out is looked at: who waits at a listener may have got it
 * from a server that has a keeper. Before the call that asks for the room that the caller has for
 * the address, which is mostly a variable of the caller's. */
static inline int is_to_be_called_apart(int fd, const struct sockaddr *address,
                                        const socklen_t *length) {
    return (concerns_us() && !is_quiet(fd)) ||
           (address && length && !is_variable_of_caller(length, sizeof *length));
}

static inline int is_to_be_looked_at(int got, const struct caller_address *caller) {
    if (got < 0)
        return 0;
    if (is_concerned())
        note_connection(got);
    return may_be_bell(got, caller);
}

int accept(int fd, struct sockaddr *address, socklen_t *length) {
    if (__builtin_expect(is_to_be_called_apart(fd, address, length), 0))
        return accept_apart(fd, address, length, NULL);
    struct caller_address caller = {address, length, address && length ? *length : 0};
    int got = libc.accept(fd, address, length);
    return __builtin_expect(is_to_be_looked_at(got, &caller), 0)
               ? accepted_bell(got, fd, caller, NULL)
               : got;
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    if (__builtin_expect(is_to_be_called_apart(fd, address, length), 0))
        return accept4_apart(fd, address, length, flags);
    struct caller_address caller = {address, length, address && length ? *length : 0};
    int got = libc.accept4(fd, address, length, flags);
    return __builtin_expect(is_to_be_looked_at(got, &caller), 0)
               ? accepted_bell4(got, fd, caller, flags)
               : got;
}

/* What is known of the descriptor if what is received there is to be noted; 0 if not. */
static inline uint64_t heard(int fd, int flags) {
    uint64_t word = descriptor_word(fd);
    struct descriptor descriptor = unpacked_descriptor(word);
    if (__builtin_expect(descriptor.mark == SYNERGY_UNTOUCHED, 1))
        return 0;
    if ((descriptor.mark != SYNERGY_DATAGRAMS ||
         __builtin_expect(synergy_is_over(keeper_page((int)descriptor.keeper)), 0)) &&
        ((word = word_after_all(fd, RECEIVES)) & MARKS) != SYNERGY_DATAGRAMS)
        return 0;
    /* What comes from the error queue is no peer's. */
    return flags & MSG_ERRQUEUE ? 0 : word;
}

/* Receives again where it was a punch that failed. The caller may have asked poll() first, which
 * tells of errors too: it is not to wait here, but where it could have, for nobody's error. */
#define RECEIVE_PAST_PUNCHS(fd, result, flags, again)                                              \
    do {                                                                                           \
        if (__builtin_expect((result) < 0 && errno == EHOSTUNREACH, 0) && is_perhaps_punchs(fd)) { \
            result = again;                                                                        \
            if ((result) < 0 && errno == EAGAIN && !((flags)&MSG_DONTWAIT) && is_blocking(fd))     \
                errno = EINTR;                                                                     \
        }                                                                                          \
    } while (0)

#define SEND_PAST_PUNCHS(fd, result, again)                                                        \
    do {                                                                                           \
        if (__builtin_expect((result) < 0 && errno == EHOSTUNREACH, 0) && is_perhaps_punchs(fd))   \
            result = again;                                                                        \
    } while (0)

ssize_t recvfrom(int fd, void *buffer, size_t size, int flags, struct sockaddr *address,
                 socklen_t *length) {
    uint64_t word;
    if (!concerns_us() || !(word = heard(fd, flags)))
        return libc.recvfrom(fd, buffer, size, flags, address, length);
    ssize_t result = libc.recvfrom(fd, buffer, size, flags, address, length);
    if (__builtin_expect(result < 0, 0))
        RECEIVE_PAST_PUNCHS(fd, result, flags,
                            libc.recvfrom(fd, buffer, size, flags | MSG_DONTWAIT, address, length));
    if (result >= 0 && address && length)
        note_received(word, address);
    return result;
}

ssize_t __recvfrom_chk(int fd, void *buffer, size_t size, size_t room, int flags,
                       struct sockaddr *address, socklen_t *length) {
    uint64_t word;
    if (!concerns_us() || !(word = heard(fd, flags)))
        return libc.__recvfrom_chk(fd, buffer, size, room, flags, address, length);
    ssize_t result = libc.__recvfrom_chk(fd, buffer, size, room, flags, address, length);
    if (__builtin_expect(result < 0, 0))
        RECEIVE_PAST_PUNCHS(
            fd, result, flags,
            libc.__recvfrom_chk(fd, buffer, size, room, flags | MSG_DONTWAIT, address, length));
    if (result >= 0 && address && length)
        note_received(word, address);
    return result;
}

/* Without an address only a socket that was there at the start may concern us; and no call of our
 * own later, which a server may have forbidden itself. */
static inline void before_reading(int fd) {
    if (concerns_us() && is_passed_at_start(fd))
        before_waiting();
}

ssize_t recv(int fd, void *buffer, size_t size, int flags) {
    before_reading(fd);
    return libc.recv(fd, buffer, size, flags);
}

ssize_t __recv_chk(int fd, void *buffer, size_t size, size_t room, int flags) {
    before_reading(fd);
    return libc.__recv_chk(fd, buffer, size, room, flags);
}

ssize_t read(int fd, void *buffer, size_t size) {
    before_reading(fd);
    return libc.read(fd, buffer, size);
}

ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room) {
    before_reading(fd);
    return libc.__read_chk(fd, buffer, size, room);
}

/* Descriptors that came along, from a process that may have none of our hooks. */
static void meet_passed(const struct cmsghdr *passed) {
    size_t count = (passed->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(passed) + i * sizeof fd, sizeof fd);
        forget_descriptor(fd);
        socket_is_met(fd, FOUND);
    }
}

__attribute__((noinline)) static void look_for_passed(struct msghdr *message) {
    for (struct cmsghdr *each = CMSG_FIRSTHDR(message); each; each = CMSG_NXTHDR(message, each))
        if (each->cmsg_level == SOL_SOCKET && each->cmsg_type == SCM_RIGHTS)
            ASIDE(meet_passed(each));
}

static inline void after_receiving(uint64_t word, struct msghdr *message) {
    if (word && message->msg_name && message->msg_namelen)
        note_received(word, message->msg_name);
    if (message->msg_control && message->msg_controllen)
        look_for_passed(message);
}

typedef ssize_t (*receive_message)(int fd, struct msghdr *message, int flags);

/* What is in the error queue, without the punches. */
__attribute__((cold, noinline)) static ssize_t receive_error(receive_message receive, int fd,
                                                             struct msghdr *message, int flags) {
    int error = errno;
    int is_there = mark_of(fd) == SYNERGY_DATAGRAMS &&
                   readable_bytes(message, sizeof *message) == sizeof *message;
    errno = error;
    struct msghdr asked = {0};
    if (is_there)
        asked = *message;
    for (;;) {
        ssize_t result = receive(fd, message, flags);
        if (!is_there || result < 0 || !is_punchs(message, result))
            return result;
        *message = asked;
    }
}

/* Some have a second name, with another kind of time. */
#define RECEIVE_MESSAGE(name)                                                                      \
    ssize_t name(int fd, struct msghdr *message, int flags) {                                      \
        if (!concerns_us())                                                                        \
            return libc.name(fd, message, flags);                                                  \
        if (__builtin_expect(flags & MSG_ERRQUEUE, 0))                                             \
            return receive_error(libc.name, fd, message, flags);                                   \
        uint64_t word = heard(fd, flags);                                                          \
        /* Nothing comes along where there is no room for it. */                                   \
        if (!word && is_variable_of_caller(message, sizeof *message) && !message->msg_control)     \
            return libc.name(fd, message, flags);                                                  \
        ssize_t result = libc.name(fd, message, flags);                                            \
        RECEIVE_PAST_PUNCHS(fd, result, flags, libc.name(fd, message, flags | MSG_DONTWAIT));      \
        if (result >= 0)                                                                           \
            after_receiving(word, message);                                                        \
        return result;                                                                             \
    }
RECEIVE_MESSAGE(recvmsg)

#define RECEIVE_MESSAGES(name, time)                                                               \
    int name(int fd, struct mmsghdr *messages, unsigned int count, int flags, time *timeout) {     \
        if (!concerns_us())                                                                        \
            return libc.name(fd, messages, count, flags, timeout);                                 \
        uint64_t word = heard(fd, flags);                                                          \
        int result = libc.name(fd, messages, count, flags, timeout);                               \
        RECEIVE_PAST_PUNCHS(fd, result, flags,                                                     \
                            libc.name(fd, messages, count, flags | MSG_DONTWAIT, timeout));        \
        for (int i = 0; i < result; i++)                                                           \
            after_receiving(word, &messages[i].msg_hdr);                                           \
        return result;                                                                             \
    }
RECEIVE_MESSAGES(recvmmsg, struct timespec)

/* What is known of the descriptor if what is sent there is to be noted; 0 if not. */
static inline uint64_t sending(int fd) {
    uint64_t word = descriptor_word(fd);
    return (word & MARKS) == SYNERGY_DATAGRAMS ? word : 0;
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *address,
               socklen_t length) {
    uint64_t word;
    if (!concerns_us() || !(word = sending(fd)))
        return libc.sendto(fd, data, size, flags, address, length);
    ssize_t result = libc.sendto(fd, data, size, flags, address, length);
    SEND_PAST_PUNCHS(fd, result, libc.sendto(fd, data, size, flags, address, length));
    if (result >= 0)
        note_sent(word, address, length);
    return result;
}

#define SEND_MESSAGE(name)                                                                         \
    ssize_t name(int fd, const struct msghdr *message, int flags) {                                \
        uint64_t word;                                                                             \
        if (!concerns_us() || !(word = sending(fd)))                                               \
            return libc.name(fd, message, flags);                                                  \
        ssize_t result = libc.name(fd, message, flags);                                            \
        SEND_PAST_PUNCHS(fd, result, libc.name(fd, message, flags));                               \
        if (result >= 0)                                                                           \
            note_sent(word, message->msg_name, message->msg_namelen);                              \
        return result;                                                                             \
    }
SEND_MESSAGE(sendmsg)

#define SEND_MESSAGES(name)                                                                        \
    int name(int fd, struct mmsghdr *messages, unsigned int count, int flags) {                    \
        uint64_t word;                                                                             \
        if (!concerns_us() || !(word = sending(fd)))                                               \
            return libc.name(fd, messages, count, flags);                                          \
        int result = libc.name(fd, messages, count, flags);                                        \
        SEND_PAST_PUNCHS(fd, result, libc.name(fd, messages, count, flags));                       \
        for (int i = 0; i < result; i++)                                                           \
            note_sent(word, messages[i].msg_hdr.msg_name, messages[i].msg_hdr.msg_namelen);        \
        return result;                                                                             \
    }
SEND_MESSAGES(sendmmsg)

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    if (concerns_us())
        before_sleeping();
    return libc.epoll_ctl(epoll, operation, fd, event);
}

int poll(struct pollfd *fds, nfds_t count, int timeout) {
    if (concerns_us())
        before_sleeping();
    return libc.poll(fds, count, timeout);
}

int __poll_chk(struct pollfd *fds, nfds_t count, int timeout, size_t room) {
    if (concerns_us())
        before_sleeping();
    return libc.__poll_chk(fds, count, timeout, room);
}

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask) {
    if (concerns_us())
        before_sleeping();
    return libc.ppoll(fds, count, timeout, mask);
}

int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                const sigset_t *mask, size_t room) {
    if (concerns_us())
        before_sleeping();
    return libc.__ppoll_chk(fds, count, timeout, mask, room);
}

int select(int count, fd_set *reading, fd_set *writing, fd_set *exceptional,
           struct timeval *timeout) {
    if (concerns_us())
        before_sleeping();
    return libc.select(count, reading, writing, exceptional, timeout);
}

int pselect(int count, fd_set *reading, fd_set *writing, fd_set *exceptional,
            const struct timespec *timeout, const sigset_t *mask) {
    if (concerns_us())
        before_sleeping();
    return libc.pselect(count, reading, writing, exceptional, timeout, mask);
}

/* The last moment for what was left to this process, too. */
__attribute__((cold, noinline)) static void before_giving_up(void (*get_ready)(void)) {
    before_waiting();
    ASIDE(get_ready());
}

int chroot(const char *path) {
    if (concerns_us())
        before_giving_up(have_free_keeper);
    return libc.chroot(path);
}

int setuid(uid_t user) {
    if (concerns_us() && user != geteuid())
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
        before_giving_up(have_free_keeper);
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
static inline void before_executing(char *const environment[]) {
    if (concerns_us())
        ASIDE(program_is_executed(environment));
}

/* (What becomes of the descriptors on the way nobody but libc can read from `actions`.) */
static inline void before_spawning(const posix_spawn_file_actions_t *actions,
                                   char *const environment[]) {
    if (!actions)
        before_executing(environment);
}

int execve(const char *path, char *const words[], char *const environment[]) {
    before_executing(environment);
    return libc.execve(path, words, environment);
}

int execv(const char *path, char *const words[]) {
    before_executing(environ);
    return libc.execv(path, words);
}

int execvp(const char *name, char *const words[]) {
    before_executing(environ);
    return libc.execvp(name, words);
}

int execvpe(const char *name, char *const words[], char *const environment[]) {
    before_executing(environment);
    return libc.execvpe(name, words, environment);
}

int fexecve(int fd, char *const words[], char *const environment[]) {
    before_executing(environment);
    return libc.fexecve(fd, words, environment);
}

int posix_spawn(pid_t *child, const char *path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const words[],
                char *const environment[]) {
    before_spawning(actions, environment);
    return libc.posix_spawn(child, path, actions, attributes, words, environment);
}

int posix_spawnp(pid_t *child, const char *name, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const words[],
                 char *const environment[]) {
    before_spawning(actions, environment);
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
    before_waiting();
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
    before_waiting();
    return knows_keepers() ? daemon_and_tell(keeps_directory, keeps_output)
                           : libc.daemon(keeps_directory, keeps_output);
}

/* Whether a filter that is set now is this process's, and not only a child's by vfork(). What is to
 * be done once is done before. */
static int is_filter_own(void) {
    int is_own = 0;
    if (!concerns_us())
        return 0;
    before_waiting();
    ASIDE(is_own = 1);
    return is_own;
}

static void *pointer_in(const void *word) {
    void *pointer;
    memcpy(&pointer, word, sizeof pointer);
    return pointer;
}

#define PRCTL(name)                                                                                \
    int name(int option, ...) {                                                                    \
        unsigned long words[4];                                                                    \
        va_list list;                                                                              \
        va_start(list, option);                                                                    \
        for (int i = 0; i < 4; i++)                                                                \
            words[i] = va_arg(list, unsigned long);                                                \
        va_end(list);                                                                              \
        int is_own = option == PR_SET_SECCOMP && is_filter_own();                                  \
        if (!libc.name)                                                                            \
            find_libc_calls();                                                                     \
        int result = libc.name(option, words[0], words[1], words[2], words[3]);                    \
        if (is_own && result == 0)                                                                 \
            filter_is_set(words[0] == SECCOMP_MODE_FILTER ? pointer_in(&words[1]) : NULL);         \
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
    if (is_own && (result == 0 || (result > 0 && (flags & SECCOMP_FILTER_FLAG_NEW_LISTENER))))
        filter_is_set(operation == SECCOMP_SET_MODE_FILTER ? program : NULL);
    return result;
}

/* As libc's own: its caller gives as many arguments as the call has, the others are whatever is
 * there, and only passed on. */
__attribute__((no_sanitize("address"))) long syscall(long number, ...) {
    long words[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        words[i] = va_arg(list, long);
    va_end(list);
    if (!libc.syscall)
        find_libc_calls();
    if (__builtin_expect(number == SYS_seccomp, 0))
        return set_filter((unsigned long)words[0], (unsigned long)words[1], pointer_in(&words[2]));
    return libc.syscall(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

/* After the call, so that its port is free when it returns. */
static void after_closing(const struct descriptor *descriptor) {
    if (is_ours(descriptor->mark))
        ASIDE(socket_is_closed(descriptor));
}

/* Before the call: as soon as the number is free, another thread may have it. */
__attribute__((noinline)) static int close_ours(int fd) {
    struct descriptor descriptor = {.mark = SYNERGY_UNKNOWN};
    ASIDE(descriptor = forget_descriptor(fd));
    int result = libc.close(fd);
    after_closing(&descriptor);
    return result;
}

int close(int fd) {
    if (!concerns_us())
        return libc.close(fd);
    enum synergy_mark mark = mark_of(fd);
    if (is_ours(mark))
        return close_ours(fd);
    if (mark == SYNERGY_UNTOUCHED)
        forget_untouched(fd);
    return libc.close(fd);
}

/* The number stands for what `fd` stands for. */
static void after_replacing(int fd, int number) {
    enum synergy_mark mark = mark_of(number);
    if (mark == SYNERGY_UNKNOWN && !is_ours(mark_of(fd)))
        return;
    struct descriptor descriptor = {.mark = SYNERGY_UNKNOWN};
    ASIDE(descriptor = forget_descriptor(number); set_descriptor(number, descriptor_of(fd)));
    after_closing(&descriptor);
}

int dup2(int fd, int number) {
    if (!concerns_us())
        return libc.dup2(fd, number);
    int result = libc.dup2(fd, number);
    if (result >= 0 && fd != number)
        after_replacing(fd, number);
    if (result == STDERR_FILENO)
        ASIDE(note_stderr());
    return result;
}

int dup3(int fd, int number, int flags) {
    if (!concerns_us())
        return libc.dup3(fd, number, flags);
    int result = libc.dup3(fd, number, flags);
    if (result >= 0)
        after_replacing(fd, number);
    if (result == STDERR_FILENO)
        ASIDE(note_stderr());
    return result;
}

int close_range(unsigned int first, unsigned int last, int flags) {
    if (!concerns_us())
        return libc.close_range(first, last, flags);
    int result = libc.close_range(first, last, flags);
    /* With a table of its own, a thread closes nothing of the others'. */
    if (result == 0 && !(flags & (int)(CLOSE_RANGE_CLOEXEC | CLOSE_RANGE_UNSHARE)))
        ASIDE(sockets_are_closed(first, last));
    return result;
}

void closefrom(int first) {
    int is_of_interest = concerns_us();
    libc.closefrom(first);
    if (is_of_interest)
        ASIDE(sockets_are_closed(first < 0 ? 0 : (unsigned)first, ~0U));
}

int shutdown(int fd, int how) {
    if (!concerns_us())
        return libc.shutdown(fd, how);
    int result = libc.shutdown(fd, how);
    if (result == 0 && mark_of(fd) == SYNERGY_LISTENER)
        ASIDE(socket_is_shut_down(fd));
    return result;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length) {
    if (!concerns_us())
        return libc.setsockopt(fd, level, name, value, length);
    int result = libc.setsockopt(fd, level, name, value, length);
    if (result == 0 && level == IPPROTO_TCP && (name == TCP_MD5SIG || name == TCP_MD5SIG_EXT))
        ASIDE(socket_has_key(fd, name, value, length));
    if (result == 0 && mark_of(fd) == SYNERGY_LISTENER)
        ASIDE(socket_listens(fd));
    return result;
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *length) {
    int is_ours_to_see = concerns_us();
    int result = libc.getsockopt(fd, level, name, value, length);
    if (is_ours_to_see && name == SO_ORIGINAL_DST && result == 0 && is_punched(fd))
        ASIDE(show_own_address(fd, level, value, length));
    return result;
}

#if defined __TIMESIZE && __TIMESIZE == 32

int __select64(int count, fd_set *reading, fd_set *writing, fd_set *exceptional, void *timeout) {
    if (concerns_us())
        before_waiting();
    return libc.__select64(count, reading, writing, exceptional, timeout);
}

int __pselect64(int count, fd_set *reading, fd_set *writing, fd_set *exceptional,
                const void *timeout, const sigset_t *mask) {
    if (concerns_us())
        before_waiting();
    return libc.__pselect64(count, reading, writing, exceptional, timeout, mask);
}

int __ppoll64(struct pollfd *fds, nfds_t count, const void *timeout, const sigset_t *mask) {
    if (concerns_us())
        before_waiting();
    return libc.__ppoll64(fds, count, timeout, mask);
}

int __ppoll64_chk(struct pollfd *fds, nfds_t count, const void *timeout, const sigset_t *mask,
                  size_t room) {
    if (concerns_us())
        before_waiting();
    return libc.__ppoll64_chk(fds, count, timeout, mask, room);
}

RECEIVE_MESSAGE(__recvmsg64)
RECEIVE_MESSAGES(__recvmmsg64, void)
SEND_MESSAGE(__sendmsg64)
SEND_MESSAGES(__sendmmsg64)
PRCTL(__prctl_time64)

#endif

#pragma GCC visibility pop
