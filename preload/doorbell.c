#include "doorbell.h"

#include "aside.h"
#include "descriptors.h"
#include "keeper_client.h"
#include "libc_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/syscall.h>
#include <unistd.h>

struct end {
    union synergy_endpoint address;
    socklen_t length;
};

static int is_v6(const struct end *end) {
    return end->address.any.sa_family == AF_INET6;
}

/* A bell comes from the very address that it goes to: no client from elsewhere does. What SCTP
 * accepts keeps the wildcard of its listener, at which bells ring by the loopback address. */
static int is_from_itself(const struct end *from, const struct end *to) {
    if (from->address.any.sa_family != to->address.any.sa_family)
        return 0;
    if (is_v6(from)) {
        const struct in6_addr *one = &from->address.v6.sin6_addr,
                              *other = &to->address.v6.sin6_addr;
        int is_loopback = IN6_IS_ADDR_LOOPBACK(one) ||
                          (IN6_IS_ADDR_V4MAPPED(one) && one->s6_addr[12] == IN_LOOPBACKNET);
        return memcmp(one, other, sizeof *one) == 0 ||
               (is_loopback && IN6_IS_ADDR_UNSPECIFIED(other));
    }
    uint32_t one = ntohl(from->address.v4.sin_addr.s_addr),
             other = ntohl(to->address.v4.sin_addr.s_addr);
    return one == other || (one >> 24 == IN_LOOPBACKNET && other == INADDR_ANY);
}

static int is_bell(const struct synergy_page *page, int fd, struct end *from) {
    struct end to = {.length = sizeof to.address};
    from->length = sizeof from->address;
    if (getpeername(fd, &from->address.any, &from->length) != 0 ||
        (!is_v6(from) && from->address.any.sa_family != AF_INET) ||
        !synergy_bit(page->bells, ntohs(from->address.v4.sin_port)))
        return 0;
    return getsockname(fd, &to.address.any, &to.length) == 0 && is_from_itself(from, &to);
}

/* Puts the peer's address in the place of the bell's, as accept(2) would have. */
static void hand_down(const union synergy_endpoint *peer, const struct caller_address *caller) {
    if (!caller->address || !caller->length)
        return;
    socklen_t size = peer->any.sa_family == AF_INET6 ? sizeof peer->v6 : sizeof peer->v4;
    memcpy(caller->address, peer, caller->room < size ? caller->room : size);
    *caller->length = size;
}

static uint64_t cookie_of(int fd) {
    uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    return libc.getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0 ? cookie : 0;
}

int is_punched(int fd) {
    struct descriptor descriptor = descriptor_of(fd);
    return descriptor.mark == SYNERGY_UNTOUCHED && descriptor.cookie != 0 &&
           descriptor.cookie == cookie_of(fd);
}

void show_own_address(int fd, int level, void *value, socklen_t *length) {
    struct end own = {.length = sizeof own.address};
    if (getsockname(fd, &own.address.any, &own.length) != 0)
        return;
    if (level == IPPROTO_IPV6 && is_v6(&own) && *length >= sizeof own.address.v6)
        memcpy(value, &own.address.v6, sizeof own.address.v6);
    if (level != IPPROTO_IP || *length < sizeof own.address.v4)
        return;
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = own.address.v4.sin_port};
    if (is_v6(&own))
        memcpy(&v4.sin_addr, &own.address.v6.sin6_addr.s6_addr[12], sizeof v4.sin_addr);
    else
        v4.sin_addr = own.address.v4.sin_addr;
    memcpy(value, &v4, sizeof v4);
}

enum accepted answer_bell(int keeper, int fd, int flags, const struct caller_address *caller) {
    struct end bell;
    if (!is_bell(keeper_page(keeper), fd, &bell))
        return ORDINARY;
    struct synergy_request request = {.kind = SYNERGY_FETCH, .flags = flags & SOCK_NONBLOCK};
    struct synergy_answer answer = {0};
    int connection = -1;
    int error = ask_keeper(keeper, &request, fd, &answer, &connection);
    if (error == 0)
        error = answer.result;
    /* Where there is no room for it now, the keeper rings again. Where there is no keeper, its
     * connections have ended with it. */
    if (error == ENOENT)
        return ORDINARY;
    if (error == 0 && connection >= 0 &&
        syscall(SYS_dup3, connection, fd, flags & SOCK_CLOEXEC ? O_CLOEXEC : 0) == fd) {
        syscall(SYS_close, connection);
        /* It has no peers, and is known again. */
        set_descriptor(fd, (struct descriptor){.mark = SYNERGY_UNTOUCHED, .cookie = cookie_of(fd)});
        hand_down(&answer.peer, caller);
        return REPLACED;
    }
    if (connection >= 0)
        syscall(SYS_close, connection);
    syscall(SYS_close, fd);
    return NO_ONE;
}
