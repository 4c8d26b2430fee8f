/*
 * UDP servers as they are written today. Each datagram comes back after "ADDRESS PORT ".
 *
 *   udp_kinds KIND PORT
 *
 *   connected   a socket for each client, connected to it, beside the one that is bound: the way
 *               of openvpn and of DTLS servers
 *   group       four sockets by SO_REUSEPORT, each with a process
 *   offload     recvmmsg() with UDP_GRO, sendmmsg() with UDP_SEGMENT: the way of QUIC servers
 *   source      answers from the address that it was called by (IPV6_PKTINFO)
 *   timed       recvmmsg() with a timeout, again and again
 *   uring       receives and sends by io_uring alone
 *   recv read   the socket is descriptor 3, from who started it, and connected at the first
 * datagram
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SIZE = 2048 };

#define NEED(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            perror(#condition);                                                                    \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static int bound(uint16_t port, int shared) {
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    NEED(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &shared, sizeof shared) == 0);
    if (shared)
        NEED(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &shared, sizeof shared) == 0);
    NEED(bind(fd, (struct sockaddr *)&any, sizeof any) == 0);
    return fd;
}

static size_t reply(char *to, const struct sockaddr_in6 *peer, const char *data, ssize_t size) {
    char address[INET6_ADDRSTRLEN];
    inet_ntop(AF_INET6, &peer->sin6_addr, address, sizeof address);
    return (size_t)snprintf(to, SIZE, "%s %u %.*s", address, ntohs(peer->sin6_port), (int)size,
                            data);
}

static void serve(int fd) {
    for (;;) {
        char data[SIZE / 2], text[SIZE];
        struct sockaddr_in6 peer;
        socklen_t length = sizeof peer;
        ssize_t got = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&peer, &length);
        if (got >= 0)
            sendto(fd, text, reply(text, &peer, data, got), 0, (struct sockaddr *)&peer, length);
    }
}

static void serve_connected(uint16_t port) {
    struct pollfd ready[64] = {{.fd = bound(port, 1), .events = POLLIN}};
    struct sockaddr_in6 peers[64];
    nfds_t count = 1;
    for (;;) {
        NEED(poll(ready, count, -1) > 0);
        for (nfds_t i = 0; i < count; i++) {
            char data[SIZE / 2], text[SIZE];
            socklen_t length = sizeof *peers;
            if (!(ready[i].revents & POLLIN))
                continue;
            ssize_t got =
                recvfrom(ready[i].fd, data, sizeof data, 0, (struct sockaddr *)&peers[i], &length);
            if (got < 0)
                continue;
            nfds_t of = i;
            if (i == 0) {
                NEED(count < 64);
                of = count++;
                peers[of] = peers[0];
                ready[of] = (struct pollfd){.fd = bound(port, 1), .events = POLLIN};
                NEED(connect(ready[of].fd, (struct sockaddr *)&peers[of], length) == 0);
            }
            send(ready[of].fd, text, reply(text, &peers[of], data, got), 0);
        }
    }
}

static void make_room(int many, struct mmsghdr *messages, struct iovec *in,
                      struct sockaddr_in6 *peers, char (*data)[SIZE / 2]) {
    for (int i = 0; i < many; i++) {
        in[i] = (struct iovec){.iov_base = data[i], .iov_len = sizeof data[i]};
        messages[i] = (struct mmsghdr){.msg_hdr = {.msg_name = &peers[i],
                                                   .msg_namelen = sizeof peers[i],
                                                   .msg_iov = &in[i],
                                                   .msg_iovlen = 1}};
    }
}

static void serve_offloaded(int fd) {
    static const int on = 1;
    NEED(setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on) == 0);
    for (;;) {
        enum { MANY = 8 };
        static char data[MANY][SIZE / 2], text[SIZE];
        struct sockaddr_in6 peers[MANY];
        struct iovec in[MANY];
        struct mmsghdr messages[MANY];
        make_room(MANY, messages, in, peers, data);
        int got = recvmmsg(fd, messages, MANY, MSG_WAITFORONE, NULL);
        for (int i = 0; i < got; i++) {
            /* Two datagrams of one size, of which the second says the same. */
            size_t size = reply(text, &peers[i], data[i], messages[i].msg_len);
            memcpy(text + size, text, size <= SIZE - size ? size : 0);
            _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(uint16_t))] = {0};
            struct iovec out = {.iov_base = text, .iov_len = size * 2};
            struct mmsghdr answer = {.msg_hdr = {.msg_name = &peers[i],
                                                 .msg_namelen = sizeof peers[i],
                                                 .msg_iov = &out,
                                                 .msg_iovlen = 1,
                                                 .msg_control = control,
                                                 .msg_controllen = sizeof control}};
            struct cmsghdr *segment = CMSG_FIRSTHDR(&answer.msg_hdr);
            segment->cmsg_level = SOL_UDP;
            segment->cmsg_type = UDP_SEGMENT;
            segment->cmsg_len = CMSG_LEN(sizeof(uint16_t));
            uint16_t each = (uint16_t)size;
            memcpy(CMSG_DATA(segment), &each, sizeof each);
            sendmmsg(fd, &answer, 1, 0);
        }
    }
}

static void serve_timed(int fd) {
    for (;;) {
        enum { MANY = 4 };
        static char data[MANY][SIZE / 2], text[SIZE];
        struct sockaddr_in6 peers[MANY];
        struct iovec in[MANY];
        struct mmsghdr messages[MANY];
        make_room(MANY, messages, in, peers, data);
        /* (Looked at after each datagram: without the second flag it would wait for all of them.)
         */
        struct timespec patience = {.tv_nsec = 50000000};
        int got = recvmmsg(fd, messages, MANY, MSG_WAITFORONE, &patience);
        for (int i = 0; i < got; i++)
            sendto(fd, text, reply(text, &peers[i], data[i], messages[i].msg_len), 0,
                   (struct sockaddr *)&peers[i], sizeof peers[i]);
    }
}

/* One call at a time, by a ring of one. */
static int ring, ring_fd;
static struct io_uring_params ring_is;
static char *submissions, *completions;
static struct io_uring_sqe *entries;

static void make_ring(int fd) {
    ring = (int)syscall(SYS_io_uring_setup, 1, &ring_is);
    NEED(ring >= 0);
    ring_fd = fd;
    submissions = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    completions = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    entries =
        mmap(NULL, sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
    NEED(submissions != MAP_FAILED && completions != MAP_FAILED && entries != MAP_FAILED);
}

static int by_ring(unsigned char call, struct msghdr *message) {
    unsigned *tail = (unsigned *)(submissions + ring_is.sq_off.tail);
    unsigned *head = (unsigned *)(completions + ring_is.cq_off.head);
    unsigned mask = *(unsigned *)(completions + ring_is.cq_off.ring_mask);
    entries[0] =
        (struct io_uring_sqe){.opcode = call, .fd = ring_fd, .addr = (uintptr_t)message, .len = 1};
    ((unsigned *)(submissions + ring_is.sq_off.array))[0] = 0;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    NEED(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
    const struct io_uring_cqe *done =
        (const struct io_uring_cqe *)(completions + ring_is.cq_off.cqes) + (*head & mask);
    int result = done->res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

static void serve_by_ring(int fd) {
    make_ring(fd);
    for (;;) {
        char data[SIZE / 2], text[SIZE];
        struct sockaddr_in6 peer;
        struct iovec in = {.iov_base = data, .iov_len = sizeof data};
        struct msghdr message = {
            .msg_name = &peer, .msg_namelen = sizeof peer, .msg_iov = &in, .msg_iovlen = 1};
        int got = by_ring(IORING_OP_RECVMSG, &message);
        if (got < 0)
            continue;
        struct iovec out = {.iov_base = text, .iov_len = reply(text, &peer, data, got)};
        message.msg_iov = &out;
        by_ring(IORING_OP_SENDMSG, &message);
    }
}

static void serve_from_source(int fd) {
    static const int on = 1;
    NEED(setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on) == 0);
    for (;;) {
        char data[SIZE / 2], text[SIZE];
        struct sockaddr_in6 peer;
        struct iovec in = {.iov_base = data, .iov_len = sizeof data};
        _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(struct in6_pktinfo))];
        struct msghdr message = {.msg_name = &peer,
                                 .msg_namelen = sizeof peer,
                                 .msg_iov = &in,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof control};
        ssize_t got = recvmsg(fd, &message, 0);
        if (got < 0)
            continue;
        struct iovec out = {.iov_base = text, .iov_len = reply(text, &peer, data, got)};
        message.msg_iov = &out; /* and by the address that it came to */
        sendmsg(fd, &message, 0);
    }
}

static void serve_plainly(int by_read) {
    static char data[SIZE];
    for (;;) {
        ssize_t got = by_read ? read(3, data, SIZE / 2) : recv(3, data, SIZE / 2, 0);
        if (got <= 0)
            continue;
        /* Such a server is told in the datagram whom to answer: "ADDRESS PORT text". */
        char address[64], text[SIZE];
        unsigned port;
        data[got] = 0;
        if (sscanf(data, "%63s %u", address, &port) != 2)
            continue;
        struct sockaddr_in6 peer = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
        NEED(inet_pton(AF_INET6, address, &peer.sin6_addr) == 1);
        sendto(3, text, reply(text, &peer, data, got), 0, (struct sockaddr *)&peer, sizeof peer);
    }
}

int main(int count, char **words) {
    NEED(count == 3);
    const char *kind = words[1];
    uint16_t port = (uint16_t)atoi(words[2]);
    if (strcmp(kind, "connected") == 0)
        serve_connected(port);
    else if (strcmp(kind, "recv") == 0 || strcmp(kind, "read") == 0)
        serve_plainly(strcmp(kind, "read") == 0);
    else if (strcmp(kind, "group") == 0) {
        for (int i = 0; i < 3; i++)
            if (fork() == 0)
                serve(bound(port, 1));
        serve(bound(port, 1));
    } else if (strcmp(kind, "offload") == 0)
        serve_offloaded(bound(port, 0));
    else if (strcmp(kind, "timed") == 0)
        serve_timed(bound(port, 0));
    else if (strcmp(kind, "uring") == 0)
        serve_by_ring(bound(port, 0));
    else
        serve_from_source(bound(port, 0));
}
