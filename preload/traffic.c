#include "traffic.h"

#include "aside.h"
#include "keeper_client.h"

#include <errno.h>
#include <stddef.h>
#include <time.h>

#include <linux/errqueue.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>

/* What of an address tells the peer: its first bytes. */
static size_t bytes_of(sa_family_t family) {
    switch (family) {
    case AF_INET:
        return offsetof(struct sockaddr_in, sin_zero);
    case AF_INET6:
        return offsetof(struct sockaddr_in6, sin6_scope_id);
    default:
        return 0;
    }
}

/* The last page that an address was found in: a server gives the same room again and again. */
static uintptr_t known_page = UINTPTR_MAX; /* none */

static size_t bytes_at(const void *address, size_t size) {
    uintptr_t first = (uintptr_t)address / LEAST_PAGE,
              last = ((uintptr_t)address + size - 1) / LEAST_PAGE;
    if (first == last && first == __atomic_load_n(&known_page, __ATOMIC_RELAXED))
        return size;
    int error = errno;
    size_t found = readable_bytes(address, size);
    errno = error;
    if (found > 0)
        __atomic_store_n(&known_page, first, __ATOMIC_RELAXED);
    return found;
}

static void note(enum synergy_way way, int fd, const struct sockaddr *address, size_t size) {
    struct descriptor descriptor = descriptor_of(fd);
    struct synergy_page *page = keeper_page((int)descriptor.keeper);
    union synergy_endpoint peer;
    if (descriptor.mark != SYNERGY_DATAGRAMS || !page || size < sizeof peer.any.sa_family)
        return;
    memcpy(&peer.any.sa_family, address, sizeof peer.any.sa_family);
    size_t needed = bytes_of(peer.any.sa_family);
    if (needed == 0 || size < needed)
        return;
    memcpy(&peer, address, needed);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    uint64_t key = synergy_traffic_key(way, descriptor.cookie, &peer);
    __atomic_store_n(&page->traffic[key % SYNERGY_TRAFFIC_PLACES],
                     (key & 0xffffffff00000000U) | (uint32_t)now.tv_sec, __ATOMIC_RELAXED);
}

void note_sent(int fd, const struct sockaddr *address, socklen_t length) {
    note(SYNERGY_SENT, fd, address, length);
}

void note_received(int fd, const struct sockaddr *address) {
    size_t most = bytes_at(address, sizeof(struct sockaddr_in));
    if (most == sizeof(struct sockaddr_in) && address->sa_family == AF_INET6)
        most = bytes_at(address, bytes_of(AF_INET6));
    note(SYNERGY_RECEIVED, fd, address, most);
}

int is_perhaps_punchs(int fd) {
    /* One that waits longer has been met, as has the next punch. */
    enum { FRESH = 15 };
    struct descriptor descriptor = descriptor_of(fd);
    struct synergy_page *page = keeper_page((int)descriptor.keeper);
    struct timespec now;
    if (descriptor.mark != SYNERGY_DATAGRAMS || !page)
        return 0;
    uint32_t punched = __atomic_load_n(&page->punched, __ATOMIC_RELAXED);
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return punched != 0 && (uint32_t)now.tv_sec - punched < FRESH;
}

int is_punchs(struct msghdr *message, ssize_t size) {
    if (size != 0 || (message->msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || !message->msg_control)
        return 0;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(message); each; each = CMSG_NXTHDR(message, each)) {
        struct sock_extended_err error;
        int is_v4 = each->cmsg_level == IPPROTO_IP && each->cmsg_type == IP_RECVERR,
            is_v6 = each->cmsg_level == IPPROTO_IPV6 && each->cmsg_type == IPV6_RECVERR;
        if ((!is_v4 && !is_v6) || each->cmsg_len < CMSG_LEN(sizeof error))
            continue;
        memcpy(&error, CMSG_DATA(each), sizeof error);
        return (error.ee_origin == SO_EE_ORIGIN_ICMP && error.ee_type == ICMP_TIME_EXCEEDED) ||
               (error.ee_origin == SO_EE_ORIGIN_ICMP6 && error.ee_type == ICMPV6_TIME_EXCEED);
    }
    return 0;
}
