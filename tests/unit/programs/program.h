/* What the programs of the hook tests share. Each prints what it finds, line by line, and ends with
 * 0 if it came to its end; test_results.py compares the lines with and without the library. */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Ends the program, saying where, if a condition that everything else rests on does not hold. */
#define NEED(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, strerror(errno));            \
            fflush(stdout);                                                                        \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static inline struct sockaddr_in6 any_v6(uint16_t port) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    return address;
}

static inline struct sockaddr_in6 loopback_v6(uint16_t port) {
    struct sockaddr_in6 address = any_v6(port);
    address.sin6_addr = in6addr_loopback;
    return address;
}

static inline uint16_t port_of(int fd) {
    struct sockaddr_in6 address = {0};
    socklen_t length = sizeof address;
    return getsockname(fd, (struct sockaddr *)&address, &length) == 0 ? ntohs(address.sin6_port)
                                                                      : 0;
}

/* A socket bound to a port of every address, without any option. -1 and errno. */
static inline int bound_at(int type, uint16_t port) {
    int fd = socket(AF_INET6, type, 0);
    struct sockaddr_in6 at = any_v6(port);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static inline int listener_at(uint16_t port) {
    int fd = bound_at(SOCK_STREAM, port);
    NEED(fd >= 0);
    NEED(listen(fd, 16) == 0);
    return fd;
}

/* A client of this host's. */
static inline int client_of(uint16_t port) {
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 to = loopback_v6(port);
    NEED(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
    return fd;
}
