#include "doorbell.h"

#include "aside.h"
#include "descriptors.h"
#include "exchange.h"
#include "keeper_client.h"
#include "libc_calls.h"
#include "other_end.h"
#include "settings_look.h"
#include "socket_look.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int asks_where_from(int fd) {
    int error = errno;
    union synergy_endpoint from = {0};
    socklen_t length = sizeof from;
    /* Of one that has been reset meanwhile it can't be told. */
    int may_be =
        getpeername(fd, &from.any, &length) == 0 ? is_from_bell_port(&from) : errno == ENOTCONN;
    errno = error;
    return may_be;
}

static int is_v6(const union synergy_endpoint *end) {
    return end->any.sa_family == AF_INET6;
}

/* A bell comes from the very address that it goes to: no client from elsewhere does. What SCTP
 * accepts keeps the wildcard of its listener, at which bells ring by the loopback address. */
static int is_from_itself(const union synergy_endpoint *from, const union synergy_endpoint *to) {
    if (from->any.sa_family != to->any.sa_family)
        return 0;
    if (is_v6(from)) {
        const struct in6_addr *one = &from->v6.sin6_addr, *other = &to->v6.sin6_addr;
        int is_loopback = IN6_IS_ADDR_LOOPBACK(one) ||
                          (IN6_IS_ADDR_V4MAPPED(one) && one->s6_addr[12] == IN_LOOPBACKNET);
        return memcmp(one, other, sizeof *one) == 0 ||
               (is_loopback && IN6_IS_ADDR_UNSPECIFIED(other));
    }
    uint32_t one = ntohl(from->v4.sin_addr.s_addr), other = ntohl(to->v4.sin_addr.s_addr);
    return one == other || (one >> 24 == IN_LOOPBACKNET && other == INADDR_ANY);
}

/* Whether it comes from where bells come from. One that is over has no peer any more. */
static int comes_from_here(int fd) {
    union synergy_endpoint from = {0}, to = {0};
    socklen_t length = sizeof to;
    if (getsockname(fd, &to.any, &length) != 0 || (!is_v6(&to) && to.any.sa_family != AF_INET))
        return 0;
    length = sizeof from;
    if (getpeername(fd, &from.any, &length) != 0)
        return errno == ENOTCONN;
    return is_from_bell_port(&from) && is_from_itself(&from, &to);
}

/* Whether it says that it is a bell, which it does as soon as it is connected. */
static int says_so(int fd, struct synergy_bell *said) {
    return kernel(SYS_recvfrom, fd, said, sizeof *said, MSG_PEEK | MSG_DONTWAIT, NULL, NULL) ==
               sizeof *said &&
           memcmp(said->text, SYNERGY_BELL_TEXT, sizeof said->text) == 0;
}

/* Its keeper may have been about to say it. */
static int says_so_soon(int fd, struct synergy_bell *said) {
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    struct timespec patience = {.tv_nsec = 100000000};
    kernel(SYS_ppoll, &readable, 1, &patience, NULL, 0);
    return says_so(fd, said);
}

/* Where the bell had to give its number away, it came back by what was received. */
static int has_bell(int *bell, int *received) {
    if (*received >= 0 && *bell >= 0)
        kernel(SYS_close, *received);
    else if (*received >= 0)
        *bell = *received;
    *received = -1;
    return *bell >= 0;
}

/* Of a keeper that is found by a name. True where one was there, and *error is what it says. */
static int fetch_by_name(const struct synergy_address *name, uid_t owner,
                         struct synergy_request *request, int *bell, struct synergy_answer *answer,
                         int *received, int *error) {
    *error = fetch_from(name, owner, request, bell, answer, received);
    if (*error != 0)
        return 0;
    *error = answer->result;
    if (*error != 0)
        has_bell(bell, received);
    return 1;
}

/* Asks for the connection that a bell stands for, whoever has it: the keeper that the listener is
 * known to have, or any that is known (nothing may have been noted of the listener, or its number
 * stood for something else when that was), or who is found by the listener, or by what the bell
 * says. 0 and the connection, or an errno: ENOENT, it is no bell; ESTALE, it was one. */
static int fetch(int listener, int *bell, int flags, struct synergy_answer *answer, int *received) {
    struct descriptor known = descriptor_of(listener);
    struct synergy_request request = {.kind = SYNERGY_FETCH, .flags = flags & SOCK_NONBLOCK};
    int error = ESRCH;
    for (int i = 0; i < KEEPERS && keeper_page(i); i++) {
        struct synergy_request its = request;
        /* (Of its own keeper the end is to be noticed.) */
        if (known.mark == SYNERGY_LISTENER ? known.keeper != (unsigned)i
                                           : synergy_is_over(keeper_page(i)))
            continue;
        int failure = fetch_from_keeper(i, &its, bell, answer, received);
        error = failure == 0 ? answer->result : failure;
        if (error == 0 || error == ETIMEDOUT || !has_bell(bell, received) || error == ESTALE)
            return error;
    }
    struct identity identity;
    struct synergy_address name = {0};
    struct synergy_bell said;
    int is_its_keepers_word = error == ENOENT && known.mark == SYNERGY_LISTENER;
    if (!identify(listener, &identity))
        return errno;
    synergy_name_of(identity.cookie, &name);
    if (fetch_by_name(&name, identity.owner, &request, bell, answer, received, &error))
        return error;
    /* (Others' keepers don't know.) */
    if (is_its_keepers_word)
        return ENOENT;
    /* Its keeper may have given the listener up. */
    if (*bell >= 0 && says_so(*bell, &said)) {
        synergy_name_of_ringer(&said, &name);
        fetch_by_name(&name, identity.owner, &request, bell, answer, received, &error);
    }
    return error;
}

/* Puts the peer's address in the place of the bell's, as accept(2) would have. */
static void hand_down(const union synergy_endpoint *peer, const struct caller_address *caller) {
    if (!caller->address || !caller->length)
        return;
    socklen_t size = is_v6(peer) ? sizeof peer->v6 : sizeof peer->v4;
    memcpy(caller->address, peer, caller->room < size ? caller->room : size);
    *caller->length = size;
}

int is_punched(int fd) {
    struct descriptor descriptor = descriptor_of(fd);
    return descriptor.mark == SYNERGY_UNTOUCHED && descriptor.cookie != 0 &&
           descriptor.cookie == cookie_of(fd);
}

void show_own_address(int fd, int level, void *value, const socklen_t *length) {
    union synergy_endpoint own = {0};
    socklen_t size = sizeof own;
    if (getsockname(fd, &own.any, &size) != 0)
        return;
    if (level == IPPROTO_IPV6 && is_v6(&own) && *length >= sizeof own.v6)
        memcpy(value, &own.v6, sizeof own.v6);
    if (level != IPPROTO_IP || *length < sizeof own.v4)
        return;
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = own.v4.sin_port};
    if (is_v6(&own))
        memcpy(&v4.sin_addr, &own.v6.sin6_addr.s6_addr[12], sizeof v4.sin_addr);
    else
        v4.sin_addr = own.v4.sin_addr;
    memcpy(value, &v4, sizeof v4);
}

/* As accept4() would have left it. */
static void keep_on_exec(int fd, int flags) {
    kernel(SYS_fcntl, fd, F_SETFD, flags & SOCK_CLOEXEC ? FD_CLOEXEC : 0);
}

static void refuse(int fd, int error) {
    struct synergy_refusal refusal = {.error = error};
    memcpy(refusal.text, SYNERGY_REFUSAL_TEXT, sizeof refusal.text);
    kernel(SYS_sendto, fd, &refusal, sizeof refusal, MSG_NOSIGNAL | MSG_DONTWAIT, NULL, 0);
}

/* The keeper waits until there is room. */
static void say_that_there_is_no_room(int listener) {
    struct descriptor known = descriptor_of(listener);
    if (known.mark == SYNERGY_LISTENER)
        tell_starved((int)known.keeper);
}

/* Whether somebody else says so, whom a server would then wait for in vain: a bell is its keeper's,
 * and that its listener's owner's, root's or one's own. (Who can't ask believes it.) */
static int is_strangers(int listener, int fd) {
    struct identity identity;
    struct owner ringer = {0};
    return user_at_other_end(fd, &ringer.user) && identify(listener, &identity) &&
           !is_trusted(&ringer, identity.owner);
}

static enum accepted turned_away(int fd, int error) {
    refuse(fd, error);
    kernel(SYS_close, fd);
    return NO_ONE;
}

/* By what the keeper has in its page, where the listener is known to be its. */
static int is_bell_at(int listener, const struct synergy_bell *said) {
    struct descriptor known = descriptor_of(listener);
    return known.mark != SYNERGY_LISTENER ||
           synergy_is_bell_of(keeper_page((int)known.keeper), said);
}

enum accepted turn_bell_away(int listener, int fd, int error) {
    struct synergy_bell said;
    return comes_from_here(fd) && says_so_soon(fd, &said) && is_bell_at(listener, &said)
               ? turned_away(fd, error)
               : ORDINARY;
}

/* Whether a keeper that lives would have been found where it was looked for in vain. (At a name
 * where nobody answers is a stranger: one's own keeper is asked by its page.) */
static int is_unkept(int listener, int error) {
    struct identity identity;
    return descriptor_of(listener).mark != SYNERGY_LISTENER &&
           (error == ETIMEDOUT || (error == ECONNREFUSED && identify(listener, &identity) &&
                                   identity.network != 0 && is_in_network(identity.network)));
}

/* It comes from where bells come from, and nothing comes of it. What no keeper knows is a client
 * like others; only of one that is out of reach it is believed, unless it is known to be untrue. */
static enum accepted judge(int listener, int fd, int error) {
    struct synergy_bell said;
    /* These only a keeper says, of its own. */
    if (error == ESTALE || error == ECONNABORTED)
        return turned_away(fd, error);
    return error != ENOENT && !is_unkept(listener, error) && says_so_soon(fd, &said) &&
                   is_bell_at(listener, &said) && !is_strangers(listener, fd)
               ? turned_away(fd, error)
               : ORDINARY;
}

enum accepted answer_bell(int listener, int *fd, int flags, const struct caller_address *caller) {
    if (!comes_from_here(*fd))
        return ORDINARY;
    struct synergy_answer answer = {0};
    int bell = *fd, received = -1;
    int error = fetch(listener, &bell, flags, &answer, &received);
    if (error == 0 && received < 0)
        error = EMFILE;
    if (error == 0) {
        if (bell < 0) {
            keep_on_exec(bell = received, flags);
        } else {
            if (kernel(SYS_dup3, received, bell, flags & SOCK_CLOEXEC ? O_CLOEXEC : 0) != bell)
                error = errno;
            kernel(SYS_close, received);
        }
    }
    if (error == 0) {
        *fd = bell;
        /* It has no peers, and is known again. */
        if (is_concerned())
            set_descriptor(bell, (struct descriptor){.mark = SYNERGY_UNTOUCHED,
                                                     .hidden = descriptor_of(listener).hidden,
                                                     .cookie = cookie_of(bell)});
        hand_down(&answer.peer, caller);
        return REPLACED;
    }
    if (error == EMFILE || error == ENFILE)
        say_that_there_is_no_room(listener);
    if (bell < 0)
        return NO_ONE;
    if (bell != *fd)
        keep_on_exec(*fd = bell, flags);
    return judge(listener, bell, error);
}
