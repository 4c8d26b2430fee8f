/* How a server's sockets come to be, change and go. */
#include "address_in_use.h"
#include "doorbell.h"
#include "hooks.h"
#include "keeper_client.h"

#include <errno.h>
#include <linux/close_range.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Netfilter's number, of both families: linux/netfilter_ipv4.h. */
enum { SO_ORIGINAL_DST = 80 };

/* From here on, what other objects see in libc's place. */
#pragma GCC visibility push(default)

int listen(int fd, int backlog) {
    if (!concerns_us())
        return libc.listen(fd, backlog);
    struct preparation preparation = {.keeper = NO_KEEPER, .connection = -1};
    unsigned getting_by = 0;
    if (mark_of(fd) != SYNERGY_UNTOUCHED)
        ASIDE(preparation = socket_will_listen(fd); getting_by = options_that_get_by_listening(fd));
    int result = getting_by ? listen_without(getting_by, fd, backlog) : libc.listen(fd, backlog);
    if (result != 0)
        ASIDE(socket_does_not_listen(fd, &preparation));
    else if (mark_of(fd) != SYNERGY_UNTOUCHED)
        ASIDE(socket_listens_as_prepared(fd, &preparation));
    else if (result == 0)
        ASIDE(left_out_listens(fd));
    ensure_stock_is_taken();
    return result;
}

int bind(int fd, const struct sockaddr *address, socklen_t length) {
    if (!concerns_us())
        return libc.bind(fd, address, length);
    unsigned getting_by = 0;
    ASIDE(socket_may_be_disconnected(fd); getting_by = options_that_get_by(fd, address, length));
    int result =
        getting_by ? bind_without(getting_by, fd, address, length) : libc.bind(fd, address, length);
    if (result != 0 && errno == EADDRINUSE && !getting_by && may_ask()) {
        struct aside aside = aside_begin();
        result = bind_again(fd, address, length);
        aside.error = result == 0 ? aside.error : errno;
        aside_end(&aside);
    }
    if (result == 0)
        ASIDE(socket_is_bound(fd, address, length));
    ensure_stock_is_taken();
    return result;
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    if (!concerns_us())
        return libc.connect(fd, address, length);
    int result = libc.connect(fd, address, length), is_free = 0;
    if (result == 0 && address->sa_family == AF_UNSPEC)
        ASIDE(socket_is_disconnected(fd));
    if (__builtin_expect(result < 0 && errno == EADDRNOTAVAIL, 0))
        ASIDE(is_free = are_ends_given_up(fd, address, length));
    return is_free ? libc.connect(fd, address, length) : result;
}

/* After the call, so that its port is free when it returns. */
static void after_closing(const struct descriptor *descriptor) {
    if (is_kept(*descriptor))
        ASIDE(socket_is_closed(descriptor));
}

typedef int (*closing)(int fd);

/* Before the call: as soon as the number is free, another thread may have it. */
__attribute__((noinline)) static int close_ours(int fd, closing way) {
    struct descriptor descriptor = {.mark = SYNERGY_UNKNOWN};
    ASIDE(descriptor = forget_descriptor(fd));
    int result = way(fd);
    after_closing(&descriptor);
    return result;
}

__attribute__((always_inline)) static inline int close_by(closing way, int fd) {
    if (!concerns_us())
        return way(fd);
    uint64_t word = descriptor_word(fd);
    if ((word & MARKS) == SYNERGY_UNTOUCHED)
        forget_untouched(fd);
    else if (word != SYNERGY_UNKNOWN)
        return close_ours(fd, way);
    return way(fd);
}

int close(int fd) {
    return close_by(libc.close, fd);
}

/* No cancellation point, which close() is. */
static int close_number(int fd) {
    return (int)libc.syscall(SYS_close, fd);
}

__attribute__((visibility("hidden"))) int close_by_number(int fd) {
    return close_by(close_number, fd);
}

int fclose(FILE *stream) {
    if (!concerns_us())
        return libc.fclose(stream);
    int error = errno, fd = fileno(stream);
    errno = error;
    struct descriptor descriptor = descriptor_of(fd);
    if (is_ours(descriptor.mark))
        ASIDE(forget_descriptor(fd));
    else if (descriptor.mark == SYNERGY_UNTOUCHED)
        forget_untouched(fd);
    int result = libc.fclose(stream);
    after_closing(&descriptor);
    return result;
}

/* The number stands for what `fd` stands for. */
static void after_replacing(int fd, int number) {
    if (descriptor_word(number) == SYNERGY_UNKNOWN && !is_ours(mark_of(fd)) &&
        !(descriptor_word(fd) & HIDDEN_OPTIONS))
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
    if (result == 0 && how != SHUT_WR && mark_of(fd) != SYNERGY_UNTOUCHED)
        ASIDE(socket_may_be_disconnected(fd));
    return result;
}

/* 0: none of those that we set. */
static inline unsigned hidden_option(int level, int name) {
    return level != SOL_SOCKET    ? 0
           : name == SO_REUSEADDR ? HIDDEN_REUSEADDR
           : name == SO_REUSEPORT ? HIDDEN_REUSEPORT
                                  : 0;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length) {
    if (!concerns_us())
        return libc.setsockopt(fd, level, name, value, length);
    int result = libc.setsockopt(fd, level, name, value, length);
    if (result == 0 && level == IPPROTO_TCP && (name == TCP_MD5SIG || name == TCP_MD5SIG_EXT))
        ASIDE(socket_has_key(fd, name, value, length));
    if (result == 0 && hidden_option(level, name))
        ASIDE(option_is_set(fd, hidden_option(level, name)));
    enum synergy_mark mark = mark_of(fd);
    if (result == 0 && mark == SYNERGY_LISTENER)
        ASIDE(socket_listens(fd));
    if (result == 0 && mark == SYNERGY_DATAGRAMS &&
        ((level == IPPROTO_IP && name == IP_RECVERR) ||
         (level == IPPROTO_IPV6 && name == IPV6_RECVERR)))
        ASIDE(socket_asks_for_errors(fd));
    return result;
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *length) {
    int is_ours_to_see = concerns_us();
    int result = libc.getsockopt(fd, level, name, value, length);
    if (is_ours_to_see && name == SO_ORIGINAL_DST && result == 0 && is_punched(fd))
        ASIDE(show_own_address(fd, level, value, length));
    /* (The kernel has written there, not beyond *length.) */
    if (is_ours_to_see && result == 0 && hidden_option(level, name) && *length > 0 &&
        *(const char *)value != 0) {
        int is_hidden = 0;
        ASIDE(is_hidden = is_option_hidden(fd, hidden_option(level, name)));
        if (is_hidden)
            memset(value, 0, *length);
    }
    return result;
}

#pragma GCC visibility pop
