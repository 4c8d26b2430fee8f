#include "traffic.h"

#include <errno.h>
#include <time.h>

#include <linux/errqueue.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>

uintptr_t known_page = UINTPTR_MAX; /* none */

void note_received_anywhere(uint64_t word, const struct sockaddr *address) {
    int error = errno;
    size_t found = readable_bytes(address, V6_BYTES);
    errno = error;
    if (found > 0)
        __atomic_store_n(&known_page, page_with(address), __ATOMIC_RELAXED);
    if ((found >= V6_BYTES && address->sa_family == AF_INET6) ||
        (found >= V4_BYTES && address->sa_family == AF_INET))
        note_peer(SYNERGY_RECEIVED, word, address);
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
