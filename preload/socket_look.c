#include "socket_look.h"

#include "libc_calls.h"
#include "wire.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

int option_of(int fd, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    return libc.getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0 ? value : -1;
}

uint64_t cookie_of(int fd) {
    uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    return libc.getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0 ? cookie : 0;
}

enum transport transport_of(int fd) {
    errno = 0;
    switch (option_of(fd, SO_PROTOCOL)) {
    case IPPROTO_TCP:
    case IPPROTO_MPTCP:
        return TCP;
    case IPPROTO_UDP:
        return UDP;
    case IPPROTO_SCTP:
        return SCTP;
    default:
        return NEITHER;
    }
}

int is_one_to_many(int fd, enum transport transport) {
    return transport == SCTP && option_of(fd, SO_TYPE) == SOCK_SEQPACKET;
}

uint16_t port_in(const struct sockaddr *address) {
    union synergy_endpoint endpoint = {0};
    /* In both families at the same place. */
    memcpy(&endpoint, address, sizeof endpoint.v4);
    return ntohs(endpoint.v4.sin_port);
}

uint16_t port_of(int fd) {
    struct sockaddr_storage local = {0};
    socklen_t length = sizeof local;
    if (getsockname(fd, (struct sockaddr *)&local, &length) != 0 ||
        (local.ss_family != AF_INET && local.ss_family != AF_INET6))
        return 0;
    return port_in((struct sockaddr *)&local);
}

int is_connected(int fd) {
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    return getpeername(fd, (struct sockaddr *)&peer, &length) == 0;
}

static int is_on(int fd, int level, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    return libc.getsockopt(fd, level, name, &value, &length) == 0 && value != 0;
}

int asks_for_errors(int fd) {
    return is_on(fd, IPPROTO_IP, IP_RECVERR) || is_on(fd, IPPROTO_IPV6, IPV6_RECVERR);
}

void set_option(int fd, int name, int value) {
    libc.setsockopt(fd, SOL_SOCKET, name, &value, sizeof value);
}

void admit_others(int fd) {
    static const int on = 1;
    libc.setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    libc.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
}
