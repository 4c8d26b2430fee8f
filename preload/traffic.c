#include "traffic.h"

#include "aside.h"
#include "keeper_client.h"

#include <errno.h>
#include <stddef.h>
#include <time.h>

void note_traffic(enum synergy_way way, int fd, const struct sockaddr *address) {
    int error = errno;
    struct descriptor descriptor = descriptor_of(fd);
    struct synergy_page *page = keeper_page((int)descriptor.keeper);
    union synergy_endpoint peer;
    /* What of an address tells the peer: the first bytes, in both families. */
    const size_t v4 = offsetof(struct sockaddr_in, sin_zero),
                 v6 = offsetof(struct sockaddr_in6, sin6_scope_id);
    if (descriptor.mark == SYNERGY_DATAGRAMS && page && is_readable(address, v4)) {
        size_t size = address->sa_family == AF_INET ? v4 : address->sa_family == AF_INET6 ? v6 : 0;
        if (size && is_readable(address, size)) {
            struct timespec now;
            memcpy(&peer, address, size);
            clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
            uint64_t key = synergy_traffic_key(way, descriptor.cookie, &peer);
            __atomic_store_n(&page->traffic[key % SYNERGY_TRAFFIC_PLACES],
                             (key & 0xffffffff00000000U) | (uint32_t)now.tv_sec, __ATOMIC_RELAXED);
        }
    }
    errno = error;
}
