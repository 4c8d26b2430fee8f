/*
 * The hooks. Each calls libc with the caller's own arguments, which are the kernel's to judge, and
 * returns what libc returned. Where nothing is set that costs a load, and for a descriptor that is
 * not ours another one.
 */
#include "aside.h"
#include "descriptors.h"
#include "doorbell.h"
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
#include <netinet/tcp.h>
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

/* Statements of our own within a call of the server's; not in a child by vfork(). */
#define ASIDE(statements)                                                                          \
    do {                                                                                           \
        struct aside aside = aside_begin();                                                        \
        if (process_is_own()) {                                                                    \
            statements;                                                                            \
        }                                                                                          \
        aside_end(&aside);                                                                         \
    } while (0)

static int is_stock_taken;

/* (A child by vfork() takes none, and must leave that to its parent.) */
__attribute__((cold, noinline)) static void take_stock_once(void) {
    ASIDE(if (!__atomic_exchange_n(&is_stock_taken, 1, __ATOMIC_RELAXED)) take_stock());
}

/* Once a process: what was left to it is met. At the first bind() or listen() too, since a server
 * may forbid itself system calls after that. */
static inline void before_waiting(void) {
    if (__builtin_expect(!__atomic_load_n(&is_stock_taken, __ATOMIC_RELAXED), 0))
        take_stock_once();
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
    before_waiting();
    return result;
}

int bind(int fd, const struct sockaddr *address, socklen_t length) {
    if (!concerns_us())
        return libc.bind(fd, address, length);
    int result = libc.bind(fd, address, length);
    if (result != 0 && errno == EADDRINUSE) {
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
__attribute__((cold, noinline)) static int answer(int keeper, int fd, int flags,
                                                  const struct caller_address *caller) {
    struct aside aside = aside_begin();
    enum accepted accepted = answer_bell(keeper, fd, flags, caller);
    aside_end(&aside);
    if (accepted == NO_ONE && caller->address && caller->length)
        *caller->length = caller->room;
    return accepted != NO_ONE;
}

/* Of a listener that nothing could be noted of, or whose number stood for something else when that
 * was noted, any of them may be the keeper. */
static int is_for_caller(const struct accepting *accepting, int got) {
    struct descriptor listener = descriptor_of(accepting->listener);
    int flags = accepting->flags ? *accepting->flags : 0;
    for (int i = 0; i < KEEPERS && keeper_page(i); i++)
        if ((listener.mark != SYNERGY_LISTENER || listener.keeper == (unsigned)i) &&
            is_ringing(i) && !answer(i, got, flags, &accepting->caller))
            return 0;
    return 1;
}

static int call_accept(const struct accepting *accepting) {
    const struct caller_address *caller = &accepting->caller;
    return accepting->flags ? libc.accept4(accepting->listener, caller->address, caller->length,
                                           *accepting->flags)
                            : libc.accept(accepting->listener, caller->address, caller->length);
}

/* What accept() has got while a bell may ring: the caller is given that, or a punched connection in
 * its place; where nobody was there, accept() is called again. A listener that blocks would keep a
 * caller who knew of somebody until somebody else comes: that one is told, as of a connection that
 * has gone. */
static int for_caller(const struct accepting *accepting, int got) {
    while (got >= 0) {
        note_connection(got);
        if (is_for_caller(accepting, got))
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
accepted_while_ringing(int got, int fd, struct caller_address caller, const int *flags) {
    struct accepting accepting = {.listener = fd, .flags = flags, .caller = caller};
    return for_caller(&accepting, got);
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
    if (mark_of(fd) != SYNERGY_UNTOUCHED) {
        before_waiting();
        word_after_all(fd, ACCEPTS);
    }
    accepting.caller.room = length ? length_if_readable(length) : 0;
    accepting.was_anybody_waiting = knows_keepers() && is_any_ringing() && is_anybody_waiting(fd);
    return for_caller(&accepting, call_accept(&accepting));
}

__attribute__((cold, noinline)) static int accept4_apart(int fd, struct sockaddr *address,
                                                         socklen_t *length, int flags) {
    return accept_apart(fd, address, length, &flags);
}

/* Whether nothing is to be done before the call: the listener is known, its keeper is there, no
 * bell rings yet, and the room for the address is the caller's variable. To be called where a
 * keeper is known. */
static inline int is_quiet(int fd, const socklen_t *length) {
    struct descriptor descriptor = descriptor_of(fd);
    if (descriptor.mark != SYNERGY_UNTOUCHED &&
        (descriptor.mark != SYNERGY_LISTENER ||
         !__atomic_load_n(&is_stock_taken, __ATOMIC_RELAXED) ||
         synergy_is_over(keeper_page((int)descriptor.keeper))))
        return 0;
    return !is_any_ringing() && (!length || is_variable_of_caller(length, sizeof *length));
}

/* What is accepted is a connection: no question is needed to know that it has no peers. */
static inline int may_be_bell(int got) {
    if (got < 0)
        return 0;
    note_connection(got);
    return is_any_ringing();
}

/* Where a keeper is known. */
__attribute__((noinline)) static int accept_looking(int fd, struct sockaddr *address,
                                                    socklen_t *length) {
    if (__builtin_expect(!is_quiet(fd, length), 0))
        return accept_apart(fd, address, length, NULL);
    socklen_t room = length ? *length : 0;
    int got = libc.accept(fd, address, length);
    return __builtin_expect(may_be_bell(got), 0)
               ? accepted_while_ringing(got, fd, (struct caller_address){address, length, room},
                                        NULL)
               : got;
}

__attribute__((noinline)) static int accept4_looking(int fd, struct sockaddr *address,
                                                     socklen_t *length, int flags) {
    if (__builtin_expect(!is_quiet(fd, length), 0))
        return accept4_apart(fd, address, length, flags);
    socklen_t room = length ? *length : 0;
    int got = libc.accept4(fd, address, length, flags);
    return __builtin_expect(may_be_bell(got), 0)
               ? accepted_while_ringing(got, fd, (struct caller_address){address, length, room},
                                        &flags)
               : got;
}

int accept(int fd, struct sockaddr *address, socklen_t *length) {
    if (!concerns_us())
        return libc.accept(fd, address, length);
    if (knows_keepers())
        return accept_looking(fd, address, length);
    return mark_of(fd) == SYNERGY_UNTOUCHED ? libc.accept(fd, address, length)
                                            : accept_apart(fd, address, length, NULL);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    if (!concerns_us())
        return libc.accept4(fd, address, length, flags);
    if (knows_keepers())
        return accept4_looking(fd, address, length, flags);
    return mark_of(fd) == SYNERGY_UNTOUCHED ? libc.accept4(fd, address, length, flags)
                                            : accept4_apart(fd, address, length, flags);
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

ssize_t recvfrom(int fd, void *buffer, size_t size, int flags, struct sockaddr *address,
                 socklen_t *length) {
    uint64_t word;
    if (!concerns_us() || !(word = heard(fd, flags)) || !address || !length)
        return libc.recvfrom(fd, buffer, size, flags, address, length);
    ssize_t result = libc.recvfrom(fd, buffer, size, flags, address, length);
    if (result >= 0)
        note_received(word, address);
    return result;
}

ssize_t __recvfrom_chk(int fd, void *buffer, size_t size, size_t room, int flags,
                       struct sockaddr *address, socklen_t *length) {
    uint64_t word;
    if (!concerns_us() || !(word = heard(fd, flags)) || !address || !length)
        return libc.__recvfrom_chk(fd, buffer, size, room, flags, address, length);
    ssize_t result = libc.__recvfrom_chk(fd, buffer, size, room, flags, address, length);
    if (result >= 0)
        note_received(word, address);
    return result;
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

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    if (!concerns_us())
        return libc.recvmsg(fd, message, flags);
    uint64_t word = heard(fd, flags);
    /* Nothing comes along where there is no room for it. */
    if (!word && is_variable_of_caller(message, sizeof *message) && !message->msg_control)
        return libc.recvmsg(fd, message, flags);
    ssize_t result = libc.recvmsg(fd, message, flags);
    if (result >= 0)
        after_receiving(word, message);
    return result;
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
             struct timespec *timeout) {
    if (!concerns_us())
        return libc.recvmmsg(fd, messages, count, flags, timeout);
    uint64_t word = heard(fd, flags);
    int result = libc.recvmmsg(fd, messages, count, flags, timeout);
    for (int i = 0; i < result; i++)
        after_receiving(word, &messages[i].msg_hdr);
    return result;
}

/* What is known of the descriptor if what is sent there is to be noted; 0 if not. */
static inline uint64_t sending(int fd) {
    uint64_t word = descriptor_word(fd);
    return (word & MARKS) == SYNERGY_DATAGRAMS ? word : 0;
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *address,
               socklen_t length) {
    uint64_t word;
    if (!concerns_us() || !(word = sending(fd)) || !address)
        return libc.sendto(fd, data, size, flags, address, length);
    ssize_t result = libc.sendto(fd, data, size, flags, address, length);
    if (result >= 0)
        note_sent(word, address, length);
    return result;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    uint64_t word;
    if (!concerns_us() || !(word = sending(fd)))
        return libc.sendmsg(fd, message, flags);
    ssize_t result = libc.sendmsg(fd, message, flags);
    if (result >= 0)
        note_sent(word, message->msg_name, message->msg_namelen);
    return result;
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags) {
    uint64_t word;
    if (!concerns_us() || !(word = sending(fd)))
        return libc.sendmmsg(fd, messages, count, flags);
    int result = libc.sendmmsg(fd, messages, count, flags);
    for (int i = 0; i < result; i++)
        note_sent(word, messages[i].msg_hdr.msg_name, messages[i].msg_hdr.msg_namelen);
    return result;
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    if (concerns_us())
        before_waiting();
    return libc.epoll_ctl(epoll, operation, fd, event);
}

int poll(struct pollfd *fds, nfds_t count, int timeout) {
    if (concerns_us())
        before_waiting();
    return libc.poll(fds, count, timeout);
}

int __poll_chk(struct pollfd *fds, nfds_t count, int timeout, size_t room) {
    if (concerns_us())
        before_waiting();
    return libc.__poll_chk(fds, count, timeout, room);
}

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask) {
    if (concerns_us())
        before_waiting();
    return libc.ppoll(fds, count, timeout, mask);
}

int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                const sigset_t *mask, size_t room) {
    if (concerns_us())
        before_waiting();
    return libc.__ppoll_chk(fds, count, timeout, mask, room);
}

int select(int count, fd_set *reading, fd_set *writing, fd_set *exceptional,
           struct timeval *timeout) {
    if (concerns_us())
        before_waiting();
    return libc.select(count, reading, writing, exceptional, timeout);
}

int pselect(int count, fd_set *reading, fd_set *writing, fd_set *exceptional,
            const struct timespec *timeout, const sigset_t *mask) {
    if (concerns_us())
        before_waiting();
    return libc.pselect(count, reading, writing, exceptional, timeout, mask);
}

/* A keeper must know of the child before it can find that the parent has ended. */
static pid_t fork_and_tell(void) {
    pid_t child = libc.fork();
    if (child == 0)
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
    return 0;
}

int daemon(int keeps_directory, int keeps_output) {
    if (!concerns_us())
        return libc.daemon(keeps_directory, keeps_output);
    before_waiting();
    return knows_keepers() ? daemon_and_tell(keeps_directory, keeps_output)
                           : libc.daemon(keeps_directory, keeps_output);
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
    return result;
}

int dup3(int fd, int number, int flags) {
    if (!concerns_us())
        return libc.dup3(fd, number, flags);
    int result = libc.dup3(fd, number, flags);
    if (result >= 0)
        after_replacing(fd, number);
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
    if (result == 0 && mark_of(fd) == SYNERGY_LISTENER) {
        struct descriptor descriptor = {.mark = SYNERGY_UNKNOWN};
        ASIDE(descriptor = forget_descriptor(fd));
        after_closing(&descriptor);
    }
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

#pragma GCC visibility pop
