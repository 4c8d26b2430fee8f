/* What is received and sent: which peers a UDP server hears is noted; sockets that were made
 * elsewhere are met; and no server is told of the errors that punches bring back. */
#include "hooks.h"
#include "traffic.h"

#include <errno.h>
#include <string.h>

/* From here on, what other objects see in libc's place. */
#pragma GCC visibility push(default)

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

/* Without an address only a socket that was there at the start may concern us, and one of ours
 * whose errors may be a punch's; and no call of our own later, which a server may have forbidden
 * itself. */
static inline int concerns_reading(int fd) {
    if (__builtin_expect(!concerns_us(), 1))
        return 0;
    if (is_passed_at_start(fd))
        ensure_stock_is_taken();
    return mark_of(fd) == SYNERGY_DATAGRAMS;
}

__attribute__((noinline)) static ssize_t receive(int fd, void *buffer, size_t size, int flags) {
    ssize_t result = libc.recv(fd, buffer, size, flags);
    RECEIVE_PAST_PUNCHS(fd, result, flags, libc.recv(fd, buffer, size, flags | MSG_DONTWAIT));
    return result;
}

ssize_t recv(int fd, void *buffer, size_t size, int flags) {
    return concerns_reading(fd) ? receive(fd, buffer, size, flags)
                                : libc.recv(fd, buffer, size, flags);
}

ssize_t __recv_chk(int fd, void *buffer, size_t size, size_t room, int flags) {
    return concerns_reading(fd) && size <= room ? receive(fd, buffer, size, flags)
                                                : libc.__recv_chk(fd, buffer, size, room, flags);
}

__attribute__((noinline)) static ssize_t read_datagram(int fd, void *buffer, size_t size) {
    ssize_t result = libc.read(fd, buffer, size);
    RECEIVE_PAST_PUNCHS(fd, result, 0, libc.recv(fd, buffer, size, MSG_DONTWAIT));
    return result;
}

ssize_t read(int fd, void *buffer, size_t size) {
    return concerns_reading(fd) ? read_datagram(fd, buffer, size) : libc.read(fd, buffer, size);
}

ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room) {
    return concerns_reading(fd) && size <= room ? read_datagram(fd, buffer, size)
                                                : libc.__read_chk(fd, buffer, size, room);
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

#if defined __TIMESIZE && __TIMESIZE == 32

RECEIVE_MESSAGE(__recvmsg64)
RECEIVE_MESSAGES(__recvmmsg64, void)
SEND_MESSAGE(__sendmsg64)
SEND_MESSAGES(__sendmmsg64)

#endif

#pragma GCC visibility pop
