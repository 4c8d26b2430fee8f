#include "address_in_use.h"

#include "aside.h"
#include "keeper_client.h"
#include "libc_calls.h"
#include "process.h"
#include "server_sockets.h"
#include "settings_look.h"
#include "socket_look.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

unsigned options_that_get_by(int fd, const struct sockaddr *address, socklen_t length) {
    struct synergy_request request = {.kind = SYNERGY_BIND};
    socklen_t size = length < sizeof request.peer ? length : sizeof request.peer;
    if (size < sizeof request.peer.v4 || readable_bytes(address, size) < size)
        return 0;
    memcpy(&request.peer, address, size);
    uint16_t port = ntohs(request.peer.v4.sin_port);
    int family = request.peer.any.sa_family;
    if ((family != AF_INET && (family != AF_INET6 || size < sizeof request.peer.v6)) ||
        length > sizeof(struct sockaddr_storage) || port == 0 || !settings_mean_port(port) ||
        option_of(fd, SO_REUSEPORT) != 1 || option_of(fd, SO_DOMAIN) != family)
        return 0;
    enum transport transport = transport_of(fd);
    struct synergy_answer answer = {0};
    request.flags = transport;
    if (transport == NEITHER || ask_who_has_port(transport, port, &request, fd, &answer) != 0 ||
        answer.result != EADDRINUSE)
        return 0;
    return HIDDEN_REUSEPORT |
           (answer.flags & SYNERGY_LETS_OTHERS_IN || option_of(fd, SO_REUSEADDR) != 1
                ? 0
                : HIDDEN_REUSEADDR);
}

static void set_options(unsigned options, int fd, int value) {
    if (options & HIDDEN_REUSEADDR)
        set_option(fd, SO_REUSEADDR, value);
    if (options & HIDDEN_REUSEPORT)
        set_option(fd, SO_REUSEPORT, value);
}

int bind_without(unsigned options, int fd, const struct sockaddr *address, socklen_t length) {
    set_options(options, fd, 0);
    int result = libc.bind(fd, address, length), error = errno;
    set_options(options, fd, 1);
    errno = error;
    return result;
}

unsigned options_that_get_by_listening(int fd) {
    struct sockaddr_storage local = {0};
    socklen_t length = sizeof local;
    if (option_of(fd, SO_REUSEPORT) != 1 || option_of(fd, SO_ACCEPTCONN) != 0 ||
        getsockname(fd, (struct sockaddr *)&local, &length) != 0)
        return 0;
    return options_that_get_by(fd, (struct sockaddr *)&local, length) & HIDDEN_REUSEPORT;
}

int listen_without(unsigned options, int fd, int backlog) {
    set_options(options, fd, 0);
    int result = libc.listen(fd, backlog), error = errno;
    set_options(options, fd, 1);
    errno = error;
    return result;
}

int is_free_for_who_lets_others_in(int fd, const struct sockaddr *address, socklen_t length) {
    int again = (int)kernel(SYS_socket, address->sa_family, option_of(fd, SO_TYPE) | SOCK_CLOEXEC,
                            option_of(fd, SO_PROTOCOL));
    if (again < 0)
        return 0;
    set_option(again, SO_REUSEADDR, 1);
    int is_free = kernel(SYS_bind, again, address, length) == 0;
    kernel(SYS_close, again);
    return is_free;
}

static int do_keepers_give_way(const struct sockaddr *address) {
    int is_any = 0;
    for (int i = 0; process_is_own() && i < KEEPERS && keeper_page(i); i++) {
        struct synergy_request request = {.kind = SYNERGY_GIVE_WAY};
        struct synergy_answer answer;
        memcpy(&request.peer, address, sizeof request.peer.v4);
        is_any |= !synergy_is_over(keeper_page(i)) && ask_keeper(i, &request, -1, &answer) == 0 &&
                  answer.result == 0;
    }
    return is_any;
}

/* Whether nothing keeps the address from the socket but what a keeper has kept for it since the
 * last listener was closed. */
static int is_kept_for(int fd, const struct sockaddr *address, socklen_t length) {
    socklen_t size =
        address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    struct synergy_request request = {.kind = SYNERGY_BESIDE};
    struct synergy_answer answer;
    /* (It has no port, or bind() would have failed otherwise. What getsockname(2) says may be the
     * one that it had before connect(AF_UNSPEC).) */
    if (length < size || transport_of(fd) != TCP || option_of(fd, SO_DOMAIN) != address->sa_family)
        return 0;
    memcpy(&request.peer, address, size);
    for (int i = 0; process_is_own() && i < KEEPERS && keeper_page(i); i++)
        if (!synergy_is_over(keeper_page(i)) && ask_keeper(i, &request, fd, &answer) == 0 &&
            answer.result == 0)
            return 1;
    return 0;
}

int are_ends_given_up(int fd, const struct sockaddr *address, socklen_t length) {
    struct synergy_request request = {.kind = SYNERGY_MAKE_WAY};
    struct synergy_answer answer;
    socklen_t size = length < sizeof request.peer ? length : sizeof request.peer;
    if (size < sizeof request.peer.v4 || readable_bytes(address, size) < size ||
        transport_of(fd) != TCP || port_of(fd) == 0)
        return 0;
    memcpy(&request.peer, address, size);
    int is_any = 0;
    for (int i = 0; process_is_own() && i < KEEPERS && keeper_page(i); i++)
        is_any |= !synergy_is_over(keeper_page(i)) && ask_keeper(i, &request, fd, &answer) == 0 &&
                  answer.result == 0;
    return is_any;
}

static int bind_beside(int fd, const struct sockaddr *address, socklen_t length) {
    int shares = option_of(fd, SO_REUSEPORT);
    set_option(fd, SO_REUSEPORT, 1);
    int result = libc.bind(fd, address, length), error = errno;
    set_option(fd, SO_REUSEPORT, shares);
    errno = error;
    return result;
}

/* What a server that has ended has left for the next one of its kind. False: no keeper has a socket
 * on the port. */
static int have_port_given_up(enum transport transport, uint16_t port) {
    struct synergy_request request = {.kind = SYNERGY_GIVE_WAY};
    struct synergy_answer answer = {0};
    return ask_who_has_port((int)transport, port, &request, -1, &answer) != ECONNREFUSED;
}

int bind_again(int fd, const struct sockaddr *address, socklen_t length) {
    /* (A keeper's name goes with it, and the last of its sockets some milliseconds later.) */
    enum { PATIENCE_MS = 20, DATAGRAM_PATIENCE_MS = 6, NO_KEEPERS_PATIENCE_MS = 6 };
    if (length < sizeof(struct sockaddr_in) ||
        (address->sa_family != AF_INET && address->sa_family != AF_INET6)) {
        errno = EADDRINUSE;
        return -1;
    }
    uint16_t port = port_in(address);
    enum transport transport = transport_of(fd);
    int patience = 0, has_way_been_given = 0, has_keeper = 1, result, error;
    for (int waited = 0;; waited++) {
        if (is_kept_for(fd, address, length)) {
            result = bind_beside(fd, address, length);
            has_way_been_given = 1;
        } else {
            has_way_been_given |= do_keepers_give_way(address);
            if (waited == 0 && transport == TCP && port != 0 && settings_mean_port(port))
                has_keeper = have_port_given_up(transport, port);
            result = libc.bind(fd, address, length);
        }
        error = errno;
        /* A datagram socket that is about to go can't be told from one that stays. */
        if (waited == 0 && result != 0 && error == EADDRINUSE && port != 0 &&
            settings_mean_port(port))
            patience = transport == UDP ? DATAGRAM_PATIENCE_MS
                       /* Then no listener is there, but what a server that was killed just now has
                        * left, for a moment yet. */
                       : !is_free_for_who_lets_others_in(fd, address, length) ? 0
                       : has_keeper                                           ? PATIENCE_MS
                                    : NO_KEEPERS_PATIENCE_MS;
        if (result == 0 || error != EADDRINUSE || waited == patience)
            break;
        wait_a_millisecond();
    }
    if (result == 0 && has_way_been_given)
        /* What has gone, or stands there, did so for a listener that was closed: at once again. */
        socket_may_listen(fd);
    errno = error;
    return result;
}
