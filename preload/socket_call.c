/* synergy() and synergy_to(), the calls that a program makes knowingly. */
#include "aside.h"
#include "filters.h"
#include "include/sys/socketsynergy.h"
#include "keeper_start.h"
#include "process.h"
#include "server_sockets.h"
#include "settings_look.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

/* 0, or an errno. */
static int read_peer(const struct sockaddr *peer, socklen_t length, union synergy_endpoint *to) {
    memset(to, 0, sizeof *to);
    if (!peer)
        return 0;
    if (length < sizeof peer->sa_family)
        return EINVAL;
    size_t size = peer->sa_family == AF_INET    ? sizeof to->v4
                  : peer->sa_family == AF_INET6 ? sizeof to->v6
                                                : 0;
    if (size == 0)
        return EAFNOSUPPORT;
    if (length < size)
        return EINVAL;
    memcpy(to, peer, size);
    return 0;
}

#pragma GCC visibility push(default)

int synergy_to(int sockfd, const struct sockaddr *peer, socklen_t len, int hoplimit) {
    union synergy_endpoint to;
    if (!may_begin()) {
        errno = EPERM;
        return -1;
    }
    struct aside aside = aside_begin();
    int error = read_peer(peer, len, &to);
    if (error == 0)
        error = care() ? 0 : ENOMEM;
    if (error == 0)
        error = process_is_own() ? open_toward(sockfd, &to, hoplimit) : ELIBACC;
    if (error != 0)
        aside.error = error;
    aside_end(&aside);
    return error == 0 ? 0 : -1;
}

int synergy(int sockfd, uint8_t hoplimit, struct sockaddr_in6 *symcli) {
    return synergy_to(sockfd, (const struct sockaddr *)symcli, symcli ? sizeof *symcli : 0,
                      hoplimit);
}

#pragma GCC visibility pop
